"""The ports of PRM formats: what a runtime can be asked about a chain, and what a format is."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, get_args, runtime_checkable

from msgspec import Struct

from cos.search.grammar import Grammar
from cos.search.ports import Ability, Draw, Drawn, HeadRead, LabelRead, ScorerSession, Vocabulary
from cos.search.prompt import Prompt, TurnMarks
from cos.search.scale import Scale
from cos.search.types import Prefix, Question

READ_PRIORITY = -1_000
"""Reads are one token long and a search waits for them: they go before any generation."""


class ReaderSession(Protocol):
    """One prompt, rendered once. A format asks what its ability names, and labels behind a text."""

    @property
    def tokens_aborted(self) -> int:
        """Tokens that cancelled draws had written by then, as far as the runtime knows."""
        ...

    async def read_labels(self, prefix: Prefix, labels: tuple[int, ...], priority: int) -> LabelRead:
        """The labels as next tokens after prompt + ``prefix``. Errors: EngineError, EngineDead."""
        ...

    async def read_head(self, prefix: Prefix, priority: int) -> HeadRead:
        """The head's values at the last token of prompt + ``prefix``. Errors: EngineError, EngineDead."""
        ...

    async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
        """A written verdict; see `cos.search.ports.PolicySession`."""
        ...


class Reader(Protocol):
    """A runtime that has a PRM."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def abilities(self) -> frozenset[Ability]:
        """What can be asked of its model."""
        ...

    def turn_marks(self) -> TurnMarks:
        """What the model's chat template writes between turns, for formats that show a chain as a dialogue.

        Errors: InputError where it does not write the same between all turns.
        """
        ...

    def reply_marks(self) -> TurnMarks:
        """What the model's chat template writes before and behind one further question of the user's, which follows an
        answer; behind it the model's reply begins.

        Errors: InputError where it has no place for one.
        """
        ...

    @property
    def model(self) -> str:
        """As the user gave it: a folder or a hub name."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """What the config.json of its checkpoint holds; empty where there is none, or the runtime does not know it."""
        ...

    @property
    def files(self) -> frozenset[str]:
        """The names of its checkpoint's files, as far as the runtime knows them."""
        ...

    async def open(self, prompt: Prompt) -> ReaderSession:
        """Renders a prompt. Errors: as `cos.search.ports.Policy.open`."""
        ...


@runtime_checkable
class HasHead(Protocol):
    """A runtime that knows how wide its model's head is."""

    @property
    def head_width(self) -> int | None:
        """How many values the head gives at a token; None for a model without a head."""
        ...


class Judged(Struct, frozen=True, kw_only=True):
    """Whose chains a PRM is to judge."""

    vocabulary: Vocabulary
    """The policy's."""
    grammar: Grammar
    """What the policy writes in."""
    question_suffix: str = ""
    """Put behind every question for the PRM, on a line of its own."""
    verdict_tokens: int | None = None
    """Most tokens of a written verdict; the format's own limit unless given."""


class Checkpoint(Struct, frozen=True, kw_only=True):
    """What a PRM's files say of it, for a format that is to tell whether it was trained for this format."""

    name: str
    """As the user gave it: a folder or a hub name."""
    config: Mapping[str, Any]
    """What its config.json holds."""
    files: frozenset[str]
    """The names of its files."""
    vocabulary: Vocabulary

    @property
    def kind(self) -> str:
        """The model type of its config.json; empty where there is none."""
        return str(self.config.get("model_type", ""))

    @property
    def own_name(self) -> str:
        """The last part of its name, in lower case."""
        return self.name.rstrip("/").rpartition("/")[2].lower()


class PrmFormat(Protocol):
    """How a PRM is shown a question and a chain, what is asked at which place, and how that becomes a score: a
    `cos.search.ports.Scorer`. One format is one file in `cos.prm`, or a class that another distribution adds by the
    entry point ``cos.prms``."""

    name: ClassVar[str]
    """What ``--prm-format`` calls it."""
    ability: ClassVar[Ability]
    """What it asks of the model."""
    scale: Scale
    """What its scores mean, with the official threshold and aggregation."""
    sees_pictures: bool = True
    """Whether the PRM is shown the pictures of a question."""
    is_trained: ClassVar[bool] = True
    """Whether models were trained for it. Of one that was not, a start expects less."""

    def __init_subclass__(cls) -> None:
        """Errors: ValueError for an ability that no model has."""
        super().__init_subclass__()
        ability = getattr(cls, "ability", None)
        if ability is not None and ability not in get_args(Ability):
            name = getattr(cls, "name", cls.__name__)
            raise ValueError(
                f"the ability of PRM format {name!r} is {ability!r}; there are {', '.join(get_args(Ability))}"
            )

    def __init__(self, reader: Reader, judged: Judged) -> None:
        """Errors: InputError naming what the PRM lacks for this format."""
        ...

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint was surely trained for this format: it is not said of one that might be of another. What
        ``--prm-format auto`` goes by."""
        del checkpoint
        return False

    @abstractmethod
    async def open(self, question: Question) -> ScorerSession:
        """Shows the PRM a question."""
        ...
