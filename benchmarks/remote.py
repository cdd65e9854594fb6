"""A pair of models on two ``vllm serve`` processes of this machine against the same pair in process: whether searches
with the same seeds end alike, and how many there are a second.

All four engines run all the time, and both ways take turns with the same problems. First one after the other, so that
batches are the same too: once greedily and once by sampling. Then many at once, for the time.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from tqdm import tqdm

from cos.benchmarks.server_process import served
from cos.benchmarks.setting import Setting
from cos.checkpoints import EMBEDDED, LedgerProblem, resolve
from cos.engines.environment import compute_threads, fitting_dtype, is_cpu_build
from cos.engines.launch import Engines, launch
from cos.engines.settings import EngineSettings, Role
from cos.engines.vllm_start import CPU_BLOCK_TOKENS, CPU_KV_CACHE_MIB
from cos.evaluation.accuracy import ask, root_seed
from cos.evaluation.in_process import open_models
from cos.evaluation.provenance import Facts
from cos.evaluation.statistics import bootstrap_mean
from cos.prm.matching import match
from cos.search.errors import InputError
from cos.search.models import Models
from cos.search.result import Result
from cos.search.run import solve
from cos.search.tasks import together

ROUND = 4
"""Searches of each of those at once in a round: while the last ones end, fewer run than were asked for."""
SERVE = "vllm.entrypoints.launchers.api_server.entry"
"""``vllm serve`` as a module: the CPU build's own command does not find its name among the installed packages."""
CPU_BATCH_TOKENS = 32_768
FLAGS = ("--enable-scale-out", "--scheduling-policy", "priority", "--enable-prompt-tokens-details")
"""What docs/deployment.md asks of such a server."""


def serving(role: Role, model: str = EMBEDDED) -> tuple[str, ...]:
    """The module and the options that serve a model as this process would run it."""
    settings = EngineSettings(role=role, model=str(resolve(role, model)))
    on_cpu = is_cpu_build()
    small = ("--block-size", str(CPU_BLOCK_TOKENS), "--kv-cache-memory-bytes", str(CPU_KV_CACHE_MIB * 2**20))
    # On CPU vLLM 0.32 ends where the prompt of a request with a seed is read in parts: all have room in one batch.
    whole = ("--max-num-batched-tokens", str(CPU_BATCH_TOKENS))
    eager = ("--enforce-eager", "--skip-mm-profiling", *small, *whole) if on_cpu else ()
    # As in process: a small model may write white space without end where a schema allows it.
    compact = ("--structured-outputs-config", json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}))
    return (
        *(SERVE, "--model", settings.model, "--served-model-name", role, *FLAGS),
        *("--dtype", fitting_dtype(settings, on_cpu=on_cpu), "--max-num-seqs", str(settings.max_num_seqs)),
        "--disable-uvicorn-access-log",
        *("--limit-mm-per-prompt", json.dumps({"image": settings.max_images, "video": 0}), *compact, *eager),
    )


def environment() -> dict[str, str]:
    """What such a process needs on a machine that it shares."""
    threads = compute_threads(EngineSettings(role="policy", model=EMBEDDED))
    shared = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads), "TORCH_COMPILE_DISABLE": "1"}
    # On CPU vLLM 0.32 has a worker process beside each engine otherwise, and every step goes through both.
    return shared | ({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if is_cpu_build() else {})


@asynccontextmanager
async def elsewhere() -> AsyncGenerator[Engines]:
    """The embedded pair over HTTP, on two servers of our own. Errors: CosError for one that does not start."""
    roles: tuple[Role, ...] = ("policy", "prm")
    async with AsyncExitStack() as stack:
        starting = [served(serving(role), "/health", environment()) for role in roles]
        urls = await together(stack.enter_async_context(server) for server in starting)
        engines = await launch(
            *(
                EngineSettings(role=role, model=str(resolve(role, EMBEDDED)), runtime="remote", url=url)
                for role, url in zip(roles, urls, strict=True)
            )
        )
        stack.push_async_callback(engines.close)
        yield engines


Way = Literal["in_process", "remote"]


@dataclass(slots=True)
class Found:
    """What one way has made of the problems."""

    greedy: list[Result] = field(default_factory=list[Result])
    sampled: list[Result] = field(default_factory=list[Result])
    seconds: list[float] = field(default_factory=list[float])
    """Of each round."""


async def measure(
    problems: Sequence[LedgerProblem], setting: Setting, alike: int, rounds: int, concurrency: int, seed: int
) -> Facts:
    """Both ways in turns: first ``alike`` problems one after the other, for the answers, then ``rounds`` rounds at
    ``concurrency``, each over problems of its own, for the time.

    Errors: InputError for too few problems, CosError for a search that fails or a server that does not start.
    """
    wanted = alike + concurrency + rounds * ROUND * concurrency
    if wanted > len(problems):
        raise InputError(f"{rounds} rounds take {wanted} problems and there are {len(problems)}", "rounds")
    waiting = iter(problems)
    async with open_models(EMBEDDED, EMBEDDED) as opened, elsewhere() as engines:
        ways: dict[Way, Models] = {"in_process": opened.models, "remote": match(engines.policy, engines.prm)}
        found = {way: Found() for way in ways}
        greedily = replace(setting, strategy="greedy", n=None, beam_width=None, temperature=0.0)
        for problem in tqdm([next(waiting) for _ in range(alike)], desc="one after the other", unit="problem"):
            for way, models in ways.items():
                found[way].greedy.append(await _search(problem, greedily, models, seed))
                found[way].sampled.append(await _search(problem, setting, models, seed))
        warming = [next(waiting) for _ in range(concurrency)]
        for models in ways.values():
            await _seconds(warming, setting, models, concurrency, seed)
        for number in tqdm(range(rounds), desc=f"{concurrency} at once", unit="round"):
            chosen = [next(waiting) for _ in range(ROUND * concurrency)]
            # What goes first finds another machine than what goes second.
            for way in reversed(ways) if number % 2 else ways:
                found[way].seconds.append(await _seconds(chosen, setting, ways[way], concurrency, seed))
        aggregation = setting.under(opened.models)
    return facts(found["in_process"], found["remote"], concurrency, seed) | aggregation.facts()


def facts(here: Found, there: Found, concurrency: int, seed: int) -> Facts:
    """What both ways found, side by side."""
    searches = ROUND * concurrency * len(here.seconds)
    ratios = [one / other for one, other in zip(here.seconds, there.seconds, strict=True)]
    interval = bootstrap_mean(ratios, seed)
    return {
        "searches": len(here.greedy),
        "same_answers_greedy": _same_answers(here.greedy, there.greedy),
        "same_answers_sampled": _same_answers(here.sampled, there.sampled),
        "same_chains_greedy": _same_chains(here.greedy, there.greedy),
        "same_chains_sampled": _same_chains(here.sampled, there.sampled),
        "concurrency": concurrency,
        "rounds": len(ratios),
        "searches_per_s_in_process": searches / sum(here.seconds),
        "searches_per_s_remote": searches / sum(there.seconds),
        "throughput_ratio": sum(ratios) / len(ratios),
        "ci_low": interval.low,
        "ci_high": interval.high,
        "seed": seed,
    }


async def _search(problem: LedgerProblem, setting: Setting, models: Models, seed: int) -> Result:
    return await solve(ask(problem), setting.spec(root_seed(seed, problem.id)), models)


async def _seconds(
    problems: Sequence[LedgerProblem], setting: Setting, models: Models, concurrency: int, seed: int
) -> float:
    """How long it takes to search so many at once."""
    places = asyncio.Semaphore(concurrency)

    async def placed(problem: LedgerProblem) -> None:
        async with places:
            await _search(problem, setting, models, seed)

    started = time.perf_counter()
    await asyncio.gather(*map(placed, problems))
    return time.perf_counter() - started


def _same_answers(one: Sequence[Result], other: Sequence[Result]) -> int:
    return sum(a.chain.answer == b.chain.answer for a, b in zip(one, other, strict=True))


def _same_chains(one: Sequence[Result], other: Sequence[Result]) -> int:
    return sum(a.chain.prefix == b.chain.prefix for a, b in zip(one, other, strict=True))
