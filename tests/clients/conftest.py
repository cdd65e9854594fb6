"""A picture, and a solution as a server sends it."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


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
