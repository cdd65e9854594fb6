"""A judge behind vLLM's own OpenAI-compatible server. The model is random: what makes its ratings valid is that the
server holds replies to the schema which the stage sends."""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cos.search.errors import InputError
from cos.training.config.keys import JudgeKeys
from cos.training.config.recipe import LabelConfig
from cos.training.data.rows import ChainRow, read_rows
from cos.training.data.sources import files_of
from cos.training.stages.label import run_label
from tests.real.server_process import ServerProcess, start
from tests.training.tiny_models import build
from tests.training.training_support import context, write_chains

pytestmark = pytest.mark.real

CONTEXT = 8192
"""Instructions and a chain are some two thousand tokens of the tiny tokenizer."""
ENVIRONMENT = (
    "VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_CPU_KVCACHE_SPACE=1 VLLM_NO_USAGE_STATS=1 OMP_NUM_THREADS=1 "
    "OMP_WAIT_POLICY=passive TORCH_COMPILE_DISABLE=1"
)


def serve(folder: Path) -> str:
    """The command that serves a checkpoint as ``judge``. Without the last option a random model may write white space
    without end, which the schema allows. (The script ``vllm`` asks for a distribution that the CPU build is not.)"""
    options = {
        "model": folder,
        "served-model-name": "judge",
        "host": "127.0.0.1",
        "max-model-len": CONTEXT,
        "dtype": "float32",
        "structured-outputs-config": json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
    }
    given = " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in options.items())
    module = f"{shlex.quote(sys.executable)} -m vllm.entrypoints.openai.api_server"
    return f"{ENVIRONMENT} exec {module} {given} --enforce-eager --port $COS_PORT"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = build(tmp_path_factory.mktemp("judge"), "internvl", cos_tokens=False)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = CONTEXT
    (folder / "config.json").write_text(json.dumps(config))
    running = start(serve(folder), "INFO:     Application startup complete.")
    try:
        running.wait_until_ready(240)
        yield running
    finally:
        running.stop()


def label(folder: Path, judge: ServerProcess, model: str = "judge") -> tuple[list[ChainRow], dict[str, Any]]:
    where = context(folder, "label")
    config = LabelConfig(
        chains=files_of([str(write_chains(folder / "chains.jsonl", 6))]),
        sources=("judge",),
        judge=JudgeKeys(model=model, url=f"{judge.url}/v1", concurrency=4, timeout_s=60),
    )
    run_label(config, where)
    done = json.loads((where.folder / "done.json").read_text())
    return list(read_rows(where.folder / "chains.jsonl", ChainRow)), done["outcome"]["judge"]


def test_every_chain_gets_labels_from_a_judge_behind_vllm(tmp_path: Path, judge: ServerProcess) -> None:
    rows, outcome = label(tmp_path, judge)
    assert (outcome["judged"], outcome["failed"]) == (6, 0)
    assert all(len(row.labels["judge"]) == len(row.steps) + 1 for row in rows)
    assert [last and last.hard for row in rows for last in row.labels["judge"][-1:]] == [row.right for row in rows]
    assert outcome["good"] + outcome["neutral"] + outcome["bad"] == pytest.approx(1, abs=1e-3)
    assert outcome["tokens_in"] > 6 * 500
    assert outcome["tokens_out"] > 0


def test_a_model_that_vllm_does_not_serve_is_named(tmp_path: Path, judge: ServerProcess) -> None:
    with pytest.raises(InputError, match=r"no model 'nope'.*does not exist"):
        label(tmp_path, judge, "nope")
