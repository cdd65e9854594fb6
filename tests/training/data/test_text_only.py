"""Questions without a picture, alone and among others with one, in every stage that reads rows."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from cos.search.grammars.cos import render_segments
from cos.training.config.keys import ProblemSource
from cos.training.config.recipe import EvaluateConfig, LabelConfig, PairsConfig, RolloutConfig
from cos.training.data.rows import ChainRow, PairRow, ProblemRow, read_rows, write_rows
from cos.training.data.sources import files_of
from cos.training.learning.encode import Collator, Sample, TurnEncoder, load_checkpoint
from cos.training.learning.losses import SftLoss
from cos.training.stages.evaluate import run_evaluate
from cos.training.stages.label import run_label
from cos.training.stages.pairs import run_pairs
from cos.training.stages.rollout import run_rollout
from tests.training.stages.test_evaluate import problem
from tests.training.stages.test_smoke import metrics, run
from tests.training.tiny_models import ARCHITECTURES, STEPS, Architecture, build
from tests.training.training_support import context, write_chains, write_pairs


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Architecture, Path]:
    return {kind: build(tmp_path_factory.mktemp(kind), kind) for kind in ARCHITECTURES}


def bare(row: Any) -> Any:
    """The row without its picture, and with a question of its own."""
    return replace(row, problem=replace(row.problem, image=None, question=f"What is {row.problem.id}?"))


def write_data(folder: Path, share: int) -> Path:
    """A folder with chains.jsonl and pairs.jsonl; of ``share`` rows one has a picture, of one none."""
    folder.mkdir()
    chains = list(read_rows(write_chains(folder / "chains.jsonl", 6), ChainRow))
    pairs = list(read_rows(write_pairs(folder / "pairs.jsonl", 6), PairRow))
    for name, rows in (("chains", chains), ("pairs", pairs)):
        kept = [row if number % share == 0 and share > 1 else bare(row) for number, row in enumerate(rows)]
        write_rows(folder / f"{name}.jsonl", kept)
    return folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("stage", ["sft", "prm", "dpo"])
def test_rows_with_and_without_a_picture_train_in_one_batch(
    stage: str, architecture: Architecture, checkpoints: Mapping[Architecture, Path], tmp_path: Path
) -> None:
    where = context(tmp_path, stage)
    data = write_data(tmp_path / "data", share=2)
    run(stage, checkpoints[architecture], data, where, steps=1, batch=6)
    assert torch.isfinite(torch.tensor([entry["loss"] for entry in metrics(where.folder) if "loss" in entry])).all()
    outcome = json.loads((where.folder / "done.json").read_text())["outcome"]
    assert (outcome["rows"], outcome["steps"]) == (6, 1)


@pytest.mark.parametrize("keys", [{}, {"train_text": False}], ids=["as it is", "projector alone"])
def test_rows_none_of_which_has_a_picture_train(
    keys: dict[str, Any], checkpoints: Mapping[Architecture, Path], tmp_path: Path
) -> None:
    where = context(tmp_path, "sft")
    run("sft", checkpoints["internvl"], write_data(tmp_path / "data", share=1), where, **keys)
    assert where.is_done


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_blank_picture_that_nothing_sees_changes_no_loss_and_has_every_layer_run(
    architecture: Architecture, checkpoints: Mapping[Architecture, Path]
) -> None:
    model, processor = load_checkpoint(checkpoints[architecture])
    encoder = TurnEncoder(processor.tokenizer)
    samples = [Sample(None, question, encoder.chain(STEPS[:1], "7")) for question in ("Why?", "And what is that?")]
    plain, looking = (SftLoss()(model, Collator(processor, always_looks=looks)(samples))[0] for looks in (False, True))
    torch.testing.assert_close(plain, looking, rtol=0, atol=1e-6)
    looking.backward()
    unreached = [name for name, weights in model.named_parameters() if weights.grad is None]
    seen = [name for name, weights in eyes(model) if weights.grad is not None]
    assert len(seen) > 4
    assert not [name for name in unreached if "projector" in name or "merger" in name]
    assert all(not weights.grad.any() for _, weights in eyes(model) if weights.grad is not None)


def eyes(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, weights) for name, weights in model.named_parameters() if "vis" in name or "projector" in name]


def test_stages_that_ask_models_take_problems_without_a_picture(tmp_path: Path) -> None:
    rows = [problem(tmp_path, index) for index in range(6)]
    write_rows(
        tmp_path / "asked.jsonl", [replace(row, image=None) if index % 2 else row for index, row in enumerate(rows)]
    )
    asked = ProblemSource(data=(str(tmp_path / "asked.jsonl"),))
    run_rollout(RolloutConfig(policy="scripted", problems=asked, each=4), context(tmp_path / "r", "rollout"))
    chains = (str(tmp_path / "r" / "rollout" / "chains.jsonl"),)
    drawn = list(read_rows(chains[0], ChainRow))
    assert {row.problem.image is None for row in drawn} == {True, False}
    labelling = LabelConfig(chains=files_of(chains), sources=("monte_carlo",), policy="scripted", continuations=2)
    run_label(labelling, context(tmp_path / "r", "label"))
    labelled = read_rows(tmp_path / "r" / "label" / "chains.jsonl", ChainRow)
    assert all("monte_carlo" in row.labels for row in labelled)
    run_pairs(PairsConfig(chains=files_of(chains), prm="scripted", gap=0.01), context(tmp_path / "r", "pairs"))
    pairs = list(read_rows(tmp_path / "r" / "pairs" / "pairs.jsonl", PairRow))
    assert {pair.problem.image is None for pair in pairs} == {True, False}
    config = EvaluateConfig(policy="scripted", prm="scripted", problems=asked, n=2)
    run_evaluate(config, context(tmp_path / "e", "evaluate"))
    found = json.loads((tmp_path / "e" / "evaluate" / "evaluation.json").read_text())
    assert found["policy"]["greedy"]["problems"] == 6


def test_a_row_without_a_picture_is_written_again_as_it_was_read(tmp_path: Path) -> None:
    row = ProblemRow(id="p", question="Why?", answer="5")
    assert write_rows(tmp_path / "rows.jsonl", [row]) == 1
    assert list(read_rows(tmp_path / "rows.jsonl", ProblemRow)) == [row]
    (tmp_path / "rows.jsonl").write_text('{"id": "p", "question": "Why?", "answer": "5"}\n')
    assert list(read_rows(tmp_path / "rows.jsonl", ProblemRow)) == [row]


@pytest.mark.parametrize("keys", [{}, {"image": None}, {"image": []}], ids=repr)
def test_a_conversation_without_a_picture_is_read(keys: dict[str, Any], tmp_path: Path) -> None:
    reply = "".join(render_segments(STEPS, "7"))
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": reply}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": 1, "conversations": turns, **keys}) + "\n")
    (row,) = read_rows(tmp_path / "rows.jsonl", ChainRow)
    assert row.problem == ProblemRow(id="1", question="Why?", answer="7")


def test_pictures_of_a_mixed_batch_stay_with_their_rows(checkpoints: Mapping[Architecture, Path]) -> None:
    _, processor = load_checkpoint(checkpoints["qwen2_5_vl"])
    turn = TurnEncoder(processor.tokenizer).chain([], "2")
    collate = Collator(processor)
    shown, unshown = Sample(Image.new("RGB", (56, 56), "red"), "How many?", turn), Sample(None, "How many?", turn)
    batch, alone = collate([unshown, shown, unshown]), collate([shown])
    width = alone["input_ids"].shape[1]
    assert torch.equal(batch["input_ids"][1], alone["input_ids"][0])
    assert torch.equal(batch["mm_token_type_ids"][1, :width], alone["mm_token_type_ids"][0])
    assert not batch["mm_token_type_ids"][[0, 2]].any()
