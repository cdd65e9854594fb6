"""The judge: any chat model, the policy itself among them, is asked Yes or No behind the chain as it was written."""

import logging
import math
from collections.abc import Callable, Sequence

import pytest
from transformers import PreTrainedTokenizerFast

from cos.engines.chat import ChatPrompt
from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import TURN_END, OpenVocabulary, ScriptedVocabulary
from cos.engines.vocabulary import HfVocabulary
from cos.prm.choice import PrmChoice, choose_prm
from cos.prm.judge import ANSWER_ASKED, STEP_ASKED, JudgePrm, spellings, total
from cos.prm.matching import match
from cos.prm.ports import Judged
from cos.search.errors import InputError
from cos.search.grammars import choose
from cos.search.grammars.cos import COS_TOKENS
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.prompt import Prompt, TurnMarks, question_prompt
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.types import Candidate, Chain, Piece, Question, Turn
from tests.prm.spy import Spy
from tests.prm.tokenizers_of_tests import pieces_of_bytes, words

WORDS = ("Yes", "No")
VOCABULARY = ScriptedVocabulary((*COS_TOKENS, *WORDS))
OTHER = ScriptedVocabulary(WORDS)
RESERVED = ("ки", "<extra_0>", "<prm>", "+", "<image>", TURN_END, "Yes", "No", "\n\n")


def judge_of(spy: Spy, suffix: str = "") -> JudgePrm:
    """A judge of a policy that writes paragraphs in `VOCABULARY`."""
    return JudgePrm(spy, Judged(vocabulary=VOCABULARY, grammar=choose("paragraph", VOCABULARY), question_suffix=suffix))


def chain_of(*texts: str, answer: str = "18") -> Chain:
    """Paragraphs as a policy writes them, the last an answer that ends the turn."""
    chain = Chain()
    pieces = [*(Piece("step", text) for text in texts), *([Piece("answer", answer)] if answer else [])]
    for index, piece in enumerate(pieces):
        is_answer = piece.kind == "answer"
        markup = f"Final answer: {piece.text}{TURN_END}" if is_answer else f"{piece.text}\n\n"
        written = VOCABULARY.encode_markup(markup)
        chain = chain.then(
            Candidate(
                path=(0,) * (index + 1),
                written=written,
                tokens=len(written),
                piece=piece,
                end="answer" if is_answer else "step",
            )
        )
    return chain


class Marked(Spy):
    """A spy whose chat template ends turns with the token that models end them with."""

    def turn_marks(self) -> TurnMarks:

        encode = self.vocabulary.encode_markup
        return TurnMarks(encode(f"{TURN_END}\n<a>"), encode(f"{TURN_END}\n<u>"))


async def scored(spy: Spy, chain: Chain, question: str = "How many?") -> list[float | None]:
    session = await judge_of(spy).open(Question(question))
    prefixes = [Chain(chain.candidates[: index + 1]) for index in range(len(chain.candidates))]
    return [(await session.score(prefix)).score for prefix in prefixes]


async def test_the_policy_is_asked_behind_its_own_prompt_and_what_it_wrote() -> None:
    spy, chain = Marked(VOCABULARY), chain_of("4 + 5 = 9.", "9 * 2 = 18.")
    question = Question("How many?", history=(Turn("user", "Hello"), Turn("assistant", "Hi")))
    session = await judge_of(spy, "Think.").open(question)
    for index in range(3):
        await session.score(Chain(chain.candidates[: index + 1]))

    grammar = ParagraphGrammar(VOCABULARY)
    assert spy.prompts == [question_prompt(question, instruction=grammar.instruction, suffix="Think.")]
    asked = [STEP_ASKED, STEP_ASKED, ANSWER_ASKED]
    marks = spy.turn_marks()
    for index, prefix in enumerate(spy.prefixes):
        written = Chain(chain.candidates[: index + 1]).prefix
        tail = (*marks.to_user, *VOCABULARY.encode(asked[index]), *marks.to_assistant)
        # The token that ended the policy's turn stands there once.
        assert isinstance(written, tuple)
        own = written[:-1] if index == 2 else written
        assert prefix == (*own, *tail)


async def test_another_tokenizer_is_shown_the_chain_in_plain_words() -> None:
    spy = Marked(OTHER)
    step = Piece("answer", "18", {"reasoning": "9 * 2 = 18."})
    chain = chain_of("4 + 5 = 9.", answer="")
    chain = chain.then(Candidate(path=(0, 0), written=(1,), tokens=1, piece=step, end="answer"))
    await scored(spy, chain)
    said = [spy.vocabulary.decode(prefix).partition(TURN_END)[0] for prefix in spy.prefixes]
    assert said == ["4 + 5 = 9.", "4 + 5 = 9.\n\n9 * 2 = 18.\nFinal answer: 18"]


@pytest.mark.parametrize("vocabulary", [VOCABULARY, OTHER])
@pytest.mark.parametrize("reserved", RESERVED)
async def test_words_that_are_tokens_elsewhere_stay_text_in_question_and_steps(
    vocabulary: ScriptedVocabulary, reserved: str
) -> None:
    spy, plain = Marked(vocabulary), Marked(vocabulary)
    step = f"I see {reserved}."
    chain = chain_of("x", answer="")
    written = VOCABULARY.encode(step)
    chain = Chain((Candidate(path=(0,), written=written, tokens=1, piece=Piece("step", step), end="step"),))
    scores = await scored(spy, chain, f"What is {reserved}?")
    await scored(plain, chain_of("I see it.", answer=""))
    controls = [token for token in spy.prefixes[0] if token < len(COS_TOKENS if vocabulary is VOCABULARY else WORDS)]
    assert controls == []
    assert spy.prefixes[0].count(vocabulary.control_id(TURN_END) or 0) == 2
    assert plain.prefixes[0].count(vocabulary.control_id(TURN_END) or 0) == 2
    assert scores == [pytest.approx(0.8699, abs=1e-4)]


@pytest.mark.parametrize("make", [words, pieces_of_bytes])
def test_all_spellings_that_are_single_tokens_are_read(make: Callable[..., PreTrainedTokenizerFast]) -> None:
    tokenizer = make("a Yes No yes no a\nYes\nNo\nyes\nno\n" * 9)
    vocabulary = HfVocabulary(tokenizer)
    for word in WORDS:
        ids = spellings(vocabulary, word)
        texts = {str(tokenizer.convert_ids_to_tokens(one)).replace("▁", " ").replace("Ġ", " ") for one in ids}
        assert texts >= {word, f" {word}", word.lower(), f" {word.lower()}"}
        assert len(set(ids)) == len(ids)


TEMPLATE = (
    "{% for m in messages %}{{ m.role + ':\\n' + m.content + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
)


class Rendered(Spy):
    """A spy that renders prompts by a chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer.chat_template = TEMPLATE
        self.words = HfVocabulary(tokenizer)
        self.chat = ChatPrompt(self.words, tokenizer)
        super().__init__(self.words)  # pyright: ignore[reportArgumentType]

    def reply_marks(self) -> TurnMarks:
        return self.chat.reply_marks()


@pytest.mark.parametrize("make", [words, pieces_of_bytes])
async def test_another_model_reads_what_its_chat_template_makes_of_the_conversation(
    make: Callable[..., PreTrainedTokenizerFast],
) -> None:
    spy = Rendered(make("a Yes No yes no a\nYes\nNo\nyes\nno\n" * 9))
    await scored(spy, chain_of("She sells 4 + 5 = 9 eggs.", answer=""))
    (prompt,) = spy.prompts
    turns = (*prompt.turns, Turn("assistant", "She sells 4 + 5 = 9 eggs."), Turn("user", STEP_ASKED))
    assert [*spy.chat.render(prompt), *spy.prefixes[0]] == spy.chat.render(Prompt(turns))


@pytest.mark.parametrize("lacking", WORDS)
def test_a_vocabulary_without_the_word_in_any_spelling_is_refused_by_its_name(lacking: str) -> None:
    spy = Spy(ScriptedVocabulary([word for word in WORDS if word != lacking]))
    with pytest.raises(InputError, match=f"no single token for the word '{lacking}'") as error:
        judge_of(spy)
    assert error.value.param == "prm"


@pytest.mark.parametrize(
    ("logprobs", "score"),
    [
        ((-0.5, -1.5), 0.7311),
        ((-0.5, -math.inf), None),
        ((math.nan, -1.0), None),
        ((math.nan, math.nan), None),
        ((-9999.0, -9999.0), None),
        ((-25.0, -30.0), None),
    ],
)
async def test_what_says_nothing_is_no_score(logprobs: tuple[float, float], score: float | None) -> None:
    (found,) = await scored(Marked(VOCABULARY, logprobs=logprobs), chain_of("One.", answer=""))
    assert found == (None if score is None else pytest.approx(score, abs=1e-4))


@pytest.mark.parametrize(
    ("logprobs", "summed"),
    [
        ((math.log(0.2), math.log(0.3)), 0.5),
        ((math.log(0.2), -math.inf), 0.2),
        ((math.log(0.2), math.nan), 0.2),
        ((-math.inf, -math.inf), 0.0),
    ],
)
def test_spellings_are_summed_and_one_that_was_not_told_counts_as_nothing(
    logprobs: Sequence[float], summed: float
) -> None:
    assert math.exp(total(logprobs)) == pytest.approx(summed)
    assert math.isnan(total((math.nan, math.nan)))


async def test_a_model_that_does_not_answer_yes_or_no_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        scores = await scored(Marked(VOCABULARY, logprobs=(-12.0, -12.0)), chain_of("One.", "Two."))
    assert scores == [0.5, 0.5, 0.5]
    assert [record.message for record in caplog.records if "does not answer what it is asked" in record.message]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("strategy", ["beam", "best_of_n", "auto"])
@pytest.mark.parametrize("grammar", ["cos", "paragraph"])
async def test_one_engine_writes_and_judges(strategy: str, grammar: str) -> None:
    shown: list[tuple[Prompt, str]] = []

    def judge(prompt: Prompt, written: str) -> float:
        shown.append((prompt, written))
        return round(0.3 + len(written) * 37 % 60 / 100, 2)

    vocabulary = OpenVocabulary()
    script = Script(grammar=choose(grammar, vocabulary), judge=judge)
    engine = ScriptedEngine(script, vocabulary=vocabulary)
    models = match(engine, engine, grammar=grammar, prm_format="judge", policy_suffix="Look.", prm_suffix="unused")
    result = await solve(Question("How much?"), SearchSpec(strategy, {"n": 4}), models)
    assert result.is_complete
    assert result.usage.unscored == 0
    assert result.usage.prm_reads > 0
    assert {prompt.asked for prompt, _ in shown} == {"How much?\nLook."}
    assert all(ANSWER_ASKED in text or STEP_ASKED in text for _, text in shown)
    scores = [candidate.score for candidate in result.chain.candidates]
    assert result.value == pytest.approx(sum(score or 0 for score in scores) / len(scores))


PAIRED = ("cos-tiny",)


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        (("a/b", "judge"), PrmChoice("judge", "judge")),
        (("cos-tiny", "judge"), PrmChoice("judge", "judge")),
        (("a/b", "judge", "judge"), PrmChoice("judge", "judge")),
        (("a/b", None, "judge"), PrmChoice("judge", "judge")),
        (("a/b", "c/d", "judge"), PrmChoice("c/d", "judge")),
        (("a/b", "c/d"), PrmChoice("c/d", "auto")),
        (("cos-tiny", None), PrmChoice("cos-tiny", "auto")),
        (("a/b", "none"), PrmChoice("none", "auto")),
    ],
)
def test_a_policy_judges_itself_where_it_is_asked_to(given: tuple[str, ...], choice: PrmChoice) -> None:
    found = choose_prm(*given, paired=PAIRED)
    assert found == choice
    engine, prm = object(), object()
    assert found.model == (choice.name if "/" in choice.name or choice.name in PAIRED else None)
    expected = {"judge": engine, "none": None}.get(choice.name, prm)
    assert found.reader(engine, prm if found.model else None) is expected


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("a/b", None), "--prm judge to have the policy judge its own steps"),
        (("a/b", "judge", "cos"), "leave out --prm-format"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_with_the_fix(given: tuple[str, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        choose_prm(*given, paired=PAIRED)
