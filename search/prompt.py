"""What a model is shown before it writes or judges: turns of a conversation, and a picture."""

from typing import Literal

from msgspec import Struct

from cos.search.types import Picture, Question


class Turn(Struct, frozen=True):
    """One turn of a conversation. Its text is plain: a control token that is spelt in it stays text."""

    role: Literal["system", "user", "assistant"]
    text: str


class Prompt(Struct, frozen=True):
    """A conversation that a model is to continue. A runtime renders it once, by the model's own chat template."""

    turns: tuple[Turn, ...]
    """A last turn of the assistant's is left open: what is written next continues it. Otherwise its turn begins."""
    picture: Picture | None = None
    """Shown in the first turn of the user's."""
    is_raw: bool = False
    """Whether the turns' texts follow each other without any chat template, for models that were trained without."""

    @property
    def asked(self) -> str:
        """What the last turn of the user's says; empty where there is none."""
        return next((turn.text for turn in reversed(self.turns) if turn.role == "user"), "")


def question_prompt(question: Question, *, instruction: str = "", suffix: str = "") -> Prompt:
    """A question as one turn of the user's. ``instruction``: a system message before it, unless empty. ``suffix``: put
    behind the question on a line of its own, unless empty."""
    system = [Turn("system", instruction)] if instruction else []
    text = f"{question.text}\n{suffix}" if suffix else question.text
    return Prompt((*system, Turn("user", text)), question.picture)


def bare_prompt(text: str, question: Question) -> Prompt:
    """A text of the search's own beside a question's picture."""
    return Prompt((Turn("user", text),), question.picture)
