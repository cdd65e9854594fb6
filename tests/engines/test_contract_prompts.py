"""The contract, goes on: prompts of several turns, stops that are text, and what is told of what was written."""

import asyncio
import math

import pytest

from cos.engines.launch import Engines
from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.prm.matching import match
from cos.search.errors import EngineError
from cos.search.grammars.cos import ANSWER_END, REASONING_END, STEP_END, CosGrammar
from cos.search.models import Models
from cos.search.ports import Draw, Stops
from cos.search.prompt import Prompt
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.types import Turn
from tests.engines.asking import a_draw, asked, first_step, ids_of, labels, picture, prm_of, question, tagged
from tests.engines.lines import BLANK, Lines

pytestmark = pytest.mark.asyncio(loop_scope="session")

NEW_LINE = Stops(strings=("\n",))
"""Every policy here writes lines."""


async def test_an_engine_says_what_can_be_asked_of_its_model(engines: Engines) -> None:
    for engine in engines.all:
        assert {"labels", "text"} <= engine.abilities <= {"labels", "head", "text"}


async def test_the_text_is_what_the_tokens_say_control_tokens_spelt_out(engines: Engines) -> None:
    policy = engines.policy
    drawn = await first_step(policy, await policy.open(asked()))
    assert drawn.text == policy.vocabulary.decode(ids_of(drawn))
    assert drawn.text.endswith(STEP_END)
    assert drawn.tokens == len(ids_of(drawn))


async def test_the_token_that_ended_a_draw_is_named(engines: Engines) -> None:
    policy = engines.policy
    session = await policy.open(asked())
    drawn = await first_step(policy, session)
    assert drawn.stop == policy.vocabulary.control_id(STEP_END)
    cut = await session.draw((), a_draw(policy, max_tokens=3))
    assert (cut.finish, cut.stop) == ("length", None)


async def test_the_end_of_the_models_turn_stops_too_and_is_no_text(engines: Engines) -> None:
    policy = engines.policy
    session = await policy.open(asked())
    drawn = await session.draw((), a_draw(policy, temperature=0.0, max_tokens=400, stops=Stops()))
    assert (drawn.finish, drawn.stop) == ("stop", None)
    assert drawn.text.endswith(ANSWER_END)
    assert drawn.text == policy.vocabulary.decode(ids_of(drawn)[:-1])


async def test_a_string_ends_a_draw_as_soon_as_it_is_written_and_is_part_of_it(engines: Engines) -> None:
    policy = engines.policy
    session = await policy.open(asked())
    whole = await session.draw((), a_draw(policy, temperature=0.0))
    drawn = await session.draw((), a_draw(policy, temperature=0.0, stops=NEW_LINE))
    assert (drawn.finish, drawn.stop) == ("stop", "\n")
    assert "\n" in policy.vocabulary.decode(ids_of(drawn)[-1:])
    assert "\n" not in policy.vocabulary.decode(ids_of(drawn)[:-1])
    assert ids_of(whole)[: drawn.tokens] == ids_of(drawn)
    assert drawn.text == policy.vocabulary.decode(ids_of(drawn))


async def test_pieces_cut_at_strings_are_what_is_written_in_one_go(engines: Engines) -> None:
    """A prefix is continued by its own tokens and never tokenised again."""
    policy = engines.policy
    if isinstance(policy, ScriptedEngine):
        pytest.skip("its chance begins anew with each draw")
    session = await policy.open(asked())
    whole = await session.draw((), a_draw(policy, temperature=0.0, max_tokens=400, stops=Stops()))
    written: tuple[int, ...] = ()
    for _ in range(60):
        drawn = await session.draw(written, a_draw(policy, temperature=0.0, max_tokens=400, stops=NEW_LINE))
        assert drawn.prompt_tokens == session.prompt_tokens + len(written)
        written += ids_of(drawn)
        if drawn.stop is None:
            break
    assert written == ids_of(whole)


async def test_of_strings_and_tokens_the_first_ends_a_draw(engines: Engines) -> None:
    policy = engines.policy
    session = await policy.open(asked())
    step_end = policy.vocabulary.control_id(STEP_END)
    assert step_end is not None
    both = Stops((step_end,), (REASONING_END, "no such words"))
    assert (await session.draw((), a_draw(policy, temperature=0.0, stops=both))).stop == step_end
    both = Stops((step_end,), ("\n",))
    assert (await session.draw((), a_draw(policy, temperature=0.0, stops=both))).stop == "\n"


async def test_a_string_that_spells_a_control_token_stops_at_the_token(engines: Engines) -> None:
    policy = engines.policy
    session = await policy.open(asked())
    by_id = await first_step(policy, session)
    by_text = await session.draw((), a_draw(policy, temperature=0.0, stops=Stops(strings=(STEP_END,))))
    assert by_text.stop == STEP_END
    assert ids_of(by_text) == ids_of(by_id)


async def test_a_string_at_the_token_limit_counts_as_a_stop(engines: Engines) -> None:
    policy = engines.policy
    session = await policy.open(asked())
    drawn = await session.draw((), a_draw(policy, temperature=0.0, stops=NEW_LINE))
    cut = await session.draw((), a_draw(policy, temperature=0.0, stops=NEW_LINE, max_tokens=drawn.tokens))
    assert (cut.finish, cut.stop) == ("stop", "\n")


async def test_log_probabilities_are_of_what_a_string_left(engines: Engines) -> None:
    policy = engines.policy
    session = await policy.open(asked())
    drawn = await session.draw((), a_draw(policy, temperature=0.0, stops=NEW_LINE, logprobs=True))
    assert drawn.logprob is not None
    assert math.isfinite(drawn.logprob)
    assert drawn.logprob <= 0


async def test_a_system_turn_is_shown(engines: Engines) -> None:
    for engine in engines.all:
        plain = await engine.open(asked("How much?"))
        told = await engine.open(Prompt((Turn("system", "Count."), Turn("user", (picture(), "How much?")))))
        assert told.prompt_tokens > plain.prompt_tokens
        assert ids_of(await told.draw((), a_draw(engine, max_tokens=2)))


async def test_an_open_turn_of_the_assistants_is_continued(engines: Engines) -> None:
    policy = engines.policy
    if isinstance(policy, ScriptedEngine):
        pytest.skip("its writer decides by what it has written itself")
    asks = asked()
    session = await policy.open(asks)
    drawn = await session.draw((), a_draw(policy, temperature=0.0, stops=Stops(strings=("\n",))))
    text = "I look."
    opened = await policy.open(Prompt((*asks.turns, Turn("assistant", text))))
    assert opened.prompt_tokens == session.prompt_tokens + len(policy.vocabulary.encode(text))
    prefix = policy.vocabulary.encode(text)
    once = await opened.draw((), a_draw(policy, temperature=0.0, max_tokens=8))
    again = await session.draw(prefix, a_draw(policy, temperature=0.0, max_tokens=8))
    assert ids_of(once) == ids_of(again)
    assert ids_of(drawn)


async def test_an_open_turn_costs_what_it_says(engines: Engines) -> None:
    for engine in engines.all:
        asks = asked()
        session = await engine.open(asks)
        opened = await engine.open(Prompt((*asks.turns, Turn("assistant", "I look."))))
        assert opened.prompt_tokens == session.prompt_tokens + len(engine.vocabulary.encode("I look."))


async def test_a_raw_prompt_is_its_text(engines: Engines) -> None:
    for engine in engines.all:
        raw = await engine.open(Prompt((Turn("user", "How much is "), Turn("assistant", "1 + 1?")), "raw"))
        assert raw.prompt_tokens == len(engine.vocabulary.encode("How much is 1 + 1?"))
        assert ids_of(await raw.draw((), a_draw(engine, max_tokens=2)))


async def test_any_number_of_labels_is_read_in_the_order_asked_for(engines: Engines) -> None:
    prm = prm_of(engines)
    step = await first_step(engines.policy, await engines.policy.open(asked()))
    session = await prm.open(asked())
    ids = tagged(prm, ids_of(step))
    good, bad = labels(prm)
    (one, *_) = prm.vocabulary.encode("1")
    for wanted in ((good,), (good, bad), (good, bad, one), (good, one, bad, *prm.vocabulary.encode("no"))):
        read = await session.read_labels(ids, wanted, 0)
        assert len(read.logprobs) == len(wanted)
        assert all(value <= 0 for value in read.logprobs)
        assert read.prompt_tokens == session.prompt_tokens + len(ids)
        assert sum(map(math.exp, read.logprobs)) <= 1 + 1e-5
    two = await session.read_labels(ids, (good, bad), 0)
    three = await session.read_labels(ids, (good, bad, one), 0)
    assert three.logprobs[0] == pytest.approx(two.logprobs[0], abs=1e-3)


async def test_a_verdict_can_be_written(engines: Engines) -> None:
    prm = prm_of(engines)
    session = await prm.open(asked())
    drawn = await session.draw((), Draw(max_tokens=5, stops=Stops(), seed=1, temperature=0.0))
    assert drawn.text


async def test_a_search_runs_in_a_grammar_whose_steps_end_at_a_blank_line() -> None:
    policy = ScriptedEngine(Script(grammar=Lines(ScriptedVocabulary())))
    grammar = Lines(policy.vocabulary)
    models = Models(policy=policy, grammar=grammar, scorer=match(ScriptedEngine(), ScriptedEngine()).scorer)
    result = await solve(question(), SearchSpec("beam", {"n": 4, "beam_width": 2}), models)
    assert [candidate.end for candidate in result.chain.candidates] == ["step", "step", "step", "answer"]
    assert result.chain.answer is not None
    assert 10 <= int(result.chain.answer) < 100
    assert all(candidate.piece.text.startswith("Look at part") for candidate in result.chain.steps)
    for step in result.chain.steps:
        assert isinstance(step.written, tuple)
        assert policy.vocabulary.decode(step.written).endswith(BLANK)


async def test_the_same_story_is_told_in_any_grammar() -> None:
    vocabulary = ScriptedVocabulary()
    chains: list[list[str]] = []
    for grammar in (CosGrammar(vocabulary), Lines(vocabulary)):
        models = Models(policy=ScriptedEngine(Script(grammar=grammar), vocabulary=vocabulary), grammar=grammar)
        result = await solve(question(), SearchSpec("greedy", score="likelihood"), models)
        chains.append([candidate.piece.text for candidate in result.chain.candidates])
    assert [len(chain) for chain in chains] == [4, 4]
    assert chains[0][0].partition("[")[0] == chains[1][0].partition("[")[0]


async def test_a_probe_is_carried_out_by_an_idle_engine_and_a_busy_one(engines: Engines) -> None:
    for engine in engines.all:
        await engine.probe()
        session = await engine.open(asked())
        await asyncio.gather(session.draw((), a_draw(engine, max_tokens=20)), engine.probe())
        assert engine.is_alive


async def test_what_a_model_has_no_ability_for_is_an_engine_error(engines: Engines) -> None:
    for engine in engines.all:
        session = await engine.open(asked())
        if "head" in engine.abilities:
            assert (await session.read_head((), 0)).values
            continue
        with pytest.raises(EngineError, match="its model writes, and has no head to read"):
            await session.read_head((), 0)
        assert engine.is_alive


async def test_a_scripted_head_is_read() -> None:
    engine = ScriptedEngine(Script(judge=lambda prompt, written: 0.25))
    session = await engine.open(asked())
    read = await session.read_head(engine.vocabulary.encode("One step."), 0)
    assert read.values == (0.25,)
    assert read.prompt_tokens == session.prompt_tokens + len("One step.")


async def test_draws_with_strings_can_be_cancelled(engines: Engines) -> None:
    session = await engines.policy.open(asked())
    draw = a_draw(engines.policy, stops=Stops(strings=("no such words",)))
    tasks = [asyncio.create_task(session.draw((), draw)) for _ in range(4)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended if isinstance(each, BaseException))
    assert ids_of(await session.draw((), a_draw(engines.policy, max_tokens=2)))
