"""The CoS PRM format: tags glued to segments, one read a tag, P(good) from two labels, text that stays text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cos.engines.scripted import TURN_END, ScriptedEngine, ScriptedVocabulary
from cos.prm.cos import CosPrm, p_good
from cos.prm.pair import pair
from cos.search.errors import InputError
from cos.search.grammar import (
    COS_TOKENS,
    LABEL_BAD,
    LABEL_GOOD,
    POLICY_TOKENS,
    STEP_END,
    STEP_TAG,
    answer_pieces,
    render_segments,
    step_pieces,
)
from cos.search.ports import LabelRead
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.types import Candidate, Chain, Question, Step

READ = Step("Read", "2019 shows 40.", "It is printed.")
ADD = Step("Add", "40 + 5 = 45.", "Uses the value.")
OTHER = ("<pad>", "<image>", *reversed(COS_TOKENS))


@dataclass
class Spy:
    """A reader that notes what it is asked and answers with the log-probabilities it was given."""

    vocabulary: ScriptedVocabulary = field(default_factory=ScriptedVocabulary)
    good: float = -0.1
    bad: float = -2.0
    continuations: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    labels: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])

    async def open(self, question: Question) -> "Spy":
        del question
        return self

    async def read_labels(self, continuation: Sequence[int], labels: tuple[int, int], priority: int) -> LabelRead:
        del priority
        self.continuations.append(tuple(continuation))
        self.labels.add(labels)
        return LabelRead(self.good, self.bad, 10 + len(continuation), 7)


def written(steps: Sequence[Step], answer: str | None) -> Chain:
    """A chain as the scripted policy writes it."""
    vocabulary = ScriptedVocabulary()
    texts = render_segments(steps, answer or "")
    chain = Chain()
    for index, step in enumerate(steps):
        path = (0,) * (index + 1)
        ids = vocabulary.encode_markup(texts[index])
        chain = chain.then(Candidate(path=path, token_ids=ids, text=texts[index], end="step", step=step))
    if answer is None:
        return chain
    path = (0,) * (len(steps) + 1)
    ids = vocabulary.encode_markup(texts[-1])
    return chain.then(Candidate(path=path, token_ids=ids, text=texts[-1], end="answer", answer=answer))


async def read_all(spy: Spy, chain: Chain) -> list[float | None]:
    """The scores of all prefixes of a chain, from one session."""
    session = await CosPrm(spy, ScriptedVocabulary()).open(Question("?"))
    prefixes = [Chain(chain.candidates[: i + 1]) for i in range(len(chain.candidates))]
    return [(await session.score(prefix)).score for prefix in prefixes]


@pytest.mark.parametrize("controls", [COS_TOKENS, OTHER])
async def test_the_tag_is_glued_to_every_segment_whichever_vocabulary_the_prm_has(controls: tuple[str, ...]) -> None:
    spy = Spy(ScriptedVocabulary(controls))
    await read_all(spy, written([READ, ADD], "45"))
    golden = "".join(segment + STEP_TAG for segment in render_segments([READ, ADD], "45"))
    assert spy.vocabulary.decode(spy.continuations[-1]) == golden
    assert spy.continuations[-1] == spy.vocabulary.encode_markup(golden)


@pytest.mark.parametrize("controls", [COS_TOKENS, OTHER])
async def test_two_steps_and_an_answer_are_three_reads_each_ending_with_the_tag_of_the_newest(
    controls: tuple[str, ...],
) -> None:
    spy = Spy(ScriptedVocabulary(controls))
    assert len(await read_all(spy, written([READ, ADD], "45"))) == len(spy.continuations) == 3
    tag = spy.vocabulary.control_id(STEP_TAG)
    assert [ids.count(tag or 0) for ids in spy.continuations] == [1, 2, 3]
    assert {ids[-1] for ids in spy.continuations} == {tag}


async def test_every_read_extends_the_one_before_so_that_its_prefix_is_cached() -> None:
    spy = Spy(ScriptedVocabulary(OTHER))
    await read_all(spy, written([READ, ADD], "45"))
    for shorter, longer in zip(spy.continuations, spy.continuations[1:], strict=False):
        assert longer[: len(shorter)] == shorter


async def test_the_labels_are_read_as_good_and_bad_in_this_order() -> None:
    spy = Spy(ScriptedVocabulary(OTHER))
    await read_all(spy, written([READ], "45"))
    assert spy.labels == {(spy.vocabulary.control_id(LABEL_GOOD), spy.vocabulary.control_id(LABEL_BAD))}


async def test_a_reading_carries_the_score_and_what_it_cost() -> None:
    session = await CosPrm(Spy(good=-0.25, bad=-1.5), ScriptedVocabulary()).open(Question("?"))
    chain = written([READ], None)
    reading = await session.score(chain)
    assert reading.score == pytest.approx(1 / (1 + math.exp(-1.25)))
    assert reading.prompt_tokens == 10 + len(chain.token_ids) + 1
    assert reading.cached_tokens == 7


@pytest.mark.parametrize(("good", "bad"), [(math.nan, -1.0), (-1.0, math.nan), (-math.inf, -1.0), (-1.0, -math.inf)])
async def test_a_label_without_a_finite_log_probability_leaves_the_step_unscored(good: float, bad: float) -> None:
    assert await read_all(Spy(good=good, bad=bad), written([READ], None)) == [None]


def test_both_labels_at_minus_infinity_are_no_score() -> None:
    assert p_good(-math.inf, -math.inf) is None


@pytest.mark.parametrize(("good", "bad"), [(-9999.0, -9999.0), (-14.0, -20.0), (-25.0, -14.0)])
def test_labels_that_the_model_meant_neither_of_are_no_score(good: float, bad: float) -> None:
    assert p_good(good, bad) is None


@pytest.mark.parametrize(
    ("good", "bad", "p"),
    [(-1.0, -1.0, 0.5), (0.0, -1e6, 1.0), (-1e6, 0.0, 0.0), (0.0, -745.0, 1.0), (-800.0, 0.0, 0.0)],
)
def test_extreme_margins_saturate_without_overflow(good: float, bad: float, p: float) -> None:
    assert p_good(good, bad) == pytest.approx(p, abs=1e-300)


@given(st.floats(-13, 0), st.floats(-1e4, 0))
def test_p_good_is_the_softmax_over_the_two_labels(good: float, bad: float) -> None:
    p, q = p_good(good, bad), p_good(bad, good)
    assert p is not None
    assert q is not None
    assert 0 <= p <= 1
    assert p + q == pytest.approx(1)
    assert p >= 0.5 or good < bad
    assert p <= 0.5 or good > bad
    if abs(good - bad) < 700:
        assert p == pytest.approx(1 / (1 + math.exp(bad - good)))


@given(st.floats(-30, 30), st.floats(1e-6, 5))
def test_a_larger_margin_is_never_a_smaller_score(margin: float, more: float) -> None:
    assert (p_good(margin + more, 0.0) or 0.0) >= (p_good(margin, 0.0) or 0.0)


async def test_in_the_policys_own_vocabulary_ids_pass_through_untouched() -> None:
    spy, strange = Spy(), (299, 17, 200, 4)
    chain = Chain((Candidate(path=(0,), token_ids=strange, text="?", end="step", step=READ),))
    await read_all(spy, chain)
    assert spy.continuations == [(*strange, spy.vocabulary.control_id(STEP_TAG))]


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
    chain = written(steps, None)
    end = Candidate(path=(*chain.path, 0), token_ids=(0,), text="", end="answer", answer=answer)
    await read_all(spy, chain.then(end))

    blank = Step("", "", "")
    markup = [piece for index in range(len(steps)) for piece in step_pieces(blank, first=index == 0)]
    markup += answer_pieces("", first=False)
    tags = len(steps) + 1
    ids = spy.continuations[-1]
    assert sum(token <= len(OTHER) for token in ids) == sum(piece in COS_TOKENS for piece in markup) + tags
    assert ids.count(vocabulary.control_id(STEP_TAG) or 0) == tags
    golden = "".join(segment + STEP_TAG for segment in render_segments(steps, answer))
    assert vocabulary.decode(ids) == golden


@pytest.mark.parametrize("lacking", [(LABEL_GOOD,), (STEP_TAG, LABEL_BAD)])
def test_a_prm_without_tag_or_labels_is_refused_by_their_names(lacking: tuple[str, ...]) -> None:
    vocabulary = ScriptedVocabulary([token for token in COS_TOKENS if token not in lacking])
    with pytest.raises(InputError, match="tokenizer lacks") as error:
        CosPrm(Spy(vocabulary), ScriptedVocabulary())
    assert error.value.param == "prm"
    named = {token for token in (STEP_TAG, LABEL_GOOD, LABEL_BAD) if repr(token) in str(error.value)}
    assert named == set(lacking)


def test_a_pair_names_the_side_that_does_not_fit() -> None:
    plain = ScriptedEngine(vocabulary=ScriptedVocabulary(["<pad>"]))
    policy_only = ScriptedEngine(vocabulary=ScriptedVocabulary(POLICY_TOKENS))
    with pytest.raises(InputError) as error:
        pair(plain, ScriptedEngine())
    assert error.value.param == "policy"
    with pytest.raises(InputError) as error:
        pair(ScriptedEngine(), policy_only)
    assert error.value.param == "prm"


def test_a_policy_alone_is_a_pair_without_a_scorer() -> None:
    assert pair(ScriptedEngine(vocabulary=ScriptedVocabulary(POLICY_TOKENS)), None).scorer is None


async def test_a_pair_of_different_vocabularies_searches_as_well() -> None:
    bridged = pair(ScriptedEngine(), ScriptedEngine(vocabulary=ScriptedVocabulary(OTHER)))
    shared = pair(ScriptedEngine(), ScriptedEngine())
    spec = SearchSpec("beam", {"n": 4})
    one, other = [await solve(Question("?"), spec, p.policy, p.scorer, p.grammar) for p in (bridged, shared)]
    assert (one.chain, one.value) == (other.chain, other.value)
