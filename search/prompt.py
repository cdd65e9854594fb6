"""What a model is shown before it writes or judges: turns of a conversation, with pictures."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from msgspec import Struct

from cos.search.types import Picture, Question, Turn

Rendering = Literal["reply", "open_turn", "ended", "raw", "raw_with_bos"]
"""How a prompt becomes text. The first three go by the model's own chat template, and differ in how the last turn ends.

- ``reply``: the assistant speaks next. A last turn of the assistant's is continued, else its turn is begun.
- ``open_turn``: the last turn is continued, whoever's it is. More of a user's text is followed by
  `TurnMarks.to_assistant`.
- ``ended``: the last turn is ended and none is begun, for models that judge a whole conversation.
- ``raw``: the turns' texts follow each other without any chat template, for models that were trained without. They
  begin as the tokenizer begins a text.
- ``raw_with_bos``: the same behind the tokenizer's beginning-of-sequence token, even where a tokenizer that has one
  puts none before a text by itself.
"""


class Prompt(Struct, frozen=True):
    """A conversation that a model is to continue or to judge. A runtime renders it once."""

    turns: tuple[Turn, ...]
    rendering: Rendering = "reply"

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures of all turns in order."""
        return tuple(picture for turn in self.turns for picture in turn.pictures)

    @property
    def asked(self) -> str:
        """What the last turn of the user's says; empty where there is none."""
        return next((turn.text for turn in reversed(self.turns) if turn.role == "user"), "")


class TurnMarks(Struct, frozen=True):
    """Token ids that a chat template writes between the turns of a dialogue."""

    to_assistant: tuple[int, ...]
    """End a turn of the user's and begin one of the assistant's."""
    to_user: tuple[int, ...]
    """End a turn of the assistant's and begin one of the user's."""


def question_prompt(question: Question, *, instruction: str = "", suffix: str = "") -> Prompt:
    """The conversation, and the question as its last turn, its pictures where the user put them. ``instruction``: a
    system message that goes before all, unless empty. ``suffix``: put behind the question on a line of its own, unless
    empty."""
    history = question.history
    if instruction and history and history[0].role == "system":
        history = (Turn("system", f"{instruction}\n\n{history[0].text}"), *history[1:])
    elif instruction:
        history = (Turn("system", instruction), *history)
    asked = asking(question, suffix=suffix)
    if question.placed:
        asked = Turn("user", joined((*question.placed, *((f"\n{suffix}",) if suffix else ()))))
    return Prompt((*history, asked))


def asking(question: Question, *, suffix: str = "") -> Turn:
    """The question alone as a turn of the user's: its pictures first, its text, and the suffix unless empty."""
    text = f"{question.text}\n{suffix}" if suffix else question.text
    return Turn("user", (*question.pictures, text) if question.pictures else text)


def pictures_first(question: Question) -> Question:
    """The question for a model that was trained on pictures before their question."""
    return replace(question, placed=()) if question.placed else question


def without_pictures(question: Question) -> Question:
    """The question and its conversation as text alone, for models that read no more."""
    history = tuple(Turn(turn.role, turn.text) for turn in question.history)
    return Question(question.text, choices=question.choices, history=history)


def bare_prompt(text: str, question: Question) -> Prompt:
    """A text of the search's own beside all pictures of a question and of its conversation."""
    pictures = question.all_pictures
    return Prompt((Turn("user", (*pictures, text) if pictures else text),))


def as_one_turn(question: Question, *, suffix: str = "") -> tuple[str | Picture, ...]:
    """The conversation and the question as the content of one turn, for models that are shown a problem in one: the
    question's pictures and text, and, where something was said before it, each turn under the name of its role."""
    asked = asking(question, suffix=suffix)
    if not question.history:
        return asked.parts
    names = {"system": "System", "user": "User", "assistant": "Assistant"}
    named = [(*_named(names[turn.role], turn), "\n\n") for turn in question.history]
    return joined(part for turn in (*named, _named("User", asked)) for part in turn)


def _named(name: str, turn: Turn) -> tuple[str | Picture, ...]:
    return (f"{name}: ", *turn.parts)


def joined(parts: Iterable[str | Picture]) -> tuple[str | Picture, ...]:
    """The same parts, texts that follow each other put together."""
    found: list[str | Picture] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return tuple(found)
