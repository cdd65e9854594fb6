"""A reward model with a head: one number at the end of a solution, of any size."""

import math

from cos.prm.ports import READ_PRIORITY, Judged, PrmFormat, Reader, ReaderSession
from cos.search.ports import Reading, ScorerSession
from cos.search.prompt import Prompt
from cos.search.scale import Scale
from cos.search.types import Chain, Question, Turn


class JudgeHead(PrmFormat):
    name = "judge_head"
    ability = "head"
    scale = Scale(aggregation="last", threshold=None, lowest=-math.inf, highest=math.inf, is_probability=False)

    def __init__(self, reader: Reader, judged: Judged) -> None:
        self.reader = reader

    async def open(self, question: Question) -> ScorerSession:
        prompt = Prompt((Turn("user", (*question.pictures, question.text)), Turn("assistant", "")))
        return JudgeHeadSession(self.reader, await self.reader.open(prompt))


class JudgeHeadSession:
    def __init__(self, reader: Reader, session: ReaderSession) -> None:
        self.reader = reader
        self.session = session

    async def score(self, chain: Chain) -> Reading:
        text = "".join(candidate.piece.text + "\n\n" for candidate in chain.candidates)
        read = await self.session.read_head(self.reader.vocabulary.encode(text), READ_PRIORITY)
        value = read.values[0]
        return Reading(value if math.isfinite(value) else None, read.prompt_tokens, read.cached_tokens)
