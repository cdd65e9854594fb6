"""A picture, a solution as a server sends it, and an environment in which cos-serve has no extras."""

import io
import re
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.clients.bare import Bare

ROOT = Path(__file__).parents[2]


@pytest.fixture
def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def png_path(tmp_path: Path, png: bytes) -> str:
    path = tmp_path / "ledger.png"
    path.write_bytes(png)
    return str(path)


def candidate(path: tuple[int, ...], *, kept: bool = False, score: float | None = 0.5, **fields: Any) -> dict[str, Any]:
    """One candidate as a server sends it."""
    step = {"name": f"Read row {path[-1]}", "thought": "It shows 12.", "reflection": "Two digits."}
    content = {
        "text": " ".join([f"{step['name']}:", step["thought"], step["reflection"]]),
        "fields": step,
        "end": "step",
    }
    if (answer := fields.get("answer")) is not None:
        content = {"text": answer, "fields": {}, "end": "answer"}
    return {"path": list(path), "score": score, "tokens": 9, "logprob": None, "kept": kept, **content, **fields}


@pytest.fixture
def solution() -> dict[str, Any]:
    """The reply to a search of two chains."""
    counts = (
        "tokens_generated tokens_kept tokens_duplicate tokens_asked tokens_aborted tokens_discarded "
        "policy_prompt_tokens policy_cached_tokens candidates candidates_duplicate candidates_aborted "
        "candidates_begun_ahead candidates_begun_in_vain prm_reads "
        "prm_prompt_tokens prm_cached_tokens unscored requests_aborted requests_failed"
    )
    return {
        "id": "solve-1",
        "model": "cos-tiny",
        "question": "What is the total?",
        "answer": "12",
        "confidence": 0.91,
        "steps": [candidate((0,), kept=True, score=0.95)],
        "answer_score": 0.9,
        "chain_score": 0.91,
        "strategy": "best_of_n",
        "parameters": {"n": 2, "seed": 0, "score": "prm"},
        "finish_reason": "answer",
        "complete": True,
        "usage": {
            **dict.fromkeys(counts.split(), 0),
            "tokens_generated": 36,
            "tokens_kept": 18,
            "tokens_discarded": 18,
        },
        "timings": {
            "first_candidate_s": 0.1,
            "total_s": 0.5,
            "stages": {f"{stage}_s": 0.0 for stage in ("queue", "decode", "vote", "select")}
            | {"open_s": 0.01, "generate_s": 0.4, "score_s": 0.09},
        },
        "warnings": [],
        "tree": [
            candidate((0,), kept=True, score=0.95),
            candidate((0, 0), kept=True, score=0.9, answer="12"),
            candidate((1,), score=0.2),
            candidate((1, 0), score=None, answer="13"),
        ],
    }


def normal(requirement: str) -> str:
    """The name of a required distribution."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def installed_without_extras() -> set[str]:
    """All distributions that the project without extras brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: set[str] = set()
    waiting = [normal(requirement) for requirement in project["dependencies"]]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            try:
                needed = requires(name) or []
            except PackageNotFoundError:
                # For another platform or an older Python.
                continue
            waiting += [normal(requirement) for requirement in needed if "extra ==" not in requirement]
    return found


@pytest.fixture(scope="session")
def blocked() -> str:
    """Every module that is installed here and is not in an environment without extras."""
    base = installed_without_extras() | {"cos-serve", "pip", "setuptools"}
    return ",".join(
        module
        for module, owners in packages_distributions().items()
        if not {normal(owner) for owner in owners} & base and module not in ("cos", "_virtualenv")
    )


@pytest.fixture
def bare(tmp_path: Path, blocked: str) -> Bare:
    return Bare(tmp_path / "site", blocked)
