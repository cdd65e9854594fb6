"""What goes wrong with a stage's data stops the stage by name; a stage that did less than planned is not done."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.utils.data import Dataset

from cos.search.errors import EngineDead, InputError
from cos.training.encode import Collator, Sample
from cos.training.failures import NamedData, StageError, collate_named, naming
from cos.training.prm import run_prm
from cos.training.recipe import PrmConfig
from cos.training.rows import ChainRow, read_rows
from cos.training.traces import TracesConfig, run_traces
from cos.training.trainer import StageTrainer
from tests.server.support import data_uri, picture_bytes, served
from tests.training.test_smoke import metrics, run
from tests.training.tiny_models import build
from tests.training.training_support import context, write_chains, write_pairs

ROWS = 12
ERRORS = [StopIteration(), StopIteration("no more"), KeyError("text"), RuntimeError("broken")]
KEYS: dict[str, Any] = {"steps": 6, "batch": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("model"), "internvl")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_chains(folder / "chains.jsonl", ROWS)
    write_pairs(folder / "pairs.jsonl", ROWS)
    return folder


def failing_for(row: str, error: Exception) -> Callable[..., dict[str, Tensor]]:
    """A collator that fails when the row is in a batch."""
    plain = Collator.__call__

    def collate(self: Collator, samples: Sequence[Sample]) -> dict[str, Tensor]:
        if any(sample.row.startswith(row) for sample in samples):
            raise error
        return plain(self, samples)

    return collate


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("stage", ["sft", "prm", "dpo"])
def test_an_error_in_a_collator_stops_the_stage_and_names_stage_and_row(
    stage: str, error: Exception, checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Collator, "__call__", failing_for("p3/", error))
    where = context(tmp_path, stage)
    with pytest.raises(StageError, match=rf"stage '{stage}': row 'p3/.*': {type(error).__name__}") as told:
        run(stage, checkpoint, data, where, **KEYS)
    assert str(error) in str(told.value)
    assert not where.is_done
    assert not (where.folder / "model").exists()


def nothing(*_: object) -> dict[str, Tensor]:
    return {}


def no_loss(*_: object) -> Tensor:
    return Tensor([0.0]).squeeze()


def no_numbers(*_: object) -> list[float]:
    return []


@pytest.mark.parametrize("stage", ["sft", "prm", "dpo"])
def test_an_error_in_a_dataset_stops_the_stage_and_names_stage_and_row(
    stage: str, checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: str) -> None:
        if path.endswith("/3.png"):
            raise StopIteration

    for user in ("row_data", "dpo"):
        monkeypatch.setattr(f"cos.training.{user}.read_picture", read)
    monkeypatch.setattr(Collator, "__call__", nothing)
    where = context(tmp_path, stage)
    if stage != "dpo":
        monkeypatch.setattr(StageTrainer, "training_step", no_loss)
    else:
        monkeypatch.setattr("cos.training.preference.PairCollator.__call__", nothing)
        monkeypatch.setattr("cos.training.preference._pair_logprobs", no_numbers)
    with pytest.raises(StageError, match=rf"stage '{stage}': row 'p3/.*': StopIteration"):
        run(stage, checkpoint, data, where, **KEYS)
    assert not where.is_done


def test_a_picture_that_is_gone_stays_the_callers_error_with_stage_and_row(checkpoint: Path, tmp_path: Path) -> None:
    chains = write_chains(tmp_path / "chains.jsonl", ROWS)
    (tmp_path / "pictures" / "5.png").unlink()
    with pytest.raises(InputError, match=r"stage 'prm': row 'p5/0': picture '.*5.png' cannot be read"):
        run("prm", checkpoint, chains.parent, context(tmp_path, "prm"), **KEYS)


@pytest.mark.parametrize("stage", ["sft", "prm", "dpo"])
def test_a_stage_that_did_fewer_steps_than_planned_is_an_error_and_never_done(
    stage: str, checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = StageTrainer.get_batch_samples
    left = iter(range(2))

    def ending(self: StageTrainer, *arguments: Any) -> Any:
        return plain(self, *arguments) if next(left, None) is not None else ([], None)

    monkeypatch.setattr(StageTrainer, "get_batch_samples", ending)
    where = context(tmp_path, stage)
    with pytest.raises(StageError, match=f"stage '{stage}' did 2 of 6 planned steps"):
        run(stage, checkpoint, data, where, **KEYS)
    assert not where.is_done
    assert not (where.folder / "model").exists()


class Cells(Dataset[int]):
    """Samples of no row, drawn in batches."""

    def __getitems__(self, indices: Sequence[int]) -> list[int]:
        raise StopIteration

    def __len__(self) -> int:
        return 4


def test_data_that_come_of_no_row_are_told_by_the_stage() -> None:
    with pytest.raises(StageError, match=r"^stage 'sight': StopIteration$"):
        NamedData(Cells(), "sight").__getitems__([0, 1])

    def collate(samples: list[int]) -> Mapping[str, Any]:
        if len(samples) > 1:
            raise ValueError("two")
        return {}

    with pytest.raises(StageError, match=r"^stage 'sight': a batch of no row, no row: ValueError: two$"):
        collate_named(collate, "sight")([1, 2])


def test_a_dead_engine_stays_one_when_the_place_is_named() -> None:
    with pytest.raises(EngineDead, match=r"^row 'p1': gone$"), naming("row 'p1'"):
        raise EngineDead("gone")


@pytest.mark.parametrize("spelt", ["<IMG_CONTEXT>", "<video> and <img>", "<|im_end|>"])
async def test_a_served_question_that_spells_control_tokens_is_trained_on_in_every_planned_step(
    spelt: str, checkpoint: Path, tmp_path: Path
) -> None:
    async with served(trace_dir=tmp_path / "traces") as server:
        for index in range(4):
            question = f"What does {spelt} mean?" if index == 1 else f"Which is number {index}?"
            picture = data_uri(picture_bytes(28, 28 + index))
            reply = await server.solve(question=question, image=picture, strategy="best_of_n", n=4, seed=index)
            assert reply.status_code == 200
    run_traces(TracesConfig(traces=(str(tmp_path / "traces"),)), context(tmp_path, "out"))
    chains = tmp_path / "out" / "chains.jsonl"
    count = len(list(read_rows(chains, ChainRow)))
    assert any(spelt in row.problem.question for row in read_rows(chains, ChainRow))
    keys = {"labels": "serving", "target": "soft", "epochs": 3, "batch": 2, "log_every": 1, "precision": "fp32"}
    where = context(tmp_path / "prm", "prm")
    run_prm(PrmConfig.model_validate({"model": str(checkpoint), "chains": [str(chains)], **keys}), where)
    steps = [entry["step"] for entry in metrics(where.folder) if "loss" in entry]
    assert steps == [*range(1, 3 * -(-count // 2) + 1)]
    assert where.is_done
