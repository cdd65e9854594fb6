"""A whole search over scripted engines as one call, and code that worker processes can run."""

import importlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cos.engines.scripted import ScriptedEngine
from cos.prm.matching import match
from cos.search.result import Result
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.strategies import resolve
from cos.search.types import Question


@pytest.fixture(scope="session")
def find() -> Callable[..., Awaitable[Result]]:
    """``await find("beam", {"n": 4}, policy=ScriptedEngine(...), prm=..., limits=...)``: the result.

    Without parameters a strategy that takes ``n`` is given 4.
    """

    async def search(
        strategy: str,
        params: dict[str, Any] | None = None,
        *,
        policy: ScriptedEngine | None = None,
        prm: ScriptedEngine | None = None,
        has_prm: bool = True,
        question: str = "How much is it?",
        **spec: Any,
    ) -> Result:
        if params is None:
            params = {"n": 4} if "n" in resolve(strategy).params.model_fields else {}
        models = match(policy or ScriptedEngine(), (prm or ScriptedEngine()) if has_prm else None)
        return await solve(Question(question), SearchSpec(strategy, params, **spec), models)

    return search


@pytest.fixture
def deciders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """``deciders(source)``: a module of this source. Worker processes import what they run by its name."""

    def written(source: str) -> ModuleType:
        (tmp_path / "deciders_of_a_test.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        return importlib.reload(importlib.import_module("deciders_of_a_test"))

    return written
