"""The examples of a grammar and of a PRM format of one's own: installed as any package, used by name, without vLLM."""

import json
import shlex
from pathlib import Path

import pytest

from tests.clients.bare import Bare

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DOCS = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def test_a_grammar_and_a_prm_format_from_other_packages_are_found_and_used(bare: Bare) -> None:
    for name in ("bullets", "one_zero"):
        bare.install(EXAMPLES / name)
    documented = next(line for line in DOCS.splitlines() if line.startswith("bin/cos solve"))
    _, *asked = shlex.split(documented)
    done = bare.cos(*asked, "--json", cwd=ROOT / "docs")
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert reply["complete"]
    scores = [step["score"] for step in [*reply["steps"], {"score": reply["answer_score"]}]]
    assert reply["chain_score"] == pytest.approx(sum(scores) / len(scores)), "the format's own aggregation is the mean"


def test_without_the_packages_their_names_are_refused_with_the_menu(bare: Bare) -> None:
    asked = ("solve", str(EXAMPLES / "ledger.png"), "How much?", "--policy", "scripted")
    for option, name in (("--grammar", "bullets"), ("--prm-format", "one_zero")):
        done = bare.cos(*asked, option, name)
        assert done.returncode == 2
        assert f"{name!r}; available: auto, cos" in done.stderr
