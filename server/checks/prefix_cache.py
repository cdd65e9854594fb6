"""Whether what an engine has computed of a chain is still there at the next step.

Models whose layers keep a state in place of keys and values (hybrid ones) may lose it: then each step costs as much as
all the steps before it.
"""

from collections.abc import Sequence

from cos.search.errors import EngineDead, EngineError, InputError
from cos.search.models import Models
from cos.search.ports import Draw, Drawn, Reading, Stops
from cos.search.prompt import question_prompt
from cos.search.types import Chain, Question
from cos.server.checks.finding import Finding

FEWEST_TOKENS = 64
"""Caches keep whole blocks only, of 16 or 32 tokens: of a shorter text nothing may be there."""


async def check_policy_cache(name: str, models: Models, question: Question, chains: Sequence[Chain]) -> Finding | None:
    """Has a policy continue a chain, then the same with a step more. None where the engine fails it: a search will
    tell. Errors: EngineDead."""
    asked = question_prompt(question, instruction=models.grammar.instruction, suffix=models.question_suffix)
    draw = Draw(max_tokens=1, stops=Stops(), seed=0, temperature=0)
    try:
        session = await models.policy.open(asked)
        drawn = [await session.draw(chain.prefix, draw) for chain in chains]
    except EngineDead:
        raise
    except (EngineError, InputError):
        return None
    return _found("policy", name, drawn)


def of_readings(name: str, readings: Sequence[Reading]) -> Finding | None:
    """The same of a PRM, by its reads of one chain. None for fewer than two."""
    return _found("prm", name, readings)


def _found(role: str, name: str, steps: Sequence[Drawn | Reading]) -> Finding | None:
    if len(steps) < 2:
        return None
    row = "PRM prefix cache" if role == "prm" else "policy prefix cache"
    before, newest = steps[-2], steps[-1]
    found = f"{newest.cached_tokens} of {newest.prompt_tokens} tokens were there at the next step"
    if any(step.cached_tokens for step in steps[1:]):
        return Finding(name=row, state="ok", found=found)
    if before.prompt_tokens < FEWEST_TOKENS:
        return Finding(
            name=row, state="ok", found=f"not to be told: {before.prompt_tokens} tokens are less than it keeps"
        )
    return Finding(
        name=row,
        state="warning",
        found=f"--{role} {name}: none of {newest.prompt_tokens} tokens were there at the next step, so every step "
        "computes its whole chain anew: 16 steps cost about 8 times as much",
        todo="give a model whose layers are all attention, or ask for few steps",
        param=role,
    )
