"""Reward models of whole answers: only what has answered is judged, and a strategy that goes by steps is refused."""

import math
from dataclasses import dataclass, field

import pytest

from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.prm import menu
from cos.prm.matching import match
from cos.prm.pointwise import Pointwise
from cos.prm.ports import Checkpoint, Judged
from cos.search.errors import InputError
from cos.search.events import Scored
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.models import Models
from cos.search.ports import HeadRead
from cos.search.prompt import Prompt
from cos.search.run import run, solve
from cos.search.spec import SearchSpec
from cos.search.strategies import BUILT_IN
from cos.search.types import Candidate, Chain, Picture, Piece, Prefix, Question, Turn
from tests.prm.spy import Spy

PLAIN = ScriptedVocabulary(())
WHOLE = ("auto", "best_of_n", "greedy", "self_consistency", "self_critique", "weighted_vote")
BY_STEPS = sorted({strategy.name for strategy in BUILT_IN} - {*WHOLE})


@dataclass
class Rewarding(Spy):
    """A reward model whose values are anything."""

    shown: list[str] = field(default_factory=list[str])
    width: int = 1

    def __post_init__(self) -> None:
        self.abilities = frozenset({"head"})

    @property
    def head_width(self) -> int | None:
        return self.width

    async def read_head(self, prefix: Prefix, priority: int) -> HeadRead:
        assert prefix == ()
        assert priority < 0, "a search waits for reads"
        self.shown.append(self.prompts[-1].turns[-1].text)
        return HeadRead((sum(self.shown[-1].encode()) % 97 - 60.0,), 10, 7)


def judged(suffix: str = "") -> Judged:
    return Judged(vocabulary=PLAIN, grammar=ParagraphGrammar(PLAIN), question_suffix=suffix)


def models(prm: Rewarding) -> Models:
    policy = ScriptedEngine(Script(grammar=ParagraphGrammar(PLAIN)), vocabulary=PLAIN)
    return match(policy, prm, grammar="paragraph", prm_format="pointwise")


def chain_of(*pieces: Piece) -> Chain:
    chain = Chain()
    for piece in pieces:
        end = "answer" if piece.kind == "answer" else "step"
        chain = chain.then(Candidate(path=(*chain.path, 0), written=(1,), tokens=1, piece=piece, end=end))
    return chain


async def test_question_and_answer_are_a_whole_conversation_with_its_pictures() -> None:
    from PIL import Image

    spy, picture = Rewarding(), Picture(Image.new("RGB", (1, 1)), "one")
    question = Question("And now?", (picture,), history=(Turn("user", "How many?"), Turn("assistant", "4")))
    session = await menu.choose("pointwise", spy, judged("Think.")).open(question)
    chain = chain_of(Piece("step", "I see two."), Piece("answer", "2", {"reasoning": "So it is."}))
    assert (await session.score(Chain(chain.candidates[:1]))).score is None
    assert not spy.prompts
    assert (await session.score(chain)).score is not None
    asked = Turn("user", (picture, "And now?\nThink."))
    said = Turn("assistant", "I see two.\n\nSo it is. The answer is: 2")
    assert spy.prompts == [Prompt((*question.history, asked, said), "ended")]


@pytest.mark.parametrize("prm_format", ["pointwise", "pairwise"])
async def test_a_model_that_reads_text_alone_is_shown_the_text_and_the_reply_says_so(prm_format: str) -> None:
    from PIL import Image

    @dataclass
    class TextOnly(Rewarding):
        most_pictures: int = 0

        def __post_init__(self) -> None:
            self.abilities = frozenset({"head", "labels"})
            self.vocabulary = ScriptedVocabulary(("1", "2"))

    spy = TextOnly()
    policy = ScriptedEngine(Script(grammar=ParagraphGrammar(PLAIN)), vocabulary=PLAIN)
    found = match(policy, spy, grammar="paragraph", prm_format=prm_format)
    question = Question("How much?", (Picture(Image.new("RGB", (1, 1)), "one"),))
    result = await solve(question, SearchSpec("best_of_n", {"n": 3}), found)
    assert spy.prompts
    assert not any(prompt.pictures for prompt in spy.prompts)
    assert any("picture" in warning for warning in result.warnings)


@pytest.mark.parametrize("strategy", ["best_of_n", "weighted_vote", "auto"])
async def test_only_answered_chains_are_judged_and_steps_have_no_score(strategy: str) -> None:
    prm = Rewarding()
    result = await solve(Question("How much?"), SearchSpec(strategy, {"n": 4}), models(prm))
    assert result.is_complete
    assert all(candidate.score is None for candidate in result.tree if candidate.end != "answer")
    answers = [candidate for candidate in result.tree if candidate.end == "answer"]
    assert all(candidate.score is not None for candidate in answers)
    assert result.usage.prm_reads == len(prm.shown) == len(set(prm.shown))
    assert result.usage.unscored == 0
    assert "steps have no score: this PRM judges whole answers" in result.warnings
    assert not any("unscored" in warning for warning in result.warnings)
    assert result.value == result.chain.answer_score


async def test_the_best_answer_is_the_one_that_the_reward_model_values_most() -> None:
    result = await solve(Question("How much?"), SearchSpec("best_of_n", {"n": 8}), models(Rewarding()))
    scores = [candidate.score for candidate in result.tree if candidate.score is not None]
    assert len(set(scores)) > 1
    assert result.value == max(scores)


async def test_as_many_reads_are_paid_for_as_answers_are_judged() -> None:
    from cos.search.budget import Limits

    spec = SearchSpec("best_of_n", {"n": 3}, limits=Limits(prm_reads=3))
    result = await solve(Question("How much?"), spec, models(Rewarding()))
    assert result.finish_reason == "answer"
    assert result.usage.prm_reads <= 3
    assert all(candidate.score is not None for candidate in result.tree if candidate.end == "answer")


async def test_no_step_is_told_to_have_a_score() -> None:
    events = [
        event async for event in run(Question("How much?"), SearchSpec("best_of_n", {"n": 2}), models(Rewarding()))
    ]
    assert {event.score is None for event in events if isinstance(event, Scored)} == {False}


async def test_what_the_policy_alone_decides_is_explained_by_its_answers_score() -> None:
    prm = Rewarding()
    result = await solve(Question("How much?"), SearchSpec("greedy"), models(prm))
    assert len(prm.shown) == 1
    assert result.value == result.chain.answer_score


@pytest.mark.parametrize("strategy", BY_STEPS)
async def test_a_strategy_that_decides_by_steps_is_refused_with_those_that_work(strategy: str) -> None:
    prm = Rewarding()
    with pytest.raises(InputError, match=f"'{strategy}' decides by the scores of steps.*{', '.join(WHOLE)}") as error:
        await solve(Question("How much?"), SearchSpec(strategy), models(prm))
    assert error.value.param == "strategy"
    assert not prm.prompts
    result = await solve(Question("How much?"), SearchSpec(strategy, score="likelihood"), models(prm))
    assert result.is_complete


def test_a_head_of_two_values_is_refused() -> None:
    with pytest.raises(InputError, match="'pointwise' reads a head of 1 value, and this model's head gives 2 values"):
        menu.choose("pointwise", Rewarding(width=2), judged())


def test_values_have_no_ends_and_are_of_answers() -> None:
    scale = Pointwise.scale
    assert (scale.judges, scale.is_bounded, scale.is_probability, scale.threshold) == ("answers", False, False, None)
    assert scale.usable(-123.0) == -123.0
    assert scale.usable(math.inf) is None


def test_a_value_head_of_its_own_file_is_recognised_and_a_classifier_is_not() -> None:
    def found(model_type: str, *files: str) -> bool:
        config = {"model_type": model_type}
        return Pointwise.recognises(Checkpoint(name="x", config=config, files=frozenset(files), vocabulary=PLAIN))

    assert found("qwen2_5_vl", "model.safetensors", "value_head.safetensors")
    assert not found("qwen2_5_vl", "model.safetensors")
    assert not found("gemma3", "model.safetensors", "value_head.safetensors")
