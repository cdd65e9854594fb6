"""PANEL: the policy criticises its own candidates in words, and chooses among them by what it wrote. No PRM.

Source: Li et al., "Dancing with critiques" (PANEL), arXiv 2503.17363, section 3: candidates of a step, a critique of
each in natural language, then a choice with all critiques in view. Deviations: prompts are ours; candidates that say
the same count once, and a single one is not criticised. A choice that names no candidate takes the first one, and the
result's warnings say how often that happened.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from pydantic import Field

from cos.search.errors import BudgetExhausted
from cos.search.search import Search
from cos.search.strategies.base import Params, Strategy
from cos.search.types import Chain, Path


class SelfCritiqueParams(Params):
    """Parameters of self-critique."""

    n: Annotated[int, Field(ge=1, le=16)] = 4
    """Candidates of a level."""
    critique_tokens: Annotated[int, Field(ge=1, le=4096)] = 256
    """Longest critique, tokens."""


class SelfCritique(Strategy):
    """Follow the step that the policy's own critiques favour."""

    name = "self_critique"
    aliases = ("panel",)
    params = SelfCritiqueParams
    needs_scores = False

    async def run(self, search: Search, params: SelfCritiqueParams) -> Chain:
        trunk, choices, unread = search.root, 0, 0
        while not trunk.is_last:
            level = search.distinct(await search.write([(trunk, params.n)]))
            usable = [chain for chain in level if chain.is_answered or not chain.is_last] or level
            picked = await choose(search, usable, params) if len(usable) > 1 else 0
            choices, unread = choices + (len(usable) > 1), unread + (picked is None)
            trunk = usable[picked or 0]
            search.select([trunk], level)
        if unread:
            search.warnings.append(
                f"{unread} of {choices} choices named no candidate, so the first was taken; can the policy criticise?"
            )
        return trunk


async def choose(search: Search, level: Sequence[Chain], params: SelfCritiqueParams) -> int | None:
    """The index that the policy chooses; None when its reply names none."""
    written = [search.in_words(chain) for chain in level]
    asked = [
        partial(ask, critique_prompt(search.question, text), chain.path, params.critique_tokens)
        for chain, text in zip(level, written, strict=True)
    ]
    critiques = await search.apart(asked, keep=level[0])
    prompt = choice_prompt(search.question, written, critiques)
    choosing = partial(ask, prompt, level[0].path[:-1], params.critique_tokens)
    return chosen((await search.apart([choosing], keep=level[0]))[0], len(level))


async def ask(prompt: str, path: Path, max_tokens: int, search: Search) -> str:
    """What the policy says; empty where the limit has no room for it."""
    try:
        return await search.ask(prompt, path, max_tokens)
    except BudgetExhausted:
        return ""


def critique_prompt(question: str, written: str) -> str:
    """What a candidate's critique is asked for with."""
    return (
        f"Question: {question}\n\nA solution up to its newest step:\n{written}\n\n"
        "Criticise the newest step: does it agree with the picture, is it correct, does it help? Be brief."
    )


def choice_prompt(question: str, written: Sequence[str], critiques: Sequence[str]) -> str:
    """What the choice is asked for with."""
    options = "\n\n".join(
        f"Candidate {number}:\n{text}\nCritique: {critique.strip() or 'none'}"
        for number, (text, critique) in enumerate(zip(written, critiques, strict=True), start=1)
    )
    return f"Question: {question}\n\n{options}\n\nWhich candidate is best? Reply with its number alone."


def chosen(reply: str, n: int) -> int | None:
    """The index a reply names: the first number in it that is a candidate's."""
    named = (int(found) - 1 for found in re.findall(r"(?<!\d)\d{1,2}(?!\d)", reply))
    return next((index for index in named if 0 <= index < n), None)
