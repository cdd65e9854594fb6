"""The judge in training: what its heads are asked, and that it begins as the reader it is built on."""

import random
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from cos.ledger.chains import clumsy_turn
from cos.ledger.task import clumsy, derive, sample_problem
from cos.ledger.tiny_model import Size, build_model, build_processor, build_tokenizer
from cos.search.errors import InputError
from cos.search.grammars.cos import Step
from cos.training.config.recipe import PrmConfig
from cos.training.data.row_data import good_to_bad, taught_labels
from cos.training.data.rows import ChainRow, ProblemRow, TagLabel
from cos.training.learning.auxiliary_heads import (
    LAYERS,
    AuxiliaryHeads,
    AuxiliaryLoss,
    deepen,
    head_logits,
    residual_streams,
)
from cos.training.learning.encode import IGNORED, UNJUDGED, Collator, Sample, TurnEncoder
from cos.training.learning.losses import LabelLoss, turn_logits
from cos.training.learning.trainer import text_layers
from cos.training.runs.folder import StageContext
from cos.training.stages.prm_training import with_judging_layers

SHALLOW = Size(image_side=56, vision_width=64, vision_layers=1, text_width=128, text_layers=2, text_mlp=64)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def batch(tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    rng, encoder = random.Random(5), TurnEncoder(tokenizer)
    problems = [sample_problem(rng) for _ in range(4)]
    pictures = torch.randint(0, 255, (4, 3, 112, 112), dtype=torch.uint8)
    collate = Collator(build_processor(SHALLOW, tokenizer))
    return collate(
        [
            Sample(picture, problem.question, clumsy_turn(encoder, problem, rng))
            for picture, problem in zip(pictures, problems, strict=True)
        ]
    )


def judge_loss(tokenizer: PreTrainedTokenizerFast) -> AuxiliaryLoss:
    torch.manual_seed(0)
    return AuxiliaryLoss(AuxiliaryHeads(SHALLOW.text_width, len(tokenizer)), LabelLoss(TurnEncoder(tokenizer).labels))


def test_a_deeper_model_reads_as_the_one_below_its_judging_layers(
    tokenizer: PreTrainedTokenizerFast, batch: dict[str, Tensor]
) -> None:
    reader = build_model(SHALLOW, tokenizer, seed=1)
    deeper = deepen(reader, LAYERS)
    with torch.no_grad():
        (read,) = residual_streams(deeper, batch, [SHALLOW.text_layers])
        first = int(batch["first"])
        assert torch.allclose(head_logits(deeper, read)[:, first:], turn_logits(reader, batch), atol=1e-4)


def test_every_loss_reaches_its_layer(tokenizer: PreTrainedTokenizerFast, batch: dict[str, Tensor]) -> None:
    deeper = deepen(build_model(SHALLOW, tokenizer, seed=3), LAYERS)
    loss = judge_loss(tokenizer)
    value, numbers = loss(deeper, batch)
    value.backward()  # pyright: ignore[reportUnknownMemberType]
    layers = cast(Any, deeper).model.language_model.layers
    assert all(layer.self_attn.q_proj.weight.grad is not None for layer in layers)
    assert all(parameter.grad is not None for parameter in loss.heads.parameters())
    assert {"reading", "tag_accuracy", "here", "departures_found"} <= numbers.keys()


def test_labels_are_taught_at_the_tag_itself_and_nowhere_else() -> None:
    loss = LabelLoss((0, 1))
    is_tag = torch.tensor([[False, True, False, True]])
    turn = {"is_tag": is_tag, "verdict": torch.tensor([[UNJUDGED, 1.0, UNJUDGED, 0.0]])}
    margins = torch.tensor([[9.0, 2.0, -9.0, -3.0]])
    expected = (functional.softplus(torch.tensor(-2.0)) + functional.softplus(torch.tensor(-3.0))) / 2
    value, numbers = loss.over(margins, turn)
    assert value.item() == pytest.approx(expected.item())
    assert numbers == {"tag_accuracy": 1.0, "bad_found": 1.0}


def test_the_answer_tag_may_weigh_more() -> None:
    turn = {"is_tag": torch.tensor([[True, True]]), "verdict": torch.tensor([[1.0, 0.0]])}
    margins = torch.tensor([[0.0, 5.0]])
    only_step = LabelLoss((0, 1), answer_weight=0.0).over(margins, turn)[0].item()
    both = LabelLoss((0, 1), answer_weight=3.0).over(margins, turn)[0].item()
    assert only_step == pytest.approx(functional.softplus(torch.tensor(0.0)).item())
    assert both == pytest.approx((only_step + 3 * functional.softplus(torch.tensor(5.0)).item()) / 4)


def test_bad_tags_may_weigh_more() -> None:
    turn = {"is_tag": torch.tensor([[True, True]]), "verdict": torch.tensor([[1.0, 0.0]])}
    margins = torch.tensor([[1.0, 2.0]])
    good, bad = (functional.softplus(torch.tensor(value)).item() for value in (-1.0, 2.0))
    value = LabelLoss((0, 1), bad_weight=3.0).over(margins, turn)[0].item()
    assert value == pytest.approx((good + 3 * bad) / 4)


def test_noise_moves_the_stream_a_little_and_every_time_differently(
    tokenizer: PreTrainedTokenizerFast, batch: dict[str, Tensor]
) -> None:
    model = build_model(SHALLOW, tokenizer, seed=1)
    with torch.no_grad():
        clean, first, second = (
            residual_streams(model, batch, [SHALLOW.text_layers], noise)[0] for noise in (0.0, 0.004, 0.004)
        )
    assert not torch.equal(first, second)
    assert 0 < (first - clean).norm() / clean.norm() < 0.02


def test_judging_layers_can_be_trained_further(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    reader = build_model(SHALLOW, tokenizer, seed=1)
    keys = {"model": "reader", "judging_layers": True, "ledger": {"digits": "prm"}, "steps": 1}
    context = StageContext(folder=tmp_path / "prm", runs=tmp_path)
    judge, heads = with_judging_layers(reader, PrmConfig.model_validate(keys), context)
    assert len(text_layers(judge)) == SHALLOW.text_layers + LAYERS
    further = PrmConfig.model_validate(keys | {"judging_heads": "prm-1/heads.safetensors"})
    with pytest.raises(InputError, match=r"no heads at .*prm-1/heads.safetensors"):
        with_judging_layers(judge, further, context)
    (tmp_path / "prm-1").mkdir()
    save_file(heads.state_dict(), tmp_path / "prm-1" / "heads.safetensors")
    same, found = with_judging_layers(judge, further, context)
    assert same is judge
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in heads.state_dict().items())


def test_a_batch_without_labels_is_an_error_and_no_zero_loss() -> None:
    turn = {"is_tag": torch.tensor([[True]]), "verdict": torch.tensor([[UNJUDGED]])}
    with pytest.raises(ValueError, match="no labelled tag"):
        LabelLoss((0, 1)).over(torch.zeros(1, 1), turn)


def test_what_should_stand_there_differs_where_a_clumsy_writer_erred(batch: dict[str, Tensor]) -> None:
    known = batch["should"] != IGNORED
    differ = known & (batch["should"] != batch["input_ids"])
    assert differ.any()
    assert (batch["verdict"][differ] == 0.0).all()


def test_a_clumsy_writer_errs_at_every_kind_of_place() -> None:
    rng = random.Random(3)
    problems = [sample_problem(rng) for _ in range(300)]
    misread = [derive(p, clumsy(rng, 0.3, 0.0)) for p in problems]
    miscounted = [derive(p, clumsy(rng, 0.0, 0.3)) for p in problems]
    gold = [derive(p) for p in problems]
    for written, reads in ((misread, True), (miscounted, False)):
        wrong = [
            (a, b) for w, g in zip(written, gold, strict=True) for a, b in zip(w.steps, g.steps, strict=False) if a != b
        ]
        assert any(a.name.startswith("Read row") for a, _ in wrong) is reads
        assert {a.name.split()[0] for a, _ in wrong} >= {"Add", "Subtract", "Compare", "Check"}


def labelled(*good: bool) -> ChainRow:
    problem = ProblemRow(id="p", image="p.png", question="How many?", answer="1")
    steps = tuple(Step(f"Step {number}", "Something.", "It fits.") for number in range(len(good) - 1))
    labels = tuple(TagLabel(0.9 if one else 0.2, one) for one in good)
    return ChainRow(id="p/0", problem=problem, steps=steps, answer="1", right=good[-1], labels={"exact": labels})


def test_nothing_is_taught_behind_the_first_bad_tag_where_the_keys_say_so() -> None:
    row = labelled(True, False, True, False)
    assert taught_labels(row, "exact", soft=False, until_error=True) == [1.0, 0.0, None, None]
    assert taught_labels(row, "exact", soft=True, until_error=False) == [0.9, 0.2, 0.9, 0.2]
    assert taught_labels(labelled(True, True), "exact", soft=False, until_error=True) == [1.0, 1.0]


def test_good_and_bad_tags_count_the_same_where_they_are_balanced() -> None:
    rows = [labelled(True, True, True), labelled(True, False, False)]
    assert good_to_bad(rows, "exact", soft=False, until_error=False) == pytest.approx(4 / 2)
    assert good_to_bad(rows, "exact", soft=False, until_error=True) == pytest.approx(4 / 1)
    with pytest.raises(InputError, match="3 tags are good and 0 bad"):
        good_to_bad(rows[:1], "exact", soft=False, until_error=False)
