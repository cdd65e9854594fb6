"""Formats whose PRM writes before it is read: what it is shown, what counts as a verdict, and what that costs."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import TURN_END, OpenVocabulary, ScriptedVocabulary
from cos.engines.story import Writer
from cos.prm import menu
from cos.prm.genprm import ANALYSIS_END, SYSTEM, GenPrm
from cos.prm.matching import match
from cos.prm.ports import Checkpoint, Judged
from cos.prm.thinkprm import ASKED, ThinkPrm
from cos.search.budget import Limits
from cos.search.errors import EngineError, InputError
from cos.search.grammars import choose
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.ports import Draw, Drawn, WritesVerdicts
from cos.search.prompt import Prompt
from cos.search.run import run, solve
from cos.search.spec import SearchSpec
from cos.search.types import Candidate, Chain, Piece, Prefix, Question, Turn
from tests.prm.spy import Spy

PLAIN = ScriptedVocabulary(())
QUESTION = Question("How many eggs?", history=(Turn("user", "Hi"), Turn("assistant", "Hello")))
STEPS = ("Step 1: 16 - 7 = 9\nleft.", "9 * 2 = 18.")
CRITIQUE = r"Step 1 is \boxed{correct}. Step 2 is \boxed{incorrect}. "
FORMATS = {"thinkprm": f"{CRITIQUE}{ASKED}", "genprm": f"It adds up.\n{ANALYSIS_END}"}
"""What a PRM writes that keeps to its format."""


def chain_of(*said: str, answer: str = "18") -> Chain:
    chain = Chain()
    for index, piece in enumerate([*(Piece("step", text) for text in said), Piece("answer", answer)]):
        end = "answer" if piece.kind == "answer" else "step"
        chain = chain.then(Candidate(path=(0,) * (index + 1), written=(1,), tokens=1, piece=piece, end=end))
    return chain


def saying(text: str) -> Writer:
    def write(prompt: Prompt, written: str, rng: random.Random) -> str:
        del prompt, written, rng
        return text

    return write


class Told:
    """A PRM that writes one text and is asked for its labels; it keeps what it is shown."""

    def __init__(self, text: str | Writer, score: float = 0.8, **script: object) -> None:
        self.shown: list[tuple[Prompt, str]] = []

        def judge(prompt: Prompt, written: str) -> float:
            self.shown.append((prompt, written))
            return score

        writer = saying(text) if isinstance(text, str) else text
        self.engine = ScriptedEngine(Script(writer=writer, judge=judge, **script), 65_536)  # pyright: ignore[reportArgumentType]

    def format(self, name: str, limit: int | None = None) -> ThinkPrm | GenPrm:
        judged = Judged(vocabulary=PLAIN, grammar=choose("paragraph", PLAIN), verdict_tokens=limit)
        found = menu.choose(name, self.engine, judged)
        assert isinstance(found, ThinkPrm | GenPrm)
        return found


async def test_thinkprm_is_shown_the_prompt_of_its_code_and_read_behind_its_question() -> None:
    told = Told(FORMATS["thinkprm"])
    session = await told.format("thinkprm").open(QUESTION)
    reading = await session.score(chain_of(*STEPS))
    ((prompt, written),) = told.shown
    assert [turn.role for turn in prompt.turns] == ["user"]
    assert prompt.asked == (
        "You are given a math problem and a proposed step-by-step solution:\n\n[Math Problem]\n\n"
        "User: Hi\n\nAssistant: Hello\n\nUser: How many eggs?\n\n[Solution]\n\n"
        "Step 1: 16 - 7 = 9 left.\nStep 2: 9 * 2 = 18.\nStep 3: The answer is: 18\n\n"
        "Review and critique each step in the proposed solution to determine whether each step is correct. "
        "If the solution is incomplete, only verify the provided steps."
    )
    assert written == f"{CRITIQUE}{ASKED}"
    assert reading.score == pytest.approx(0.8)
    assert reading.tokens == len(FORMATS["thinkprm"])
    assert reading.prompt_tokens > 2 * len(prompt.asked), "draw and read are both told"


async def test_thinkprm_is_asked_where_it_did_not_ask_by_itself() -> None:
    told = Told(CRITIQUE)
    await (await told.format("thinkprm").open(QUESTION)).score(chain_of(*STEPS))
    assert told.shown[0][1] == f"{CRITIQUE}\n{ASKED}"


async def test_genprm_analyses_each_paragraph_behind_its_critiques_of_those_before() -> None:
    told = Told(FORMATS["genprm"])
    session = await told.format("genprm").open(QUESTION)
    chain = chain_of(*STEPS)
    readings = [await session.score(Chain(chain.candidates[: end + 1])) for end in range(3)]
    assert [reading.score for reading in readings] == [pytest.approx(0.8)] * 3
    assert [len(prompt.turns) for prompt, _ in told.shown] == [2, 4, 6]
    prompt, written = told.shown[-1]

    def critique(number: int) -> str:
        return (
            f"<analyze>\nLet's analyze the Paragraph {number} step by step: It adds up.\n</analyze>\n"
            "<output>\n**Judgement**: $\\boxed{"
        )

    done = "Yes}$\n</output>"
    assert [(turn.role, turn.text) for turn in prompt.turns] == [
        ("system", SYSTEM),
        ("user", "Question: User: Hi\n\nAssistant: Hello\n\nUser: How many eggs?\n\n16 - 7 = 9 left."),
        ("assistant", critique(1) + done),
        ("user", "9 * 2 = 18."),
        ("assistant", critique(2) + done),
        ("user", "The answer is: 18"),
    ]
    assert written == critique(3)


async def test_genprm_judges_what_nobody_has_judged_yet_once_whoever_asks() -> None:
    told = Told(FORMATS["genprm"])
    session, chain = await told.format("genprm").open(QUESTION), chain_of(*STEPS)
    prefixes = [Chain(chain.candidates[: end + 1]) for end in range(3)]
    readings = await asyncio.gather(*(session.score(prefix) for prefix in reversed(prefixes)))
    assert [reading.score for reading in readings] == [pytest.approx(0.8)] * 3
    assert len(told.shown) == 3
    assert sum(reading.tokens for reading in readings) == 3 * len(FORMATS["genprm"])


@pytest.mark.parametrize(
    ("name", "text", "limit"),
    [
        ("thinkprm", "The solution looks fine to me.", None),
        ("thinkprm", f"Fine. {ASKED}", None),
        ("thinkprm", FORMATS["thinkprm"], 20),
        ("genprm", "It adds up, so Yes. $\\boxed{Yes}$", None),
        ("genprm", FORMATS["genprm"], 4),
    ],
)
async def test_what_is_no_whole_verdict_is_no_score(name: str, text: str, limit: int | None) -> None:
    told = Told(text)
    session = await told.format(name, limit).open(QUESTION)
    reading = await session.score(chain_of())
    assert reading.score is None
    assert told.shown == [], "nothing is read behind it"
    # The token that ends the turn is one of them.
    whole = len(told.engine.vocabulary.encode_markup(text)) + (not text.endswith(ASKED))
    assert reading.tokens == (limit or whole)


@pytest.mark.parametrize("name", FORMATS)
async def test_a_score_that_is_nan_is_missing(name: str) -> None:
    told = Told(FORMATS[name], score=float("nan"))
    reading = await (await told.format(name).open(QUESTION)).score(chain_of())
    assert reading.score is None
    assert reading.tokens == len(FORMATS[name])


async def test_behind_a_paragraph_without_a_verdict_genprm_scores_none() -> None:
    told = Told(lambda prompt, _, __: "no end" if len(prompt.turns) == 2 else FORMATS["genprm"])
    session, chain = await told.format("genprm").open(QUESTION), chain_of(*STEPS)
    assert (await session.score(chain)).score is None
    assert told.shown == []


RESERVED = (
    "ки",
    "<extra_0>",
    "<prm>",
    "+",
    "<image>",
    TURN_END,
    ASKED,
    ANALYSIS_END.strip(),
    "{steps}",
    r"\boxed{correct}",
)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("reserved", RESERVED)
async def test_words_that_mean_something_elsewhere_change_nothing(name: str, reserved: str) -> None:
    told = Told(FORMATS[name])
    session = await told.format(name).open(Question(f"What is {reserved}?"))
    chain = chain_of(f"It is {reserved}.", answer=reserved)
    readings = [await session.score(Chain(chain.candidates[: end + 1])) for end in range(2)]
    assert [reading.score for reading in readings] == [pytest.approx(0.8)] * 2
    texts = "".join(turn.text for turn in told.shown[-1][0].turns)
    assert texts.count(f"What is {reserved}?") == 1
    assert texts.count(f"It is {reserved}.") == 1


@pytest.mark.parametrize("name", FORMATS)
def test_a_prm_without_a_label_is_refused_by_its_name(name: str) -> None:
    spy = Spy(ScriptedVocabulary(["Yes", " Yes"]), abilities=frozenset({"text"}))
    with pytest.raises(InputError, match=r"no single token '( )?No'"):
        menu.choose(name, spy, Judged(vocabulary=PLAIN, grammar=choose("paragraph", PLAIN)))
    reading_only = Spy(abilities=frozenset({"labels"}))
    with pytest.raises(InputError, match="can be asked for its text"):
        menu.choose(name, reading_only, Judged(vocabulary=PLAIN, grammar=choose("paragraph", PLAIN)))


class Spaceless(OpenVocabulary):
    """As a tokenizer that was loaded as a class of another family."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return super().decode(token_ids).replace(" ", "")


@pytest.mark.parametrize("name", FORMATS)
def test_a_tokenizer_that_loses_spaces_is_refused_with_what_to_do(name: str) -> None:
    spy = Spy(Spaceless(), abilities=frozenset({"text"}))
    with pytest.raises(InputError, match=r"makes 'YesorNo' of 'Yes or No'.*PreTrainedTokenizerFast"):
        menu.choose(name, spy, Judged(vocabulary=PLAIN, grammar=choose("paragraph", PLAIN)))


@pytest.mark.parametrize(
    ("folder", "kind", "name"),
    [
        ("launch/ThinkPRM-7B", "qwen2", "thinkprm"),
        ("/models/GenPRM-1.5B/", "qwen2", "genprm"),
        ("launch/ThinkPRM-7B", "mistral", None),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2", None),
    ],
)
def test_the_published_checkpoints_are_recognised_and_no_others(folder: str, kind: str, name: str | None) -> None:
    checkpoint = Checkpoint(
        name=folder, config={"model_type": kind}, files=frozenset(), vocabulary=ScriptedVocabulary(())
    )
    assert [found for found in (*FORMATS, "judge") if menu.find(found).recognises(checkpoint)] == (
        [name] if name else []
    )


@pytest.mark.parametrize("strategy", ["beam", "best_of_n"])
@pytest.mark.parametrize("name", FORMATS)
async def test_the_tokens_of_all_verdicts_are_told_and_in_no_other_count(name: str, strategy: str) -> None:
    told = Told(FORMATS[name])
    policy = ScriptedEngine(Script(grammar=ParagraphGrammar(PLAIN)), vocabulary=PLAIN)
    models = match(policy, told.engine, grammar="paragraph", prm_format=name)
    result = await solve(Question("How much?"), SearchSpec(strategy, {"n": 4}), models)
    usage = result.usage
    assert result.is_complete
    assert usage.unscored == 0
    assert usage.prm_tokens_generated == len(told.shown) * len(FORMATS[name])
    uses = ("kept", "duplicate", "asked", "aborted", "discarded")
    assert sum(getattr(usage, f"tokens_{use}") for use in uses) == usage.tokens_generated
    again = await solve(Question("How much?"), SearchSpec(strategy, {"n": 4}), models)
    assert [c.piece for c in again.tree] == [c.piece for c in result.tree]


@pytest.mark.parametrize("name", FORMATS)
async def test_verdicts_that_nobody_waits_for_any_more_are_aborted_and_counted(name: str) -> None:
    told = Told(FORMATS[name], seconds_per_token=0.01)
    session = await told.format(name).open(QUESTION)
    assert isinstance(session, WritesVerdicts)
    reading = asyncio.create_task(session.score(chain_of()))
    await asyncio.sleep(0.05)
    assert told.engine.in_flight == 1
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert told.engine.in_flight == 0
    assert told.engine.aborted == 1
    assert 0 < session.tokens_aborted <= len(FORMATS[name])
    assert (await asyncio.gather(session.score(chain_of())))[0].score == pytest.approx(0.8), "another may ask again"


@pytest.mark.parametrize("name", FORMATS)
async def test_a_search_that_goes_away_leaves_no_verdict_under_way(name: str) -> None:
    told = Told(FORMATS[name], seconds_per_token=0.05)
    policy = ScriptedEngine(Script(grammar=ParagraphGrammar(PLAIN)), vocabulary=PLAIN)
    models = match(policy, told.engine, grammar="paragraph", prm_format=name)
    events = run(Question("How much?"), SearchSpec("beam", {"n": 4}), models)
    async for _ in events:
        if told.engine.in_flight:
            break
    await events.aclose()
    assert told.engine.in_flight == 0


@pytest.mark.parametrize("name", FORMATS)
async def test_at_a_limit_verdicts_under_way_are_aborted_and_their_tokens_told(name: str) -> None:
    told = Told(FORMATS[name], seconds_per_token=0.05)
    policy = ScriptedEngine(Script(grammar=ParagraphGrammar(PLAIN)), vocabulary=PLAIN)
    models = match(policy, told.engine, grammar="paragraph", prm_format=name)
    spec = SearchSpec("beam", {"n": 2}, limits=Limits(seconds=0.3))
    result = await solve(Question("How much?"), spec, models)
    assert result.finish_reason == "seconds"
    assert told.engine.in_flight == 0
    assert told.engine.aborted > 0
    assert 0 < result.usage.prm_tokens_generated <= told.engine.aborted * len(FORMATS[name])
    assert result.usage.prm_reads == 0


@pytest.mark.parametrize("name", FORMATS)
async def test_what_was_written_before_a_read_failed_is_counted(name: str) -> None:
    def fault(kind: str, number: int) -> Exception | None:
        return EngineError("no") if (kind, number) == ("read", 0) else None

    failing = Told(FORMATS[name], fault=fault)
    session = await failing.format(name).open(QUESTION)
    assert isinstance(session, WritesVerdicts)
    with pytest.raises(EngineError):
        await session.score(chain_of())
    assert session.tokens_aborted == len(FORMATS[name])
    assert (await session.score(chain_of())).score == pytest.approx(0.8)


async def test_longer_chains_verdicts_go_first_and_reads_before_all() -> None:
    asked: list[int] = []

    class Noting(Spy):
        async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
            asked.append(draw.priority)
            raise EngineError("enough")

    spy = Noting(OpenVocabulary(), abilities=frozenset({"text"}))
    for name in FORMATS:
        prm = menu.choose(name, spy, Judged(vocabulary=PLAIN, grammar=choose("paragraph", PLAIN)))
        session = await prm.open(QUESTION)
        for chain in (chain_of(), chain_of("One.", "Two.")):
            with pytest.raises(EngineError):
                await session.score(chain)
    assert asked == [-1, -3, -1, -3]
