"""What a client has asked, before its pictures are decoded."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from cos.search.errors import InputError
from cos.search.types import Picture, Question, Role, Turn
from cos.wire.conversation import Message


@dataclass(frozen=True, slots=True)
class Sent:
    """A picture as it was sent."""

    source: str | bytes
    """A data URI, bare base64, or a file."""
    param: str
    """Where in the request it stands."""


@dataclass(frozen=True, slots=True)
class AskedTurn:
    """A turn of a conversation without its pictures."""

    role: Role
    parts: tuple[str | None, ...]
    """Texts, and None in the place of each picture."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and the conversation before it, without their pictures."""

    text: str
    choices: tuple[str, ...] = ()
    history: tuple[AskedTurn, ...] = ()
    placed: tuple[str | None, ...] = ()
    """Texts, and None in the place of each picture, where a text stands before a picture; else empty."""

    def question(self, pictures: Iterable[Picture] | None = None) -> Question:
        """The question with its pictures: first those of the conversation in order, then its own. Without
        ``pictures`` none is put in."""
        if pictures is None:
            turns = tuple(Turn(turn.role, _text(turn.parts)) for turn in self.history)
            return Question(self.text, choices=self.choices, history=turns)
        found = iter(pictures)
        turns = tuple(Turn(turn.role, _content(turn.parts, found)) for turn in self.history)
        own = tuple(found)
        rest = iter(own)
        placed = tuple(next(rest) if part is None else part for part in self.placed)
        return Question(self.text, own, self.choices, turns, placed)


def _text(parts: Sequence[str | None]) -> str:
    return "".join(part for part in parts if part is not None)


def _content(parts: Sequence[str | None], pictures: Iterator[Picture]) -> str | tuple[str | Picture, ...]:
    content = tuple(next(pictures) if part is None else part for part in parts)
    return content if any(not isinstance(part, str) for part in content) else _text(parts)


@dataclass(frozen=True, slots=True)
class Said:
    """Messages in a row of one role."""

    role: Role
    texts: tuple[str, ...]
    parts: tuple[str | None, ...]
    """Texts, a line each, and None in the place of each picture."""
    sent: tuple[Sent, ...] = ()

    @property
    def placed(self) -> tuple[str | None, ...]:
        """As `Asked.placed`."""
        last = max((place for place, part in enumerate(self.parts) if part is None), default=0)
        return self.parts if any(part and part.strip() for part in self.parts[:last]) else ()

    @property
    def turn(self) -> AskedTurn:
        return AskedTurn(self.role, self.parts)


def said(messages: Sequence[Message], param: str, start: int = 0) -> list[Said]:
    """The messages as turns that take turns: those in a row of one role are one. ``param``: where in the request they
    stand, the first one at ``start``. Errors: InputError for an image outside the user's messages."""
    runs = groupby(enumerate(messages, start), key=_role_of_numbered)
    return [_joined(role, list(run), param) for role, run in runs]


def _role_of_numbered(numbered: tuple[int, Message]) -> Role:
    return role_of(numbered[1])


def role_of(message: Message) -> Role:
    """OpenAI's role as ours."""
    match message.role:
        case "user" | "assistant":
            return message.role
        case _:
            return "system"


def _joined(role: Role, run: Sequence[tuple[int, Message]], param: str) -> Said:
    texts: list[str] = []
    parts: list[str | None] = []
    sent: list[Sent] = []
    for index, message in run:
        for place, part in enumerate(message.content):
            if part.image_url is not None:
                where = f"{param}[{index}].content[{place}].image_url"
                if role != "user":
                    raise InputError(f"{where}: an image belongs in a user message", where)
                parts.append(None)
                sent.append(Sent(part.image_url.url, where))
            elif part.text is not None:
                # A line each, as the parts of a question are.
                parts.append(f"\n{part.text}" if parts and parts[-1] is not None else part.text)
                texts.append(part.text)
    return Said(role, tuple(texts), tuple(parts), tuple(sent))
