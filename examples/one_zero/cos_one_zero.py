"""A PRM format of your own: the PRM is asked for a digit behind each step, 1 for right and 0 for wrong."""

from cos.prm.encoding import single
from cos.prm.labels import p_good
from cos.prm.ports import READ_PRIORITY, Judged, PrmFormat, Reader, ReaderSession
from cos.search.ports import Reading, ScorerSession
from cos.search.prompt import question_prompt
from cos.search.scale import Scale
from cos.search.types import Chain, Question


class OneZero(PrmFormat):
    """The score is P(1) of the two digits."""

    name = "one_zero"
    ability = "labels"
    scale = Scale(aggregation="mean", threshold=0.6)

    def __init__(self, reader: Reader, judged: Judged) -> None:
        self.reader = reader
        self.suffix = judged.question_suffix
        self.labels = tuple(single(reader.vocabulary, digit, "a verdict") for digit in ("1", "0"))

    async def open(self, question: Question) -> ScorerSession:
        prompt = question_prompt(question, instruction="Judge the newest step of a solution.", suffix=self.suffix)
        return OneZeroSession(self, await self.reader.open(prompt))


class OneZeroSession:
    """One question."""

    def __init__(self, prm: OneZero, session: ReaderSession) -> None:
        self.prm = prm
        self.session = session

    async def score(self, chain: Chain) -> Reading:
        steps = [f"{candidate.piece.kind}: {candidate.piece.text}\n" for candidate in chain.candidates]
        shown = self.prm.reader.vocabulary.encode("".join(steps) + "Is this right (1) or wrong (0)?\n")
        read = await self.session.read_labels(shown, self.prm.labels, READ_PRIORITY)
        right, wrong = read.logprobs
        return Reading(p_good(right, wrong), read.prompt_tokens, read.cached_tokens)
