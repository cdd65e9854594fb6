"""A PRM that calls a step good, neutral or bad."""

from cos.prm.encoding import continued, single
from cos.prm.labels import shares
from cos.prm.ports import READ_PRIORITY, Judged, PrmFormat, Reader, ReaderSession
from cos.search.ports import Reading, ScorerSession
from cos.search.prompt import question_prompt
from cos.search.scale import Scale
from cos.search.types import Chain, Question


class ThreeWay(PrmFormat):
    name = "three_way"
    ability = "labels"
    scale = Scale(aggregation="min", threshold=0.4)

    def __init__(self, reader: Reader, judged: Judged) -> None:
        self.reader = reader
        self.labels = tuple(single(reader.vocabulary, word, "a verdict") for word in ("good", "neutral", "bad"))

    async def open(self, question: Question) -> ScorerSession:
        return ThreeWaySession(self, await self.reader.open(question_prompt(question)))


class ThreeWaySession:
    def __init__(self, prm: ThreeWay, session: ReaderSession) -> None:
        self.prm = prm
        self.session = session

    async def score(self, chain: Chain) -> Reading:
        text = "".join(f"\n{candidate.piece.text}\nVerdict:" for candidate in chain.candidates)
        ids = continued(self.prm.reader.vocabulary, text)
        read = await self.session.read_labels(ids, self.prm.labels, READ_PRIORITY)
        found = shares(read.logprobs)
        score = None if found is None else found[0] + 0.5 * found[1]
        return Reading(score, read.prompt_tokens, read.cached_tokens)
