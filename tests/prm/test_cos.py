"""The CoS PRM format: tags glued to segments, one read a tag, P(good) from two labels, text that stays text."""

import math
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cos.engines.scripted_vocabulary import TURN_END, ScriptedVocabulary
from cos.prm.cos import CosPrm
from cos.prm.ports import Judged
from cos.search.errors import InputError
from cos.search.grammar import Grammar, Span, token_ids
from cos.search.grammars.cos import (
    COS_TOKENS,
    LABEL_BAD,
    LABEL_GOOD,
    STEP_END,
    STEP_TAG,
    CosGrammar,
    Step,
    render_segments,
    spans_of,
    step_piece,
)
from cos.search.ports import Drawn, Stops, Vocabulary
from cos.search.prompt import question_prompt
from cos.search.types import Candidate, Chain, Piece, Question
from tests.prm.spy import Spy

READ = Step("Read", "2019 shows 40.", "It is printed.")
ADD = Step("Add", "40 + 5 = 45.", "Uses the value.")
OWN = ScriptedVocabulary(COS_TOKENS)
OTHER = ("<pad>", "<image>", *reversed(COS_TOKENS))


STRANGE = Chain((Candidate(path=(0,), written=(299, 17, 200, 4), tokens=4, piece=step_piece(READ), end="step"),))
"""A step that encoding its text would not give the ids of."""


class Parrot(Grammar):
    """Another grammar: all that is written to the end of a turn is the answer."""

    name = "parrot"

    def __init__(self, vocabulary: Vocabulary) -> None:
        del vocabulary

    @property
    def stops(self) -> Stops:
        return Stops()

    def read(self, drawn: Drawn) -> Piece:
        return Piece("answer", drawn.text)

    def spans(self, piece: Piece, *, first: bool) -> list[Span]:
        del first
        return [Span(piece.text)]


def chain_of(steps: Sequence[Step], answer: str | None = None) -> Chain:
    """A chain as the scripted policy writes it."""
    pieces = [*map(step_piece, steps), *([] if answer is None else [Piece("answer", answer)])]
    chain = Chain()
    for index, piece in enumerate(pieces):
        ids = token_ids(OWN, spans_of(piece, first=index == 0))
        end = "answer" if piece.kind == "answer" else "step"
        chain = chain.then(Candidate(path=(0,) * (index + 1), written=ids, tokens=len(ids), piece=piece, end=end))
    return chain


def over_http(candidate: Candidate) -> Candidate:
    """As a runtime has it that continues text."""
    return msgspec.structs.replace(candidate, written=OWN.decode((1, 2)))


def cos_prm(spy: Spy, grammar: type[Grammar] = CosGrammar, suffix: str = "") -> CosPrm:
    """The format in front of a policy that writes in a grammar."""
    return CosPrm(spy, Judged(vocabulary=OWN, grammar=grammar(OWN), question_suffix=suffix))


async def read_all(spy: Spy, chain: Chain, grammar: type[Grammar] = CosGrammar) -> list[float | None]:
    """The scores of all prefixes of a chain, from one session."""
    session = await cos_prm(spy, grammar).open(Question("?"))
    prefixes = [Chain(chain.candidates[: i + 1]) for i in range(len(chain.candidates))]
    return [(await session.score(prefix)).score for prefix in prefixes]


@pytest.mark.parametrize("controls", [COS_TOKENS, OTHER])
async def test_the_tag_is_glued_to_every_segment_whichever_vocabulary_the_prm_has(controls: tuple[str, ...]) -> None:
    spy = Spy(ScriptedVocabulary(controls))
    await read_all(spy, chain_of([READ, ADD], "45"))
    golden = "".join(segment + STEP_TAG for segment in render_segments([READ, ADD], "45"))
    assert spy.vocabulary.decode(spy.prefixes[-1]) == golden
    assert spy.prefixes[-1] == spy.vocabulary.encode_markup(golden)


@pytest.mark.parametrize("controls", [COS_TOKENS, OTHER])
async def test_two_steps_and_an_answer_are_three_reads_each_ending_with_the_tag_of_the_newest(
    controls: tuple[str, ...],
) -> None:
    spy = Spy(ScriptedVocabulary(controls))
    assert len(await read_all(spy, chain_of([READ, ADD], "45"))) == len(spy.prefixes) == 3
    tag = spy.vocabulary.control_id(STEP_TAG)
    assert [ids.count(tag or 0) for ids in spy.prefixes] == [1, 2, 3]
    assert {ids[-1] for ids in spy.prefixes} == {tag}


async def test_every_read_extends_the_one_before_so_that_its_prefix_is_cached() -> None:
    spy = Spy(ScriptedVocabulary(OTHER))
    await read_all(spy, chain_of([READ, ADD], "45"))
    for shorter, longer in zip(spy.prefixes, spy.prefixes[1:], strict=False):
        assert longer[: len(shorter)] == shorter


async def test_the_labels_are_read_as_good_and_bad_in_this_order() -> None:
    spy = Spy(ScriptedVocabulary(OTHER))
    await read_all(spy, chain_of([READ], "45"))
    assert spy.labels == {(spy.vocabulary.control_id(LABEL_GOOD), spy.vocabulary.control_id(LABEL_BAD))}


async def test_a_reading_carries_the_score_and_what_it_cost() -> None:
    session = await cos_prm(Spy(logprobs=(-0.25, -1.5))).open(Question("?"))
    chain = chain_of([READ])
    reading = await session.score(chain)
    assert reading.score == pytest.approx(1 / (1 + math.exp(-1.25)))
    assert reading.prompt_tokens == 10 + chain.tokens + 1
    assert reading.cached_tokens == 7


@pytest.mark.parametrize(("good", "bad"), [(math.nan, -1.0), (-1.0, math.nan), (-math.inf, -1.0), (-1.0, -math.inf)])
async def test_a_label_without_a_finite_log_probability_leaves_the_step_unscored(good: float, bad: float) -> None:
    assert await read_all(Spy(logprobs=(good, bad)), chain_of([READ])) == [None]


async def test_in_the_policys_own_vocabulary_ids_pass_through_untouched() -> None:
    spy = Spy()
    await read_all(spy, STRANGE)
    assert spy.prefixes == [(299, 17, 200, 4, spy.vocabulary.control_id(STEP_TAG))]


@pytest.mark.parametrize("grammar", [CosGrammar, Parrot])
async def test_text_and_what_another_grammar_wrote_are_encoded_even_in_the_policys_own_vocabulary(
    grammar: type[Grammar],
) -> None:
    spy = Spy()
    chain = STRANGE if grammar is Parrot else Chain((over_http(STRANGE.candidates[0]),))
    await read_all(spy, chain, grammar)
    golden = render_segments([READ], "")[0] + STEP_TAG
    assert spy.prefixes == [spy.vocabulary.encode_markup(golden)]


async def test_a_step_without_named_parts_is_shown_as_a_thought() -> None:
    spy = Spy()
    piece = Piece("step", "2019 shows 40.")
    await read_all(spy, Chain((Candidate(path=(0,), written=(1,), tokens=1, piece=piece, end="step"),)), Parrot)
    golden = render_segments([Step("", "2019 shows 40.", "")], "")[0] + STEP_TAG
    assert spy.prefixes == [spy.vocabulary.encode_markup(golden)]


async def test_the_question_is_shown_with_the_prms_own_suffix() -> None:
    spy = Spy()
    question = Question("How many?")
    await cos_prm(spy, suffix="Think.").open(question)
    assert spy.prompts == [question_prompt(question, suffix="Think.")]


def test_its_scale_is_the_papers() -> None:
    scale = CosPrm.scale
    assert (scale.aggregation, scale.step_weight, scale.threshold) == ("cos", 0.2, 0.5)
    assert (scale.lowest, scale.highest, scale.is_probability) == (0.0, 1.0, True)


FIELDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from([*COS_TOKENS, TURN_END, "<pad>", "<image>", f"a{STEP_TAG}b{STEP_END}", "\n", "Answer:"]),
)


@given(name=FIELDS, thought=FIELDS, reflection=FIELDS, answer=FIELDS, first=st.booleans())
async def test_no_field_of_another_vocabulary_ever_becomes_a_control_token(
    name: str, thought: str, reflection: str, answer: str, first: bool
) -> None:
    assume(answer)
    vocabulary = ScriptedVocabulary(OTHER)
    spy, step = Spy(vocabulary), Step(name, thought, reflection)
    steps = [step] if first else [READ, step]
    chain = chain_of(steps)
    piece = Piece("answer", answer)
    await read_all(spy, chain.then(Candidate(path=(*chain.path, 0), written=(0,), tokens=1, piece=piece, end="answer")))

    blanks = [*(step_piece(Step("", "", "")) for _ in steps), Piece("answer", "")]
    spans = [span for index, blank in enumerate(blanks) for span in spans_of(blank, first=index == 0)]
    tags = len(steps) + 1
    ids = spy.prefixes[-1]
    assert sum(token <= len(OTHER) for token in ids) == sum(span.is_control for span in spans) + tags
    assert ids.count(vocabulary.control_id(STEP_TAG) or 0) == tags
    golden = "".join(segment + STEP_TAG for segment in render_segments(steps, answer))
    assert vocabulary.decode(ids) == golden


@pytest.mark.parametrize("lacking", [(LABEL_GOOD,), (STEP_TAG, LABEL_BAD)])
def test_a_prm_without_tag_or_labels_is_refused_by_their_names(lacking: tuple[str, ...]) -> None:
    vocabulary = ScriptedVocabulary([token for token in COS_TOKENS if token not in lacking])
    with pytest.raises(InputError, match="tokenizer lacks") as error:
        cos_prm(Spy(vocabulary))
    assert error.value.param == "prm"
    named = {token for token in (STEP_TAG, LABEL_GOOD, LABEL_BAD) if repr(token) in str(error.value)}
    assert named == set(lacking)
