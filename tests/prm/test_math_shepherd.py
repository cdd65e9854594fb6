"""The Math-Shepherd format: the published recipe's ids and scores, from text alone."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from cos.engines.chat import ChatPrompt
from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.engines.vocabulary import HfVocabulary
from cos.prm import menu
from cos.prm.matching import match
from cos.prm.math_shepherd import MathShepherd
from cos.prm.ports import Judged
from cos.search.errors import InputError
from cos.search.grammars import choose
from cos.search.grammars.cos import COS_TOKENS, Step, step_piece
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.ports import LabelRead
from cos.search.prompt import Prompt, TurnMarks
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.types import Candidate, Chain, Picture, Piece, Prefix, Question
from tests.prm.spy import Spy
from tests.prm.tokenizers_of_tests import pieces_of_bytes, words

CONTROLS = (" ки", " +", " -")
QUESTION = "How many eggs are sold?"
STEPS = ("Janet sells 16 - 3 - 4 = 9 eggs.", "She makes 9 * 2 = 18 dollars.")
PUBLISHED = (
    f"{QUESTION} Step 1: {STEPS[0]} ки\nStep 2: {STEPS[1]} ки\nStep 3: The answer is: 18 ки"  # as in the model's card
)


def chain_of(pieces: Sequence[Piece]) -> Chain:
    chain = Chain()
    for index, piece in enumerate(pieces):
        end = "answer" if piece.kind == "answer" else "step"
        chain = chain.then(Candidate(path=(0,) * (index + 1), written=(1,), tokens=1, piece=piece, end=end))
    return chain


PLAIN = ScriptedVocabulary(())
CHAIN = chain_of([*(Piece("step", step) for step in STEPS), Piece("answer", "18")])


def judged(suffix: str = "") -> Judged:
    """A policy with another vocabulary and grammar."""
    vocabulary = ScriptedVocabulary(COS_TOKENS)
    return Judged(vocabulary=vocabulary, grammar=choose("cos", vocabulary), question_suffix=suffix)


async def read(reader: Any, chain: Chain, question: str = QUESTION) -> list[float | None]:
    """The scores of all prefixes of a chain, from one session."""
    session = await MathShepherd(reader, judged()).open(Question(question))
    return [(await session.score(Chain(chain.candidates[: i + 1]))).score for i in range(len(chain.candidates))]


class Plain:
    """A language model that is asked directly, prompt and all."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        torch.manual_seed(0)
        shape = MistralConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        self.model: Any = MistralForCausalLM(shape).eval()
        self.tokenizer = tokenizer
        self.vocabulary = HfVocabulary(tokenizer)
        self.abilities = frozenset({"labels"})
        self.prompt: list[int] = []
        self.seen: list[tuple[int, ...]] = []

    def turn_marks(self) -> TurnMarks:
        return ChatPrompt(self.vocabulary, self.tokenizer).turn_marks()

    async def open(self, prompt: Prompt) -> "Plain":
        self.prompt = ChatPrompt(self.vocabulary, self.tokenizer).render(prompt)
        return self

    async def read_labels(self, prefix: Prefix, labels: tuple[int, ...], priority: int) -> LabelRead:
        del priority
        assert isinstance(prefix, tuple)
        self.seen.append((*self.prompt, *prefix))
        told = self.logits(self.seen[-1])[-1].log_softmax(dim=-1)
        return LabelRead(tuple(told[label].item() for label in labels), len(self.seen[-1]), 0)

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("make", [words, pieces_of_bytes])
async def test_ids_and_scores_are_those_of_the_published_recipe(make: Callable[[], PreTrainedTokenizerFast]) -> None:
    plain = Plain(make())
    scores = await read(plain, CHAIN)

    tokenizer: Any = plain.tokenizer
    ids = tokenizer.encode(PUBLISHED)
    good, bad = tokenizer.encode("+ -" if make is words else " + -", add_special_tokens=False)
    tag = tokenizer.encode("a ки")[-1]
    recipe = plain.logits(ids)[:, [good, bad]].softmax(dim=-1)[:, 0][torch.tensor(ids) == tag]
    assert plain.seen[-1] == tuple(ids)
    assert scores == pytest.approx(recipe.tolist(), abs=1e-6)
    assert len({round(score, 4) for score in recipe.tolist()}) == 3


async def test_the_prm_is_shown_text_alone_without_a_template_or_a_picture() -> None:
    from PIL import Image

    spy = Spy(ScriptedVocabulary(CONTROLS))
    question = Question(QUESTION, (Picture(Image.new("RGB", (1, 1)), "one"),))
    await MathShepherd(spy, judged("Think.")).open(question)
    (prompt,) = spy.prompts
    assert [(turn.role, turn.text) for turn in prompt.turns] == [("user", f"{QUESTION}\nThink.")]
    assert prompt.rendering == "raw"
    assert not prompt.pictures


async def test_good_is_read_before_bad_behind_the_tag_of_the_newest_step() -> None:
    spy = Spy(ScriptedVocabulary(CONTROLS))
    assert await read(spy, CHAIN) == [pytest.approx(0.8699, abs=1e-4)] * 3
    ids = {token: spy.vocabulary.control_id(token) for token in CONTROLS}
    assert spy.labels == {(ids[" +"], ids[" -"])}
    assert [prefix.count(ids[" ки"] or 0) for prefix in spy.prefixes] == [1, 2, 3]
    assert spy.vocabulary.decode(spy.prefixes[-1]) == PUBLISHED.removeprefix(QUESTION)
    for shorter, longer in zip(spy.prefixes, spy.prefixes[1:], strict=False):
        assert longer[: len(shorter)] == shorter


@pytest.mark.parametrize(
    ("piece", "line"),
    [
        (Piece("step", "One.\nTwo."), "One. Two."),
        (Piece("step", "Step 7: One."), "One."),
        (Piece("step", "Step 7:"), ""),
        (step_piece(Step("Read", "It shows 4.", "Fine.")), "Read: It shows 4. Fine."),
        (Piece("answer", "4"), "The answer is: 4"),
        (Piece("answer", "4", {"reasoning": "2 + 2 = 4."}), "2 + 2 = 4. The answer is: 4"),
    ],
)
async def test_whatever_a_piece_says_is_one_line_with_one_number(piece: Piece, line: str) -> None:
    spy = Spy(ScriptedVocabulary(CONTROLS))
    await read(spy, chain_of([piece]))
    assert spy.vocabulary.decode(spy.prefixes[0]) == f" Step 1: {line}".rstrip() + " ки"


@pytest.mark.parametrize("make", [words, pieces_of_bytes])
async def test_the_tag_in_a_question_or_a_step_never_becomes_the_tags_token(
    make: Callable[[], PreTrainedTokenizerFast],
) -> None:
    plain = Plain(make())
    await read(plain, chain_of([Piece("step", "She sells ки 9 ки"), Piece("answer", "ки")]), "How many ки ?")
    tag = plain.tokenizer.encode("a ки")[-1]
    assert [ids.count(tag) for ids in plain.seen] == [1, 2]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
async def test_there_are_as_many_tags_as_steps_whatever_they_say(said: list[str]) -> None:
    spy = Spy(ScriptedVocabulary(CONTROLS))
    await read(spy, chain_of([Piece("step", text) for text in said]))
    tag = spy.vocabulary.control_id(" ки")
    assert [prefix.count(tag or 0) for prefix in spy.prefixes] == list(range(1, len(said) + 1))
    assert all(prefix[-1] == tag for prefix in spy.prefixes)


@pytest.mark.parametrize("lacking", CONTROLS)
def test_a_prm_without_the_tag_or_a_label_as_one_token_is_refused_by_its_name(lacking: str) -> None:
    spy = Spy(ScriptedVocabulary([token for token in CONTROLS if token != lacking]))
    with pytest.raises(InputError, match=f"no single token {lacking!r}".replace("+", r"\+")) as error:
        menu.choose("math_shepherd", spy, judged())
    assert error.value.param == "prm"


def test_a_chain_is_as_good_as_its_worst_step() -> None:
    assert MathShepherd.scale.aggregation == "min"
    assert MathShepherd.scale.threshold == 0.5


@pytest.mark.parametrize("strategy", ["beam", "best_of_n", "auto"])
async def test_a_search_over_paragraphs_is_judged_and_its_chains_are_as_good_as_their_worst_step(strategy: str) -> None:
    shown: list[str] = []

    def judge(prompt: Prompt, written: str) -> float:
        shown.append(prompt.asked + written)
        return round(0.3 + len(written) * 37 % 60 / 100, 2)

    policy = ScriptedEngine(Script(grammar=ParagraphGrammar(PLAIN)), vocabulary=PLAIN)
    prm = ScriptedEngine(Script(judge=judge), vocabulary=ScriptedVocabulary(CONTROLS))
    models = match(policy, prm, grammar="paragraph", prm_format="math_shepherd")
    result = await solve(Question(QUESTION), SearchSpec(strategy, {"n": 4}), models)
    assert result.is_complete
    assert result.usage.unscored == 0
    scores = [candidate.score for candidate in result.chain.candidates]
    assert result.value == min(score for score in scores if score is not None)
    assert any(text.endswith(f"\nStep 4: The answer is: {result.chain.answer} ки") for text in shown)
    assert all(text.startswith(f"{QUESTION} Step 1: ") and text.endswith(" ки") for text in shown)
