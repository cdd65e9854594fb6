"""Iterative DPO: which policy writes, which is trained, which is the reference, and that nothing is done twice."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cos.search.errors import InputError
from cos.training.config.recipe import DpoConfig, PairsConfig, RolloutConfig, RoundsConfig
from cos.training.data.rows import ProblemRow, read_rows
from cos.training.runs.folder import StageContext, StageRun
from cos.training.stages.rounds import Stages, deal, run_rounds
from tests.training.chains_support import problems
from tests.training.tiny_models import build
from tests.training.training_support import context, write_problems


@dataclass
class Fakes:
    """Stages that write down what they were asked and write nothing but an end (and a policy)."""

    sft: Path
    breaks_at: str = ""
    asked: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])

    def _work(self, kind: str, config: Any, context: StageContext) -> None:
        name = f"{context.folder.parent.name}/{kind}"
        if name == self.breaks_at:
            raise KeyboardInterrupt
        self.asked.append((name, config))
        with StageRun(context, kind) as run:
            if kind == "dpo":
                shutil.copytree(self.sft, context.folder / "model")
            run.finish(outcome={"seed": context.seed})

    def stages(self) -> Stages:
        def rollout(config: RolloutConfig, context: StageContext) -> None:
            self._work("rollout", config, context)

        def pairs(config: PairsConfig, context: StageContext) -> None:
            self._work("pairs", config, context)

        def dpo(config: DpoConfig, context: StageContext) -> None:
            self._work("dpo", config, context)

        return Stages(rollout, pairs, dpo)

    def of(self, kind: str) -> list[Any]:
        return [config for name, config in self.asked if name.endswith(f"/{kind}")]


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("sft"), "internvl")


def config(sft: Path, **keys: Any) -> RoundsConfig:
    given: dict[str, Any] = {
        "policy": str(sft),
        "prm": str(sft),
        "rounds": 2,
        "rollout": {"problems": {"ledger": {"digits": "policy", "problems": 4}}},
        "pairs": {"gap": 0.1},
        "dpo": {"epochs": 1},
    }
    return RoundsConfig.model_validate({**given, **keys})


def test_a_prm_that_is_still_to_be_trained_is_named_before_anything_is_drawn(sft: Path, tmp_path: Path) -> None:
    fakes = Fakes(sft)
    with pytest.raises(InputError, match=r"prm prm/model: there is no .*/prm/model; run the stage that writes it"):
        run_rounds(config(sft, prm="prm/model"), context(tmp_path, "rounds"), fakes.stages())
    assert not fakes.asked


def test_every_round_writes_with_the_newest_policy_and_refers_to_the_sft_model(sft: Path, tmp_path: Path) -> None:
    fakes = Fakes(sft)
    run_rounds(config(sft), context(tmp_path, "rounds"), fakes.stages())
    after_first = str(tmp_path / "rounds" / "round-1" / "dpo" / "model")
    assert [asked.policy for asked in fakes.of("rollout")] == [str(sft), after_first]
    assert [asked.policy for asked in fakes.of("dpo")] == [str(sft), after_first]
    assert [asked.reference for asked in fakes.of("dpo")] == [str(sft), str(sft)]
    assert (tmp_path / "rounds" / "model" / "config.json").is_file()
    outcome = json.loads((tmp_path / "rounds" / "done.json").read_text())["outcome"]
    assert list(outcome) == ["round-1", "round-2"]


def test_a_round_can_start_from_the_sft_model_again(sft: Path, tmp_path: Path) -> None:
    fakes = Fakes(sft)
    run_rounds(config(sft, weights="restart"), context(tmp_path, "rounds"), fakes.stages())
    assert [asked.policy for asked in fakes.of("dpo")] == [str(sft), str(sft)]
    assert fakes.of("rollout")[1].policy != str(sft)


def test_rounds_ask_different_questions_with_different_seeds(sft: Path, tmp_path: Path) -> None:
    fakes = Fakes(sft)
    run_rounds(config(sft), context(tmp_path, "rounds"), fakes.stages())
    seeds = [asked.problems.ledger.seed for asked in fakes.of("rollout")]
    assert len(set(seeds)) == 2
    assert [asked.problems.ledger.problems for asked in fakes.of("rollout")] == [4, 4]


def test_problems_of_files_are_dealt_out_among_the_rounds(sft: Path, tmp_path: Path) -> None:
    path = write_problems(tmp_path / "problems.jsonl", problems(tmp_path / "pictures", 7))
    fakes = Fakes(sft)
    keys = config(sft, rollout={"problems": {"data": [str(path)]}})
    run_rounds(keys, context(tmp_path, "rounds"), fakes.stages())
    parts = [[row.id for row in read_rows(asked.problems.data[0], ProblemRow)] for asked in fakes.of("rollout")]
    assert sorted(parts[0] + parts[1]) == [f"p{number}" for number in range(7)]
    assert not set(parts[0]) & set(parts[1])


@pytest.mark.parametrize("part", ["round-1/pairs", "round-1/dpo", "round-2/rollout", "round-2/dpo"])
def test_a_run_that_was_stopped_goes_on_where_it_stopped(sft: Path, tmp_path: Path, part: str) -> None:
    whole = Fakes(sft)
    run_rounds(config(sft), context(tmp_path, "whole"), whole.stages())
    names = [name for name, _ in whole.asked]
    first = Fakes(sft, breaks_at=part)
    with pytest.raises(KeyboardInterrupt):
        run_rounds(config(sft), context(tmp_path, "broken"), first.stages())
    second = Fakes(sft)
    run_rounds(config(sft), context(tmp_path, "broken"), second.stages())
    assert [name for name, _ in first.asked + second.asked] == names


def test_keys_that_every_round_sets_are_refused(sft: Path) -> None:
    with pytest.raises(ValidationError, match="dpo: leave out reference"):
        config(sft, dpo={"epochs": 1, "reference": str(sft)})


def test_fewer_problems_than_rounds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 problems cannot be dealt out among 2 rounds"):
        deal(problems(tmp_path, 1), 1, 2, 0)
