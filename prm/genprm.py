r"""The GenPRM format: the PRM analyses the newest paragraph, then "Yes" or "No" is read in its judgement.

    system | question + paragraph 1 | <analyze> ... </analyze> <output> $\boxed{Yes} | paragraph 2 | <analyze> ...

Source: arXiv 2504.00891 and its released code (RyanLiu112/GenPRM). There, the model also writes a program and the code
runs it. Here that part is left out: nothing that a model writes is executed. Each critique stands in the conversation
before the next paragraph's. A score is softmax over {"Yes", "No"} in the box; where there is none it is missing, not
one half. There is no picture.
"""

import asyncio
import zlib
from dataclasses import dataclass

from cos.prm.verdicts import VerdictPrm, VerdictSession, Writer, line_of, priority_of, without_turn_end
from cos.search.ports import Draw, Drawn, Encoder, Reading, Stops
from cos.search.prompt import Prompt
from cos.search.scale import Scale
from cos.search.types import Chain, Turn

SYSTEM = "You are a math teacher. Your task is to review and critique the paragraphs in solution step by step."
ANALYSIS = "<analyze>\nLet's analyze the Paragraph {number} step by step: "
ANALYSIS_END = "</analyze>\n"
JUDGEMENT = "<output>\n**Judgement**: $\\boxed"
TEMPERATURE, TOP_P = 0.6, 0.95


@dataclass(frozen=True, slots=True)
class Critique:
    """What was written of one paragraph."""

    text: str
    """Analysis and judgement, as they stand in the conversation."""
    score: float


class _Session(VerdictSession):
    def __init__(self, writer: Writer, vocabulary: Encoder, problem: str, max_tokens: int) -> None:
        super().__init__(writer, vocabulary, problem, max_tokens)
        self._critiques: dict[tuple[str, ...], asyncio.Future[Critique | None]] = {}
        """By what the chain says. None is no verdict."""

    async def score(self, chain: Chain) -> Reading:
        """P(Yes) in the judgement of the newest paragraph. Earlier ones that nobody has judged yet are judged first, at
        the cost of this read. Behind one without a verdict there is no score."""
        paragraphs = tuple(line_of(candidate.piece) for candidate in chain.candidates)
        spent = _Spent()
        critique: Critique | None = None
        for end in range(1, len(paragraphs) + 1):
            critique = await self._critique(paragraphs[:end], priority_of(chain), spent)
            if critique is None:
                break
        return Reading(critique and critique.score, spent.prompt_tokens, spent.cached_tokens, spent.tokens)

    async def _critique(self, paragraphs: tuple[str, ...], priority: int, spent: "_Spent") -> Critique | None:
        """Of the last paragraph; the ones before have theirs. Those who want the same share it."""
        while (known := self._critiques.get(paragraphs)) is not None:
            await asyncio.wait([known])
            if not known.cancelled():
                return known.result()
        shared = self._critiques[paragraphs] = asyncio.get_running_loop().create_future()
        try:
            shared.set_result(await self._write(paragraphs, priority, spent))
        finally:
            if not shared.done():
                # Whoever waits for one that was broken off writes it for itself.
                del self._critiques[paragraphs]
                shared.cancel()
        return shared.result()

    async def _write(self, paragraphs: tuple[str, ...], priority: int, spent: "_Spent") -> Critique | None:
        turns = [Turn("system", SYSTEM)]
        for number, paragraph in enumerate(paragraphs, 1):
            turns.append(Turn("user", f"Question: {self._problem}\n\n{paragraph}" if number == 1 else paragraph))
            if number < len(paragraphs):
                earlier = self._critiques[paragraphs[:number]].result()
                turns.append(Turn("assistant", earlier.text if earlier else ""))
        begin = ANALYSIS.format(number=len(paragraphs))
        draw = Draw(
            max_tokens=self._max_tokens,
            stops=Stops(strings=(ANALYSIS_END,)),
            # By what is judged, so that who comes first changes nothing.
            seed=zlib.crc32("\0".join((self._problem, *paragraphs)).encode()),
            temperature=TEMPERATURE,
            top_p=TOP_P,
            priority=priority,
        )
        drawn, reading = await self._writer.judged(
            Prompt((*turns,)), self._vocabulary.encode(begin), draw, self._behind
        )
        spent.add(reading)
        if reading.score is None:
            return None
        verdict = "Yes" if reading.score >= 0.5 else "No"
        return Critique(f"{begin}{drawn.text}{JUDGEMENT}{{{verdict}}}$\n</output>", reading.score)

    def _behind(self, drawn: Drawn) -> tuple[int, ...] | None:
        if drawn.finish == "length" or drawn.stop != ANALYSIS_END:
            return None
        encode = self._vocabulary.encode
        return (*without_turn_end(drawn), *encode(JUDGEMENT), *encode("{"))


class _Spent:
    """What one read has cost."""

    def __init__(self) -> None:
        self.prompt_tokens = self.cached_tokens = self.tokens = 0

    def add(self, reading: Reading) -> None:
        self.prompt_tokens += reading.prompt_tokens
        self.cached_tokens += reading.cached_tokens
        self.tokens += reading.tokens


class GenPrm(VerdictPrm):
    """Judges chains of any grammar by a written analysis, from their text alone."""

    name = "genprm"
    scale = Scale(aggregation="min", threshold=0.5)
    labels = ("Yes", "No")
    verdict_tokens = 2048
    session = _Session
