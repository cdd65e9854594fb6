"""What each strategy decides on a tree written by hand: which chain goes on, which leaves, which wins."""

import math
import random
from collections.abc import Awaitable, Callable

import pytest

from cos.engines.scripted import Script, ScriptedEngine
from cos.search.grammars.cos import CosGrammar, answer_text
from cos.search.models import Models
from cos.search.place import seed_of
from cos.search.ports import Reading
from cos.search.prompt import Prompt
from cos.search.result import Result
from cos.search.run import solve
from cos.search.scale import Scale
from cos.search.spec import SearchSpec
from cos.search.types import Chain, Question
from tests.search.planting import Tree, planted

Find = Callable[..., Awaitable[Result]]


async def test_in_step_search_an_answer_competes_with_steps_by_the_score_at_its_own_tag(find: Find) -> None:
    """As a whole chain the answer at (0, 0) is worth 0.2 x 0.1 + 0.8 x 0.6 = 0.5, more than the steps' mean of 0.4."""
    policy, prm = planted(
        {
            (0,): ("step", 0.1),
            (1,): ("step", 0.0),
            (0, 0): ("early", 0.6),
            (0, 1): ("step", 0.7),
            (0, 1, 0): ("late", 0.5),
            (0, 1, 1): ("worse", 0.4),
        }
    )
    result = await find("greedy_prm", {"n": 2}, policy=policy, prm=prm)
    assert result.chain.path == (0, 1, 0)


async def test_a_chain_that_answers_leaves_the_beam_with_its_place(find: Find) -> None:
    policy, prm = planted(
        {
            (0,): ("early", 0.9),
            (1,): ("step", 0.8),
            (2,): ("step", 0.7),
            (3,): ("step", 0.1),
            (1, 0): ("late", 0.5),
            (1, 1): ("step", 0.1),
        }
    )
    result = await find("beam", {"n": 4, "beam_width": 2}, policy=policy, prm=prm)
    assert result.chain.path == (0,)
    assert [candidate.path for candidate in result.tree if len(candidate.path) == 2] == [(1, 0), (1, 1)]


async def test_the_best_answer_of_a_beam_wins_even_if_it_came_early_or_late(find: Find) -> None:
    tree: Tree = {
        (0,): ("early", 0.6),
        (1,): ("step", 0.8),
        (1, 0): ("late", 0.9),
    }
    policy, prm = planted(tree)
    result = await find("beam", {"n": 2, "beam_width": 2}, policy=policy, prm=prm)
    assert result.chain.path == (1, 0)
    policy, prm = planted({**tree, (0,): ("early", 0.89)})
    result = await find("beam", {"n": 2, "beam_width": 2}, policy=policy, prm=prm)
    assert result.chain.path == (0,)


async def test_best_of_n_trusts_the_chain_score_not_the_answer_alone(find: Find) -> None:
    """0.2 x 0.1 + 0.8 x 0.8 = 0.66 against 0.2 x 0.9 + 0.8 x 0.75 = 0.78."""
    policy, prm = planted({(0,): ("step", 0.1), (0, 0): ("shaky", 0.8), (1,): ("step", 0.9), (1, 0): ("solid", 0.75)})
    assert (await find("best_of_n", {"n": 2}, policy=policy, prm=prm)).chain.path == (1, 0)
    policy, prm = planted({(0,): ("step", 0.1), (0, 0): ("shaky", 0.8), (1,): ("step", 0.9), (1, 0): ("solid", 0.75)})
    trusting = await find("best_of_n", {"n": 2}, policy=policy, prm=prm, step_weight=0.0)
    assert trusting.chain.path == (0, 0)


async def test_the_vote_follows_the_answers_and_not_the_scores(find: Find) -> None:
    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt
        lonely = rng.getstate() == random.Random(seed_of(0, (0,))).getstate()
        return answer_text("7" if lonely else "15", first=not written)

    prm = ScriptedEngine(Script(judge=lambda _, written: 0.9 if "7" in written else 0.1))
    result = await find("self_consistency", {"n": 3}, policy=ScriptedEngine(Script(writer=write)), prm=prm)
    assert (result.chain.answer, result.chain.path) == ("15", (1,))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
async def test_no_scorer_whatever_it_returns_can_make_a_number_that_is_none_win(bad: float | None) -> None:
    class Careless:
        """Somebody's PRM format, which checks nothing."""

        scale = Scale(aggregation="cos")

        async def open(self, question: Question) -> "Careless":
            del question
            return self

        async def score(self, chain: Chain) -> Reading:
            return Reading(bad if chain.path[0] == 0 else 0.2, 1, 0)

    policy = ScriptedEngine()
    spec = SearchSpec("best_of_n", {"n": 3})
    models = Models(policy=policy, grammar=CosGrammar(policy.vocabulary), scorer=Careless())
    result = await solve(Question("?"), spec, models)
    assert result.chain.path[0] == 1
    assert result.value == pytest.approx(0.2)
    assert result.usage.unscored == sum(candidate.path[0] == 0 for candidate in result.tree)
    assert all(candidate.piece.kind == "step" for candidate in result.chain.steps)
