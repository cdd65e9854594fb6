"""Whole chains from a policy, each in one request: from the question on, or from a chain of steps on.

A search cuts at every step because it decides there. Nothing is decided here, so a chain runs to its end without
leaving the engine's batch, and is cut into segments afterwards; what is drawn is the same in distribution. The
engine's prefix cache holds question, image and given steps for all that continue them.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cos.search.errors import EngineDead, EngineError
from cos.search.grammars.cos import ANSWER_END, STEP_END, CosGrammar, Step, segment_ids
from cos.search.ports import Draw, Drawn, Policy, PolicySession
from cos.search.tasks import together
from cos.search.types import Question

ATTEMPTS = 2
"""Tries for one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How chains are drawn (paper, section 3.3: temperature 1.0, top-p 0.95)."""

    temperature: float = 1.0
    top_p: float = 0.95
    max_tokens: int | None = None
    """Longest continuation, tokens; what the context has room for unless given."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Ending:
    """One continuation to its end."""

    steps: tuple[Step, ...]
    """The steps it adds."""
    answer: str | None
    """None for one that the grammar cannot read, or that was cut by a limit: it has no answer."""
    tokens: int
    logprob: float | None
    """Sum over its tokens, of the model's own distribution."""


class Writer:
    """Draws whole chains, at most ``concurrency`` at once over all questions."""

    def __init__(self, policy: Policy, manner: Manner, concurrency: int, *, logprobs: bool = False) -> None:
        """``logprobs``: whether log-probabilities are wanted.

        Errors: InputError when the policy lacks the step tokens.
        """
        self.manner = manner
        self._policy = policy
        self._concurrency = concurrency
        self._logprobs = logprobs
        self._grammar = CosGrammar(policy.vocabulary)
        self._live = asyncio.Semaphore(concurrency)
        self.lost: list[str] = []
        """Why each request that failed for good did."""
        self._step_end = policy.vocabulary.control_id(STEP_END)
        self._answer_end = policy.vocabulary.control_id(ANSWER_END)

    def workers(self, n: int) -> int:
        """How many questions to have under way when each asks for ``n`` chains at once: one more than fills the
        engine, so that the next is rendered while the last chains of others are drawn."""
        return -(-self._concurrency // n) + 1

    async def open(self, question: Question) -> PolicySession:
        """Renders a question. Errors: InputError when it does not fit, EngineDead."""
        return await self._policy.open(question)

    async def write(self, session: PolicySession, key: str, n: int, steps: Sequence[Step] = ()) -> list[Ending]:
        """``n`` continuations of ``steps``, those left out whose requests failed. Else as `draw`."""
        return [ending for ending in await self.draw(session, key, range(n), steps) if ending is not None]

    async def draw(
        self, session: PolicySession, key: str, numbers: Sequence[int], steps: Sequence[Step] = ()
    ) -> list[Ending | None]:
        """The continuations of ``steps`` with these numbers. Their seeds follow from ``key`` (the question's), the
        steps and their number, so that no order of events can change them. One whose request fails twice is None, and
        ``lost`` has why.

        Errors: EngineDead.
        """
        vocabulary = self._policy.vocabulary
        prefix = [
            token for index, step in enumerate(steps) for token in segment_ids(vocabulary, step, first=index == 0)
        ]
        room = self._policy.context_tokens - session.prompt_tokens - len(prefix)
        if room < 1:
            return [Ending((), None, 0, None)] * len(numbers)
        stop = () if self._answer_end is None else (self._answer_end,)
        draws = [
            Draw(
                max_tokens=min(self.manner.max_tokens or room, room),
                stop_ids=stop,
                seed=_seed(self.manner.seed, key, prefix, number),
                temperature=self.manner.temperature,
                top_p=self.manner.top_p,
                logprobs=self._logprobs,
            )
            for number in numbers
        ]
        found = await together(self._draw(session, prefix, draw) for draw in draws)
        return [None if drawn is None else self._read(drawn) for drawn in found]

    async def _draw(self, session: PolicySession, prefix: Sequence[int], draw: Draw) -> Drawn | None:
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

    def _read(self, drawn: Drawn) -> Ending:
        steps: list[Step] = []
        answer: str | None = None
        start = 0
        ids = drawn.token_ids
        ends = [index + 1 for index, token in enumerate(ids) if token in (self._step_end, self._answer_end)]
        for end in ends:
            segment = self._grammar.read(ids[start:end], self._policy.vocabulary.decode(ids[start:end]), cut=False)
            start = end
            if segment.step is None:
                answer = segment.answer
                break
            steps.append(segment.step)
        return Ending(tuple(steps), answer, len(ids), drawn.logprob)


def _seed(root: int, key: str, prefix: Sequence[int], index: int) -> int:
    digest = hashlib.blake2b(f"{root}/{key}/{index}/".encode() + repr(list(prefix)).encode(), digest_size=4)
    return int.from_bytes(digest.digest(), "big") >> 1
