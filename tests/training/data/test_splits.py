"""Policy training, PRM training and evaluation share no digit and no question; a leak is refused, or told."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cos.ledger.sight import run_sight
from cos.search.errors import InputError
from cos.search.grammars.cos import Step
from cos.training.cli import run_all
from cos.training.config.keys import LedgerSource
from cos.training.config.names import Split
from cos.training.config.recipe import (
    DpoConfig,
    EvaluateConfig,
    LabelConfig,
    PrmConfig,
    RoundsConfig,
    SftConfig,
    SightConfig,
)
from cos.training.data.rows import ChainRow, PairedChain, PairRow, ProblemRow, TagLabel, write_rows
from cos.training.data.sources import MixedChains, MixedPairs, files_of
from cos.training.data.splits import Role, check_unseen, claim, keys_of
from cos.training.runs.folder import DONE, StageContext
from cos.training.stages.dpo import run_dpo
from cos.training.stages.evaluate import run_evaluate
from cos.training.stages.label import run_label
from cos.training.stages.prm_training import run_prm
from cos.training.stages.rounds import run_rounds
from cos.training.stages.sft import run_sft
from tests.training.stages.test_label import chain as ledger_chain
from tests.training.stages.test_rounds import Fakes
from tests.training.tiny_models import build
from tests.training.training_support import context, write_problems

GOOD = TagLabel(1.0, True)
NOWHERE = "no/such/model"
"""A checkpoint that is not there: a leak is told before any is loaded."""


def problems(folder: Path, numbers: Sequence[int], digits: Split | None = None) -> list[ProblemRow]:
    """One question about pictures of one shade each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return [
        ProblemRow(id=f"p{n}", image=str(folder / f"{n}.png"), question="How dark?", answer=str(n), digits=digits)
        for n in numbers
    ]


def chains(path: Path, rows: Sequence[ProblemRow]) -> str:
    """A file of labelled, scored chains, one a problem."""
    found = [
        ChainRow(
            id=f"{row.id}/0",
            problem=row,
            steps=(Step("a", "b", "c"),),
            answer=row.answer,
            labels={"exact": (TagLabel(1.0, index % 2 == 0), TagLabel(0.0, index % 2 == 1))},
            scores=(0.9, 0.2),
        )
        for index, row in enumerate(rows)
    ]
    write_rows(path, found)
    return str(path)


def pairs(path: Path, rows: Sequence[ProblemRow]) -> str:
    """A file of pairs, one a problem."""
    found = [
        PairRow(
            problem=row,
            chosen=PairedChain(id=f"{row.id}/0", steps=(), answer="1"),
            rejected=PairedChain(id=f"{row.id}/1", steps=(), answer="2"),
            chosen_score=1,
            rejected_score=0,
        )
        for row in rows
    ]
    write_rows(path, found)
    return str(path)


def record(runs: Path, name: str) -> dict[str, Any]:
    return json.loads((runs / "splits" / f"{name}.json").read_text())


def test_the_same_question_about_the_same_picture_has_one_key(tmp_path: Path) -> None:
    (row, other), (copy,) = problems(tmp_path / "a", [1, 2]), problems(tmp_path / "b", [1])
    assert keys_of([row]).keys() == keys_of([copy]).keys(), "wherever the picture stands"
    assert keys_of([row]).keys() == keys_of([replace(row, question="How  dark?\n")]).keys()
    assert len(keys_of([row, other, replace(row, question="How light?")])) == 3
    assert all(len(key) == 16 for key in keys_of([row]))
    lost = replace(row, image=str(tmp_path / "lost.png"))
    assert keys_of([lost]) == keys_of([lost]) != keys_of([row]), "whether a missing picture matters, others say"


def test_of_big_pictures_the_beginning_and_the_size_count(tmp_path: Path) -> None:
    (row,) = problems(tmp_path, [1])
    keys: list[str] = []
    for name, data in {"a": bytes(200_000), "b": bytes(200_001), "c": bytes(199_999) + b"x"}.items():
        (tmp_path / name).write_bytes(data)
        keys += keys_of([replace(row, image=str(tmp_path / name))])
    assert keys[0] == keys[2] != keys[1]


def test_a_leak_names_how_many_questions_the_first_both_stages_and_the_ways_out(tmp_path: Path) -> None:
    claim(context(tmp_path, "sft"), "policy", problems(tmp_path / "a", [1, 2, 3]))
    with pytest.raises(InputError) as caught:
        claim(context(tmp_path, "prm"), "prm", problems(tmp_path / "b", [4, 3, 2]))
    told = str(caught.value)
    assert "stage 'prm' (PRM training) and stage 'sft' (policy training) share 2 questions, the first 'p3';" in told
    assert f"remove {tmp_path / 'splits' / 'sft.json'}" in told
    assert "leaks: report" in told
    assert not (tmp_path / "splits" / "prm.json").exists(), "what is refused uses nothing"


@pytest.mark.parametrize("roles", [("policy", "prm"), ("evaluation", "policy"), ("prm", "evaluation")])
def test_digits_are_compared_without_any_question(tmp_path: Path, roles: tuple[Role, Role]) -> None:
    claim(context(tmp_path, "first"), roles[0], digits=("prm",))
    with pytest.raises(InputError, match="share the digits 'prm'"):
        claim(context(tmp_path, "second"), roles[1], problems(tmp_path, [1], digits="prm"))


def test_stages_of_one_role_may_share_everything(tmp_path: Path) -> None:
    rows = problems(tmp_path, [1, 2], digits="policy")
    for name in ("sft", "dpo"):
        assert claim(context(tmp_path, name), "policy", rows) == {}
    assert record(tmp_path, "dpo") == record(tmp_path, "sft")
    assert record(tmp_path, "sft")["digits"] == ["policy"]


def test_a_stage_that_runs_again_is_not_compared_with_itself_and_rewrites_its_record(tmp_path: Path) -> None:
    one, two = problems(tmp_path, [1, 2])
    where = context(tmp_path, "stage")
    claim(where, "policy", [one])
    claim(where, "prm", [one])
    claim(where, "prm", [two])
    assert record(tmp_path, "stage")["role"] == "prm"
    assert claim(context(tmp_path, "other"), "policy", [one]) == {}


def test_parts_of_rounds_have_records_of_their_own(tmp_path: Path) -> None:
    one, two = problems(tmp_path, [1, 2])
    for number, row in ((1, one), (2, two)):
        claim(replace(context(tmp_path, "x"), folder=tmp_path / "rounds" / f"round-{number}" / "dpo"), "policy", [row])
    assert record(tmp_path, "rounds/round-1/dpo") != record(tmp_path, "rounds/round-2/dpo")
    with pytest.raises(InputError, match=r"stage 'rounds/round-2/dpo' \(policy training\)"):
        claim(context(tmp_path, "prm"), "prm", [two])


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "sft.json").write_text("{}")
    with pytest.raises(InputError, match=r"splits/sft\.json is no record"):
        claim(context(tmp_path, "prm"), "prm")


def test_reported_leaks_are_told_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = problems(tmp_path, [1, 2], digits="prm")
    claim(context(tmp_path, "sft"), "policy", rows)
    where = replace(context(tmp_path, "prm"), leaks="report")
    assert claim(where, "prm", rows[1:]) == {"leaks": {"sft": {"questions": 1, "digits": ["prm"]}}}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("leak: stage 'prm' (PRM training) and stage 'sft'")
    assert line.endswith("share the digits 'prm' and 1 question, the first 'p2'")


def foreign(tmp_path: Path, role: Role, rows: Sequence[ProblemRow]) -> str:
    """A checkpoint of another run, whose stage has used some questions."""
    where = context(tmp_path / "theirs", "stage")
    claim(where, role, rows)
    (where.folder / "model").mkdir(parents=True)
    (where.folder / DONE).write_text("{}")
    return str(where.folder / "model")


def test_a_checkpoint_of_another_run_brings_what_that_run_trained_on(tmp_path: Path) -> None:
    rows = problems(tmp_path, [1])
    policy = foreign(tmp_path, "policy", rows)
    assert check_unseen(context(tmp_path / "ours", "label"), rows) == {}
    with pytest.raises(InputError, match=r"stage 'label' \(labels\) and stage '.*/theirs/stage'"):
        check_unseen(context(tmp_path / "ours", "label"), rows, (policy, None, "a/hub-name"))


def test_what_another_run_was_evaluated_on_is_no_leak(tmp_path: Path) -> None:
    rows = problems(tmp_path, [1])
    assert claim(context(tmp_path / "ours", "sft"), "policy", rows, (), (foreign(tmp_path, "evaluation", rows),)) == {}


def sft(where: StageContext, rows: Sequence[ProblemRow], **keys: Any) -> None:
    data = (chains(where.runs / "sft.jsonl", rows),)
    run_sft(SftConfig(model=NOWHERE, data=tuple(MixedChains(path=path) for path in data), steps=1, **keys), where)


def reader(where: StageContext, rows: Sequence[ProblemRow]) -> None:
    sft(where, rows, trains="prm")


def prm(where: StageContext, rows: Sequence[ProblemRow]) -> None:
    run_prm(
        PrmConfig(model=NOWHERE, chains=(MixedChains(path=chains(where.runs / "prm.jsonl", rows)),), steps=1), where
    )


def dpo(where: StageContext, rows: Sequence[ProblemRow]) -> None:
    run_dpo(
        DpoConfig(policy=NOWHERE, pairs=(MixedPairs(path=pairs(where.runs / "pairs.jsonl", rows)),), steps=1), where
    )


def rounds(where: StageContext, rows: Sequence[ProblemRow]) -> None:
    data = [str(write_problems(where.runs / "problems.jsonl", rows))]
    given = {"policy": NOWHERE, "rollout": {"problems": {"data": data}}, "pairs": {}, "dpo": {"steps": 1}}
    run_rounds(RoundsConfig.model_validate(given), where, Fakes(Path(NOWHERE), breaks_at="round-1/rollout").stages())


def judged(where: StageContext, rows: Sequence[ProblemRow]) -> None:
    files = (chains(where.runs / "judged.jsonl", rows),)
    run_evaluate(EvaluateConfig(prm=NOWHERE, chains=files_of(files), stored_scores=True, calibration_share=0), where)


def asked(where: StageContext, rows: Sequence[ProblemRow]) -> None:
    data = (str(write_problems(where.runs / "problems.jsonl", rows)),)
    given = {"policy": NOWHERE, "problems": {"data": data}}
    run_evaluate(EvaluateConfig.model_validate(given), where)


def label(where: StageContext, rows: Sequence[ProblemRow]) -> None:
    run_label(LabelConfig(chains=files_of([chains(where.runs / "drawn.jsonl", rows)])), where)


@pytest.mark.parametrize(
    ("stage", "other"),
    [
        (sft, "prm"),
        (sft, "evaluation"),
        (reader, "policy"),
        (prm, "policy"),
        (prm, "evaluation"),
        (dpo, "prm"),
        (rounds, "evaluation"),
        (judged, "prm"),
        (asked, "policy"),
        (label, "policy"),
    ],
)
def test_every_stage_refuses_questions_of_another_role(
    stage: Callable[[StageContext, Sequence[ProblemRow]], None], other: Role, tmp_path: Path
) -> None:
    rows = problems(tmp_path / "pictures", [1, 2, 3, 4])
    claim(context(tmp_path, "other"), other, rows[3:])
    where = context(tmp_path, "stage")
    with pytest.raises(InputError, match=r"stage 'stage' .* and stage 'other' .* share 1 question, the first 'p4'"):
        stage(where, rows)
    assert not where.is_done


@pytest.mark.parametrize("kind", ["sight", "sft", "prm", "rounds"])
def test_every_stage_refuses_digits_of_another_role(kind: str, tmp_path: Path) -> None:
    claim(context(tmp_path, "held-out"), "evaluation", digits=("prm",))
    where, ledger = context(tmp_path, kind), LedgerSource(digits="prm", problems=2)
    given = {"policy": NOWHERE, "rollout": {"problems": {"ledger": ledger}}, "pairs": {}, "dpo": {"steps": 1}}
    stages: dict[str, Callable[[], None]] = {
        "sight": lambda: run_sight(SightConfig(role="prm", steps=1), where),
        "sft": lambda: run_sft(SftConfig(model=NOWHERE, ledger=ledger, steps=1), where),
        "prm": lambda: run_prm(PrmConfig(model=NOWHERE, ledger=ledger, steps=1), where),
        "rounds": lambda: run_rounds(RoundsConfig.model_validate(given), where),
    }
    with pytest.raises(InputError, match=r"stage 'held-out' .* share the digits 'prm'"):
        stages[kind]()


def test_questions_seen_in_training_may_be_measured_apart(tmp_path: Path) -> None:
    seen, unseen = problems(tmp_path / "a", [1, 2, 3, 4]), problems(tmp_path / "b", [5, 6, 7, 8])
    claim(context(tmp_path, "prm"), "prm", seen)
    where = context(tmp_path, "evaluate")
    new, old = chains(tmp_path / "new.jsonl", unseen), chains(tmp_path / "old.jsonl", seen)
    keys = EvaluateConfig(
        prm=NOWHERE, stored_scores=True, calibration_share=0, chains=files_of([new]), seen_chains=files_of([old])
    )
    run_evaluate(keys, where)
    assert where.is_done
    assert record(tmp_path, "evaluate")["questions"] == sorted(keys_of(unseen))


def test_done_json_counts_what_is_reported(tmp_path: Path) -> None:
    rows = problems(tmp_path / "pictures", [1, 2, 3, 4])
    claim(context(tmp_path, "prm"), "prm", rows[:2])
    claim(context(tmp_path, "dpo"), "policy", rows[2:3])
    shared = {"prm": {"questions": 2, "digits": []}, "dpo": {"questions": 1, "digits": []}}
    judged(replace(context(tmp_path, "evaluate"), leaks="report"), rows)
    label(replace(context(tmp_path, "label"), leaks="report"), [ledger_chain(tmp_path, 0).problem])
    model = build(tmp_path / "tiny", "internvl")
    data = (chains(tmp_path / "sft.jsonl", rows),)
    keys = SftConfig(model=str(model), data=tuple(MixedChains(path=path) for path in data), steps=1, precision="fp32")
    run_sft(keys, replace(context(tmp_path, "sft"), leaks="report"))
    told = {name: json.loads((tmp_path / name / DONE).read_text())["outcome"] for name in ("evaluate", "sft", "label")}
    assert told["evaluate"]["leaks"] == shared
    assert told["sft"]["leaks"]["evaluate"]["questions"] == 4
    assert "leaks" not in told["label"]


RECIPE = """
name: small
runs: {runs}
{more}
stages:
  - {{stage: label, chains: [{chains}]}}
  - {{stage: evaluate, prm: none, stored_scores: true, calibration_share: 0, chains: [{judged}]}}
"""


def test_a_recipe_says_what_becomes_of_leaks_and_runs_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = problems(tmp_path / "pictures", [1, 2, 3, 4])
    write_rows(tmp_path / "chains.jsonl", [ledger_chain(tmp_path, 0)])
    file, runs = tmp_path / "recipe.yaml", tmp_path / "runs"
    claim(context(runs, "sft"), "policy", [rows[0], ledger_chain(tmp_path, 0).problem])

    def write(more: str) -> None:
        paths = {"chains": tmp_path / "chains.jsonl", "judged": chains(tmp_path / "judged.jsonl", rows)}
        file.write_text(RECIPE.format(runs=runs, more=more, **paths))

    write("")
    with pytest.raises(InputError, match=r"stage 'label' \(labels\)"):
        run_all(str(file))
    write("leaks: report")
    for _ in range(2):
        run_all(str(file), json_only=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"stage')]
    assert [line["leaks"]["sft"]["questions"] for line in lines] == [1, 1, 1, 1]
