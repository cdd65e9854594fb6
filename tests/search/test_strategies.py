"""What the further strategies decide, on trees written by hand."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from cos.engines.scripted import Script, ScriptedEngine, ScriptedSession
from cos.engines.story import story
from cos.prm.matching import match
from cos.search.grammars.cos import Step, answer_text, step_text
from cos.search.prompt import Prompt
from cos.search.result import Result
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.strategies.mcts import Node, carry_up, descend
from cos.search.strategies.particle import odds
from cos.search.strategies.rebase import apportion
from cos.search.strategies.self_critique import chosen
from cos.search.terms import Sampling
from cos.search.types import Candidate, Chain, Piece, Question, Turn
from tests.search.planting import planted

Find = Callable[..., Awaitable[Result]]


def saying(*answers: tuple[str, float]) -> tuple[ScriptedEngine, ScriptedEngine]:
    """A policy that answers at once, in this order of roots, and a PRM that gives each answer its score."""
    return planted({(root,): answer for root, answer in enumerate(answers)})


async def test_a_weighted_vote_pools_what_equal_answers_are_worth(find: Find) -> None:
    """Alone the first chain is best; together the other two are worth more."""
    scores = {"7": 0.8, "15": 0.5}

    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt
        return answer_text("7" if rng.random() < 0.3 else "15", first=not written)

    def judge(prompt: Prompt, written: str) -> float:
        del prompt
        return next(score for answer, score in scores.items() if f">{answer}<" in written)

    async def found(strategy: str) -> str | None:
        policy, prm = ScriptedEngine(Script(writer=write)), ScriptedEngine(Script(judge=judge))
        return (await find(strategy, {"n": 8}, policy=policy, prm=prm)).chain.answer

    assert await found("best_of_n") == "7"
    assert await found("weighted_vote") == "15"


async def test_sub_trees_follow_their_own_best_step_and_never_meet(find: Find) -> None:
    policy, prm = planted(
        {
            (0,): ("step", 0.9),
            (1,): ("step", 0.8),
            (2,): ("step", 0.2),
            (3,): ("step", 0.3),
            (0, 0): ("a", 0.4),
            (0, 1): ("b", 0.5),
            (3, 0): ("c", 0.9),
            (3, 1): ("d", 0.1),
        }
    )
    result = await find("dvts", {"n": 4, "beam_width": 2}, policy=policy, prm=prm)
    assert [candidate.path for candidate in result.tree if len(candidate.path) == 2] == [(0, 0), (0, 1), (3, 0), (3, 1)]
    # 0.2 x 0.3 + 0.8 x 0.9 = 0.78 against 0.2 x 0.9 + 0.8 x 0.5 = 0.58.
    assert result.chain.path == (3, 0)


async def test_a_sub_tree_does_not_wait_for_another(find: Find) -> None:
    slow = ScriptedEngine(Script(delay=lambda kind, number: 0.2 if kind == "draw" and number == 3 else 0.0))
    result = await find("dvts", {"n": 4, "beam_width": 2}, policy=slow)
    assert result.finish_reason == "answer"
    assert result.timings.total_s < 0.4


@pytest.mark.parametrize(
    ("weights", "n", "counts"),
    [
        ([1.0, 1.0], 4, [2, 2]),
        ([3.0, 1.0], 4, [3, 1]),
        ([1.0, 1.0, 1.0], 4, [2, 1, 1]),
        ([1.0, 0.0], 3, [3, 0]),
        ([5.0], 0, [0]),
    ],
)
def test_shares_are_whole_and_add_up(weights: list[float], n: int, counts: list[int]) -> None:
    assert apportion(weights, n) == counts


async def test_rebase_gives_the_better_chain_more_children(find: Find) -> None:
    tree = {(0,): ("step", 0.9), (1,): ("step", 0.5), (2,): ("step", 0.1), (3,): ("early", 0.2)}
    below = {(root, child): ("late", 0.5) for root in range(3) for child in range(4)}
    policy, prm = planted({**tree, **below})
    result = await find("rebase", {"n": 4, "balance": 0.5}, policy=policy, prm=prm)
    children = [candidate.path[0] for candidate in result.tree if len(candidate.path) == 2]
    # One of four places went with the early answer; softmax of 1.8, 1.0, 0.2 over three.
    assert children == [0, 0, 1]


def test_odds_are_those_of_the_softmax_over_logits() -> None:
    assert odds(0.5) == 1
    assert odds(0.8) == pytest.approx(4)
    assert (odds(None), odds(0.0)) == (0, 0)
    assert odds(1.0) < float("inf")


async def test_a_particle_without_weight_dies_out(find: Find) -> None:
    tree = {(root,): ("step", 0.0) for root in range(3)} | {(3,): ("step", 0.5)}
    below = {(3, child): ("done", 0.5) for child in range(4)}
    policy, prm = planted({**tree, **below})
    result = await find("particle", {"n": 4}, policy=policy, prm=prm)
    assert {candidate.path[0] for candidate in result.tree if len(candidate.path) == 2} == {3}
    assert len(result.tree) == 8


async def test_lookahead_prefers_the_step_that_leads_further(find: Find) -> None:
    """Temperature 0 writes the same below both; the PRM likes what follows the second."""

    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt
        if not written:
            return step_text(Step("First", rng.choice("ab"), ""), first=True)
        return answer_text("the end", first=False)

    def judge(prompt: Prompt, written: str) -> float:
        del prompt
        is_answer, is_a = "the end" in written, ">a<" in written
        return (0.1 if is_a else 0.9) if is_answer else (0.8 if is_a else 0.2)

    async def first_step(strategy: str) -> str:
        policy, prm = ScriptedEngine(Script(writer=write)), ScriptedEngine(Script(judge=judge))
        result = await find(strategy, {"n": 8, "beam_width": 1}, policy=policy, prm=prm)
        return result.chain.candidates[0].piece.fields["thought"]

    assert await first_step("beam") == "a"
    assert await first_step("lookahead") == "b"


def node(value: float, parent: Node | None = None, *, closed: bool = False) -> Node:
    found = Node(Chain(), value, parent, closed=closed)
    if parent is not None:
        parent.children.append(found)
    return found


def test_puct_goes_to_the_better_child_and_then_to_the_one_tried_less() -> None:
    root = node(0.0)
    good, poor = node(0.6, root), node(0.5, root)
    carry_up(root)
    assert descend(root, 1.0) is good
    node(0.1, good)
    carry_up(good)
    # 0.1 + 0.5 sqrt(2) / 2 = 0.45 against 0.5 + 0.5 sqrt(2) = 1.21.
    assert descend(root, 1.0) is poor


def test_what_has_ended_is_not_visited_again() -> None:
    root = node(0.0)
    node(0.9, root, closed=True)
    going = node(0.1, root)
    carry_up(root)
    assert descend(root, 1.0) is going
    node(0.5, going, closed=True)
    carry_up(going)
    assert root.closed


async def test_mcts_returns_to_a_chain_that_looked_worse_when_the_better_one_disappoints(find: Find) -> None:
    policy, prm = planted(
        {
            (0,): ("step", 0.8),
            (1,): ("step", 0.7),
            (0, 0): ("trap", 0.1),
            (0, 1): ("trap", 0.2),
            (1, 0): ("gold", 0.9),
            (1, 1): ("dross", 0.3),
        }
    )
    result = await find("mcts", {"n": 2, "iterations": 3}, policy=policy, prm=prm)
    assert result.chain.path == (1, 0)


async def test_mcts_finishes_its_best_chain_when_its_iterations_are_too_few(find: Find) -> None:
    result = await find("mcts", {"n": 2, "iterations": 1})
    assert result.finish_reason == "answer"


@pytest.mark.parametrize(
    ("reply", "index"), [("2", 1), ("Candidate 3 is best.", 2), ("the first", None), ("9, no, 1", 0), ("", None)]
)
def test_a_choice_is_the_first_number_that_is_a_candidates(reply: str, index: int | None) -> None:
    assert chosen(reply, 3) == index


def critic(reply: str) -> ScriptedEngine:
    """A policy that writes stories, criticises, and chooses what it is told to choose."""

    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        if "Which candidate is best" in prompt.asked:
            return reply
        return "Fine." if "Criticise" in prompt.asked else story(prompt, written, rng)

    return ScriptedEngine(Script(writer=write))


async def test_self_critique_follows_the_policys_own_choice(find: Find) -> None:
    result = await find("self_critique", {"n": 3}, policy=critic("2"), has_prm=False, score="likelihood")
    assert result.chain.path[:3] == (1, 1, 1)
    assert result.usage.tokens_asked > 0
    assert result.warnings == ()


async def test_nothing_is_added_to_what_a_strategy_asks_by_itself() -> None:
    opened: list[Prompt] = []

    class Listening(ScriptedEngine):
        async def open(self, prompt: Prompt) -> ScriptedSession:
            opened.append(prompt)
            return await super().open(prompt)

    policy = Listening()
    models = replace(match(policy, None), question_suffix="Think step by step.")
    await solve(Question("How much is it?"), SearchSpec("self_critique", {"n": 3}), models)
    first, *own = opened
    assert first == Prompt((Turn("user", "How much is it?\nThink step by step."),))
    assert own
    assert all("Think step by step." not in prompt.turns[0].text and len(prompt.turns) == 1 for prompt in own)


async def test_a_policy_that_cannot_criticise_is_told_of(find: Find) -> None:
    result = await find("self_critique", {"n": 3}, policy=critic("none of them"))
    assert set(result.chain.path) == {0}
    assert "4 of 4 choices named no candidate" in result.warnings[0]


async def test_auto_takes_one_candidate_a_step_while_each_is_believed(find: Find) -> None:
    policy, prm = planted({(0,): ("step", 0.95), (0, 0): ("step", 0.85), (0, 0, 0): ("7", 0.97)})
    result = await find("auto", policy=policy, prm=prm)
    assert [candidate.path for candidate in result.tree] == [(0,), (0, 0), (0, 0, 0)]


async def test_auto_tries_the_likeliest_step_first_and_samples_where_it_is_not_believed(find: Find) -> None:
    doubting = Script(judge=lambda _, __: 0.3)
    found = [await find("auto", {"n": 8}, prm=ScriptedEngine(doubting), sampling=Sampling(seed=s)) for s in range(2)]
    one, other = ({candidate.path: candidate.written for candidate in result.tree} for result in found)
    assert one[0,] == other[0,] == (await find("greedy")).tree[0].written
    assert all(one[root,] != other[root,] for root in range(1, 8)), "the second chain begins with a sample"


async def test_auto_draws_four_times_as_many_until_a_step_is_believed(find: Find) -> None:
    steps = {(root,): ("step", 0.95 if root == 4 else 0.01 * root) for root in range(16)}
    policy, prm = planted({**steps, (4, 0): ("7", 0.95)})
    result = await find("auto", {"n": 64}, policy=policy, prm=prm)
    assert {candidate.path for candidate in result.tree} == {*steps, (4, 0)}


async def test_auto_draws_half_of_n_for_a_step_and_goes_on_with_the_best(find: Find) -> None:
    steps = {(root,): ("step", 0.7 if root == 1 else 0.3) for root in range(4)}
    policy, prm = planted({**steps, (1, 0): ("7", 0.99)})
    result = await find("auto", {"n": 8}, policy=policy, prm=prm)
    assert result.chain.path == (1, 0)
    assert len(result.tree) == 5


async def test_auto_grows_a_second_chain_while_a_rival_is_close(find: Find) -> None:
    policy, prm = saying(("7", 0.78), ("8", 0.86), ("9", 0.1), ("10", 0.1), ("11", 0.99))
    result = await find("auto", {"n": 8}, policy=policy, prm=prm)
    # "8" is believed, and "7" too near; the fifth draw begins another chain.
    assert [candidate.path for candidate in result.tree] == [(root,) for root in range(5)]
    assert result.chain.path == (4,)


async def test_auto_takes_the_best_of_both_chains_when_nothing_convinces(find: Find) -> None:
    policy, prm = saying(("7", 0.3), ("8", 0.6), ("9", 0.4), ("10", 0.5))
    result = await find("auto", {"n": 4}, policy=policy, prm=prm)
    assert len(result.tree) == 4
    assert result.chain.path == (1,)


async def test_auto_without_a_prm_takes_the_most_frequent_answer(find: Find) -> None:
    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt
        return answer_text("7" if rng.random() < 0.2 else "15", first=not written)

    result = await find("auto", policy=ScriptedEngine(Script(writer=write)), has_prm=False, score="likelihood")
    assert result.chain.answer == "15"
    assert 4 <= len(result.tree) <= 16


def habit(*thoughts: str) -> ScriptedEngine:
    """Writes steps with these thoughts, one after the other, without end."""

    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt, rng
        thought = thoughts[written.count("step_end") % len(thoughts)]
        return step_text(Step("Go", thought, "") if thought else Step("", "", ""), first=not written)

    return ScriptedEngine(Script(writer=write))


@pytest.mark.parametrize(
    ("thoughts", "steps", "reason"),
    [
        (("on", "on"), 2, "repeated"),
        (("left", "right"), 3, "repeated"),
        (("On", " on "), 2, "repeated"),
        (("",), 1, "empty"),
    ],
)
async def test_a_chain_that_goes_in_circles_or_says_nothing_ends(
    find: Find, thoughts: tuple[str, ...], steps: int, reason: str
) -> None:
    result = await find("best_of_n", {"n": 1}, policy=habit(*thoughts))
    assert len(result.chain.candidates) == steps
    assert result.finish_reason == reason
    assert not result.is_complete
    assert result.chain.candidates[-1].score is None


async def test_what_is_said_twice_is_read_once_and_expanded_once(find: Find) -> None:
    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt
        if written.count("step_end") == 2:
            return answer_text("7", first=False)
        return step_text(Step("Same", f"part {written.count('step_end')}", rng.choice("ab")), first=not written)

    result = await find("beam", {"n": 8, "beam_width": 4}, policy=ScriptedEngine(Script(writer=write)))
    second = {candidate.path[0] for candidate in result.tree if len(candidate.path) == 2}
    texts = {
        candidate.piece.text for candidate in result.tree if candidate.path[0] in second and len(candidate.path) == 1
    }
    assert len(second) == len(texts) == 2
    assert result.usage.prm_reads < result.usage.candidates
    assert result.usage.tokens_duplicate > 0
    scores: dict[str, set[float | None]] = {}
    for candidate in result.tree:
        if len(candidate.path) == 1:
            scores.setdefault(candidate.piece.text, set()).add(candidate.score)
    assert all(len(found) == 1 for found in scores.values())


def test_a_candidate_knows_its_mean_logprob() -> None:
    piece = Piece("step", "")
    assert Candidate(path=(0,), written=(1, 2), tokens=2, piece=piece, end="step", logprob=-1.0).mean_logprob == -0.5


@pytest.mark.parametrize("aggregation", ["cos", "mean", "min", "prod", "last"])
@pytest.mark.parametrize("seed", range(4))
async def test_stopping_what_is_hopeless_never_changes_the_answer(find: Find, aggregation: str, seed: int) -> None:
    asked: dict[str, object] = {"aggregation": aggregation, "sampling": Sampling(seed=seed)}
    whole = await find("best_of_n", {"n": 8}, **asked)
    slow = ScriptedEngine(Script(delay=lambda kind, number: 0.0 if kind == "read" else 0.002 * (number % 5)))
    cut = await find("best_of_n", {"n": 8, "stop_hopeless": True}, policy=slow, **asked)
    assert (cut.chain, cut.value) == (whole.chain, whole.value)
    assert cut.usage.tokens_generated <= whole.usage.tokens_generated


async def test_one_bad_score_stops_a_chain_where_the_worst_step_counts(find: Find) -> None:
    def sure_or_not(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt
        if "good" in written and written.count("step_end") == 1:
            return answer_text("7", first=False)
        if written.count("step_end") > 5:
            return answer_text("8", first=False)
        word = ("good" if rng.random() < 0.3 else "bad") if not written else f"bad {written.count('step_end')}"
        return step_text(Step("Try", word, ""), first=not written)

    policy = ScriptedEngine(Script(writer=sure_or_not, seconds_per_token=1e-4))
    prm = ScriptedEngine(Script(judge=lambda _, written: 0.1 if "bad" in written else 0.9))
    result = await find("best_of_n", {"n": 8, "stop_hopeless": True}, policy=policy, prm=prm, aggregation="min")
    assert result.chain.answer == "7"
    assert max(len(candidate.path) for candidate in result.tree) < 6
