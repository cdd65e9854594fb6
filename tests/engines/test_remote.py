"""Models on vLLM's own server: the same answers as in process, requests that end when nobody waits, and a server that
goes away."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cos.clients.cli import main
from cos.engines.launch import Engines, launch
from cos.engines.remote import RemoteEngine
from cos.engines.remote_errors import RemoteDead
from cos.engines.remote_wire import Completions
from cos.prm.matching import match
from cos.prm.menu import choose
from cos.prm.ports import Judged
from cos.search.errors import InputError
from cos.search.grammars.cos import CosGrammar
from cos.search.ports import Stops
from cos.search.prompt import Prompt
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.terms import Sampling
from cos.search.types import Candidate, Chain, Piece, Turn
from tests.engines.asking import a_draw, asked, ids_of, labels, prm_of, problems, question
from tests.engines.small_tokenizer import tokenizer
from tests.server.support import until
from tests.vllm_server import VllmServer

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

LEDGERS = range(70, 73)


async def test_a_prompt_is_the_same_tokens_as_in_process(real_engines: Engines, remote_engines: Engines) -> None:
    for here, there in zip(real_engines.all, remote_engines.all, strict=True):
        assert there.vocabulary.fingerprint == here.vocabulary.fingerprint
        assert there.context_tokens == here.context_tokens
        for ledger in LEDGERS:
            one, other = await here.open(asked(ledger=ledger)), await there.open(asked(ledger=ledger))
            assert one.prompt_tokens == other.prompt_tokens


async def test_labels_have_the_log_probabilities_that_they_have_in_process(
    real_engines: Engines, remote_engines: Engines
) -> None:
    here, there = prm_of(real_engines), prm_of(remote_engines)
    for ledger in LEDGERS:
        one, other = [
            await (await prm.open(asked(ledger=ledger))).read_labels((), (*labels(prm), 7), 0) for prm in (here, there)
        ]
        assert other.logprobs == pytest.approx(one.logprobs, abs=1e-3)


async def test_draws_are_those_in_process(real_engines: Engines, remote_engines: Engines) -> None:
    here, there = real_engines.policy, remote_engines.policy
    for ledger in LEDGERS:
        for temperature in (0.0, 1.0):
            one, other = [
                await (await policy.open(asked(ledger=ledger))).draw(
                    (), a_draw(policy, seed=ledger, temperature=temperature, logprobs=True)
                )
                for policy in (here, there)
            ]
            assert ids_of(one) == ids_of(other)
            assert (one.text, one.finish, one.stop) == (other.text, other.finish, other.stop)
            assert other.logprob == pytest.approx(one.logprob, abs=1e-2)


async def test_a_server_without_scale_out_writes_and_reads_the_same(remote_engines: Engines) -> None:
    """By ``/v1/completions``, which every vLLM has."""
    policy = remote_engines.policy
    assert isinstance(policy, RemoteEngine)
    plain = copy(policy)
    plain.served = replace(policy.served, route=Completions())
    one, other = [
        await engine.open(Prompt((Turn("user", "Row 1 says 12."),), rendering="raw")) for engine in (policy, plain)
    ]
    assert plain.most_pictures == 0
    for stops in (None, Stops(strings=("1", "e"))):
        for temperature in (0.0, 1.0):
            draw = a_draw(policy, temperature=temperature, max_tokens=40, stops=stops, logprobs=True)
            first, second = await one.draw((), draw), await other.draw((), draw)
            assert ids_of(first) == ids_of(second)
            assert (first.text, first.finish, first.stop) == (second.text, second.finish, second.stop)
            assert second.logprob == pytest.approx(first.logprob, abs=1e-2)
            going_on = [await session.draw(ids_of(first), draw) for session in (one, other)]
            assert ids_of(going_on[0]) == ids_of(going_on[1])
    reads = [await session.read_labels((5, 6), (3, 4, 7), 0) for session in (one, other)]
    assert reads[1].logprobs == pytest.approx(reads[0].logprobs, abs=1e-3)


async def test_a_judge_is_held_to_its_schema_there_as_here(real_engines: Engines, remote_engines: Engines) -> None:
    """The policy was never trained to judge, and would write anything else."""
    scores: list[float | None] = []
    for policy in (real_engines.policy, remote_engines.policy):
        judge = choose(
            "judge_json", policy, Judged(vocabulary=policy.vocabulary, grammar=CosGrammar(policy.vocabulary))
        )
        ids = policy.vocabulary.encode("It says 12.")
        candidate = Candidate(path=(0,), written=ids, tokens=len(ids), piece=Piece("step", "It says 12."), end="step")
        reading = await (await judge.open(question(ledger=70))).score(Chain((candidate,)))
        scores.append(reading.score)
        assert 0 < reading.tokens < 30
    assert scores[0] is not None
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_searches_have_the_answers_of_those_in_process(
    real_engines: Engines, remote_engines: Engines, temperature: float
) -> None:
    """`cos bench remote` asks for more of them."""
    spec = SearchSpec("beam", {"n": 4, "beam_width": 2}, sampling=Sampling(temperature=temperature, seed=7))
    answers = [
        [(await solve(question(ledger=ledger), spec, match(*engines.all))).chain.answer for ledger in LEDGERS]
        for engines in (real_engines, remote_engines)
    ]
    assert answers[0] == answers[1]


def run(command: list[str]) -> None:
    """A command that ends well."""
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code


async def test_the_command_asks_models_elsewhere_and_loads_none(
    vllm_servers: tuple[VllmServer, VllmServer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, prm = (server.url for server in vllm_servers)
    ledger = tmp_path / "ledger.png"
    ledger.write_bytes(problems()[70].image_png)
    asked = [str(ledger), problems()[70].question, "--json", "--prm-url", prm]
    replies: list[dict[str, Any]] = []
    for command in (["solve", *asked, "--policy-url", policy], ["score", *asked, "--step", "Row 1: It shows 12."]):
        await asyncio.to_thread(run, command)
        replies.append(json.loads(capsys.readouterr().out))
    solved, scored = replies
    assert solved["answer"]
    assert all(step["score"] is not None for step in solved["steps"])
    assert scored["results"][0]["steps"][0]["score"] is not None


async def test_what_the_servers_cannot_carry_is_known(remote_engines: Engines) -> None:
    for engine in remote_engines.all:
        assert isinstance(engine, RemoteEngine)
        assert engine.served.has_priorities
        assert engine.served.tells_cached
        assert [lack for lack in engine.lacks if "start it" in lack] == []


async def test_a_draw_that_nobody_waits_for_writes_no_more_tokens(
    remote_engines: Engines, vllm_servers: tuple[VllmServer, VllmServer]
) -> None:
    server = vllm_servers[0]
    session = await remote_engines.policy.open(asked())
    endless = Stops(strings=("no such words",))
    draws = [
        asyncio.create_task(
            session.draw((), a_draw(remote_engines.policy, seed=seed, max_tokens=900, temperature=2.0, stops=endless))
        )
        for seed in range(8)
    ]
    await asyncio.sleep(0.3)
    for draw in draws:
        draw.cancel()
    await asyncio.gather(*draws, return_exceptions=True)
    running = ("vllm:num_requests_running", "vllm:num_requests_waiting")

    def is_idle() -> bool:
        return sum(map(server.metric, running)) == 0

    async with asyncio.timeout(60):
        while not await asyncio.to_thread(is_idle):
            await asyncio.sleep(0.05)
    written = [await asyncio.to_thread(server.metric, "vllm:generation_tokens_total")]
    await asyncio.sleep(0.3)
    written.append(await asyncio.to_thread(server.metric, "vllm:generation_tokens_total"))
    assert written[0] == written[1]


async def test_a_tokenizer_of_another_model_is_refused(
    vllm_servers: tuple[VllmServer, VllmServer], tmp_path: Path
) -> None:
    policy = vllm_servers[0]
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"has another tokenizer than 'policy' at {policy.url}"):
        await launch(replace(policy.settings, model=str(tmp_path)), None)


async def test_nobody_at_the_address_is_told_with_the_flag(vllm_servers: tuple[VllmServer, VllmServer]) -> None:
    nobody = "http://127.0.0.1:9"
    with pytest.raises(InputError, match=f"{nobody} cannot be reached.* correct --policy-url"):
        await launch(replace(vllm_servers[0].settings, url=nobody), None)


class Cable:
    """A connection to a server that can be cut, as the death of its process would."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def plug_in(self) -> None:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in [*self._open]:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._open |= {writer, far_writer}
        try:
            await asyncio.gather(_copied(reader, far_writer), _copied(far_reader, writer))
        finally:
            self._open -= {writer, far_writer}


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def through_cables(servers: tuple[VllmServer, VllmServer]) -> AsyncGenerator[tuple[Engines, tuple[Cable, ...]]]:
    cables = tuple(Cable(server.port) for server in servers)
    async with AsyncExitStack() as stack:
        for cable in cables:
            await cable.plug_in()
            stack.push_async_callback(cable.cut)
        policy, prm = (
            replace(server.settings, url=f"http://127.0.0.1:{cable.port}")
            for server, cable in zip(servers, cables, strict=True)
        )
        engines = await launch(policy, prm)
        stack.push_async_callback(engines.close)
        yield engines, cables


@pytest.mark.parametrize("lost", ["policy", "prm"])
async def test_a_search_whose_server_goes_away_ends_in_its_own_error_and_the_next_one_is_served(
    vllm_servers: tuple[VllmServer, VllmServer], lost: str
) -> None:
    spec = SearchSpec("beam", {"n": 8, "beam_width": 2})
    async with through_cables(vllm_servers) as (engines, cables):
        cable = cables[("policy", "prm").index(lost)]
        models = match(*engines.all)
        searching = asyncio.create_task(solve(question(ledger=80), spec, models))
        engine = engines.all[("policy", "prm").index(lost)]
        before = engine.steps
        await until(lambda: engine.steps > before + 2, 30)
        await cable.cut()
        with pytest.raises(RemoteDead, match=f"the {lost} at .* cannot be reached"):
            async with asyncio.timeout(30):
                await searching
        assert not engine.is_alive
        await cable.plug_in()
        await until(lambda: engines.are_alive, 60)
        assert (await solve(question(ledger=81), spec, models)).chain.candidates
