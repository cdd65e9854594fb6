"""Load of many kinds on a running server, and the troubles that its dashboards are there to show."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import suppress
from itertools import cycle

import httpx

from cos.benchmarks.serving import Body, body_of
from cos.benchmarks.setting import Setting
from cos.checkpoints import LedgerProblem
from cos.evaluation.accuracy import root_seed

MIX = (("greedy", None), ("best_of_n", 8), ("self_consistency", 8), ("beam", 8))
"""Strategies and their widths, in turns."""
TIMEOUT_S = 120.0
AWAY_S = 0.5
"""Between two tries to reach a server that is down, or on its way to it."""


def mixed(problems: Sequence[LedgerProblem], seed: int, *, score: str = "prm") -> Iterator[Body]:
    """Requests without end: strategy after strategy, problem after problem."""
    order = random.Random(seed).sample(list(problems), len(problems))
    settings = cycle([Setting(strategy=name, n=n) for name, n in MIX])
    for number, (problem, setting) in enumerate(zip(cycle(order), settings, strict=False)):
        yield body_of(problem, setting, root_seed(seed, str(number)))


async def load(
    client: httpx.AsyncClient, requests: Iterator[Body], concurrency: int, over: asyncio.Event
) -> Counter[str]:
    """A closed loop of workers until it is over; how requests ended: by status code, ``down`` where nobody answered."""
    ended: Counter[str] = Counter()

    async def worker() -> None:
        while not over.is_set():
            try:
                reply = await client.post("/solve", json=next(requests), timeout=TIMEOUT_S)
            except httpx.TransportError:
                ended["down"] += 1
                await asyncio.sleep(AWAY_S)
            else:
                ended[str(reply.status_code)] += 1
                if not reply.is_success:
                    await asyncio.sleep(AWAY_S)

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return ended


async def troubles(client: httpx.AsyncClient, requests: Iterator[Body], places: int) -> None:
    """One of everything that a client can do wrong or ask too much of: a picture that is none, limits that are met, a
    client that leaves, a chat request, and more searches at once than ``places`` and queue take."""
    body = next(requests)
    await client.post("/solve", json=body | {"image": "aGVsbG8="})
    await client.post("/solve", json=body | {"strategy": "nonsense"})
    await _sent(client, requests, {"budget": {"tokens": 60}}, 2)
    await _sent(client, requests, {"budget": {"prm_reads": 2}}, 2)
    await _sent(client, requests, {"max_steps": 1}, 2)
    with suppress(httpx.TimeoutException):
        await client.post("/solve", json=next(requests) | {"strategy": "beam", "n": 16}, timeout=0.2)
    await _sent(client, requests, {"strategy": "best_of_n", "n": 8, "beam_width": None}, places)


async def _sent(client: httpx.AsyncClient, requests: Iterator[Body], fields: Body, times: int) -> None:
    bodies = [
        {name: value for name, value in (next(requests) | fields).items() if value is not None} for _ in range(times)
    ]
    sent: list[Awaitable[httpx.Response]] = [client.post("/solve", json=body, timeout=TIMEOUT_S) for body in bodies]
    await asyncio.gather(*sent)
