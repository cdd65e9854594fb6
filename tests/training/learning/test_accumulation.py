"""What a step teaches does not hang on how it is cut into batches; the paper's way, which does, is a key."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from cos.ledger.tiny_model import build_model, build_tokenizer
from cos.search.grammars.cos import Step
from cos.training.config.recipe import DpoConfig, PrmConfig, SftConfig
from cos.training.data.rows import ChainRow, PairedChain, PairRow, TagLabel, write_rows
from cos.training.learning.auxiliary_heads import LAYERS, AuxiliaryHeads, AuxiliaryLoss, deepen
from cos.training.learning.encode import IGNORED, UNJUDGED, load_checkpoint
from cos.training.learning.losses import LabelLoss
from cos.training.runs.metrics import read_metrics
from cos.training.stages.dpo import run_dpo
from cos.training.stages.prm_training import run_prm
from cos.training.stages.sft import run_sft
from tests.training.stages.test_prm_training import SHALLOW
from tests.training.tiny_models import build
from tests.training.training_support import context, problems, weights

ROWS = 8
KEYS: dict[str, Any] = {"steps": 1, "learning_rate": 1e-3, "log_every": 1, "precision": "fp32", "warmup_share": 0.0}
STAGES = ("sft", "prm", "dpo")


def uneven(index: int, *, right: bool) -> tuple[Step, ...]:
    """One step to five of letters of the row's own, few or many."""
    said = chr(ord("a") + 2 * index + right) * (1 + 12 * (index % 3))
    return tuple(Step(f"Read row {row}", said, "It has 2 digits.") for row in range(1 + (index * 3) % 5))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uneven")
    chains: list[ChainRow] = []
    pairs: list[PairRow] = []
    for index, problem in enumerate(problems(folder / "pictures", ROWS)):
        steps = uneven(index, right=True)
        labels = tuple(TagLabel(float(n < index), n < index) for n in range(len(steps) + 1))
        chains.append(
            ChainRow(id=f"c{index}", problem=problem, steps=steps, answer="5", right=True, labels={"exact": labels})
        )
        better = PairedChain(id=f"b{index}", steps=steps, answer=problem.answer)
        worse = PairedChain(id=f"w{index}", steps=uneven(ROWS - index, right=False), answer="0")
        pairs.append(PairRow(problem=problem, chosen=better, rejected=worse, chosen_score=0.9, rejected_score=0.1))
    write_rows(folder / "chains.jsonl", chains)
    write_rows(folder / "pairs.jsonl", pairs)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose tokens are of very different likelihood, so that rows differ in their mean losses."""
    folder = build(tmp_path_factory.mktemp("internvl"), "internvl")
    model, _ = load_checkpoint(folder)
    with torch.no_grad():
        cast(Any, model.get_output_embeddings()).weight.mul_(20)
    model.save_pretrained(folder)
    return folder


def trained(stage: str, checkpoint: Path, data: Path, runs: Path, **keys: Any) -> tuple[float, float, Path]:
    """Loss and gradient norm of one step, and the checkpoint it makes."""
    where = context(runs, f"{stage}-{keys['batch']}x{keys['accumulate']}")
    chains, pairs = str(data / "chains.jsonl"), str(data / "pairs.jsonl")
    more = {**KEYS, **keys}
    match stage:
        case "sft":
            run_sft(SftConfig.model_validate({"model": str(checkpoint), "data": [chains], **more}), where)
        case "prm":
            weighed = {"lm_weight": 0.3, "answer_weight": 2.0, "bad_weight": 3.0}
            given = {"model": str(checkpoint), "chains": [chains], **weighed, **more}
            run_prm(PrmConfig.model_validate(given), where)
        case _:
            given = {"policy": str(checkpoint), "pairs": [pairs], "nll_weight": 0.7, **more}
            run_dpo(DpoConfig.model_validate(given), where)
    (first, *_) = [entry for entry in read_metrics(where.folder) if "loss" in entry]
    return first["loss"], first["grad_norm"], where.folder / "model"


@pytest.mark.parametrize("stage", STAGES)
def test_eight_batches_of_one_uneven_row_teach_what_one_batch_of_eight_does(
    stage: str, checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    whole, norm, one = trained(stage, checkpoint, data, tmp_path, batch=8, accumulate=1)
    cut, same_norm, eight = trained(stage, checkpoint, data, tmp_path, batch=1, accumulate=8)
    assert cut == pytest.approx(whole, rel=1e-4)
    assert same_norm == pytest.approx(norm, rel=1e-4)
    other = weights(eight)
    before = weights(checkpoint)
    moved = torch.cat([(value - before[name]).flatten() for name, value in weights(one).items()])
    apart = torch.cat([(value - other[name]).flatten() for name, value in weights(one).items()])
    assert apart.norm() < 0.02 * moved.norm()


@pytest.mark.parametrize("stage", STAGES)
def test_the_papers_way_averages_the_means_of_batches(stage: str, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    keys = {"averaged": "micro_batch"}
    whole = trained(stage, checkpoint, data, tmp_path, batch=8, accumulate=1, **keys)[0]
    cut = trained(stage, checkpoint, data, tmp_path, batch=1, accumulate=8, **keys)[0]
    assert math.isfinite(cut)
    assert abs(cut - whole) / whole > 2e-3


def test_each_part_of_the_judging_layers_loss_is_divided_by_its_own_number_of_targets() -> None:
    """Rows of very different lengths, as one batch and one by one: the parts' sums over the numbers of all."""
    tokenizer = build_tokenizer()
    model = deepen(build_model(SHALLOW, tokenizer, seed=1), LAYERS)
    torch.manual_seed(0)
    loss = AuxiliaryLoss(AuxiliaryHeads(SHALLOW.text_width, len(tokenizer)), LabelLoss((0, 1), bad_weight=2.0))
    picture = tokenizer.get_vocab()["<IMG_CONTEXT>"]
    length, rows = 40, 3
    ids = torch.randint(10, 200, (rows, length))
    ids[:, :16] = picture
    place = torch.arange(length).expand(rows, -1)
    taught = (place > 16) & (place < torch.tensor([[20], [39], [27]]))
    is_tag = taught & (place % 3 == 1)
    should = torch.where(taught & ~is_tag, ids, IGNORED)
    should[1, 20:30:2] = 9
    should = torch.where(is_tag, IGNORED, should)
    verdict = torch.where(taught, (torch.rand(rows, length) > 0.4).float(), UNJUDGED)
    batch = {
        "input_ids": ids,
        "pixel_values": torch.rand(rows, 3, SHALLOW.image_side, SHALLOW.image_side),
        "should": should,
        "verdict": verdict,
        "is_tag": is_tag,
        "first": torch.tensor(15),
    }
    counts = loss.counts(batch)
    with torch.no_grad():
        whole = loss(model, batch)[0]
        each = [
            loss(model, {name: v if name == "first" else v[row : row + 1] for name, v in batch.items()}, counts)[0]
            for row in range(rows)
        ]
    assert sum(value.item() for value in each) == pytest.approx(whole.item(), rel=1e-4)
