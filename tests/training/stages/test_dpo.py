"""DPO: TRL's loss over our tokens is the published one, and the reference stays where it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from cos.search.errors import InputError
from cos.search.grammars.cos import Step
from cos.training.config.recipe import DpoConfig
from cos.training.data.row_data import picture_of
from cos.training.data.rows import PairedChain, PairRow, read_rows
from cos.training.learning.encode import IGNORED, Collator, TurnEncoder, load_checkpoint, model_inputs
from cos.training.learning.preference import (
    PairCollator,
    PairData,
    PreferenceTrainer,
    fuse_head,
    reference_logprobs,
    turns_of,
)
from cos.training.stages.dpo import run_dpo
from tests.training.tiny_models import build
from tests.training.training_support import context, write_pairs

PAIRS = 6


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("policy"), "internvl")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", PAIRS)


def config(policy: Path, pairs: Path, **keys: Any) -> DpoConfig:
    wanted = {"steps": 2, "batch": 3, "precision": "fp32", "learning_rate": 1e-3, "log_every": 1, **keys}
    return DpoConfig.model_validate({"policy": str(policy), "pairs": (str(pairs),), **wanted})


def prepared(keys: DpoConfig) -> tuple[Any, PairData, PairCollator]:
    model, processor = load_checkpoint(keys.policy)
    rows = list(read_rows(keys.pairs[0].path, PairRow))
    data = PairData(rows, TurnEncoder(processor.tokenizer), lambda row: picture_of(row.problem))
    return model, data, PairCollator(Collator(processor))


def logprobs(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each taught token (batch, length - 1), zero elsewhere, and which are taught: by hand."""
    inputs = {name: value for name, value in batch.items() if not name.startswith(("ref_", "completion"))}
    with torch.no_grad():
        found = model(**model_inputs(inputs)).logits.float().log_softmax(-1)[:, :-1]
    taught = batch["completion_mask"][:, 1:].bool()
    return found.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1) * taught, taught


def test_the_loss_is_sigmoid_dpo_and_a_next_token_loss_for_each_chosen_token(
    policy: Path, pairs: Path, tmp_path: Path
) -> None:
    keys = config(policy, pairs, beta=0.3, nll_weight=0.7)
    model, data, collate = prepared(keys)
    data.refer([(-90.0 - index, -101.0) for index in range(PAIRS)])
    batch = collate([data[index] for index in range(3)])
    each, taught = logprobs(model.eval(), batch)
    chosen, rejected = each.sum(1).chunk(2)
    margin = (chosen - batch["ref_chosen_logps"]) - (rejected - batch["ref_rejected_logps"])
    nll = -each[:3].sum() / taught[:3].sum()
    expected = -functional.logsigmoid(0.3 * margin).mean() + 0.7 * nll

    fuse_head(model)
    trainer = PreferenceTrainer(model, data, collate, keys, context(tmp_path, "dpo"))
    loss, numbers = trainer.preference_loss(model, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert numbers["reward_margin"] == pytest.approx(0.3 * margin.mean().item(), rel=1e-3)
    assert numbers["nll"] == pytest.approx(nll.item(), rel=1e-4)
    assert numbers["logprob_chosen"] == pytest.approx(chosen.mean().item(), rel=1e-4)
    assert numbers["reward_accuracy"] == pytest.approx((margin > 0).float().mean().item())


def test_only_the_turn_is_taught_and_its_control_tokens_are_ids(policy: Path, pairs: Path) -> None:
    _, data, collate = prepared(config(policy, pairs))
    pair = data[0]
    batch = collate([pair])
    for row, sample in enumerate((pair.chosen, pair.rejected)):
        assert batch["input_ids"][row][batch["completion_mask"][row].bool()].tolist() == sample.turn.ids


def test_nothing_is_taught_behind_the_first_step_that_differs_when_steps_are_compared(
    policy: Path, pairs: Path
) -> None:
    encoder = TurnEncoder(load_checkpoint(policy)[1].tokenizer)
    steps = [
        Step(name=f"Read row {row}", thought=f"Row {row} shows {digit}.", reflection="It has 1 digit.")
        for row, digit in enumerate("374")
    ]
    slip = replace(steps[1], thought="Row 1 shows 9.")
    better, worse = (
        PairedChain(id="b", steps=(*steps,), answer="14"),
        PairedChain(id="w", steps=(steps[0], slip), answer="12"),
    )
    row = replace(next(iter(read_rows(pairs, PairRow))), chosen=better, rejected=worse)
    for turn, written in zip(turns_of(row, encoder, first_step=True), (better, worse), strict=True):
        kept = sum(map(len, encoder.segments(written.steps, written.answer)[:2]))
        assert turn.should == [*turn.ids[:kept], *[IGNORED] * (len(turn.ids) - kept)]
    miscopied = replace(row, rejected=replace(better, id="w", answer="15"))
    for turn in (*turns_of(miscopied, encoder, first_step=True), *turns_of(row, encoder, first_step=False)):
        assert turn.should == turn.ids


def test_the_reference_is_what_the_policy_says_before_it_is_trained(policy: Path, pairs: Path, tmp_path: Path) -> None:
    keys = config(policy, pairs)
    model, data, collate = prepared(keys)
    fuse_head(model)
    data.refer(reference_logprobs(model, data, collate, 2, bf16=False))
    trainer = PreferenceTrainer(model, data, collate, keys, context(tmp_path, "dpo"))
    _, numbers = trainer.preference_loss(model, collate([data[index] for index in range(PAIRS)]))
    assert abs(numbers["reward_margin"]) < 1e-4
    assert abs(numbers["kl"]) < 1e-3


def test_the_reference_is_read_once_and_stays_the_sft_model(
    policy: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = build(tmp_path / "moved", "internvl", seed=5)
    keys = config(moved, pairs, reference=str(policy))
    run_dpo(keys, context(tmp_path, "dpo"))
    kept = (tmp_path / "dpo" / "reference.json").read_text()
    model, data, collate = prepared(config(policy, pairs))
    fuse_head(model)
    assert str(reference_logprobs(model, data, collate, 3, bf16=False)[0][0]) in kept

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the reference was computed again")

    monkeypatch.setattr("cos.training.stages.dpo.reference_logprobs", never)
    run_dpo(keys.model_copy(update={"steps": 3}), context(tmp_path, "dpo"))


def test_dpo_raises_the_chosen_chains_over_the_rejected_ones(policy: Path, pairs: Path, tmp_path: Path) -> None:
    run_dpo(config(policy, pairs, steps=12, batch=6), context(tmp_path, "dpo"))
    model, data, collate = prepared(config(policy, pairs))
    fuse_head(model)
    data.refer(reference_logprobs(model, data, collate, 6, bf16=False))
    after, _ = load_checkpoint(tmp_path / "dpo" / "model")
    fuse_head(after)
    found = reference_logprobs(after, data, collate, 6, bf16=False)
    margins = [
        (chosen - pair.reference[0]) - (rejected - pair.reference[1])
        for (chosen, rejected), pair in zip(found, (data[index] for index in range(PAIRS)), strict=True)
    ]
    assert sum(margins) / PAIRS > 1


def test_no_pairs_are_refused(policy: Path, pairs: Path, tmp_path: Path) -> None:
    empty = tmp_path / "pairs.jsonl"
    empty.write_text("")
    with pytest.raises(InputError, match="no pair to train on"):
        run_dpo(config(policy, empty), context(tmp_path, "dpo"))


@pytest.mark.parametrize("kind", ["sigmoid", "sigmoid_norm", "ipo", "hinge", "robust", "apo_zero", "apo_down", "mpo"])
def test_pairs_are_compared_by_the_loss_that_the_keys_name(
    kind: str, policy: Path, pairs: Path, tmp_path: Path
) -> None:
    """At the start, where policy and reference say the same, every loss is known; and it has a gradient."""
    smoothed = {"label_smoothing": 0.1} if kind == "robust" else {}
    keys = config(policy, pairs, beta=0.5, preference=kind, nll_weight=0.0, **smoothed)
    model, data, collate = prepared(keys)
    fuse_head(model)
    data.refer(reference_logprobs(model, data, collate, 3, bf16=False))
    trainer = PreferenceTrainer(model, data, collate, keys, context(tmp_path, kind))
    loss, _ = trainer.preference_loss(model, collate([data[index] for index in range(PAIRS)]))
    log_2 = 0.6931
    at_start = {"ipo": 1.0, "hinge": 1.0, "apo_zero": 1.0, "apo_down": 1.0, "mpo": 0.8 * log_2 + 0.2 * 2 * log_2}
    assert loss.item() == pytest.approx(at_start.get(kind, log_2), abs=1e-3)
    loss.backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_robust_needs_the_share_of_pairs_that_are_wrong(policy: Path, pairs: Path) -> None:
    with pytest.raises(ValidationError, match="robust and label_smoothing go together"):
        config(policy, pairs, preference="robust")
