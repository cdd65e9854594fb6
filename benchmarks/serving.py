"""Searches a second over HTTP: a closed loop of workers at each level of concurrency.

Rounds alternate over the levels, so that a drift of the machine hits all of them alike. While a round's last searches
finish, fewer run than its level says, so each worker gets several a round. Every request has an image and a seed of its
own as long as there are images, so no request finds its prompt in a cache. Token counts are means a search; what is not
kept is discarded, a duplicate or aborted.
"""

import asyncio
import base64
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import httpx
from tqdm import tqdm

from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem
from cos.evaluation.accuracy import root_seed
from cos.evaluation.provenance import Facts
from cos.search.errors import CosError, InputError

TIMEOUT_S = 600.0
"""For one search."""

SEARCHES_A_WORKER = 6
"""At least so many in each round."""

Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent: at least ``requests`` a level in ``rounds`` equal parts, after a warm-up that is not counted."""

    levels: tuple[int, ...]
    requests: int
    rounds: int
    a_worker: int = SEARCHES_A_WORKER
    """At least so many of each worker in each round."""

    def a_round(self, level: int) -> int:
        """Requests of a level in each round."""
        return max(-(-self.requests // self.rounds), self.a_worker * level)

    @property
    def total(self) -> int:
        """All requests, warm-up included."""
        return max(self.levels) + self.rounds * sum(map(self.a_round, self.levels))


def parse_levels(text: str, flag: str = "--concurrency") -> tuple[int, ...]:
    """``1,16`` as numbers. Errors: InputError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"{flag} {text}: not a list of numbers from 1; write it like 1,16", flag.lstrip("-"))
    return tuple(map(int, parts))


@dataclass(slots=True)
class Level:
    """What one level of concurrency has seen so far."""

    concurrency: int
    latencies_s: list[float] = field(default_factory=list[float])
    first_step_s: list[float] = field(default_factory=list[float])
    """From the request's arrival, its wait for a place included."""
    usage: Counter[str] = field(default_factory=Counter[str])
    """As replies have it, summed."""
    busy_s: float = 0.0
    errors: list[str] = field(default_factory=list[str])
    aggregation: str | None = None
    """That was in force, as replies have it."""

    def facts(self) -> Facts:
        """Errors: CosError when no search succeeded."""
        if not self.latencies_s:
            raise CosError(f"every search at concurrency {self.concurrency} failed: {self.errors[0]}")
        import numpy as np

        median, late = np.percentile(self.latencies_s, (50, 95))
        searches, used = len(self.latencies_s), self.usage
        prompts = used["policy_prompt_tokens"] + used["prm_prompt_tokens"]
        return {
            "concurrency": self.concurrency,
            "searches_per_s": searches / self.busy_s,
            "latency_p50_s": float(median),
            "latency_p95_s": float(late),
            "first_step_p50_s": float(np.median(self.first_step_s)) if self.first_step_s else None,
            "tokens_kept": used["tokens_kept"] / searches,
            "tokens_discarded": (used["tokens_generated"] - used["tokens_kept"]) / searches,
            "prm_reads": used["prm_reads"] / searches,
            "cached_share": (used["policy_cached_tokens"] + used["prm_cached_tokens"]) / max(1, prompts),
            "requests": len(self.latencies_s) + len(self.errors),
            "errors": len(self.errors),
            "first_error": self.errors[0] if self.errors else None,
            "tokens_per_s": used["tokens_generated"] / self.busy_s,
            "prm_tokens_per_s": (used["prm_prompt_tokens"] - used["prm_cached_tokens"]) / self.busy_s,
            "seconds": self.busy_s,
        }


def body_of(problem: LedgerProblem, setting: Setting, seed: int) -> Body:
    """The request for one search."""
    options = {name: value for name, value in setting.facts().items() if value is not None}
    if setting.n is None:
        del options["n"]
    return {
        **options,
        "question": problem.question,
        "image": base64.b64encode(problem.image_png).decode(),
        "seed": seed,
        "return_tree": False,
    }


def bodies(problems: Sequence[LedgerProblem], setting: Setting, seed: int) -> Iterator[Body]:
    """Request bodies without end, in shuffled order; image after image, then again with other seeds."""
    order = random.Random(seed).sample(list(problems), len(problems))
    for turn in count():
        for problem in order:
            yield body_of(problem, setting, root_seed(seed, f"{turn}:{problem.id}"))


async def measure(client: httpx.AsyncClient, load: Load, requests: Iterator[Body]) -> Facts:
    """Runs a load. Errors: CosError when no search of a level succeeded."""
    levels = [Level(concurrency) for concurrency in load.levels]
    with tqdm(total=load.total, desc="searches", unit="search") as bar:
        await _run(client, Level(max(load.levels)), list(islice(requests, max(load.levels))), bar)
        for _ in range(load.rounds):
            for level in levels:
                await _run(client, level, list(islice(requests, load.a_round(level.concurrency))), bar)
    results = [level.facts() for level in levels]
    return {
        "results": results,
        "speedup": results[-1]["searches_per_s"] / results[0]["searches_per_s"],
        "rounds": load.rounds,
        "warm_up_requests": max(load.levels),
        "aggregation": levels[-1].aggregation,
    }


async def _run(client: httpx.AsyncClient, level: Level, requests: Sequence[Body], bar: "tqdm[Any]") -> None:
    """Sends some requests, ``level.concurrency`` at a time."""
    waiting = iter(requests)

    async def worker() -> None:
        for body in waiting:
            await _search(client, level, body)
            bar.update()

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(level.concurrency):
            group.create_task(worker())
    level.busy_s += time.perf_counter() - started


async def _search(client: httpx.AsyncClient, level: Level, body: Body) -> None:
    started = time.perf_counter()
    try:
        response = await client.post("/solve", json=body, timeout=TIMEOUT_S)
    except httpx.HTTPError as error:
        level.errors.append(repr(error))
        return
    if not response.is_success:
        level.errors.append(f"{response.status_code} {response.text[:200]}")
        return
    level.latencies_s.append(time.perf_counter() - started)
    reply = response.json()
    level.usage.update(reply["usage"])
    level.aggregation = reply["parameters"]["aggregation"]
    if (first := reply["timings"]["first_candidate_s"]) is not None:
        level.first_step_s.append(first)
