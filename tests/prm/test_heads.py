"""Formats that read a head: what the PRM is shown, which value is the score, and which models are refused."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.prm import menu
from cos.prm.heads import logistic, second_of_two
from cos.prm.ports import Checkpoint, Judged
from cos.search.errors import InputError
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.ports import HeadRead
from cos.search.types import Candidate, Chain, Picture, Piece, Prefix, Question, Turn
from tests.prm.spy import Spy

FORMATS = ("qwen_math_prm", "token_classification", "skywork_o1")
TAG = "<extra_0>"
STEPS = (Piece("step", "Two and\ntwo."), Piece("answer", "4", {"reasoning": "2 + 2 = 4."}))


@dataclass
class Headed(Spy):
    """A spy with a head that gives these values."""

    values: tuple[float, ...] = (0.0, 1.0)

    def __post_init__(self) -> None:
        self.vocabulary = ScriptedVocabulary((TAG,))
        self.abilities = frozenset({"head"})

    @property
    def head_width(self) -> int | None:
        return len(self.values)

    async def read_head(self, prefix: Prefix, priority: int) -> HeadRead:
        assert isinstance(prefix, tuple)
        assert priority < 0, "a search waits for reads"
        self.prefixes.append(prefix)
        return HeadRead(self.values, 10 + len(prefix), 7)


def headed(prm_format: str, *values: float) -> Headed:
    return Headed(values=values or ((0.0,) if prm_format == "skywork_o1" else (0.0, 1.0)))


def judged(suffix: str = "") -> Judged:
    vocabulary = ScriptedVocabulary(())
    return Judged(vocabulary=vocabulary, grammar=ParagraphGrammar(vocabulary), question_suffix=suffix)


def chain_of(*pieces: Piece) -> Chain:
    chain = Chain()
    for piece in pieces:
        end = "answer" if piece.kind == "answer" else "step"
        chain = chain.then(Candidate(path=(*chain.path, 0), written=(1,), tokens=1, piece=piece, end=end))
    return chain


async def read(prm_format: str, spy: Headed, *pieces: Piece, question: Question | None = None) -> list[float | None]:
    session = await menu.choose(prm_format, spy, judged("Think.")).open(question or Question("How much?"))
    chain = chain_of(*pieces)
    return [(await session.score(Chain(chain.candidates[: n + 1]))).score for n in range(len(chain.candidates))]


@pytest.mark.parametrize(("value", "score"), [(-3.28, 0.036), (2.1, 0.891)])
async def test_one_value_goes_through_the_sigmoid_once(value: float, score: float) -> None:
    assert await read("skywork_o1", headed("skywork_o1", value), STEPS[0]) == [pytest.approx(score, abs=5e-4)]


@pytest.mark.parametrize("prm_format", ["qwen_math_prm", "token_classification"])
async def test_of_two_values_the_second_is_good(prm_format: str) -> None:
    score = 1 / (1 + math.exp(-3.0))
    assert await read(prm_format, headed(prm_format, -1.0, 2.0), *STEPS) == [pytest.approx(score)] * 2


@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300))
def test_any_finite_values_give_a_probability(one: float, other: float) -> None:
    assert 0 <= (logistic(one) or 0) <= 1
    assert 0 <= (second_of_two((one, other)) or 0) <= 1


@pytest.mark.parametrize("prm_format", FORMATS)
async def test_a_head_that_says_nothing_finite_leaves_a_step_unscored(prm_format: str) -> None:
    values = [math.nan] * (1 if prm_format == "skywork_o1" else 2)
    assert await read(prm_format, headed(prm_format, *values), STEPS[0]) == [None]


@pytest.mark.parametrize(
    ("prm_format", "shown"),
    [
        ("qwen_math_prm", f"Two and\ntwo.{TAG}2 + 2 = 4. The answer is \\boxed{{4}}.{TAG}"),
        ("token_classification", "Two and two.\n2 + 2 = 4. The answer is: 4\n"),
        ("skywork_o1", "Two and two.\n2 + 2 = 4. The answer is: 4\n"),
    ],
)
async def test_steps_stand_behind_each_other_each_with_its_mark(prm_format: str, shown: str) -> None:
    spy = headed(prm_format)
    await read(prm_format, spy, *STEPS)
    assert spy.vocabulary.decode(spy.prefixes[-1]) == shown
    assert spy.prefixes[1][: len(spy.prefixes[0])] == spy.prefixes[0]


async def test_qwen_is_told_to_box_its_answer_and_asked_in_a_turn() -> None:
    spy = headed("qwen_math_prm")
    await read("qwen_math_prm", spy, STEPS[0])
    system = "Please reason step by step, and put your final answer within \\boxed{}."
    assert [(turn.role, turn.text) for turn in spy.prompts[0].turns] == [
        ("system", system),
        ("user", "How much?\nThink."),
        ("assistant", ""),
    ]


@pytest.mark.parametrize(("prm_format", "end"), [("token_classification", ""), ("skywork_o1", "\n")])
async def test_others_are_shown_plain_text_behind_the_tokenizers_first_token(prm_format: str, end: str) -> None:
    spy = headed(prm_format)
    await read(prm_format, spy, STEPS[0])
    (prompt,) = spy.prompts
    assert (prompt.rendering, prompt.asked) == ("raw_with_bos", f"How much?\nThink.{end}")


@pytest.mark.parametrize("prm_format", FORMATS)
async def test_a_conversation_is_shown_and_pictures_are_not(prm_format: str) -> None:
    from PIL import Image

    assert not menu.find(prm_format).sees_pictures
    spy = headed(prm_format)
    picture = Picture(Image.new("RGB", (1, 1)), "one")
    question = Question("And now?", (picture,), history=(Turn("user", (picture, "How many?")), Turn("assistant", "4")))
    await read(prm_format, spy, STEPS[0], question=question)
    assert spy.prompts[0].asked.strip() == "User: How many?\n\nAssistant: 4\n\nUser: And now?\nThink."
    assert not spy.prompts[0].pictures


@pytest.mark.parametrize("spelt", [TAG, f"a {TAG} b", "\n", "one\n\ntwo", "<|im_end|>"])
@pytest.mark.parametrize("prm_format", FORMATS)
async def test_a_mark_that_is_spelt_in_a_text_is_no_mark(prm_format: str, spelt: str) -> None:
    spy = headed(prm_format)
    answer = Piece("answer", spelt, {"reasoning": spelt})
    scores = await read(prm_format, spy, Piece("step", spelt), answer, question=Question(spelt))
    assert len(scores) == 2
    mark = spy.vocabulary.control_id(TAG) if prm_format == "qwen_math_prm" else spy.vocabulary.encode("\n")[0]
    assert [prefix.count(mark or 0) for prefix in spy.prefixes] == [1, 2]
    assert all(prefix[-1] == mark for prefix in spy.prefixes)


@pytest.mark.parametrize("prm_format", FORMATS)
def test_a_model_that_writes_is_refused_for_want_of_a_head(prm_format: str) -> None:
    with pytest.raises(InputError, match=f"'{prm_format}'.*This one has no head, it writes") as error:
        menu.choose(prm_format, Spy(abilities=frozenset({"labels", "text"})), judged())
    assert error.value.param == "prm"


@pytest.mark.parametrize("prm_format", FORMATS)
def test_a_head_of_another_width_is_refused_with_both(prm_format: str) -> None:
    wrong = headed(prm_format, 1.0, 2.0, 3.0)
    with pytest.raises(
        InputError, match=r"reads a head of [12] values?, and this model's head gives 3 values"
    ) as error:
        menu.choose(prm_format, wrong, judged())
    assert error.value.param == "prm"


def test_a_tokenizer_without_qwens_tag_is_refused_by_its_name() -> None:
    spy = headed("qwen_math_prm")
    spy.vocabulary = ScriptedVocabulary(())
    with pytest.raises(InputError, match=f"no single token '{TAG}'"):
        menu.choose("qwen_math_prm", spy, judged())


def checkpoint(architecture: str, *controls: str, **config: Any) -> Checkpoint:
    return Checkpoint(
        name="some",
        config={"architectures": [architecture], **config},
        files=frozenset({"model.safetensors"}),
        vocabulary=ScriptedVocabulary(controls),
    )


QWEN2 = {"model_type": "qwen2", "num_key_value_heads": 2}
PUBLISHED = {
    "qwen_math_prm": checkpoint("Qwen2ForProcessRewardModel", TAG, **QWEN2),
    "token_classification": checkpoint("Qwen3ForTokenClassification", model_type="qwen3", num_key_value_heads=2),
    "skywork_o1": checkpoint("Qwen2ForPrmModel", **QWEN2),
}


@pytest.mark.parametrize("prm_format", FORMATS)
def test_a_published_layout_is_recognised_by_its_own_format_alone(prm_format: str) -> None:
    found = [name for name, each in menu.menu().items() if each.recognises(PUBLISHED[prm_format])]
    assert found == [prm_format]


@pytest.mark.parametrize(
    "other",
    [
        checkpoint("Qwen2ForCausalLM", TAG, **QWEN2),
        checkpoint("Qwen2ForProcessRewardModel", **QWEN2),
        checkpoint("BertForTokenClassification", model_type="bert"),
        checkpoint("Qwen2ForTokenClassification", id2label={"0": "O", "1": "PER"}, **QWEN2),
        checkpoint("LlamaForTokenClassification", num_key_value_heads=2, id2label={"0": "LABEL_0"}),
    ],
)
def test_what_might_be_anything_is_not_recognised(other: Checkpoint) -> None:
    assert not any(menu.find(name).recognises(other) for name in FORMATS)
