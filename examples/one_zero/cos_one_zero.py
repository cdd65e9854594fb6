"""A PRM format of your own: the PRM is asked for a digit behind each step, 1 for right and 0 for wrong."""

from typing import ClassVar

from cos.prm.encoding import continued, single
from cos.prm.labels import p_good
from cos.prm.ports import READ_PRIORITY, Judged, PrmFormat, Reader, ReaderSession
from cos.search.ports import Reading, ScorerSession
from cos.search.prompt import question_prompt
from cos.search.scale import Scale
from cos.search.types import Candidate, Chain, Path, Question


class OneZero(PrmFormat):
    """The score is P(1) of the two digits."""

    name = "one_zero"
    ability = "labels"
    scale = Scale(aggregation="mean", threshold=0.6)
    verdicts: ClassVar[tuple[str, ...]] = ("1", "0")
    asked = "Is this right (1) or wrong (0)?\n"

    def __init__(self, reader: Reader, judged: Judged) -> None:
        self.reader = reader
        self.suffix = judged.question_suffix
        self.labels = tuple(single(reader.vocabulary, verdict, "a verdict") for verdict in self.verdicts)

    async def open(self, question: Question) -> ScorerSession:
        prompt = question_prompt(question, instruction="Judge every step of a solution.", suffix=self.suffix)
        return OneZeroSession(self, await self.reader.open(prompt))

    def score_of(self, logprobs: tuple[float, ...]) -> float | None:
        right, wrong = logprobs
        return p_good(right, wrong)


class OneZeroSession:
    """One question."""

    def __init__(self, prm: OneZero, session: ReaderSession) -> None:
        self.prm = prm
        self.session = session
        self.shown: dict[Path, tuple[int, ...]] = {}

    async def score(self, chain: Chain) -> Reading:
        prefix = tuple(token for candidate in chain.candidates for token in self.tokens_of(candidate))
        read = await self.session.read_labels(prefix, self.prm.labels, READ_PRIORITY)
        return Reading(self.prm.score_of(read.logprobs), read.prompt_tokens, read.cached_tokens)

    def tokens_of(self, candidate: Candidate) -> tuple[int, ...]:
        if candidate.path not in self.shown:
            text = f"\n{candidate.piece.kind}: {candidate.piece.text}\n{self.prm.asked}"
            self.shown[candidate.path] = continued(self.prm.reader.vocabulary, text)
        return self.shown[candidate.path]
