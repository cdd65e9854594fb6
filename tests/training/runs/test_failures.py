"""What goes wrong with a stage's data stops the stage by name; a stage that did less than planned is not done."""

import errno
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from torch import Tensor
from torch.utils.data import Dataset

from cos.engines.launch import Engines
from cos.engines.scripted import Script, ScriptedEngine
from cos.evaluation.failures import StageError, naming
from cos.evaluation.in_process import OpenModels
from cos.prm.choice import NO_PRM, PrmChoice
from cos.prm.matching import match
from cos.search.errors import EngineDead, InputError
from cos.search.models import Models
from cos.training.config.recipe import EvaluateConfig, LabelConfig, PairsConfig, PrmConfig, ProblemSource, RolloutConfig
from cos.training.data.named_data import NamedData, collate_named
from cos.training.data.preflight import Intake
from cos.training.data.rows import ChainRow, TagLabel, read_rows, write_rows
from cos.training.data.sources import files_of
from cos.training.labels.llm_judge import Judge
from cos.training.learning.encode import Collator, Sample
from cos.training.learning.trainer import StageTrainer
from cos.training.runs.folder import StageContext
from cos.training.stages.evaluate import run_evaluate
from cos.training.stages.label import run_label
from cos.training.stages.pairs import run_pairs
from cos.training.stages.prm_training import run_prm
from cos.training.stages.rollout import run_rollout
from cos.training.stages.traces_to_rows import TracesConfig, run_traces
from tests.server.support import data_uri, picture_bytes, served
from tests.training.stages.test_smoke import metrics, run
from tests.training.tiny_models import build
from tests.training.training_support import context, problems, write_chains, write_pairs, write_problems

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


def no_count(*_: object) -> None:
    return None


def small(image: str) -> tuple[int, int]:
    del image
    return 56, 56


def all_fit(_: Intake, rows: Sequence[ChainRow], *__: object) -> list[ChainRow]:
    return [*rows]


def no_numbers(*_: object) -> list[float]:
    return []


@pytest.mark.parametrize("stage", ["sft", "prm", "dpo"])
def test_an_error_in_a_dataset_stops_the_stage_and_names_stage_and_row(
    stage: str, checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: str) -> None:
        if path.endswith("/3.png"):
            raise StopIteration

    monkeypatch.setattr("cos.training.data.row_data.read_picture", read)
    monkeypatch.setattr(Collator, "__call__", nothing)
    # The look at all rows before the first step finds nothing.
    monkeypatch.setattr("cos.training.data.preflight.look_at", small)
    monkeypatch.setattr("cos.training.data.preflight.Intake.fitting", all_fit)
    where = context(tmp_path, stage)
    if stage != "dpo":
        monkeypatch.setattr(StageTrainer, "training_step", no_loss)
        monkeypatch.setattr(StageTrainer, "_get_num_items_in_batch", no_count)
    else:
        monkeypatch.setattr("cos.training.learning.preference.PairCollator.__call__", nothing)
        monkeypatch.setattr("cos.training.learning.preference._pair_logprobs", no_numbers)
    with pytest.raises(StageError, match=rf"stage '{stage}': row 'p3/.*': StopIteration"):
        run(stage, checkpoint, data, where, **KEYS)
    assert not where.is_done


def test_a_picture_that_is_gone_stays_the_callers_error_with_stage_and_row(checkpoint: Path, tmp_path: Path) -> None:
    chains = write_chains(tmp_path / "chains.jsonl", ROWS)
    (tmp_path / "pictures" / "5.png").unlink()
    with pytest.raises(InputError, match=r"(?s)stage 'prm': .*row 'p5/0': picture '.*5.png': cannot be read"):
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


def ended(*_: object) -> NoReturn:
    """What an iterator says that has nothing more to give."""
    raise StopIteration


def failing_engines(module: str, patch: pytest.MonkeyPatch) -> None:
    """The engines that a module of training starts write and judge by functions that raise StopIteration."""
    broken = ScriptedEngine(Script(writer=ended, judge=ended))

    @asynccontextmanager
    async def started(*_: object, **__: object) -> AsyncGenerator[OpenModels]:
        engines = Engines(broken, None)
        yield OpenModels(engines, match(broken, None), PrmChoice(NO_PRM))

    @asynccontextmanager
    async def alone(*_: object, **__: object) -> AsyncGenerator[Models]:
        yield match(broken, broken)

    for name, starts in (("open_models", started), ("open_prm", alone)):
        patch.setattr(f"cos.training.{module}.{name}", starts, raising=False)


def rollout_config(folder: Path) -> RolloutConfig:
    asked = write_problems(folder / "problems.jsonl", problems(folder / "pictures", 2))
    return RolloutConfig(policy="scripted", problems=ProblemSource(data=(str(asked),)), each=2)


def test_an_error_while_chains_are_drawn_stops_the_stage_and_names_stage_and_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_engines("stages.rollout", monkeypatch)
    where = context(tmp_path, "rollout-2")
    with pytest.raises(StageError, match=r"^stage 'rollout-2': row 'p\d': RuntimeError: .*StopIteration"):
        run_rollout(rollout_config(tmp_path), where)
    assert not where.is_done


def test_an_error_of_the_exact_checker_stops_the_stage_and_names_stage_and_row(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def labels(chain: ChainRow) -> tuple[TagLabel, ...]:
        return ended() if chain.id == "p3/0" else (TagLabel(1.0, True),) * (len(chain.steps) + 1)

    monkeypatch.setattr("cos.ledger.generated.exact_labels", labels)
    where = context(tmp_path, "label")
    with pytest.raises(StageError, match=r"^stage 'label': row 'p3/0': StopIteration$"):
        run_label(LabelConfig(chains=files_of([str(data / "chains.jsonl")])), where)
    assert not where.is_done


def test_an_error_while_steps_are_continued_stops_the_stage_and_names_stage_and_row(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_engines("stages.label", monkeypatch)
    where = context(tmp_path, "label")
    chains = (str(data / "chains.jsonl"),)
    with pytest.raises(StageError, match=r"^stage 'label': row 'p\d': RuntimeError: .*StopIteration"):
        run_label(LabelConfig(chains=files_of(chains), sources=("monte_carlo",), policy="scripted"), where)
    assert not where.is_done


JUDGE: dict[str, Any] = {"model": "judge", "url": "http://127.0.0.1:9/v1", "retries": 0, "concurrency": 1}


@pytest.mark.parametrize("place", ["Judge._ask", "ratings_of", "messages_of"])
def test_an_error_while_a_judge_is_asked_stops_the_stage_and_names_stage_and_row(
    place: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reply(*_: object) -> bytes:
        return b'{"choices": [{"message": {}}]}'

    monkeypatch.setattr(Judge, "_ask", reply)
    monkeypatch.setattr(f"cos.training.labels.llm_judge.{place}", ended)
    where = context(tmp_path, "label")
    config = {"chains": (str(data / "chains.jsonl"),), "sources": ("judge",), "judge": JUDGE}
    with pytest.raises(StageError, match=r"^stage 'label': row 'p0/0': (RuntimeError: .*)?StopIteration"):
        run_label(LabelConfig.model_validate(config), where)
    assert not where.is_done


def test_what_concerns_every_chain_that_a_judge_is_asked_about_names_the_stage_and_no_row(
    data: Path, tmp_path: Path
) -> None:
    config = {"chains": (str(data / "chains.jsonl"),), "sources": ("judge",), "judge": JUDGE}
    with pytest.raises(InputError, match=r"^stage 'label': the judge 'judge' cannot be reached") as told:
        run_label(LabelConfig.model_validate(config), context(tmp_path, "label"))
    assert told.value.param == "judge.url"


def unscored(folder: Path) -> Path:
    """Chains that a PRM has yet to read."""
    path = write_chains(folder / "chains.jsonl", 4)
    write_rows(path, [replace(row, scores=None) for row in read_rows(path, ChainRow)])
    return path


def pairs(chains: Path, where: StageContext) -> None:
    run_pairs(PairsConfig(chains=files_of([str(chains)]), prm="scripted"), where)


def evaluation(chains: Path, where: StageContext) -> None:
    run_evaluate(EvaluateConfig(chains=files_of([str(chains)]), prm="scripted"), where)


@pytest.mark.parametrize(("stage", "module"), [(pairs, "labels.prm_scores"), (evaluation, "stages.evaluate")])
def test_an_error_while_chains_are_scored_stops_the_stage_and_names_stage_and_row(
    stage: Callable[[Path, StageContext], None], module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_engines(module, monkeypatch)
    where = context(tmp_path, "mine")
    with pytest.raises(StageError, match=r"^stage 'mine': row 'p\d': RuntimeError: .*StopIteration"):
        stage(unscored(tmp_path), where)
    assert not where.is_done


def test_an_error_while_a_policy_is_measured_stops_the_stage_and_names_stage_and_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_engines("stages.evaluate", monkeypatch)
    config = EvaluateConfig(policy="scripted", problems=rollout_config(tmp_path).problems, n=2)
    with pytest.raises(StageError, match=r"^stage 'evaluate': row 'p\d': RuntimeError: .*StopIteration"):
        run_evaluate(config, context(tmp_path, "evaluate"))


def test_an_error_while_pairs_are_sought_names_the_stage(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cos.training.stages.pairs.pairs_of", ended)
    config = PairsConfig(chains=files_of([str(data / "chains.jsonl")]), reward="outcome")
    with pytest.raises(StageError, match=r"^stage 'pairs': StopIteration$"):
        run_pairs(config, context(tmp_path, "pairs"))


@pytest.mark.timeout(20)
def test_a_picture_reader_that_ends_early_stops_the_stage_instead_of_leaving_it_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_engines("stages.rollout", monkeypatch)
    monkeypatch.setattr("cos.training.data.questions.decode", ended)
    with pytest.raises(StageError, match=r"^stage 'rollout': row 'p(\d)': picture '.*\1.png': StopIteration$"):
        run_rollout(rollout_config(tmp_path), context(tmp_path, "rollout"))


def test_a_disk_that_is_full_while_chains_are_drawn_is_told_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cos.training.stages.rollout.Journal.add", full)
    with pytest.raises(InputError, match="the disk is full"):
        run_rollout(rollout_config(tmp_path), context(tmp_path, "rollout"))
