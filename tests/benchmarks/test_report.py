"""Provenance and formats of reports."""

import hashlib
import json
from pathlib import Path

import pytest

from cos.benchmarks.report import json_line, markdown_table, percent
from cos.evaluation.provenance import commit, provenance, revision


def test_a_revision_is_the_digest_of_the_weights(tmp_path: Path):
    assert revision(str(tmp_path)) is None
    assert revision("scripted") is None
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert revision(str(tmp_path)) == hashlib.sha256(b"weights").hexdigest()[:12]


def test_provenance_names_code_models_and_machine():
    facts = provenance("scripted", "none")
    assert facts["policy"] == "scripted"
    assert facts["checkpoints"] == {"policy": None, "prm": None}
    assert facts["hardware"]["cpu"]
    assert facts["hardware"]["cores"] >= 1
    assert facts["commit"] == commit() != ""


def test_outside_a_checkout_the_version_stands_for_the_commit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    import cos

    assert commit() == cos.__version__


def test_json_is_one_line_and_has_no_nan():
    assert json.loads(json_line({"a": "é\n"})) == {"a": "é\n"}
    assert "\n" not in json_line({"a": "b\nc"})
    with pytest.raises(ValueError, match="JSON"):
        json_line({"a": float("nan")})


def test_tables_are_markdown():
    assert markdown_table(("a", "b"), [("1", percent(0.5))]) == "| a | b |\n| --- | ---: |\n| 1 | 50.0 % |"
