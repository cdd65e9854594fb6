"""What a row says is plain text in training, as it is in serving."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AddedToken, AutoProcessor

from cos.engines.vocabulary import HfVocabulary
from cos.search.errors import InputError
from cos.search.grammars.cos import COS_TOKENS, Step
from cos.training.data.rows import ChainRow, PairRow, read_rows, write_rows
from cos.training.learning.encode import Collator, Sample, Turn, TurnEncoder
from tests.training.stages.test_smoke import metrics, run
from tests.training.tiny_models import ARCHITECTURES, CHAT, IMAGE, Architecture, build
from tests.training.training_support import context, write_chains, write_pairs

ALL = {kind: (*CHAT, *IMAGE[kind], *COS_TOKENS) for kind in ARCHITECTURES}
"""Every control token of an architecture's tokenizer."""
SPELT = {kind: f"What do {' '.join(ALL[kind])}{ALL[kind][-1]} mean?" for kind in ARCHITECTURES}
"""A question that spells all of them."""
CHAINS = 12
KEYS: dict[str, Any] = {"steps": 6, "batch": 2}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(architecture: Architecture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("model"), architecture)


def noise(side: int = 56) -> Image.Image:
    return Image.effect_noise((side, side), 80).convert("RGB")


def spelling(rows: Sequence[ChainRow] | Sequence[PairRow], question: str) -> list[Any]:
    """The rows, the third of them with another question."""
    return [
        replace(row, problem=replace(row.problem, question=question)) if index == 2 else row
        for index, row in enumerate(rows)
    ]


def write_data(folder: Path, question: str) -> Path:
    """A folder with chains.jsonl and pairs.jsonl, one question of each is ``question``."""
    folder.mkdir()
    chains, pairs = write_chains(folder / "chains.jsonl", CHAINS), write_pairs(folder / "pairs.jsonl", CHAINS)
    write_rows(chains, spelling(list(read_rows(chains, ChainRow)), question))
    write_rows(pairs, spelling(list(read_rows(pairs, PairRow)), question))
    return folder


def test_what_a_chain_says_holds_no_control_id(architecture: Architecture, checkpoint: Path) -> None:
    processor: Any = AutoProcessor.from_pretrained(checkpoint)
    vocabulary, encoder = HfVocabulary(processor.tokenizer), TurnEncoder(processor.tokenizer)
    plain, spelt = (
        encoder.judged([Step(text, text, text)], text, [1.0, 0.0]).ids for text in ("words", SPELT[architecture])
    )
    controls = {vocabulary.control_id(token) for token in ALL[architecture]}
    assert [token for token in spelt if token in controls] == [token for token in plain if token in controls]


def test_a_control_token_of_one_character_is_plain_text_in_questions_and_chains(checkpoint: Path) -> None:
    processor: Any = AutoProcessor.from_pretrained(checkpoint)
    processor.tokenizer.add_tokens([AddedToken("◆", normalized=False, special=True)])
    mark = HfVocabulary(processor.tokenizer).control_id("◆")
    turn = TurnEncoder(processor.tokenizer).judged([Step("a ◆", "◆", "◆ b")], "◆", [1.0, 0.0])
    ids = Collator(processor)([Sample(noise(), "What does ◆ mean?", turn)])["input_ids"][0].tolist()
    assert mark is not None
    assert mark not in ids
    assert processor.tokenizer.decode(ids).count("◆") == 5


@pytest.mark.parametrize("stage", ["sft", "prm", "dpo"])
def test_a_question_that_spells_control_tokens_is_trained_on_in_every_planned_step(
    stage: str, architecture: Architecture, checkpoint: Path, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", SPELT[architecture])
    where = context(tmp_path, stage)
    run(stage, checkpoint, data, where, **KEYS)
    assert [entry["step"] for entry in metrics(where.folder) if "loss" in entry] == [1, 2, 3, 4, 5, 6]
    assert where.is_done


def test_pictures_of_a_batch_stay_with_their_questions(architecture: Architecture, checkpoint: Path) -> None:
    processor: Any = AutoProcessor.from_pretrained(checkpoint)
    turn = TurnEncoder(processor.tokenizer).chain([], "2")
    collate = Collator(processor)
    samples = [Sample(noise(), question, turn) for question in ("One?", SPELT[architecture], "And the third?")]
    together = collate(samples)
    alone = [collate([sample]) for sample in samples]
    pixels = torch.cat([batch["pixel_values"] for batch in alone])
    assert torch.equal(together["pixel_values"], pixels)
    for row, batch in zip(together["input_ids"], alone, strict=True):
        width = batch["input_ids"].shape[1]
        assert torch.equal(row[:width], batch["input_ids"][0])


def test_a_chat_template_that_the_tokenizer_alone_has_is_trained_with(checkpoint: Path) -> None:
    turn, processor = Turn([1], [1], [-1.0], [False]), AutoProcessor.from_pretrained(checkpoint)
    expected = Collator(processor)([Sample(noise(), "How many?", turn)])["input_ids"]
    processor.tokenizer.chat_template, processor.chat_template = processor.chat_template, None
    assert torch.equal(Collator(processor)([Sample(noise(), "How many?", turn)])["input_ids"], expected)


def without_padding(checkpoint: Path, folder: Path, *gone: str) -> Path:
    """The checkpoint without some of its tokenizer's named tokens."""
    processor: Any = AutoProcessor.from_pretrained(checkpoint)
    for name in gone:
        setattr(processor.tokenizer, name, None)
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    processor.save_pretrained(folder)
    return folder


def test_a_tokenizer_without_a_padding_token_is_padded_with_its_end_of_turn_and_left_as_it_is(
    checkpoint: Path, tmp_path: Path
) -> None:
    bare = without_padding(checkpoint, tmp_path / "bare", "pad_token")
    where = context(tmp_path, "prm")
    run("prm", bare, write_data(tmp_path / "data", "A question that is longer than the others are?"), where)
    assert where.is_done
    written: Any = AutoProcessor.from_pretrained(where.folder / "model")
    assert written.tokenizer.pad_token is None


def test_a_tokenizer_that_has_nothing_to_pad_with_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    bare = without_padding(checkpoint, tmp_path / "bare", "pad_token", "eos_token")
    with pytest.raises(InputError, match="has no eos_token; set one"):
        Collator(AutoProcessor.from_pretrained(bare))
