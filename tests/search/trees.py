"""Whole searches over scripted engines stored as data: 200 of every strategy, each a digest, one of each spelt out.

python -m tests.search.trees write               makes the data from this commit, on purpose
python -m tests.search.trees compare             tells where this commit's searches differ from them, all of them
python -m tests.search.trees show STRATEGY NUMBER    one search, spelt out
"""

import asyncio
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.story import Writer
from cos.prm.matching import match
from cos.search.budget import Limits
from cos.search.errors import CosError
from cos.search.prompt import Prompt
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.terms import Sampling
from cos.search.types import Question
from tests.search.told import digest, told
from tests.search.tree_cases import CASES, STRATEGIES, WRITERS, Case, case, reply, verdict

STORED = Path(__file__).parent / "trees.json"


async def searched(asked: Case) -> dict[str, Any]:
    """One search as `told` has it, with all that the policy was asked beside its tree; or the name of its error."""
    prompts: set[str] = set()
    policy = ScriptedEngine(Script(writer=writer_of(asked, prompts)), context_tokens=asked.context_tokens)
    prm = ScriptedEngine(Script(judge=lambda prompt, written: verdict(prompt.asked, written, noise=asked.noise)))
    spec = SearchSpec(
        asked.strategy,
        asked.params,
        sampling=Sampling(**asked.sampling),
        limits=Limits(**asked.limits),
        **asked.spec,
    )
    models = match(policy, prm if asked.has_prm else None)
    question = Question(asked.question, choices=asked.choices)
    try:
        result = await solve(question, spec, models)
    except CosError as error:
        return {"error": type(error).__name__}
    return {**told(result, policy.vocabulary), "prompts": sorted(prompts)}


def writer_of(asked: Case, prompts: set[str]) -> Writer:
    """The case's writer, which replies to prompts of the search's own and notes them."""

    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        if prompt.asked == asked.question:
            return WRITERS[asked.writer](prompt.asked, written, rng)
        prompts.add(prompt.asked)
        return reply(prompt.asked)

    return write


def stored(form: dict[str, Any]) -> str:
    """Three digests: of the tree and what came of it, of its cost, of its warnings. Apart, so that one sees what has
    changed."""
    apart = {"cost", "warnings"}
    tree = digest({key: value for key, value in form.items() if key not in apart})
    return f"{tree} {digest(form.get('cost'), 8)} {digest(form.get('warnings'), 8)}"


async def changed(numbers: Iterable[int], strategy: str, before: dict[str, Any]) -> list[str]:
    """What of these cases differs from the data, in words."""
    found: list[str] = []
    for number in numbers:
        form = await searched(case(strategy, number))
        was, now = before["digests"][strategy][number].split(), stored(form).split()
        parts = [part for part, one, other in zip(("tree", "cost", "warnings"), was, now, strict=True) if one != other]
        if parts:
            found.append(f"{strategy} {number}: {', '.join(parts)}")
    return found


def load() -> dict[str, Any]:
    """The data."""
    return json.loads(STORED.read_text(encoding="utf-8"))


async def made() -> dict[str, Any]:
    """The data of this commit."""
    forms = {name: [await searched(case(name, number)) for number in range(CASES)] for name in STRATEGIES}
    return {
        "digests": {name: [stored(form) for form in of] for name, of in forms.items()},
        "spelt_out": {name: of[0] for name, of in forms.items()},
    }


async def main(command: str, *more: str) -> int:
    """One of the commands above. The exit status is 1 where something differs."""
    match command, more:
        case "write", ():
            STORED.write_text(json.dumps(await made(), ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
        case "compare", ():
            before = load()
            found = [line for name in STRATEGIES for line in await changed(range(CASES), name, before)]
            sys.stdout.writelines(f"{line}\n" for line in found)
            sys.stdout.write(f"{len(found)} of {len(STRATEGIES) * CASES} searches differ\n")
            return bool(found)
        case "show", (strategy, number):
            asked = case(strategy, int(number))
            form = {"case": repr(asked), **await searched(asked)}
            sys.stdout.write(json.dumps(form, ensure_ascii=False, indent=1) + "\n")
        case _:
            sys.stderr.write(__doc__ or "")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*(sys.argv[1:] or ["help"]))))
