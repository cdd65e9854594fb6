"""Answers compared with each other, both ways round: the best of a search is the one that wins most often."""

from dataclasses import dataclass, field

import pytest

from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.prm import menu
from cos.prm.matching import match
from cos.prm.ports import Judged
from cos.search.budget import Limits
from cos.search.errors import InputError
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.models import Models
from cos.search.ports import ComparesAnswers, LabelRead
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.tournament import MOST_FINALISTS, finalists_of, play
from cos.search.types import Candidate, Chain, Picture, Piece, Prefix, Question, Turn
from cos.wire.score import Measure
from cos.wire.scored import ruler_of
from tests.prm.spy import Spy

PLAIN = ScriptedVocabulary(())


@dataclass
class Arbiter(Spy):
    """Finds the answer better whose text has the greater number, and favours the place of the first by this much."""

    bias: float = 1.0
    told: tuple[float, ...] | None = None
    pairs: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def __post_init__(self) -> None:
        self.vocabulary = ScriptedVocabulary(("1", "2"))

    async def read_labels(self, prefix: Prefix, labels: tuple[int, ...], priority: int) -> LabelRead:
        assert prefix == ()
        assert priority < 0, "a search waits for reads"
        shown = self.prompts[-1].turns[1].text
        one, other = shown.partition("[Response 1]\n")[2].split("\n\n[Response 2]\n")
        self.pairs.append((one, other))
        if self.told is not None:
            return LabelRead(self.told, 10, 7)
        lead = (worth(one) - worth(other)) / 100
        return LabelRead((-1.0 + lead + self.bias, -1.0 - lead), 10, 7)


def worth(said: str) -> int:
    return sum(said.encode()) % 97


def judged(suffix: str = "") -> Judged:
    return Judged(vocabulary=PLAIN, grammar=ParagraphGrammar(PLAIN), question_suffix=suffix)


def models(prm: Arbiter) -> Models:
    policy = ScriptedEngine(Script(grammar=ParagraphGrammar(PLAIN)), vocabulary=PLAIN)
    return match(policy, prm, grammar="paragraph", prm_format="pairwise")


def answered(number: int, text: str = "4") -> Chain:
    piece = Piece("answer", text)
    return Chain((Candidate(path=(number,), written=(number,), tokens=1, piece=piece, end="answer"),))


async def test_two_answers_are_shown_beside_the_picture_in_the_order_in_which_they_are_asked_about() -> None:
    from PIL import Image

    spy, picture = Arbiter(), Picture(Image.new("RGB", (1, 1)), "one")
    session = await menu.choose("pairwise", spy, judged("Look.")).open(Question("How many?", (picture,)))
    assert isinstance(session, ComparesAnswers)
    reading = await session.compare(answered(0, "4"), answered(1, "5"))
    assert reading.score is not None
    _, user, assistant = spy.prompts[0].turns
    shown = "[Question]\nHow many?\nLook.\n\n[Response 1]\nThe answer is: 4\n\n[Response 2]\nThe answer is: 5"
    assert user == Turn("user", (picture, shown))
    assert assistant == Turn("assistant", "<answer>")
    assert spy.labels == set()
    assert (await session.score(answered(0))).score is None


async def test_who_wins_most_often_is_the_best_whatever_place_the_model_favours() -> None:
    best = set[str]()
    for bias in (-2.0, 0.0, 2.0):
        prm = Arbiter(bias=bias)
        result = await solve(Question("How much?"), SearchSpec("best_of_n", {"n": 6}), models(prm))
        said = {text for pair in prm.pairs for text in pair}
        assert len(said) > 2
        assert len(prm.pairs) == len(set(prm.pairs)) == len(said) * (len(said) - 1)
        assert result.usage.prm_reads == len(prm.pairs)
        assert result.usage.unscored == 0
        assert (
            result.value
            == result.chain.answer_score
            == max(candidate.score for candidate in result.tree if candidate.score is not None)
        )
        assert all(candidate.score is None for candidate in result.tree if candidate.end != "answer")
        assert "steps have no score: this PRM compares whole answers with each other" in result.warnings
        assert str(result.chain.candidates[-1].piece.text) in max(said, key=worth)
        best.add(max(said, key=worth))
    assert len(best) == 1


async def test_scores_are_mean_chances_and_add_up_to_half_of_the_finalists() -> None:
    chains = [answered(number) for number in range(5)]

    async def compare(one: Chain, other: Chain) -> float | None:
        return 0.9 if one.path < other.path else 0.3

    scores = await play(chains, compare)
    assert scores == pytest.approx([0.8, 0.65, 0.5, 0.35, 0.2])
    assert sum(score or 0 for score in scores) == pytest.approx(2.5)


async def test_a_pair_of_which_one_way_round_failed_says_nothing() -> None:
    async def compare(one: Chain, other: Chain) -> float | None:
        return None if one.path == (1,) else 0.75

    assert await play([answered(0), answered(1), answered(2)], compare) == pytest.approx([0.5, None, 0.5])


def test_finalists_are_answered_chains_that_differ_as_many_as_the_limit_has_reads_for() -> None:
    chains = [answered(number) for number in range(20)]
    twin = Chain((Candidate(path=(99,), written=(3,), tokens=1, piece=Piece("answer", "4"), end="answer"),))
    broken = Chain((Candidate(path=(98,), written=(98,), tokens=1, piece=Piece("broken", "x"), end="broken"),))
    found = finalists_of([*reversed(chains), twin, broken], None)
    assert [chain.path for chain in found] == [(number,) for number in range(MOST_FINALISTS)]
    assert len(finalists_of(chains, 7)) == 3
    assert len(finalists_of(chains, 1)) == 1


async def test_a_limit_on_reads_makes_the_tournament_smaller_and_is_the_reason_where_there_is_none() -> None:
    prm = Arbiter()
    spec = SearchSpec("best_of_n", {"n": 6}, limits=Limits(prm_reads=6))
    result = await solve(Question("How much?"), spec, models(prm))
    assert result.usage.prm_reads == len(prm.pairs) == 6
    assert result.value is not None
    spec = SearchSpec("best_of_n", {"n": 6}, limits=Limits(prm_reads=1))
    result = await solve(Question("How much?"), spec, models(Arbiter()))
    assert result.is_complete
    assert result.finish_reason == "prm_reads"


@pytest.mark.parametrize(("n", "limits"), [(30, Limits()), (6, Limits(prm_reads=6))])
async def test_answers_that_were_not_compared_are_told(n: int, limits: Limits) -> None:
    result = await solve(Question("How much?"), SearchSpec("best_of_n", {"n": n}, limits=limits), models(Arbiter()))
    texts = {tuple(one.piece.text for one in result.tree if one.path[:1] == (chain,)) for chain in range(n)}
    scored = {one.path for one in result.tree if one.score is not None}
    compared = {tuple(one.piece.text for one in result.tree if one.path[:1] == path[:1]) for path in scored}
    assert 1 < len(compared) < len(texts)
    told = f"{len(texts) - len(compared)} of {len(texts)} different answers were not compared"
    assert any(told in warning for warning in result.warnings)


async def test_a_model_that_means_neither_leaves_answers_unscored() -> None:
    from cos.search.errors import EngineError

    silent = Arbiter(told=(-30.0, -40.0))
    with pytest.raises(EngineError, match="the PRM failed to score"):
        await solve(Question("How much?"), SearchSpec("best_of_n", {"n": 6}), models(silent))


@pytest.mark.parametrize("strategy", ["beam", "mcts", "lookahead"])
async def test_a_strategy_that_decides_by_steps_is_refused(strategy: str) -> None:
    with pytest.raises(InputError, match="ask for one of auto, best_of_n"):
        await solve(Question("How much?"), SearchSpec(strategy), models(Arbiter()))


@pytest.mark.parametrize("strategy", ["weighted_vote", "auto", "self_consistency"])
async def test_other_strategies_search_as_well(strategy: str) -> None:
    result = await solve(Question("How much?"), SearchSpec(strategy, {"n": 4}), models(Arbiter()))
    assert result.is_complete


def test_it_scores_no_chain_by_itself() -> None:
    scorer = models(Arbiter()).scorer
    assert scorer is not None
    with pytest.raises(InputError, match="compares the answers of a search with each other"):
        ruler_of(scorer, Measure())
