"""Prompts as a checkpoint's chat template writes them, in token ids. Serving and training both render them here.

What the turns say is encoded as plain text: a control token that is spelt in it stays text. The template alone says
which control tokens stand in a prompt: a tokenizer that begins texts with a token of its own adds none, as in
``vllm serve``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cos.search.errors import InputError
from cos.search.prompt import Prompt, Turn

if TYPE_CHECKING:
    from cos.engines.vocabulary import HfVocabulary

_MARK = "\u2400turn {}\u2400"
"""Stands for the text of a turn while the chat template is rendered."""
_MARKS = re.compile(_MARK.format(r"(\d+)"))


@dataclass(frozen=True, slots=True)
class Shape:
    """All of a prompt that its chat template is shown."""

    roles: tuple[str, ...]
    has_picture: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """A rendered shape: ``markup[0]``, the text of turn ``turns[0]``, ``markup[1]``, ... , the last markup."""

    markup: tuple[str, ...]
    turns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a chat template cannot render."""

    why: str


class ChatPrompt:
    """Renders prompts for one checkpoint. The picture is a placeholder that the checkpoint's processor expands."""

    def __init__(self, vocabulary: HfVocabulary, templater: Any, param: str = "policy") -> None:
        """``templater``: a tokenizer or processor with ``apply_chat_template``. ``param``: what errors blame."""
        self._vocabulary = vocabulary
        self._templater = templater
        self._param = param
        self._layouts: dict[Shape, Layout | Refusal] = {}
        self._markup: dict[str, tuple[int, ...]] = {}

    def render(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, with an unexpanded image placeholder where it has a picture.

        A system turn that the chat template has no place for is put in front of the first turn of the user's. Errors:
        InputError naming what cannot be rendered.
        """
        if prompt.is_raw:
            return self._raw(prompt)
        turns, has_picture = prompt.turns, prompt.picture is not None
        layout = self._layout(turns, has_picture=has_picture)
        if isinstance(layout, Refusal) and (merged := _without_system(turns)) != turns:
            turns, layout = merged, self._layout(merged, has_picture=has_picture)
        if isinstance(layout, Refusal):
            raise self._error(layout)
        ids = list(self._control(layout.markup[0]))
        for number, markup in zip(layout.turns, layout.markup[1:], strict=True):
            ids += self._vocabulary.encode(turns[number].text)
            ids += self._control(markup)
        return ids

    def token_ids(self, question: str, *, image: bool) -> list[int]:
        """A question alone, as one turn of the user's, with or without a picture."""
        head, tail = self._question(has_picture=image).markup
        return [*self._control(head), *self._vocabulary.encode(question), *self._control(tail)]

    @property
    def picture(self) -> str:
        """The markup on that side of a question where the picture is shown, by its placeholder."""
        head, tail = self._question(has_picture=True).markup
        return head if self._is_picture_first else tail

    def around_picture(self, question: str) -> tuple[list[int], list[int]]:
        """Token ids of a question before and behind `picture`."""
        head, tail = self._question(has_picture=True).markup
        asked = self._vocabulary.encode(question)
        if self._is_picture_first:
            return [], [*asked, *self._control(tail)]
        return [*self._control(head), *asked], []

    @property
    def _is_picture_first(self) -> bool:
        shown, plain = (self._question(has_picture=has_picture).markup[0] for has_picture in (True, False))
        return shown != plain

    def _question(self, *, has_picture: bool) -> Layout:
        layout = self._layout((Turn("user", ""),), has_picture=has_picture)
        if isinstance(layout, Refusal):
            raise self._error(layout)
        return layout

    def _error(self, refusal: Refusal) -> InputError:
        return InputError(refusal.why, self._param)

    def _control(self, markup: str) -> tuple[int, ...]:
        if markup not in self._markup:
            self._markup[markup] = self._vocabulary.encode_markup(markup)
        return self._markup[markup]

    def _raw(self, prompt: Prompt) -> list[int]:
        if prompt.picture is not None:
            raise InputError("a prompt without chat template has no place for a picture", self._param)
        return [*self._vocabulary.opening(), *self._vocabulary.encode("".join(turn.text for turn in prompt.turns))]

    def _layout(self, turns: Sequence[Turn], *, has_picture: bool) -> Layout | Refusal:
        shape = Shape(tuple(turn.role for turn in turns), has_picture)
        if shape not in self._layouts:
            self._layouts[shape] = rendered(self._templater, shape)
        return self._layouts[shape]


def rendered(templater: Any, shape: Shape) -> Layout | Refusal:
    """What a chat template makes of a shape. Templates differ in what they take for a turn's content."""
    if shape.has_picture and "user" not in shape.roles:
        return Refusal("a picture is shown in a turn of the user's, and the prompt has none")
    goes_on = shape.roles[-1:] == ("assistant",)
    problem = ""
    for content in (_in_parts, _users_in_parts, _as_text):
        try:
            text: str = templater.apply_chat_template(content(shape), tokenize=False, add_generation_prompt=not goes_on)
        except Exception as error:
            # Templates refuse in many ways: errors of their own, of jinja2 and of Python's types.
            problem = f": {error}"
            continue
        pieces = _MARKS.split(text)
        found = tuple(map(int, pieces[1::2]))
        is_whole = sorted(found) == list(range(len(shape.roles)))
        if is_whole and "'type'" not in text and (not goes_on or found[-1] == len(shape.roles) - 1):
            # The last turn of the assistant's is left open: what the template writes behind it is not written yet.
            return Layout((*pieces[:-1:2], "") if goes_on else tuple(pieces[::2]), found)
    what = "question" if shape.roles == ("user",) else f"turns {', '.join(shape.roles)}"
    return Refusal(f"the model's chat template does not put the {what} into the prompt once{problem}")


def _in_parts(shape: Shape) -> list[dict[str, Any]]:
    """Every turn as a list of parts, as processors take them."""
    return [
        {"role": role, "content": [*_picture(shape, number), {"type": "text", "text": _MARK.format(number)}]}
        for number, role in enumerate(shape.roles)
    ]


def _users_in_parts(shape: Shape) -> list[dict[str, Any]]:
    """As `_in_parts`, but that only the user's turns are lists."""
    return [
        message if message["role"] == "user" else {**message, "content": _MARK.format(number)}
        for number, message in enumerate(_in_parts(shape))
    ]


def _as_text(shape: Shape) -> list[dict[str, Any]]:
    """Every turn as text, the picture as a tag in it."""
    return [
        {"role": role, "content": ("<image>\n" if _picture(shape, number) else "") + _MARK.format(number)}
        for number, role in enumerate(shape.roles)
    ]


def _picture(shape: Shape, number: int) -> list[dict[str, Any]]:
    """The picture, as a part of the first of the user's turns."""
    return [{"type": "image"}] if shape.has_picture and number == shape.roles.index("user") else []


def _without_system(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The same turns, what stands in system turns before the first of the user's put in front of that."""
    roles = [turn.role for turn in turns]
    if "user" not in roles:
        return turns
    first = roles.index("user")
    system = [turn.text for turn in turns[:first] if turn.role == "system"]
    if not system:
        return turns
    others = [turn for turn in turns[:first] if turn.role != "system"]
    user = Turn("user", "\n\n".join([*system, turns[first].text]))
    return (*others, user, *turns[first + 1 :])


def templater_of(processor: Any) -> Any:
    """What renders a checkpoint's chat template: its processor when that has one, else the processor's tokenizer."""
    return processor if getattr(processor, "chat_template", None) else getattr(processor, "tokenizer", processor)
