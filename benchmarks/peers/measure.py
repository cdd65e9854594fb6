"""All peers, each beside ours at the same n, in turns: beside the same strategy, and beside the one that a server of
ours has by default."""

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal, get_args

import httpx

from cos.benchmarks.barrier import InProcess
from cos.benchmarks.limit import at_once
from cos.benchmarks.peers.its_hub import VERSION, its_hub
from cos.benchmarks.peers.published import contenders
from cos.benchmarks.server_process import own_server
from cos.benchmarks.setting import Setting
from cos.benchmarks.side_by_side import Round, Tally, compare
from cos.checkpoints import LedgerProblem
from cos.evaluation.accuracy import root_seed
from cos.evaluation.in_process import open_models
from cos.evaluation.provenance import Facts
from cos.search.errors import CosError, InputError
from cos.search.tasks import dismiss

Peer = Literal["its_hub", "search-and-learn", "ThinkBooster"]
PEERS: tuple[Peer, ...] = get_args(Peer)
DEFAULT = "auto"
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What all comparisons share."""

    policy: str
    prm: str
    setting: Setting
    """Of best-of-N."""
    problems: Sequence[LedgerProblem]
    levels: tuple[int, ...]
    rounds: int
    seed: int

    def ours(self, strategy: str) -> list[Setting]:
        """What stands beside a peer's strategy."""
        return [replace(self.setting, strategy=name).fitted() for name in (DEFAULT, strategy)]

    async def compare(self, ours: Round, theirs: Round, peer: str, strategy: str, setting: Setting) -> list[Facts]:
        """A row for each level."""
        found = await compare(ours, theirs, self.problems, self.levels, self.rounds, self.seed, "theirs")
        named = {"peer": peer, "strategy": strategy, "our_strategy": setting.strategy, "n": self.setting.n}
        return [{**named, **row} for row in found]


def parse_peers(text: str) -> tuple[Peer, ...]:
    """``its_hub,ThinkBooster`` as names. Errors: InputError."""
    known: dict[str, Peer] = {peer.lower(): peer for peer in PEERS}
    wanted = [name.strip().lower() for name in text.split(",")]
    for name in wanted:
        if name not in known:
            raise InputError(f"--peers {text}: there is no {name!r}; choose among {', '.join(PEERS)}", "peers")
    return tuple(known[name] for name in dict.fromkeys(wanted))


async def compare_with_peers(contest: Contest, peers: Iterable[Peer]) -> Facts:
    """All rows. At the top stands the speedup of our default over the first peer at the highest concurrency, and as
    ``same_strategy_speedup`` that of the peer's own strategy.

    Errors: InputError for too few problems; CosError when a peer cannot be installed or a server does not start.
    """
    peers = tuple(peers)
    rows: list[Facts] = []
    if "its_hub" in peers:
        rows += await compare_with_its_hub(contest)
    if set(peers) - {"its_hub"}:
        rows += await compare_with_published(contest, peers)
    most = max(contest.levels)
    head, same = [row for row in rows if row["concurrency"] == most][:2]
    keys = ("speedup", "speedup_ci_low", "speedup_ci_high", "p95_ratio", "accuracy")
    facts = {key: head[key] for key in keys}
    facts |= {"peer_accuracy": head["theirs"]["accuracy"], "same_strategy_speedup": same["speedup"]}
    sampling = {"temperature": contest.setting.temperature, "top_p": contest.setting.top_p}
    return {"results": rows, **facts, **sampling, "rounds": contest.rounds, "seed": contest.seed}


async def compare_with_its_hub(contest: Contest) -> list[Facts]:
    """Over HTTP, each in front of engines of its own."""
    async with AsyncExitStack() as stack:
        starting = asyncio.create_task(stack.enter_async_context(own_server(contest.policy, contest.prm)))
        try:
            hub = await stack.enter_async_context(its_hub(contest.policy, contest.prm, contest.setting))
            asked = await stack.enter_async_context(client(await starting, contest))
        finally:
            await dismiss(starting)
        rows: list[Facts] = []
        for setting in contest.ours("best_of_n"):
            ours = Served(asked, setting, contest.seed)
            rows += await contest.compare(ours, hub, f"its_hub {VERSION}", "best_of_n", setting)
        return rows


async def compare_with_published(contest: Contest, peers: Sequence[str]) -> list[Facts]:
    """In one process, on the same engines."""
    rows: list[Facts] = []
    async with open_models(contest.policy, contest.prm) as engines:
        for (peer, strategy), theirs in contenders(engines, contest.setting, contest.seed).items():
            for setting in contest.ours(strategy) if peer in peers else ():
                ours = InProcess(engines, engines.models, setting, contest.seed)
                rows += await contest.compare(ours, theirs, peer, strategy, setting)
    return rows


@asynccontextmanager
async def client(url: str, contest: Contest) -> AsyncGenerator[httpx.AsyncClient]:
    """For so many requests at once."""
    limits = httpx.Limits(max_connections=max(contest.levels))
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as asked:
        yield asked


@dataclass(frozen=True, slots=True)
class Served:
    """Our own server, asked over HTTP."""

    client: httpx.AsyncClient
    setting: Setting
    seed: int

    async def __call__(self, problems: Sequence[LedgerProblem], concurrency: int, tally: Tally) -> None:
        """A round of `cos.benchmarks.side_by_side`. Errors: CosError for a request that is not answered."""

        async def search(problem: LedgerProblem) -> None:
            body = body_of(problem, self.setting, self.seed)
            started = time.perf_counter()
            response = await self.client.post("/solve", json=body)
            if not response.is_success:
                raise CosError(f"our own server answered {response.status_code}: {response.text[:200]}")
            reply = response.json()
            tally.add(problem, reply["answer"], time.perf_counter() - started, reply["usage"]["tokens_generated"])

        await at_once([lambda problem=problem: search(problem) for problem in problems], concurrency)


def body_of(problem: LedgerProblem, setting: Setting, seed: int) -> Facts:
    """A request to /solve."""
    options = {name: value for name, value in setting.facts().items() if value is not None}
    return {
        **options,
        "question": problem.question,
        "image": base64.b64encode(problem.image_png).decode(),
        "seed": root_seed(seed, problem.id),
        "return_tree": False,
    }
