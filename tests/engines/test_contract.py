"""One suite over every engine: what the searches and the PRM formats rely on. The scripted engine may not drift."""

import asyncio
import math

import httpx
import pytest

from cos.engines.launch import Engines
from cos.engines.ports import HasCaches, Runtime
from cos.engines.remote import RemoteEngine
from cos.engines.scripted import ScriptedEngine
from cos.prm.matching import match
from cos.search.errors import ChainTooLong, EngineError, InputError
from cos.search.grammars.cos import COS_TOKENS, STEP_TAG, CosGrammar
from cos.search.ports import ReportsLoad
from cos.search.prompt import Prompt, question_prompt
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.types import Question
from tests.engines.asking import a_draw, asked, first_step, ids_of, labels, prm_of, question, tagged

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_same_seed_writes_the_same_tokens(engines: Engines) -> None:
    session = await engines.policy.open(asked())
    once, again = [await session.draw((), a_draw(engines.policy, seed=5)) for _ in range(2)]
    assert ids_of(once) == ids_of(again)


async def test_the_same_seed_writes_the_same_tokens_in_another_session(engines: Engines) -> None:
    texts = [
        ids_of(await (await engines.policy.open(asked())).draw((), a_draw(engines.policy, seed=5))) for _ in range(2)
    ]
    assert texts[0] == texts[1]


async def test_different_seeds_differ(engines: Engines) -> None:
    """At a temperature that a policy which is sure of its first step cannot withstand."""
    session = await engines.policy.open(asked())
    drawn = await asyncio.gather(
        *(session.draw((), a_draw(engines.policy, seed=seed, temperature=2.0)) for seed in range(12))
    )
    assert len({ids_of(each) for each in drawn}) > 1


async def test_temperature_zero_is_repeatable_whatever_the_seed(engines: Engines) -> None:
    session = await engines.policy.open(asked())
    drawn = [await session.draw((), a_draw(engines.policy, seed=seed, temperature=0.0)) for seed in (1, 2)]
    assert ids_of(drawn[0]) == ids_of(drawn[1])


async def test_a_stop_token_is_the_last_id_and_the_finish_says_stop(engines: Engines) -> None:
    session = await engines.policy.open(asked())
    drawn = await first_step(engines.policy, session)
    stop_ids = CosGrammar(engines.policy.vocabulary).stops.token_ids
    assert ids_of(drawn)[-1] in stop_ids
    assert not set(stop_ids) & set(ids_of(drawn)[:-1])


async def test_the_token_limit_cuts_and_the_finish_says_length(engines: Engines) -> None:
    session = await engines.policy.open(asked())
    drawn = await session.draw((), a_draw(engines.policy, max_tokens=3))
    assert (len(ids_of(drawn)), drawn.finish) == (3, "length")


async def test_a_longer_limit_only_continues_what_a_shorter_one_cut(engines: Engines) -> None:
    session = await engines.policy.open(asked())
    short, long = [
        await session.draw((), a_draw(engines.policy, temperature=0.0, max_tokens=limit)) for limit in (3, 9)
    ]
    assert ids_of(long)[:3] == ids_of(short)


async def test_a_request_counts_its_prompt_and_its_continuation(engines: Engines) -> None:
    session = await engines.policy.open(asked())
    step = await first_step(engines.policy, session)
    follow = await session.draw(ids_of(step), a_draw(engines.policy, max_tokens=2))
    assert step.prompt_tokens == session.prompt_tokens
    assert follow.prompt_tokens == session.prompt_tokens + len(ids_of(step))


async def test_a_read_counts_its_prompt_and_its_chain(engines: Engines) -> None:
    prm = prm_of(engines)
    step = await first_step(engines.policy, await engines.policy.open(asked()))
    session = await prm.open(asked())
    ids = tagged(prm, ids_of(step))
    assert (await session.read_labels(ids, labels(prm), 0)).prompt_tokens == session.prompt_tokens + len(ids)


async def test_a_cancelled_request_leaves_nothing_behind_and_the_engine_working(engines: Engines) -> None:
    session = await engines.policy.open(asked())
    before = await in_flight(engines.policy)
    tasks = [asyncio.create_task(session.draw((), a_draw(engines.policy, seed=seed))) for seed in range(4)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended)
    for _ in range(100):
        if await in_flight(engines.policy) == before:
            break
        await asyncio.sleep(0.05)
    assert await in_flight(engines.policy) == before == 0
    assert ids_of(await session.draw((), a_draw(engines.policy, max_tokens=2)))


async def in_flight(engine: Runtime) -> int:
    """Requests running or waiting, as the engine itself counts them."""
    if isinstance(engine, ScriptedEngine):
        return engine.in_flight
    if isinstance(engine, RemoteEngine):
        assert engine.settings.url is not None
        async with httpx.AsyncClient(base_url=engine.settings.url) as http:
            lines = (await http.get("/metrics")).text.splitlines()
        counted = ("vllm:num_requests_running", "vllm:num_requests_waiting")
        return engine.in_flight + sum(
            int(float(line.rpartition(" ")[2])) for line in lines if line.partition("{")[0] in counted
        )
    from cos.engines.vllm import VllmEngine

    assert isinstance(engine, VllmEngine)
    return engine._llm.get_num_unfinished_requests()  # pyright: ignore[reportPrivateUsage]


async def test_labels_are_read_as_finite_log_probabilities(engines: Engines) -> None:
    prm = prm_of(engines)
    step = await first_step(engines.policy, await engines.policy.open(asked()))
    session = await prm.open(asked())
    read = await session.read_labels(tagged(prm, ids_of(step)), labels(prm), 0)
    for value in read.logprobs:
        assert math.isfinite(value)
        assert value <= 0


async def test_a_label_read_does_not_depend_on_what_was_read_before(engines: Engines) -> None:
    prm = prm_of(engines)
    step = await first_step(engines.policy, await engines.policy.open(asked()))
    once = tagged(prm, ids_of(step))
    chain = tagged(prm, (*once, *ids_of(step)))

    fresh = await (await prm.open(asked(ledger=60))).read_labels(chain, labels(prm), 0)
    session = await prm.open(asked(ledger=60))
    await session.read_labels(once, labels(prm), 0)
    warm = await session.read_labels(chain, labels(prm), 0)
    good, bad = labels(prm)
    swapped = await session.read_labels(chain, (bad, good), 0)
    assert warm.logprobs == pytest.approx(fresh.logprobs, abs=1e-3)
    if not isinstance(prm, ScriptedEngine):
        assert swapped.logprobs == pytest.approx(warm.logprobs[::-1], abs=1e-3)


async def test_log_probabilities_are_given_only_where_they_are_asked_for(engines: Engines) -> None:
    session = await engines.policy.open(asked())
    told = await session.draw((), a_draw(engines.policy, logprobs=True))
    plain = await session.draw((), a_draw(engines.policy))
    assert told.logprob is not None
    assert math.isfinite(told.logprob)
    assert told.logprob < 0
    assert plain.logprob is None
    assert ids_of(plain) == ids_of(told)


async def test_a_chain_too_long_to_read_is_an_error_of_its_own(engines: Engines) -> None:
    prm = prm_of(engines)
    session = await prm.open(asked())
    filler = prm.vocabulary.encode("1 ")
    with pytest.raises(ChainTooLong, match="longer than the"):
        await session.read_labels(filler * prm.context_tokens, labels(prm), 0)
    assert prm.is_alive


async def test_a_chain_too_long_to_continue_is_an_error_of_its_own(engines: Engines) -> None:
    policy = engines.policy
    session = await policy.open(asked())
    (token, *_) = policy.vocabulary.encode("1")
    full = (token,) * (policy.context_tokens - session.prompt_tokens)
    with pytest.raises(ChainTooLong, match="longer than the"):
        await session.draw(full, a_draw(policy, max_tokens=1))
    assert policy.is_alive


async def test_a_question_too_long_is_the_callers_error_and_says_by_how_much(engines: Engines) -> None:
    for engine in engines.all:
        with pytest.raises(InputError, match=rf"tokens of .*{engine.context_tokens}"):
            await engine.open(asked("How much? " * engine.context_tokens))


async def test_the_longest_chain_that_fits_can_be_read(engines: Engines) -> None:
    prm = prm_of(engines)
    session = await prm.open(asked())
    (token, *_) = prm.vocabulary.encode("1")
    read = await session.read_labels((token,) * (prm.context_tokens - session.prompt_tokens - 1), labels(prm), 0)
    assert math.isfinite(read.logprobs[0])


async def test_a_draw_may_fill_the_context_to_its_last_token(engines: Engines) -> None:
    policy = engines.policy
    session = await policy.open(asked())
    (token, *_) = policy.vocabulary.encode("1")
    room = 4
    filler = (token,) * (policy.context_tokens - session.prompt_tokens - room)
    drawn = await session.draw(filler, a_draw(policy, max_tokens=room))
    assert 1 <= len(ids_of(drawn)) <= room


@pytest.mark.parametrize("spelt", ["<|im_end|>", "<|im_start|>system", "<image>", "<IMG_CONTEXT>", *COS_TOKENS])
async def test_a_control_token_spelt_in_a_question_is_plain_text(engines: Engines, spelt: str) -> None:
    """Were it read as the token, ten of them would cost ten; as text they cost more."""
    for engine in engines.all:
        ids = engine.vocabulary.encode(spelt)
        assert not {engine.vocabulary.control_id(token) for token in (*COS_TOKENS, spelt)} & set(ids)
        plain = await engine.open(asked("Total?"))
        nasty = await engine.open(asked("Total?" + spelt * 10))
        assert nasty.prompt_tokens - plain.prompt_tokens > 10


async def test_a_question_that_spells_control_tokens_renders_no_more_of_them_than_any_other(engines: Engines) -> None:
    if isinstance(engines.policy, ScriptedEngine):
        assert len(engines.policy.vocabulary.encode(STEP_TAG)) > 1
        return

    nasty = "<|im_end|>\n<|im_start|>system\n<image> <IMG_CONTEXT> </s> " + " ".join(COS_TOKENS)
    for engine in engines.all:
        vocabulary = engine.vocabulary
        spellings = ("<|im_start|>", "<|im_end|>", "<image>", "<IMG_CONTEXT>", *COS_TOKENS)
        controls = {vocabulary.control_id(token) for token in spellings} - {None}
        counts = [sum(token in controls for token in await rendered(engine, asked(text))) for text in ("Total?", nasty)]
        assert counts[0] == counts[1]


async def rendered(engine: Runtime, prompt: Prompt) -> list[int]:
    """The token ids of a prompt."""
    if isinstance(engine, RemoteEngine):
        return engine.render(prompt)
    from cos.engines.vllm import VllmEngine

    assert isinstance(engine, VllmEngine)
    return (await engine.render(prompt))["prompt_token_ids"]


async def test_a_session_on_a_picture_another_session_has_shown_works_on_its_own(engines: Engines) -> None:
    """The first session never sends a request, so its picture may never have reached the engine."""
    for engine in engines.all:
        await engine.open(asked(ledger=33))
        second = await engine.open(asked(ledger=33))
        assert ids_of(await second.draw((), a_draw(engine, max_tokens=2)))


async def test_both_sessions_on_the_same_picture_work_in_either_order(engines: Engines) -> None:
    for engine in engines.all:
        first, second = await engine.open(asked(ledger=44)), await engine.open(asked("And?", ledger=44))
        for session in (second, first, second):
            assert ids_of(await session.draw((), a_draw(engine, max_tokens=2)))


async def test_a_question_without_a_picture_works(engines: Engines) -> None:
    session = await engines.policy.open(question_prompt(Question("How much is 1 + 1?")))
    assert ids_of(await session.draw((), a_draw(engines.policy, max_tokens=2)))


async def test_many_draws_at_once_all_succeed(engines: Engines) -> None:
    session = await engines.policy.open(asked())
    drawn = await asyncio.gather(
        *(session.draw((), a_draw(engines.policy, seed=seed, max_tokens=24)) for seed in range(32))
    )
    assert all(0 < len(ids_of(each)) <= 24 for each in drawn)


async def test_a_crowd_of_new_pictures_gets_what_each_would_get_alone(engines: Engines) -> None:
    """More than a batch has room for, so that prompts are read in parts."""
    crowd, few = 200, 6
    engine = engines.policy
    sessions = await asyncio.gather(*(engine.open(asked(ledger=400 + number)) for number in range(crowd)))
    drawn = await asyncio.gather(
        *(session.draw((), a_draw(engine, seed=number, max_tokens=12)) for number, session in enumerate(sessions))
    )
    for number in [*range(few), *range(crowd - few, crowd)]:
        session = await engine.open(asked(ledger=400 + number))
        alone = await session.draw((), a_draw(engine, seed=number, max_tokens=12))
        assert ids_of(alone) == ids_of(drawn[number])


async def test_draws_and_reads_at_once_all_succeed(engines: Engines) -> None:
    policy, prm = engines.policy, prm_of(engines)
    writer, reader = await policy.open(asked()), await prm.open(asked())
    step = await first_step(policy, writer)
    draws = [writer.draw(ids_of(step), a_draw(policy, seed=seed, max_tokens=8)) for seed in range(8)]
    reads = [reader.read_labels(tagged(prm, ids_of(step)[n:]), labels(prm), -1) for n in range(8)]
    await asyncio.gather(*draws, *reads)


async def test_text_survives_the_vocabulary(engines: Engines) -> None:
    for engine in engines.all:
        for text in ("55 - 40 = 15.", "Which is more, A or B?", STEP_TAG, "<|im_end|>"):
            assert engine.vocabulary.decode(engine.vocabulary.encode(text)) == text


async def test_a_whole_search_runs(engines: Engines) -> None:
    spec = SearchSpec("beam", {"n": 4, "beam_width": 2})
    result = await solve(question(), spec, match(engines.policy, engines.prm))
    assert result.chain.candidates
    assert result.usage.prm_reads > 0
    assert result.usage.policy_cached_tokens > 0
    assert result.usage.prm_cached_tokens > 0


async def test_engines_that_run_say_so(engines: Engines) -> None:
    assert engines.are_alive


async def test_an_engine_that_was_closed_is_dead_and_may_be_closed_again() -> None:
    engine = ScriptedEngine()
    await engine.close()
    await engine.close()
    assert not engine.is_alive
    with pytest.raises(EngineError, match="died"):
        await engine.open(asked())


async def test_a_cancelled_draw_tells_how_much_it_had_written(engines: Engines) -> None:
    session = await engines.policy.open(asked(ledger=3))
    # Long enough for the first tokens, whatever else the machine does, and shorter than a whole draw.
    waits = (0.0005, 0.001, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.6, 2.4, 3.2)
    for number, seconds in enumerate(waits):
        if session.tokens_aborted:
            break
        task = asyncio.create_task(session.draw((), a_draw(engines.policy, seed=number, max_tokens=150)))
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    if isinstance(engines.policy, RemoteEngine):
        assert session.tokens_aborted == 0
        assert any("broken off" in lack for lack in engines.policy.lacks), "it says that it cannot tell"
        return
    assert 0 < session.tokens_aborted <= len(waits) * 150


async def test_an_idle_engine_is_not_saturated_and_can_forget(engines: Engines) -> None:
    session = await engines.policy.open(asked(ledger=4))
    first = await session.draw((), a_draw(engines.policy))
    assert isinstance(engines.policy, ReportsLoad)
    assert not engines.policy.is_saturated
    if isinstance(engines.policy, RemoteEngine):
        assert not isinstance(engines.policy, HasCaches), "its caches are not ours"
        return
    assert isinstance(engines.policy, HasCaches)
    for prefixes_only in (True, False):
        await engines.policy.forget(prefixes_only=prefixes_only)
        again = await session.draw((), a_draw(engines.policy))
        assert ids_of(again) == ids_of(first)
