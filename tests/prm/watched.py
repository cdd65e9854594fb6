"""A runtime that keeps what a format asks of it."""

from typing import NamedTuple

from cos.benchmarks.counting import PrefixCache
from cos.benchmarks.wrapped import WrappedRuntime
from cos.engines.vllm import VllmEngine, VllmSession
from cos.search.ports import Draw, Drawn, HeadRead, LabelRead
from cos.search.prompt import Prompt
from cos.search.types import Prefix

Ids = tuple[int, ...]


class Asked(NamedTuple):
    """A verdict that was asked for."""

    prompt: Ids
    prefix: Ids
    draw: Draw
    drawn: Drawn


class Watched(WrappedRuntime):
    """Stands before a real engine."""

    def __init__(self, engine: VllmEngine) -> None:
        super().__init__(engine)
        self.engine = engine
        self.sessions: dict[Ids, VllmSession] = {}
        """By the ids of their prompts."""
        self.draws: list[Asked] = []
        self.reads: list[Ids] = []
        """All that stands before each label or value that was read."""
        self.cached: list[tuple[Ids, Ids, int]] = []
        """Of each request what stands before, what was written, and how many tokens were cached."""

    async def open(self, prompt: Prompt) -> "WatchedSession":
        ids: Ids = tuple((await self.engine.render(prompt))["prompt_token_ids"])
        self.sessions[ids] = await self.engine.open(prompt)
        return WatchedSession(self, ids, self.sessions[ids])

    def check_counts(self, block_tokens: int) -> None:
        """The engine's cache has had what `cos.benchmarks.counting` counts, from an empty one on."""
        cache = PrefixCache(block_tokens)
        for prompt, written, cached in self.cached:
            assert cache.cached(prompt) == cached
            cache.keep((*prompt, *written[:-1]))
        assert any(cached for _, _, cached in self.cached)


class WatchedSession:
    """One prompt."""

    def __init__(self, watched: Watched, ids: Ids, session: VllmSession) -> None:
        self._watched = watched
        self._ids = ids
        self._session = session

    @property
    def prompt_tokens(self) -> int:
        return self._session.prompt_tokens

    @property
    def tokens_aborted(self) -> int:
        return self._session.tokens_aborted

    async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
        drawn = await self._session.draw(prefix, draw)
        assert isinstance(drawn.written, tuple)
        before = _ids(prefix)
        self._watched.draws.append(Asked(self._ids, before, draw, drawn))
        self._watched.cached.append(((*self._ids, *before), drawn.written, drawn.cached_tokens))
        return drawn

    async def read_labels(self, prefix: Prefix, labels: Ids, priority: int) -> LabelRead:
        read = await self._session.read_labels(prefix, labels, priority)
        self._note(prefix, read.cached_tokens)
        return read

    async def read_head(self, prefix: Prefix, priority: int) -> HeadRead:
        read = await self._session.read_head(prefix, priority)
        self._note(prefix, read.cached_tokens)
        return read

    def _note(self, prefix: Prefix, cached_tokens: int) -> None:
        before = (*self._ids, *_ids(prefix))
        self._watched.reads.append(before)
        self._watched.cached.append((before, (), cached_tokens))


def _ids(prefix: Prefix) -> Ids:
    assert isinstance(prefix, tuple)
    return prefix
