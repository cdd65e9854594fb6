"""What the launcher starts, and what it refuses before anything is started."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cos.engines import launch as launching
from cos.engines.launch import launch
from cos.engines.scripted import ScriptedEngine
from cos.engines.settings import EngineSettings, runtime_of
from cos.search.errors import InputError

POLICY = EngineSettings(role="policy", model="none", runtime="scripted")
PRM = EngineSettings(role="prm", model="none", runtime="scripted")


async def test_the_scripted_runtime_starts_without_a_model() -> None:
    engines = await launch(POLICY, PRM)
    assert isinstance(engines.policy, ScriptedEngine)
    assert isinstance(engines.prm, ScriptedEngine)
    assert engines.policy is not engines.prm
    assert engines.are_alive


def test_a_user_asks_for_the_scripted_runtime_by_its_name_and_for_vllm_by_any_other() -> None:
    assert runtime_of("scripted") == "scripted"
    assert {runtime_of(model) for model in ("org/scripted", "./scripted", "cos-tiny", "/a/b")} == {"vllm"}


async def test_a_policy_may_be_started_alone() -> None:
    engines = await launch(POLICY, None)
    assert engines.prm is None
    assert engines.all == (engines.policy,)


async def test_closing_stops_every_engine() -> None:
    engines = await launch(POLICY, PRM)
    await engines.close()
    assert not engines.are_alive
    assert not any(engine.is_alive for engine in engines.all)


async def test_a_folder_that_does_not_exist_is_named_with_the_option_it_came_from(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    with pytest.raises(InputError, match=f"--prm {missing}: the folder does not exist; give a checkpoint") as error:
        await launch(POLICY, EngineSettings(role="prm", model=missing))
    assert error.value.param == "prm"


async def test_a_folder_without_a_model_is_told_apart_from_one_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        await launch(EngineSettings(role="policy", model=str(tmp_path)), PRM)


async def test_what_was_started_is_stopped_when_another_runtime_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[ScriptedEngine] = []

    async def starts(wanted: Sequence[EngineSettings]) -> Sequence[ScriptedEngine]:
        begun.extend(ScriptedEngine() for _ in wanted)
        return begun

    async def fails(wanted: Sequence[EngineSettings]) -> Sequence[ScriptedEngine]:
        raise InputError(f"no {wanted[0].role} today", wanted[0].role)

    monkeypatch.setattr(launching, "RUNTIMES", {"vllm": starts, "scripted": fails})
    with pytest.raises(InputError, match="no prm today"):
        await launch(EngineSettings(role="policy", model="any"), PRM)
    assert [engine.is_alive for engine in begun] == [False]


async def test_each_engine_runs_on_its_own_runtime_whatever_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    of: dict[str, ScriptedEngine] = {name: ScriptedEngine() for name in ("vllm", "scripted")}

    async def vllm(wanted: Sequence[EngineSettings]) -> Sequence[ScriptedEngine]:
        return [of["vllm"] for _ in wanted]

    async def scripted(wanted: Sequence[EngineSettings]) -> Sequence[ScriptedEngine]:
        return [of["scripted"] for _ in wanted]

    monkeypatch.setattr(launching, "RUNTIMES", {"vllm": vllm, "scripted": scripted})
    engines = await launch(POLICY, EngineSettings(role="prm", model="any"))
    assert engines.all == (of["scripted"], of["vllm"])
