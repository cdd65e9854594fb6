"""A deterministic engine without a model: for tests of logic, faults and speed, and to try the server in a second.

It satisfies the same ports as `cos.engines.vllm` and runs through the same contract suite. What it writes and how it
judges are plain functions; its randomness follows from the seed of each request alone.
"""

import asyncio
import hashlib
import math
import random
import re
import time
import types
from bisect import bisect_left
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from prometheus_client import CollectorRegistry

from cos.search.errors import EngineDead, EngineError, InputError
from cos.search.grammars.cos import ANSWER_END, COS_TOKENS, STEP_END, answer_text, step_text, Step
from cos.search.ports import Draw, Drawn, LabelRead
from cos.search.types import Question

Writer = Callable[[Question, str, random.Random], str]
"""``writer(question, written, rng)``: the next segment after what is written, markup included."""

Judge = Callable[[Question, str], float]
"""``judge(question, written)``: P(good) at the end of what is written; NaN is allowed."""

Fault = Callable[[str, int], Exception | None]
"""``fault(kind, number)``: what request ``number`` (from 0) of a kind ("draw" or "read") is to fail with."""


Delay = Callable[[str, int], float]
"""``delay(kind, number)``: seconds by which request ``number`` (from 0) of a kind takes longer."""

HALF_A_CHARACTER = "\ufffd"
"""How a text ends that was cut within a character: what follows cannot be decoded apart from it."""
TURN_END = "<|im_end|>"
"""What a model writes when it is done and no stop token came before."""


class ScriptedVocabulary:
    """Control tokens first, then the 256 bytes of UTF-8: plain text can never spell a control token."""

    def __init__(self, controls: Sequence[str] = COS_TOKENS) -> None:
        self._tokens = [*controls, TURN_END]
        self._pieces = [*(token.encode() for token in self._tokens), *(bytes([byte]) for byte in range(256))]
        self._controls = {token: index for index, token in enumerate(self._tokens)}
        self._encoded = lru_cache(maxsize=1024)(self._encode_markup)
        self._decoded = lru_cache(maxsize=1024)(self._decode)
        self._pattern = re.compile("|".join(map(re.escape, sorted(self._tokens, key=len, reverse=True))))

    @property
    def fingerprint(self) -> str:
        return f"scripted: {' '.join(self._tokens)}"

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(len(self._tokens).__add__, text.encode()))

    def encode_markup(self, text: str) -> tuple[int, ...]:
        """Text whose control tokens are meant."""
        return self._encoded(text)

    def _encode_markup(self, text: str) -> tuple[int, ...]:
        ids: list[int] = []
        end = 0
        for match in self._pattern.finditer(text):
            ids += self.encode(text[end : match.start()])
            ids.append(self._controls[match.group()])
            end = match.end()
        return (*ids, *self.encode(text[end:]))

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._decoded(tuple(token_ids))

    def _decode(self, token_ids: tuple[int, ...]) -> str:
        return b"".join(map(self._pieces.__getitem__, token_ids)).decode(errors="replace")

    def control_id(self, token: str) -> int | None:
        return self._controls.get(token)


CHAIN_STEPS = 3
_SURENESS = re.compile(r"\[(\d\.\d+)\]")


def story(question: Question, written: str, rng: random.Random) -> str:
    """The default writer: three steps that each say how sure they are, then the right answer if all went well."""
    done = written.count(STEP_END)
    sureness = [float(found) for found in _SURENESS.findall(written)]
    if done >= CHAIN_STEPS:
        right = int(hashlib.sha256(question.text.encode()).hexdigest(), 16) % 90 + 10
        answer = str(right if min(sureness) >= 0.5 else rng.randint(10, 99))
        return answer_text(answer, first=done == 0)
    sure = round(rng.betavariate(2, 1.2), 4)
    thought = f"I look at part {done + 1} and feel [{sure:.4f}] sure."
    return step_text(Step(f"Look at part {done + 1}", thought, "It fits what I saw before."), first=done == 0)


def sureness(question: Question, written: str) -> float:
    """The default judge: how sure the newest step says it is; an answer is as good as the least sure step."""
    del question
    said = [float(found) for found in _SURENESS.findall(written)] or [0.5]
    return min(said) if ANSWER_END in written else said[-1]


def chance(seed: int, written: str, temperature: float, of: random.Random | None = None) -> random.Random:
    """The chance of one draw: by its seed, or at temperature 0 by what is written before it alone. ``of``: a generator
    to begin anew, which takes half the time of making one."""
    of = of or random.Random()
    of.seed(seed if temperature > 0 else f"greedy:{written}")
    return of


@types.coroutine
def turn() -> Generator[None]:
    """Lets others go first: `asyncio.sleep` of nothing, in one frame instead of two."""
    yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a scripted engine does."""

    writer: Writer = story
    judge: Judge = sureness
    fault: Fault | None = None
    delay: Delay | None = None
    seconds_per_token: float = 0.0
    seconds_per_read: float = 0.0
    sequences: int | None = None
    """How many requests at once it has room for before it counts as saturated; None is any number."""


class ScriptedEngine:
    """Satisfies `cos.search.ports.Policy` and `cos.prm.ports.Reader`."""

    def __init__(
        self, script: Script | None = None, context_tokens: int = 8192, vocabulary: ScriptedVocabulary | None = None
    ) -> None:
        self.script = script or Script()
        self.in_flight = 0
        """Requests under way now."""
        self.most_in_flight = 0
        self.chance = random.Random()
        """Begun anew for each draw."""
        self.aborted = 0
        self._context_tokens = context_tokens
        self._vocabulary = vocabulary or ScriptedVocabulary()
        self.steps = 0
        """Requests that were carried out."""
        self._alive = True
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._counts = {"draw": 0, "read": 0}
        self._registry = CollectorRegistry()

    @property
    def vocabulary(self) -> ScriptedVocabulary:
        return self._vocabulary

    @property
    def abilities(self):
        return frozenset({"labels","text"})

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    @property
    def is_saturated(self) -> bool:
        return self.script.sequences is not None and self.in_flight >= self.script.sequences

    @property
    def is_alive(self) -> bool:
        return self._alive

    @property
    def registry(self) -> CollectorRegistry:
        return self._registry

    def kill(self) -> None:
        """From now on every request finds the engine dead."""
        self._alive = False
        self._thawed.set()

    def freeze(self) -> None:
        """From now on no request gets anywhere, and none fails: as a process that was stopped."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Whatever waits goes on."""
        self._thawed.set()

    async def probe(self) -> None:
        await self._thawed.wait()
        if not self._alive:
            raise EngineDead("the scripted engine has died")

    async def open(self, prompt) -> "ScriptedSession":
        question = Question(prompt.turns[-1].text, prompt.picture)
        if not self._alive:
            raise EngineDead("the scripted engine has died")
        prompt_tokens = len(self._vocabulary.encode(question.text)) + (16 if question.picture else 0)
        if prompt_tokens + 1 > self._context_tokens:
            raise InputError(f"question and image take {prompt_tokens} tokens of {self._context_tokens}", "question")
        return ScriptedSession(self, question, prompt_tokens)

    async def forget(self, *, prefixes_only: bool = False) -> None:
        del prefixes_only
        if self.in_flight:
            raise EngineError(f"{self.in_flight} requests are under way; wait for them")

    async def close(self) -> None:
        self.kill()

    async def serve(self, kind: str, seconds: float) -> None:
        """Passes the time one request takes. Errors: those of the script's fault plan; EngineDead."""
        number = self._counts[kind]
        self._counts[kind] += 1
        self.in_flight += 1
        if self.in_flight > self.most_in_flight:
            self.most_in_flight = self.in_flight
        try:
            late = seconds + (self.script.delay(kind, number) if self.script.delay else 0.0)
            await (asyncio.sleep(late) if late else turn())
            if not self._thawed.is_set():
                await self._thawed.wait()
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.in_flight -= 1
        if not self._alive:
            raise EngineDead("the scripted engine has died")
        self.steps += 1
        error = self.script.fault(kind, number) if self.script.fault else None
        if error is not None:
            raise error


class ScriptedSession:
    """One question on a scripted engine."""

    def __init__(self, engine: ScriptedEngine, question: Question, prompt_tokens: int) -> None:
        self._engine = engine
        self._question = question
        self._prompt_tokens = prompt_tokens
        self._tokens_aborted = 0
        self._texts: dict[int, str] = {}
        """Of all that was seen, by the hashes of its ids."""
        self._lengths: list[int] = []

    @property
    def prompt_tokens(self) -> int:
        return self._prompt_tokens

    @property
    def tokens_aborted(self) -> int:
        return self._tokens_aborted

    async def draw(self, continuation: Sequence[int], draw: Draw) -> Drawn:
        before = self._checked(continuation)
        _, written = self._known(before)
        rng = chance(draw.seed, written, draw.temperature, self._engine.chance)
        ids = self._written(written, rng, draw)
        luck = rng.random() if draw.logprobs else 0.0
        whole = 1 + min([ids.index(stop) for stop in draw.stops.token_ids if stop in ids], default=len(ids) - 1)
        ids = ids[: min(whole, draw.max_tokens)]
        seconds = self._engine.script.seconds_per_token * len(ids)
        started = time.perf_counter()
        try:
            await self._engine.serve("draw", seconds)
        except asyncio.CancelledError:
            passed = len(ids) if not seconds else int(len(ids) * (time.perf_counter() - started) / seconds)
            self._tokens_aborted += min(passed, len(ids))
            raise
        cached_tokens, _ = self._recalled(before)
        self._remember(before + ids, written + self._engine.vocabulary.decode(ids))
        return Drawn(
            written=ids, text=self._engine.vocabulary.decode(ids), tokens=len(ids), stop=ids[-1] if len(ids)==whole and ids and ids[-1] in draw.stops.token_ids else None,
            finish="stop" if len(ids) == whole else "length",
            logprob=-0.1 * len(ids) * (1 + luck) if draw.logprobs else None,
            prompt_tokens=self._prompt_tokens + len(before),
            cached_tokens=cached_tokens,
        )

    def _written(self, before: str, rng: random.Random, draw: Draw) -> tuple[int, ...]:
        """What the writer writes, segment by segment, up to a stop or to the end of its turn, which it has come to when
        a segment is no step."""
        vocabulary, text = self._engine.vocabulary, ""
        while True:
            segment = self._engine.script.writer(self._question, before + text, rng)
            text += segment
            ids = vocabulary.encode_markup(text + TURN_END)
            if not segment.endswith(STEP_END) or len(ids) > draw.max_tokens or any(s in ids for s in draw.stops.token_ids):
                return ids

    async def read_labels(self, continuation: Sequence[int], labels: tuple[int, int], priority: int) -> LabelRead:
        del labels, priority
        before = self._checked(continuation)
        await self._engine.serve("read", self._engine.script.seconds_per_read)
        cached_tokens, written = self._recalled(before)
        p = self._engine.script.judge(self._question, written)
        return LabelRead((_log(p), _log(1 - p)), self._prompt_tokens + len(before), cached_tokens)

    def _checked(self, continuation: Sequence[int]) -> tuple[int, ...]:
        if self._prompt_tokens + len(continuation) + 1 > self._engine.context_tokens:
            raise EngineError(
                f"a chain of {len(continuation)} tokens is longer than the context of {self._engine.context_tokens}"
            )
        return tuple(continuation)

    def _known(self, before: tuple[int, ...]) -> tuple[int, str]:
        """Tokens of the longest text that was seen and that this one begins with; and all of its own text."""
        if (text := self._texts.get(hash(before))) is not None:
            return len(before), text
        decode = self._engine.vocabulary.decode
        for length in reversed(self._lengths[: bisect_left(self._lengths, len(before))]):
            if (begin := self._texts.get(hash(before[:length]))) is not None:
                is_whole = not begin.endswith(HALF_A_CHARACTER)
                return length, begin + decode(before[length:]) if is_whole else decode(before)
        return 0, decode(before)

    def _recalled(self, before: tuple[int, ...]) -> tuple[int, str]:
        """Tokens that a prefix cache without blocks would have of prompt and text: all that an earlier request of this
        session has computed; and the text, which counts as seen from now on."""
        is_first, (known, text) = not self._texts, self._known(before)
        if known < len(before) or is_first:
            self._remember(before, text)
        return 0 if is_first else self._prompt_tokens + min(known, len(before) - 1), text

    def _remember(self, ids: tuple[int, ...], text: str) -> None:
        self._texts[hash(ids)] = text
        place = bisect_left(self._lengths, len(ids))
        if place == len(self._lengths) or self._lengths[place] != len(ids):
            self._lengths.insert(place, len(ids))


def _log(p: float) -> float:
    if math.isnan(p):
        return math.nan
    return math.log(p) if p > 0 else -1e3
