"""Prompts as a checkpoint's chat template writes them, in token ids. Serving and training both render them here.

What the turns say is encoded as plain text: a control token that is spelt in it stays text. The template alone says
which control tokens stand in a prompt: a tokenizer that begins texts with a token of its own adds none, as in
``vllm serve``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from typing import TYPE_CHECKING, Any

from cos.search.errors import InputError
from cos.search.prompt import Prompt, TurnMarks
from cos.search.types import Role, Turn

if TYPE_CHECKING:
    from cos.engines.vocabulary import HfVocabulary

_MARK = "\u2400text {}\u2400"
"""Stands for a text while the chat template is rendered."""
DIALOGUE: tuple[Role, ...] = ("user", "assistant", "user", "assistant", "user")
"""What shows whether a chat template writes the same between all turns."""
_NO_DIALOGUE = (
    ", so it cannot show steps as turns of a dialogue; give a PRM that was trained so, or another --prm-format"
)
_MARKS = re.compile(_MARK.format(r"(\d+)"))
TAG = "<image>"
"""A picture's place in a template that takes text alone. With most models it is a control token."""
MOST_SHAPES = 256
"""Conversations have as many shapes as there are conversations."""


@dataclass(frozen=True, slots=True)
class Shape:
    """All of a prompt that its chat template is shown."""

    turns: tuple[tuple[Role, tuple[bool, ...]], ...]
    """Of each turn its role and, for each part of its content, whether that is a picture."""
    is_ended: bool = False
    """Whether the last turn is ended and none begun."""

    @property
    def roles(self) -> tuple[Role, ...]:
        return tuple(role for role, _ in self.turns)

    @property
    def texts(self) -> int:
        """How many parts are text."""
        return sum(not is_picture for _, parts in self.turns for is_picture in parts)


@dataclass(frozen=True, slots=True)
class Layout:
    """A rendered shape: ``markup[0]``, the text of number ``texts[0]``, ``markup[1]``, ... , the last markup. Texts are
    numbered through all turns."""

    markup: tuple[str, ...]
    texts: tuple[int, ...]
    takes_parts: bool = True
    """Whether the template was given texts and pictures apart, and not a text with tags in it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a chat template cannot render."""

    why: str


class ChatPrompt:
    """Renders prompts for one checkpoint. A picture is a placeholder that the checkpoint's processor
    expands."""

    def __init__(self, vocabulary: HfVocabulary, templater: Any, param: str = "policy") -> None:
        """``templater``: a tokenizer or processor with ``apply_chat_template``. ``param``: what errors blame."""
        self._vocabulary = vocabulary
        self._templater = templater
        self._param = param
        self._layouts_of = lru_cache(MOST_SHAPES)(partial(rendered, templater))
        self._control = lru_cache(MOST_SHAPES)(self._encoded_markup)
        self._begins_replies = lru_cache(1)(partial(begins_replies, templater))

    def render(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, with an unexpanded placeholder for each picture.

        A system turn that the chat template has no place for is put in front of the first turn of the user's. Errors:
        InputError naming what cannot be rendered.
        """
        if prompt.rendering in ("raw", "raw_with_bos"):
            return self._raw(prompt)
        turns, is_ended = prompt.turns, prompt.rendering == "ended"
        layout = self._layout(turns, is_ended=is_ended)
        if isinstance(layout, Refusal) and (merged := _without_system(turns)) != turns:
            turns, layout = merged, self._layout(merged, is_ended=is_ended)
        if isinstance(layout, Refusal):
            raise self._error(layout)
        if turns[-1].role == "user" and prompt.rendering != "open_turn":
            self._check_replies()
        texts = [part for turn in turns for part in turn.parts if isinstance(part, str)]
        markups = layout.markup
        if prompt.rendering == "open_turn" and turns[-1].role == "user":
            # What ends the turn is written by whoever ends it, and so must be the same as between later turns.
            if markups[-1] != self._between_turns()[0]:
                raise self._error(
                    Refusal(f"the model's chat template ends a question otherwise than a later turn{_NO_DIALOGUE}")
                )
            markups = (*markups[:-1], "")
        has_tag = any(TAG in markup for markup in markups)
        ids = list(self._control(markups[0]))
        for number, before, markup in zip(layout.texts, markups[:-1], markups[1:], strict=True):
            text = texts[number]
            # A tag of the user's must not be taken for a picture's place.
            ids += self._untagged(text) if has_tag and TAG in text else self._behind(before, text)
            ids += self._control(markup)
        return ids

    def _behind(self, markup: str, text: str) -> tuple[int, ...]:
        """A text as it stands behind markup: many tokenizers put a space before all they are given, and the template
        has none there."""
        encode, ids = self._vocabulary.encode, self._control(markup) if markup else ()
        last = self._vocabulary.decode(ids[-1:])
        if not last or self._vocabulary.control_id(last) is not None:
            return encode(text)
        begin, whole = encode(last[-1]), encode(last[-1] + text)
        return whole[len(begin) :] if whole[: len(begin)] == begin else encode(text)

    def turn_marks(self) -> TurnMarks:
        """What the chat template writes between turns. Errors: InputError where it differs from turn to turn."""
        return TurnMarks(*map(self._control, self._between_turns()))

    def reply_marks(self) -> TurnMarks:
        """What the chat template writes around a further question, behind an answer. Errors: InputError where it has no
        place for one."""
        layout = self._layouts_of(Shape(tuple((role, (False,)) for role in DIALOGUE[:3])))
        if isinstance(layout, Refusal):
            raise self._error(layout)
        if layout.texts != (0, 1, 2):
            raise self._error(Refusal("the model's chat template does not put the turns of a dialogue in their order"))
        self._check_replies()
        return TurnMarks(self._control(layout.markup[-1]), self._control(layout.markup[-2]))

    def _check_replies(self) -> None:
        """Errors: InputError for a template behind whose question the model does not know that it is its turn."""
        if not self._begins_replies():
            raise self._error(
                Refusal(
                    "the model's chat template does not begin the model's reply behind a question: it takes no notice "
                    "of add_generation_prompt; write that into the template, in chat_template.jinja or "
                    "tokenizer_config.json"
                )
            )

    def _between_turns(self) -> tuple[str, str]:
        layout = self._layouts_of(Shape(tuple((role, (False,)) for role in DIALOGUE)))
        if isinstance(layout, Refusal):
            raise self._error(layout)
        _, to_assistant, to_user, *later = layout.markup
        if later != [to_assistant, to_user, to_assistant] or layout.texts != tuple(range(len(DIALOGUE))):
            raise self._error(
                Refusal(f"the model's chat template does not write the same between all turns{_NO_DIALOGUE}")
            )
        return to_assistant, to_user

    @property
    def places_pictures(self) -> bool:
        """See `cos.search.ports.PlacesPictures`."""
        layout = self._layouts_of(Shape((("user", (False, True)),)))
        return isinstance(layout, Layout) and layout.takes_parts

    def token_ids(self, question: str, *, image: bool) -> list[int]:
        """A question alone, as one turn of the user's, with or without a picture."""
        head, tail = self._question(has_picture=image).markup
        return [*self._control(head), *self._behind(head, question), *self._control(tail)]

    @property
    def picture(self) -> str:
        """The markup on that side of a question where the picture is shown, by its placeholder."""
        head, tail = self._question(has_picture=True).markup
        return head if self._is_picture_first else tail

    def around_picture(self, question: str) -> tuple[list[int], list[int]]:
        """Token ids of a question before and behind `picture`."""
        head, tail = self._question(has_picture=True).markup
        asked = self._behind(head, question)
        if self._is_picture_first:
            return [], [*asked, *self._control(tail)]
        return [*self._control(head), *asked], []

    @property
    def _is_picture_first(self) -> bool:
        shown, plain = (self._question(has_picture=has_picture).markup[0] for has_picture in (True, False))
        return shown != plain

    def _question(self, *, has_picture: bool) -> Layout:
        layout = self._layouts_of(Shape((("user", (True, False) if has_picture else (False,)),)))
        if isinstance(layout, Refusal):
            raise self._error(layout)
        return layout

    def _error(self, refusal: Refusal) -> InputError:
        return InputError(refusal.why, self._param)

    def _encoded_markup(self, markup: str) -> tuple[int, ...]:
        """A tag that is no control token has the same ids whatever stands beside it: vLLM looks for them."""
        encode = self._vocabulary.encode_markup
        if TAG not in markup or self._vocabulary.control_id(TAG) is not None:
            return encode(markup)
        first, *others = markup.split(TAG)
        ids = list(encode(first)) if first else []
        for piece in others:
            ids += encode(TAG)
            ids += encode(piece) if piece else ()
        return tuple(ids)

    def _untagged(self, text: str) -> tuple[int, ...]:
        """A text whose ids do not hold those of a tag, even where it spells one: the tag is cut in two before it is
        encoded, which says the same in other ids. Errors: InputError where no cut does so."""
        ids = self._vocabulary.encode(text)
        if TAG not in text or self._vocabulary.control_id(TAG) is not None:
            return ids
        tag = self._vocabulary.encode_markup(TAG)
        for place in range(1, len(TAG)):
            if not _holds(ids, tag):
                return ids
            head, *others = text.split(TAG)
            pieces = [head + TAG[:place], *(TAG[place:] + piece + TAG[:place] for piece in others[:-1])]
            pieces.append(TAG[place:] + others[-1])
            ids = tuple(token for piece in pieces for token in self._vocabulary.encode(piece))
        if _holds(ids, tag):
            raise InputError(
                f"the text spells {TAG}, which stands for a picture with this model; leave it out", self._param
            )
        return ids

    def _raw(self, prompt: Prompt) -> list[int]:
        if prompt.pictures:
            raise InputError("a prompt without chat template has no place for a picture", self._param)
        opening = self._vocabulary.opening() or (self._vocabulary.bos if prompt.rendering == "raw_with_bos" else ())
        return [*opening, *self._vocabulary.encode("".join(turn.text for turn in prompt.turns))]

    def _layout(self, turns: Sequence[Turn], *, is_ended: bool) -> Layout | Refusal:
        return self._layouts_of(
            Shape(
                tuple((turn.role, tuple(not isinstance(part, str) for part in turn.parts)) for turn in turns), is_ended
            )
        )


def _holds(ids: Sequence[int], run: Sequence[int]) -> bool:
    """Whether a run of ids stands in others."""
    return any(tuple(ids[start : start + len(run)]) == tuple(run) for start in range(len(ids) - len(run) + 1))


def rendered(templater: Any, shape: Shape) -> Layout | Refusal:
    """What a chat template makes of a shape. Templates differ in what they take for a turn's content."""
    is_assistants = shape.roles[-1:] == ("assistant",)
    is_begun = not (is_assistants or shape.is_ended)
    problem = ""
    for content in (_in_parts, _users_in_parts, _as_text):
        try:
            text: str = templater.apply_chat_template(content(shape), tokenize=False, add_generation_prompt=is_begun)
        except Exception as error:
            # Templates refuse in many ways: errors of their own, of jinja2 and of Python's types.
            problem = f": {error}"
            continue
        pieces = _MARKS.split(text)
        found = tuple(map(int, pieces[1::2]))
        is_whole = sorted(found) == list(range(shape.texts))
        if is_whole and "'type'" not in text and (not is_assistants or found[-1:] == (shape.texts - 1,)):
            # A last turn of the assistant's is continued: what the template writes behind it is not written yet.
            is_continued = is_assistants and not shape.is_ended
            markup = (*pieces[:-1:2], "") if is_continued else tuple(pieces[::2])
            return Layout(markup, found, takes_parts=content is not _as_text)
    what = "question" if shape.roles == ("user",) else f"turns {', '.join(shape.roles)}"
    return Refusal(f"the model's chat template does not put the {what} into the prompt once{problem}")


def begins_replies(templater: Any) -> bool:
    """Whether a chat template begins the model's turn behind a question. One that takes no notice of whether it should
    does so where nothing but white space follows before an answer. True where that cannot be told."""
    asked, answered = Shape((("user", (False,)),)), Shape((("user", (False,)), ("assistant", (False,))))
    question, dialogue = rendered(templater, asked), rendered(templater, answered)
    if isinstance(question, Refusal) or isinstance(dialogue, Refusal):
        return True
    tail, between = question.markup[-1], dialogue.markup[1]
    if not between.startswith(tail) or not between.removeprefix(tail).strip():
        return True
    return any(_heeds(templater, content(asked)) for content in (_in_parts, _users_in_parts, _as_text))


def _heeds(templater: Any, messages: list[dict[str, Any]]) -> bool:
    """Whether a template writes something else where it is to begin the model's turn."""
    try:
        plain, begun = (
            templater.apply_chat_template(messages, tokenize=False, add_generation_prompt=begins)
            for begins in (False, True)
        )
    except Exception:
        # As in `rendered`: of another kind of content it may be able to make something.
        return False
    return plain != begun


def _in_parts(shape: Shape) -> list[dict[str, Any]]:
    """Every turn as a list of parts, as processors take them."""
    return [{"role": role, "content": [*parts]} for role, parts in _marked(shape)]


def _users_in_parts(shape: Shape) -> list[dict[str, Any]]:
    """As `_in_parts`, but that only the user's turns are lists."""
    return [
        {"role": role, "content": [*parts] if role == "user" else "".join(map(_tagged, parts))}
        for role, parts in _marked(shape)
    ]


def _as_text(shape: Shape) -> list[dict[str, Any]]:
    """Every turn as text, a picture as a tag in it."""
    return [{"role": role, "content": "".join(map(_tagged, parts))} for role, parts in _marked(shape)]


def _marked(shape: Shape) -> Iterator[tuple[Role, list[dict[str, str]]]]:
    """The turns by role and parts, marks in place of the texts."""
    numbers = count()
    for role, parts in shape.turns:
        yield (
            role,
            [
                {"type": "image"} if is_picture else {"type": "text", "text": _MARK.format(next(numbers))}
                for is_picture in parts
            ],
        )


def _tagged(part: dict[str, str]) -> str:
    return part.get("text", f"{TAG}\n")


def _without_system(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The same turns, what stands in system turns before the first of the user's put in front of its text."""
    roles = [turn.role for turn in turns]
    if "user" not in roles:
        return turns
    first = roles.index("user")
    system = [turn.text for turn in turns[:first] if turn.role == "system"]
    if not system:
        return turns
    others = [turn for turn in turns[:first] if turn.role != "system"]
    parts = list(turns[first].parts)
    place = next((number for number, part in enumerate(parts) if isinstance(part, str)), len(parts))
    parts[place : place + 1] = [
        "\n\n".join([*system, *(part for part in parts[place : place + 1] if isinstance(part, str))])
    ]
    return (*others, Turn("user", tuple(parts)), *turns[first + 1 :])


def templater_of(processor: Any) -> Any:
    """What renders a checkpoint's chat template: its processor when that has one, else the processor's tokenizer."""
    return processor if getattr(processor, "chat_template", None) else getattr(processor, "tokenizer", processor)
