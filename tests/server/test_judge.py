"""A server whose policy is its own judge: one engine in both roles, told as such everywhere."""

import asyncio

import pytest

from cos.engines.launch import Engines
from cos.engines.scripted import Script, ScriptedEngine
from cos.search.errors import EngineError
from cos.server.flags import load_settings
from cos.server.selfcheck import Unusable
from cos.server.service import launch_engines
from cos.server.settings import Settings
from tests.server.support import data_uri, picture_bytes, served, until
from tests.server.test_selfcheck import checked

JUDGED: dict[str, object] = {"policy": "org/policy", "prm": "judge"}


async def test_one_engine_is_started_and_stopped_for_both_roles() -> None:
    engines = await launch_engines(Settings(policy="scripted", prm="judge"))
    assert engines.prm is None
    assert engines.all == (engines.policy,)
    await engines.close()
    assert not engines.are_alive


async def test_searches_and_chats_are_scored_by_the_policy_itself() -> None:
    async with served(prm="judge") as server:
        assert server.prm is None
        reply = (await server.solve(strategy="beam", n=4, return_tree=True)).json()
        assert reply["complete"]
        assert reply["usage"]["unscored"] == 0
        assert reply["usage"]["prm_reads"] > 0
        assert all(candidate["score"] is not None for candidate in reply["tree"])
        assert reply["parameters"]["aggregation"] == "mean"
        model = (await server.http.get("/v1/models")).json()["data"][0]
        assert model["prm"] == "judge"
        image = {"type": "image_url", "image_url": {"url": data_uri(picture_bytes())}}
        chat = {
            "model": "scripted",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "How much?"}, image]}],
        }
        answered = (await server.http.post("/v1/chat/completions", json=chat)).json()
        assert answered["choices"][0]["message"]["content"] == answered["cos"]["answer"]


async def test_metrics_and_health_know_one_engine() -> None:
    async with served(prm="judge", engine_patience_s=0.2) as server:
        await server.solve(strategy="beam", n=4)
        text = (await server.http.get("/metrics")).text
        assert 'cos_engine_up{engine="policy"} 1.0' in text
        assert 'cos_engine_up{engine="prm"}' not in text
        assert 'prm="judge"' in text
        assert 'cos_prompt_tokens_total{engine="prm",source="computed"}' in text
        assert server.service.watch.names == ("policy",)
        server.policy.freeze()
        await until(lambda: not server.service.watch.is_well)
        assert (await server.http.get("/health")).status_code == 503
        server.policy.thaw()
        await until(lambda: server.service.watch.is_well)


async def test_a_search_that_goes_away_takes_its_reads_with_it() -> None:
    async with served(Script(seconds_per_read=30), prm="judge") as server:
        search = asyncio.create_task(server.solve(strategy="beam", n=4))
        await until(lambda: server.policy.in_flight > 0 and server.policy.steps > 0)
        search.cancel()
        await asyncio.gather(search, return_exceptions=True)
        await until(lambda: server.policy.in_flight == 0)


def test_a_judge_is_chosen_by_flag_variable_and_file(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path_factory.mktemp("settings") / "cos.yaml"
    file.write_text("policy: a/b\nprm: judge\n")
    assert load_settings(["--config", str(file)]).prm_name == "judge"
    assert load_settings(["--policy", "a/b", "--prm", "judge"]).prm_name == "judge"
    assert load_settings(["--policy", "a/b", "--prm-format", "judge"]).prm_name == "judge"
    monkeypatch.setenv("COS_PRM", "judge")
    assert load_settings(["--policy", "a/b"]).engine_settings("prm") is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--prm-format", "cos"), "leave out --prm-format"),
        (("--prm-dtype", "float32"), "--prm-dtype is for a PRM with an engine of its own"),
        (("--prm-suffix", "Look."), "give --policy-suffix"),
    ],
)
def test_what_a_judge_cannot_have_is_refused_with_the_fix(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    with pytest.raises(SystemExit):
        load_settings(["--policy", "a/b", "--prm", "judge", *arguments])
    assert told in capsys.readouterr().err


async def test_a_judge_that_cannot_tell_the_example_is_warned_of_and_not_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await checked(Script(judge=lambda _, __: 0.45), None, **JUDGED)
    assert any("gives right and wrong chains alike about one half" in record.message for record in caplog.records)


async def test_of_a_scripted_judge_nothing_is_expected(caplog: pytest.LogCaptureFixture) -> None:
    await checked(Script(), None, policy="scripted", prm="judge")
    assert [record for record in caplog.records if "selfcheck" in record.name] == []


async def test_a_judge_that_gives_no_score_is_refused_with_what_to_do() -> None:
    fails = Script(fault=lambda kind, _: EngineError("no") if kind == "read" else None)
    with pytest.raises(
        Unusable, match="are missing or off the scale; give another chat model, or --prm none"
    ) as refused:
        await checked(fails, None, **JUDGED)
    assert refused.value.param == "prm"


async def test_an_engine_that_died_is_dead_in_both_roles() -> None:
    engine = ScriptedEngine()
    engines = Engines(engine, None)
    engine.kill()
    assert not engines.are_alive
