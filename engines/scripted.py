"""A deterministic engine without a model: for tests of logic, faults and speed, and to try the server in a second.

It satisfies the same ports as `cos.engines.vllm` and runs through the same contract suite. What it writes and how it
judges are plain functions; its randomness follows from the seed of each request alone.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
import types
from bisect import bisect_left
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cos.engines.scripted_vocabulary import TURN_END, OpenVocabulary, ScriptedVocabulary
from cos.engines.story import Judge, Story, Writer, default_story
from cos.search.errors import ChainTooLong, EngineDead, EngineError, InputError
from cos.search.grammar import Grammar
from cos.search.ports import Ability, Draw, Drawn, HeadRead, LabelRead, Stops
from cos.search.prompt import Prompt, TurnMarks
from cos.search.types import Prefix

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

Fault = Callable[[str, int], Exception | None]
"""``fault(kind, number)``: what request ``number`` (from 0) of a kind ("draw" or "read") is to fail with."""

Delay = Callable[[str, int], float]
"""``delay(kind, number)``: seconds by which request ``number`` (from 0) of a kind takes longer."""

HALF_A_CHARACTER = "\ufffd"
"""How a text ends that was cut within a character: what follows cannot be decoded apart from it."""
PICTURE_TOKENS = 16


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

    grammar: Grammar | None = None
    """What the story is written in; the default grammar unless given."""
    writer: Writer | None = None
    """Writes pieces, in any grammar; the story unless given."""
    judge: Judge | None = None
    """P(good); of the story unless given."""
    fault: Fault | None = None
    delay: Delay | None = None
    seconds_per_token: float = 0.0
    seconds_per_read: float = 0.0
    sequences: int | None = None
    """How many requests at once it has room for before it counts as saturated; None is any number."""


class ScriptedEngine:
    """Satisfies `cos.engines.ports.Runtime`, with metrics, caches and load of its own."""

    def __init__(
        self, script: Script | None = None, context_tokens: int = 8192, vocabulary: ScriptedVocabulary | None = None
    ) -> None:
        self.script = script or Script()
        self.story = default_story() if self.script.grammar is None else Story(self.script.grammar)
        self.in_flight = 0
        """Requests under way now."""
        self.most_in_flight = 0
        self.chance = random.Random()
        """Begun anew for each draw."""
        self.aborted = 0
        self._context_tokens = context_tokens
        self._vocabulary = vocabulary or OpenVocabulary()
        self.steps = 0
        """Requests that were carried out."""
        self._alive = True
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._counts = {"draw": 0, "read": 0}

    @property
    def vocabulary(self) -> ScriptedVocabulary:
        return self._vocabulary

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    @property
    def abilities(self) -> frozenset[Ability]:
        return frozenset(("labels", "head", "text"))

    @property
    def model(self) -> str:
        return "scripted"

    @property
    def config(self) -> Mapping[str, Any]:
        return {}

    @property
    def files(self) -> frozenset[str]:
        return frozenset()

    @property
    def is_saturated(self) -> bool:
        return self.script.sequences is not None and self.in_flight >= self.script.sequences

    @property
    def is_alive(self) -> bool:
        return self._alive

    @cached_property
    def registry(self) -> CollectorRegistry:
        # Who only searches need not have it installed.
        from prometheus_client import CollectorRegistry

        return CollectorRegistry()

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

    def turn_marks(self) -> TurnMarks:
        """A line for each turn."""
        encode = self._vocabulary.encode_markup
        return TurnMarks(encode(f"{TURN_END}\nassistant: "), encode(f"{TURN_END}\nuser: "))

    def reply_marks(self) -> TurnMarks:
        """As between all turns."""
        return self.turn_marks()

    async def open(self, prompt: Prompt) -> ScriptedSession:
        if not self._alive:
            raise EngineDead("the scripted engine has died")
        picture_tokens = PICTURE_TOKENS * len(prompt.pictures)
        prompt_tokens = sum(len(self._vocabulary.encode(turn.text)) for turn in prompt.turns) + picture_tokens
        if prompt_tokens + 1 > self._context_tokens:
            raise InputError(f"question and image take {prompt_tokens} tokens of {self._context_tokens}", "question")
        return ScriptedSession(self, prompt, prompt_tokens)

    @property
    def places_pictures(self) -> bool:
        """See `cos.search.ports.PlacesPictures`."""
        return True

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
    """One prompt on a scripted engine."""

    def __init__(self, engine: ScriptedEngine, prompt: Prompt, prompt_tokens: int) -> None:
        self._engine = engine
        self._prompt = prompt
        self._prompt_tokens = prompt_tokens
        self._tokens_aborted = 0
        self._texts: dict[int, str] = {}
        """Of all that was seen, by the hashes of its ids."""
        self._lengths: list[int] = []
        self._last_ids: set[int] = set()
        """The ids that any of it ends with."""

    @property
    def prompt_tokens(self) -> int:
        return self._prompt_tokens

    @property
    def tokens_aborted(self) -> int:
        return self._tokens_aborted

    async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
        before = self._checked(prefix)
        key = hash(before)
        _, written = self._known(before, key)
        rng = chance(draw.seed, written, draw.temperature, self._engine.chance)
        ids = self._written(written, rng, draw)
        luck = rng.random() if draw.logprobs else 0.0
        whole, stop = self._ended(ids, draw.stops)
        ids = ids[: min(whole, draw.max_tokens)]
        is_whole = len(ids) == whole
        seconds = self._engine.script.seconds_per_token * len(ids)
        started = time.perf_counter()
        try:
            await self._engine.serve("draw", seconds)
        except asyncio.CancelledError:
            passed = len(ids) if not seconds else int(len(ids) * (time.perf_counter() - started) / seconds)
            self._tokens_aborted += min(passed, len(ids))
            raise
        cached_tokens, _ = self._recalled(before, key)
        decode = self._engine.vocabulary.decode
        text, turn_end = decode(ids), ""
        so_far = before + ids
        self._remember(so_far, hash(so_far), written + text)
        if is_whole and stop is None:
            text, turn_end = decode(ids[:-1]), decode(ids[-1:])
        return Drawn(
            written=ids,
            text=text,
            turn_end=turn_end,
            tokens=len(ids),
            finish="stop" if is_whole else "length",
            stop=stop if is_whole else None,
            logprob=-0.1 * len(ids) * (1 + luck) if draw.logprobs else None,
            prompt_tokens=self._prompt_tokens + len(before),
            cached_tokens=cached_tokens,
        )

    def _written(self, before: str, rng: random.Random, draw: Draw) -> tuple[int, ...]:
        """What the writer writes, piece by piece, up to a stop or to the end of its turn, which it has come to when a
        piece is no step."""
        vocabulary, story, stops, text = self._engine.vocabulary, self._engine.story, draw.stops, ""
        writer, step_end = self._engine.script.writer or story.write, story.step_end
        while True:
            piece = writer(self._prompt, before + text, rng)
            text += piece
            ids = vocabulary.encode_markup(text + TURN_END)
            if not step_end or not piece.endswith(step_end) or len(ids) > draw.max_tokens:
                return ids
            if any(stop in ids for stop in stops.token_ids) or any(stop in text for stop in stops.strings):
                return ids

    def _ended(self, ids: tuple[int, ...], stops: Stops) -> tuple[int, int | str | None]:
        """How many of the tokens come before the first stop, itself included, and which it is."""
        first: tuple[int, int | str | None] = (len(ids) + 1, None)
        for token_id in stops.token_ids:
            if token_id in ids and (end := ids.index(token_id) + 1) < first[0]:
                first = (end, token_id)
        if stops.strings:
            vocabulary = self._engine.vocabulary
            text = vocabulary.decode(ids)
            for stop in stops.strings:
                if (place := text.find(stop)) >= 0 and (end := vocabulary.reach(ids, place + len(stop))) < first[0]:
                    first = (end, stop)
        return first if first[0] <= len(ids) else (len(ids), None)

    async def read_labels(self, prefix: Prefix, labels: tuple[int, ...], priority: int) -> LabelRead:
        """The first label has P(good), and the others share the rest."""
        del priority
        before = self._checked(prefix)
        await self._engine.serve("read", self._engine.script.seconds_per_read)
        p, prompt_tokens, cached_tokens = self._judged(before)
        others = len(labels) - 1
        logprobs = (_log(p), *[_log((1 - p) / others)] * others) if others else (_log(p),)
        return LabelRead(logprobs, prompt_tokens, cached_tokens)

    async def read_head(self, prefix: Prefix, priority: int) -> HeadRead:
        """One value, P(good)."""
        del priority
        before = self._checked(prefix)
        await self._engine.serve("read", self._engine.script.seconds_per_read)
        p, prompt_tokens, cached_tokens = self._judged(before)
        return HeadRead((p,), prompt_tokens, cached_tokens)

    def _judged(self, before: tuple[int, ...]) -> tuple[float, int, int]:
        """P(good), prompt tokens and cached tokens of one read."""
        cached_tokens, written = self._recalled(before, hash(before))
        judge = self._engine.script.judge or self._engine.story.judge
        return judge(self._prompt, written), self._prompt_tokens + len(before), cached_tokens

    def _checked(self, prefix: Prefix) -> tuple[int, ...]:
        before: tuple[int, ...] = prefix  # pyright: ignore[reportAssignmentType] its vocabulary has ids
        if self._prompt_tokens + len(before) + 1 > self._engine.context_tokens:
            raise ChainTooLong(
                f"a chain of {len(before)} tokens is longer than the context of {self._engine.context_tokens}"
            )
        return before

    def _known(self, before: tuple[int, ...], key: int) -> tuple[int, str]:
        """Tokens of the longest text that was seen and that this one begins with; and all of its own text. ``key``: the
        hash of its ids, which takes a while to compute, so that whoever asks twice computes it once."""
        if (text := self._texts.get(key)) is not None:
            return len(before), text
        decode = self._engine.vocabulary.decode
        for length in reversed(self._lengths[: bisect_left(self._lengths, len(before))]):
            if length and before[length - 1] not in self._last_ids:
                # Nothing that was seen ends here: that is known without a hash.
                continue
            if (begin := self._texts.get(hash(before[:length]))) is not None:
                is_whole = not begin.endswith(HALF_A_CHARACTER)
                return length, begin + decode(before[length:]) if is_whole else decode(before)
        return 0, decode(before)

    def _recalled(self, before: tuple[int, ...], key: int) -> tuple[int, str]:
        """Tokens that a prefix cache without blocks would have of prompt and text: all that an earlier request of this
        session has computed; and the text, which counts as seen from now on."""
        is_first, (known, text) = not self._texts, self._known(before, key)
        if known < len(before) or is_first:
            self._remember(before, key, text)
        return 0 if is_first else self._prompt_tokens + min(known, len(before) - 1), text

    def _remember(self, ids: tuple[int, ...], key: int, text: str) -> None:
        self._texts[key] = text
        if ids:
            self._last_ids.add(ids[-1])
        lengths, length = self._lengths, len(ids)
        place = bisect_left(lengths, length)
        if place == len(lengths) or lengths[place] != length:
            lengths.insert(place, length)


def _log(p: float) -> float:
    if math.isnan(p):
        return math.nan
    return math.log(p) if p > 0 else -1e3
