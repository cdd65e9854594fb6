"""Whole chains from a policy, each in one request: from the question on, or from a chain of steps on.

A search cuts at every step because it decides there. Nothing is decided here, so a chain runs to its end without
leaving the engine's batch. Its text is cut into pieces afterwards, where the grammar's stops stand in it. What is drawn
is the same in distribution. The engine's prefix cache holds question, image and given steps for all that continue them.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cos.evaluation.cutting import closing_stops, cut
from cos.search.errors import EngineDead, EngineError
from cos.search.grammar import token_ids
from cos.search.models import Models
from cos.search.ports import Draw, Drawn, PolicySession
from cos.search.prompt import question_prompt
from cos.search.tasks import together
from cos.search.types import Piece, Question

ATTEMPTS = 2
"""Tries for one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSampling:
    """How whole chains are sampled (paper, section 3.3: temperature 1.0, top-p 0.95)."""

    temperature: float = 1.0
    top_p: float = 0.95
    max_tokens: int | None = None
    """Longest continuation, tokens; what the context has room for unless given."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Continuation:
    """One sample to the end of its chain."""

    steps: tuple[Piece, ...]
    """The steps it adds."""
    answer: Piece | None
    """None for one that the grammar cannot read, or that was cut by a limit: it has no answer."""
    tokens: int
    logprob: float | None
    """Sum over its tokens, of the model's own distribution."""


class ChainSampler:
    """Samples whole chains, at most ``concurrency`` at once over all questions."""

    def __init__(self, models: Models, sampling: ChainSampling, concurrency: int, *, logprobs: bool = False) -> None:
        """``logprobs``: whether log-probabilities are wanted."""
        self.sampling = sampling
        self._models = models
        self._concurrency = concurrency
        self._logprobs = logprobs
        self._stops = closing_stops(models.grammar, models.policy.vocabulary)
        self._live = asyncio.Semaphore(concurrency)
        self.lost: list[str] = []
        """Why each request that failed for good did."""

    def workers(self, n: int) -> int:
        """How many questions to have under way when each asks for ``n`` chains at once: one more than fills the
        engine, so that the next is rendered while the last chains of others are drawn."""
        return -(-self._concurrency // n) + 1

    async def open(self, question: Question) -> PolicySession:
        """Renders a question as a search does. Errors: InputError when it does not fit, EngineDead."""
        models = self._models
        prompt = question_prompt(question, instruction=models.grammar.instruction, suffix=models.question_suffix)
        return await models.policy.open(prompt)

    async def write(self, session: PolicySession, key: str, n: int, steps: Sequence[Piece] = ()) -> list[Continuation]:
        """``n`` continuations of ``steps``, those left out whose requests failed. Else as `draw`."""
        return [found for found in await self.draw(session, key, range(n), steps) if found is not None]

    async def draw(
        self, session: PolicySession, key: str, numbers: Sequence[int], steps: Sequence[Piece] = ()
    ) -> list[Continuation | None]:
        """The continuations of ``steps`` with these numbers. Their seeds follow from ``key`` (the question's), the
        steps and their number, so that no order of events can change them. One whose request fails twice is None, and
        ``lost`` has why.

        Errors: EngineDead.
        """
        policy, grammar = self._models.policy, self._models.grammar
        spans = [span for index, step in enumerate(steps) for span in grammar.spans(step, first=index == 0)]
        prefix = token_ids(policy.vocabulary, spans)
        room = policy.context_tokens - session.prompt_tokens - len(prefix)
        if room < 1:
            return [Continuation((), None, 0, None)] * len(numbers)
        draws = [
            Draw(
                max_tokens=min(self.sampling.max_tokens or room, room),
                stops=self._stops,
                seed=_seed(self.sampling.seed, key, prefix, number),
                temperature=self.sampling.temperature,
                top_p=self.sampling.top_p,
                logprobs=self._logprobs,
            )
            for number in numbers
        ]
        found = await together(self._draw(session, prefix, draw) for draw in draws)
        return [None if drawn is None else self._read(drawn) for drawn in found]

    async def _draw(self, session: PolicySession, prefix: tuple[int, ...], draw: Draw) -> Drawn | None:
        why = ""
        for _ in range(ATTEMPTS):
            async with self._live:
                try:
                    return await session.draw(prefix, draw)
                except EngineDead:
                    raise
                except EngineError as error:
                    why = str(error)
        self.lost.append(why)
        return None

    def _read(self, drawn: Drawn) -> Continuation:
        steps: list[Piece] = []
        answer: Piece | None = None
        for part in cut(drawn, self._models.grammar.stops, self._models.policy.vocabulary):
            piece = self._models.grammar.read(part)
            if piece.kind != "step":
                answer = piece if piece.kind == "answer" else None
                break
            steps.append(piece)
        return Continuation(tuple(steps), answer, drawn.tokens, drawn.logprob)


def _seed(root: int, key: str, prefix: Sequence[int], index: int) -> int:
    digest = hashlib.blake2b(f"{root}/{key}/{index}/".encode() + repr(list(prefix)).encode(), digest_size=4)
    return int.from_bytes(digest.digest(), "big") >> 1
