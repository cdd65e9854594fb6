"""The models that cos-serve brings along are checked here, so that no start need do it."""

import pytest

from cos.engines.launch import Engines
from cos.engines.scripted import ScriptedEngine
from cos.server import service
from cos.server.checks.files import check_files
from cos.server.settings import Settings


async def test_nothing_is_found_in_the_files_of_the_shipped_pair_which_a_start_therefore_leaves_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert {finding.state for finding in await check_files(Settings())} == {"ok"}

    async def launch(*_: object) -> Engines:
        return Engines(ScriptedEngine(), None)

    async def unneeded(*_: object) -> None:
        pytest.fail("the files were checked")

    monkeypatch.setattr(service, "launch", launch)
    monkeypatch.setattr(service, "check_files", unneeded)
    await service.launch_engines(Settings())
    for other in (
        Settings(prm="judge"),
        Settings(prm_format="cos"),
        Settings.model_validate({"prm_max_model_len": 64}),
    ):
        assert not other.serves_shipped_pair
