"""What is asked of a server that is to score chains which are written already, and what it replies."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypedDict

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from cos.search.scale import Aggregation
from cos.wire.message import Message
from cos.wire.request import AskedFields, RequestModel

MOST_CHAINS = 256
MOST_STEPS = 128
MOST_CHARS = 200_000

Text = Annotated[str, Field(min_length=1, max_length=MOST_CHARS)]


def _as_text(given: Any) -> Any:
    """A string in place of an object is the object's text."""
    return {"text": given} if isinstance(given, str) else given


class WrittenStep(RequestModel):
    """One step with its named parts, as replies have it. Their other fields are not looked at."""

    model_config = ConfigDict(extra="ignore")

    text: Text
    """All that it says, in plain words."""
    fields: dict[str, str] = Field(default_factory=dict[str, str])
    """Its named parts, where the policy's step format names parts."""


AnyStep = Annotated[WrittenStep, BeforeValidator(_as_text, json_schema_input_type=WrittenStep | str)]


class WrittenChain(RequestModel):
    """A chain as its steps and its answer, or in one text."""

    steps: Annotated[tuple[AnyStep, ...], Field(strict=False, max_length=MOST_STEPS)] | None = None
    """The steps in order. A string is what a step says, without markup. A PRM that was trained on steps with named
    parts judges best what has them: send the steps of a reply as they are."""
    answer: Text | None = None
    """The answer behind the steps."""
    text: Text | None = None
    """The whole chain as the policy wrote it, in place of steps and answer. It is cut by the server's step grammar
    where that grammar's marks stand in it, else at blank lines."""

    @model_validator(mode="after")
    def _is_one_chain(self) -> Self:
        if self.text is None and not self.steps and self.answer is None:
            raise ValueError("there is nothing to score; give steps, an answer, or a text")
        if self.text is not None and (self.steps is not None or self.answer is not None):
            raise ValueError("a chain is given as text, or as steps and an answer; give one of the two")
        return self


class ScoreItem(AskedFields, WrittenChain):
    """A question, the pictures it is about, what was said before it, and one chain."""


class Measure(RequestModel):
    """How step scores become a chain's score."""

    aggregation: Aggregation | None = None
    """As the PRM's authors do unless given."""
    step_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the steps' mean in a "cos" chain score; the answer's score has the rest."""


class ScoreRequest(Measure):
    """Chains to be scored. A single one may also be given without ``items``: its fields beside the others."""

    items: Annotated[tuple[ScoreItem, ...], Field(strict=False, min_length=1, max_length=MOST_CHAINS)]
    """The chains, each with its question."""

    @model_validator(mode="before")
    @classmethod
    def _one_alone(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "items" in data or "question" not in data:
            return data
        own = {name: value for name, value in data.items() if name in Measure.model_fields}
        return {**own, "items": [{name: value for name, value in data.items() if name not in own}]}


AnyChain = Annotated[WrittenChain, BeforeValidator(_as_text, json_schema_input_type=WrittenChain | str)]


class RerankRequest(AskedFields, Measure):
    """One question, and the answers that are to be put in order."""

    answers: Annotated[tuple[AnyChain, ...], Field(strict=False, min_length=1, max_length=MOST_CHAINS)]
    """Whole chains. One that is given as a string is the text of a chain, or an answer alone."""
    top_n: Annotated[int, Field(ge=1)] | None = None
    """How many of the best the reply lists; all unless given."""


class WrittenOptions(TypedDict, total=False):
    """`WrittenChain` as a dictionary."""

    steps: Sequence[str | Mapping[str, Any]]
    answer: str
    text: str


class MeasureOptions(TypedDict, total=False):
    """`Measure` as keyword arguments."""

    aggregation: Aggregation
    step_weight: float


class ChainOptions(WrittenOptions, MeasureOptions, total=False):
    """A chain and its measure as keyword arguments."""


class PieceScore(Message):
    """A step or an answer, with its score."""

    text: str
    score: float | None
    """On the PRM's own scale; null is unscored, never a zero."""


class ChainScores(Message):
    """The scores of one chain. There are never more than it has steps, and one for its answer."""

    index: int
    """Its place in the request."""
    steps: tuple[PieceScore, ...]
    answer: PieceScore | None = None
    score: float | None
    """The chain's, by the aggregation in force; null where a score is missing."""
    first_suspicious_step: int | None = None
    """Number of the first step that scores less than the threshold, from 1; null where there is none."""
    unscored: int = 0
    """Steps and answers that the PRM gave no usable score."""


class ScoringUsage(Message):
    """What the scores cost."""

    prm_reads: int
    prm_prompt_tokens: int
    """Prompt tokens over all reads, cached ones included."""
    prm_cached_tokens: int
    prm_tokens_generated: int = 0
    """What a PRM wrote that writes verdicts."""


class Scores(Message):
    """Chains with their scores, and what the scores mean."""

    object: Literal["score", "rerank"]
    id: str
    prm: str
    """The PRM that read them."""
    prm_format: str
    threshold: float | None
    """A step that scores less is taken for wrong; null where the format has no such number."""
    aggregation: Aggregation
    step_weight: float
    lowest: float | None
    """The least a score can be; null where there is no end."""
    highest: float | None
    is_probability: bool
    results: tuple[ChainScores, ...]
    """In the order of the request; of a rerank best first, those without a score last."""
    usage: ScoringUsage
    warnings: tuple[str, ...] = ()
