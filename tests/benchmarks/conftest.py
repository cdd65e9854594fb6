"""A small held-out set that the scripted engine can solve, and scripted models."""

import hashlib
import io

import pytest
from PIL import Image

from cos.checkpoints import LedgerProblem
from cos.engines.scripted import ScriptedEngine
from cos.prm.matching import match
from cos.search.models import Models


def problem(index: int) -> LedgerProblem:
    """A problem whose answer is the one that the scripted writer gives when all goes well."""
    question = f"What is the total of ledger {index}?"
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (index % 256, 0, 0)).save(buffer, "PNG")
    return LedgerProblem(
        id=f"ledger-{index:04}",
        kind="total" if index % 2 else "count",
        question=question,
        answer=str(int(hashlib.sha256(question.encode()).hexdigest(), 16) % 90 + 10),
        rows=("1", "2"),
        image_png=buffer.getvalue(),
    )


@pytest.fixture
def problems() -> list[LedgerProblem]:
    return [problem(index) for index in range(24)]


@pytest.fixture
def scripted() -> Models:
    return match(ScriptedEngine(), ScriptedEngine())


@pytest.fixture
def small_heldout(monkeypatch: pytest.MonkeyPatch, problems: list[LedgerProblem]) -> list[LedgerProblem]:
    """The commands find these problems in place of the real held-out set."""
    monkeypatch.setattr("cos.benchmarks.commands.heldout", lambda: problems)
    return problems
