"""Before the first step: what is wrong with any row is told by file and line, or skipped and counted."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cos.search.errors import InputError
from cos.search.grammars.cos import Step
from cos.training.config.recipe import (
    DpoConfig,
    EvaluateConfig,
    LabelConfig,
    PairsConfig,
    PrmConfig,
    RolloutConfig,
    SftConfig,
)
from cos.training.data.lengths import Lengths, room
from cos.training.data.preflight import MOST_LISTED, SKIPPED, Intake, chains_of
from cos.training.data.row_data import imitated, judged
from cos.training.data.rows import ChainRow, PairRow, read_rows, write_rows
from cos.training.data.sources import files_of
from cos.training.learning.encode import Collator, TurnEncoder, load_checkpoint
from cos.training.runs.folder import DONE, StageContext
from cos.training.runs.ranks import ALONE
from cos.training.stages.dpo import run_dpo
from cos.training.stages.evaluate import run_evaluate
from cos.training.stages.label import run_label
from cos.training.stages.pairs import run_pairs
from cos.training.stages.prm_training import run_prm
from cos.training.stages.rollout import run_rollout
from cos.training.stages.sft import run_sft
from tests.training.tiny_models import ARCHITECTURES, Architecture, build
from tests.training.training_support import context, write_chains, write_pairs, write_problems
from tests.training.training_support import problems as noise

KEYS: dict[str, Any] = {"steps": 3, "batch": 2, "learning_rate": 1e-3, "log_every": 1, "precision": "fp32"}
ROWS = 8
LONG = " ".join(f"{number}" for number in range(600))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("model"), "internvl")


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Chains and pairs: line 2's picture is gone, line 4's cut off, line 5 too long, line 9 no row."""
    write_chains(tmp_path / "chains.jsonl", ROWS)
    write_pairs(tmp_path / "pairs.jsonl", ROWS)
    chains = list(read_rows(tmp_path / "chains.jsonl", ChainRow))
    first, *others = chains[4].steps
    chains[4] = replace(chains[4], steps=(replace(first, thought=LONG), *others))
    write_rows(tmp_path / "chains.jsonl", chains)
    pairs = list(read_rows(tmp_path / "pairs.jsonl", PairRow))
    pairs[4] = replace(pairs[4], rejected=replace(pairs[4].rejected, steps=(Step("Read", LONG, "It is long."),)))
    write_rows(tmp_path / "pairs.jsonl", pairs)
    for name in ("chains.jsonl", "pairs.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write('{"id": "torn", \n')
    (tmp_path / "pictures" / "1.png").unlink()
    cut = tmp_path / "pictures" / "3.png"
    cut.write_bytes(cut.read_bytes()[:-2000])
    return tmp_path


def run(kind: str, model: Path, data: Path, where: StageContext, **keys: Any) -> None:
    chains, keys = [str(data / "chains.jsonl")], {**KEYS, **keys}
    match kind:
        case "sft":
            run_sft(SftConfig.model_validate({"model": str(model), "data": chains, **keys}), where)
        case "prm":
            run_prm(PrmConfig.model_validate({"model": str(model), "chains": chains, **keys}), where)
        case _:
            pairs = [str(data / "pairs.jsonl")]
            run_dpo(DpoConfig.model_validate({"policy": str(model), "pairs": pairs, **keys}), where)


@pytest.mark.parametrize("kind", ["sft", "prm", "dpo"])
def test_every_bad_row_is_named_by_file_and_line_before_the_first_step(
    kind: str, checkpoint: Path, faulty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cos.training.learning.trainer import StageTrainer

    def step(*_: object) -> None:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(StageTrainer, "training_step", step)
    file = "pairs.jsonl" if kind == "dpo" else "chains.jsonl"
    with pytest.raises(InputError, match=f"stage '{kind}': 3 of 9 ") as caught:
        run(kind, checkpoint, faulty, context(faulty, kind))
    told = str(caught.value)
    assert f"{file}:2: row 'p1/0" in told
    assert "1.png'" in told
    assert f"{file}:4: row 'p3/0" in told
    assert f"{file}:9: not JSON" in told
    assert "--skip-bad" in told


@pytest.mark.parametrize("kind", ["sft", "prm", "dpo"])
def test_rows_that_are_too_long_are_named_by_file_and_line(kind: str, checkpoint: Path, faulty: Path) -> None:
    file = faulty / ("pairs.jsonl" if kind == "dpo" else "chains.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[number] for number in (0, 2, 4, 5)))
    with pytest.raises(
        InputError, match=rf"stage '{kind}': 1 of 4 rows .*:\n  .*{file.name}:3: row 'p4/0.*' *: \d+ tokens"
    ):
        run(kind, checkpoint, faulty, context(faulty, kind))
    with pytest.raises(InputError, match="more than max_tokens 60"):
        run(kind, checkpoint, faulty, context(faulty, kind), max_tokens=60)


@pytest.mark.parametrize("kind", ["sft", "prm", "dpo"])
def test_bad_rows_are_skipped_counted_and_listed(kind: str, checkpoint: Path, faulty: Path) -> None:
    where = replace(context(faulty, kind), skip_bad=True)
    run(kind, checkpoint, faulty, where)
    outcome = json.loads((where.folder / DONE).read_text())["outcome"]
    assert (outcome["rows"], outcome["skipped"], outcome["steps"]) == (5, 4, 3)
    logged = [json.loads(line) for line in (where.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in logged if "loss" in entry]
    assert outcome["losses"] == {"first": losses[0], "last": losses[-1]}
    listed = (where.folder / SKIPPED).read_text().splitlines()
    assert [line.split(":")[1] for line in listed] == ["9", "2", "4", "5"]


def test_when_every_row_is_bad_that_is_an_error_with_skip_bad_too(checkpoint: Path, faulty: Path) -> None:
    (faulty / "chains.jsonl").write_text("{}\n[]\n")
    with pytest.raises(InputError, match=r"all 2 chains had to be skipped; the first: .*chains.jsonl:1"):
        run("sft", checkpoint, faulty, replace(context(faulty, "sft"), skip_bad=True))


@pytest.mark.parametrize("part", ["trained on", "held out"])
@pytest.mark.parametrize("kind", ["sft", "prm"])
def test_rows_that_are_all_too_long_are_told_even_when_others_are_left(
    kind: str, part: str, checkpoint: Path, tmp_path: Path
) -> None:
    rows = list(read_rows(write_chains(tmp_path / "chains.jsonl", 4), ChainRow))
    long, short = [replace(r, problem=replace(r.problem, question=LONG)) for r in rows[:2]], rows[2:]
    write_rows(tmp_path / "chains.jsonl", long if part == "trained on" else short)
    write_rows(tmp_path / "held.jsonl", short if part == "trained on" else long)
    where = replace(context(tmp_path, kind), skip_bad=True)
    held_out = {"data": [str(tmp_path / "held.jsonl")]}
    with pytest.raises(InputError, match=r"all 2 rows had to be skipped; the last: .*\.jsonl:2.* tokens, more than"):
        run(kind, checkpoint, tmp_path, where, validation=held_out)


def engine_stage(kind: str, data: Path, where: StageContext) -> None:
    chains = (str(data / "chains.jsonl"),)
    match kind:
        case "rollout":
            problems = {"data": [str(data / "problems.jsonl")]}
            run_rollout(RolloutConfig.model_validate({"policy": "scripted", "problems": problems}), where)
        case "label":
            run_label(LabelConfig(chains=files_of(chains), sources=("monte_carlo",), policy="scripted"), where)
        case "pairs":
            run_pairs(PairsConfig(chains=files_of(chains), prm="scripted"), where)
        case _:
            run_evaluate(EvaluateConfig(prm="scripted", chains=files_of(chains)), where)


@pytest.mark.parametrize("kind", ["rollout", "label", "pairs", "evaluate"])
def test_pictures_are_looked_at_before_an_engine_starts(kind: str, tmp_path: Path) -> None:
    write_chains(tmp_path / "chains.jsonl", ROWS)
    write_problems(tmp_path / "problems.jsonl", noise(tmp_path / "pictures", ROWS))
    (tmp_path / "pictures" / "6.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=rf"(?s)1 of {ROWS} .*\.jsonl:7: row 'p6.*6.png'"):
        engine_stage(kind, tmp_path, context(tmp_path, kind))


def test_a_stage_that_the_first_of_several_ranks_carries_out_alone_waits_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    write_chains(tmp_path / "chains.jsonl", 2)
    intake = Intake(replace(context(tmp_path, "label"), ranks=ALONE))
    assert len(intake.seen(intake.rows_of(files_of([str(tmp_path / "chains.jsonl")]), ChainRow))) == 2


def test_a_file_whose_chains_are_all_skipped_is_told_beside_one_whose_are_not(tmp_path: Path) -> None:
    good, bad = write_chains(tmp_path / "good.jsonl", 2), write_chains(tmp_path / "b" / "bad.jsonl", 2)
    for picture in (tmp_path / "b" / "pictures").iterdir():
        picture.unlink()
    (tmp_path / "sft").mkdir()
    intake = Intake(replace(context(tmp_path, "sft"), skip_bad=True))
    assert len(chains_of(files_of([str(good)]), intake)) == 2
    with pytest.raises(InputError, match=r"bad\.jsonl: all 2 chains had to be skipped; the last: .*bad\.jsonl:2"):
        chains_of(files_of([str(bad)]), intake)


def test_many_faults_are_counted_and_some_told(tmp_path: Path) -> None:
    count = MOST_LISTED + 5
    (tmp_path / "chains.jsonl").write_text("{}\n" * count)
    intake = Intake(context(tmp_path, "sft"))
    intake.rows_of(files_of([str(tmp_path / "chains.jsonl")]), ChainRow)
    with pytest.raises(InputError, match=f"{count} of {count} chains") as caught:
        intake.settle("chains")
    assert str(caught.value).count("chains.jsonl:") == MOST_LISTED
    assert "and 5 more" in str(caught.value)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lengths_are_those_that_are_trained(architecture: Architecture, tmp_path: Path) -> None:
    write_chains(tmp_path / "chains.jsonl", 3)
    intake = Intake(context(tmp_path, "sft"))
    rows = intake.seen(intake.rows_of(files_of([str(tmp_path / "chains.jsonl")]), ChainRow))
    _, processor = load_checkpoint(build(tmp_path / "model", architecture))
    encoder, collate = TurnEncoder(processor.tokenizer), Collator(processor)
    data = {False: imitated(rows, encoder), True: judged(rows, encoder, "exact", soft=False)}
    for tagged, samples in data.items():
        lengths = Lengths(processor, encoder, intake.sizes, tagged=tagged)
        for index, row in enumerate(rows):
            assert lengths.tokens(row) == collate([samples[index]])["input_ids"].shape[1]
            assert lengths.at_most(row) >= lengths.tokens(row)


def test_the_model_s_context_is_a_limit_as_max_tokens_is(checkpoint: Path) -> None:
    config = load_checkpoint(checkpoint)[0].config
    assert room(config, 8192) == (1024, "the model's context of")
    assert room(config, 512) == (512, "max_tokens")


@pytest.mark.parametrize("kind", ["sft", "prm", "dpo"])
def test_a_checkpoint_without_the_step_tokens_names_the_stage_that_adds_them(kind: str, tmp_path: Path) -> None:
    bare = build(tmp_path / "bare", "internvl", cos_tokens=False)
    write_chains(tmp_path / "chains.jsonl", 2)
    write_pairs(tmp_path / "pairs.jsonl", 2)
    with pytest.raises(InputError, match="run the stage `tokens` on the checkpoint first"):
        run(kind, bare, tmp_path, context(tmp_path, kind))


def test_chains_without_labels_are_counted(checkpoint: Path, tmp_path: Path) -> None:
    write_chains(tmp_path / "chains.jsonl", 4)
    rows = list(read_rows(tmp_path / "chains.jsonl", ChainRow))
    write_rows(tmp_path / "chains.jsonl", [replace(rows[0], labels={}), *rows[1:]])
    where = context(tmp_path, "prm")
    run("prm", checkpoint, tmp_path, where, steps=1)
    outcome: Mapping[str, Any] = json.loads((where.folder / DONE).read_text())["outcome"]
    assert (outcome["rows"], outcome["unlabelled"]) == (4, 1)
