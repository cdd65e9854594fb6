"""Whether the engine's PRM scores are those of the same checkpoint in transformers, tag by tag."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cos.training.data.row_data import picture_of
from cos.training.data.rows import ChainRow
from cos.training.learning.encode import Collator, Sample, TurnEncoder, load_checkpoint, model_inputs


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag's score on both sides."""

    chain: int
    segment: int
    """The step's index; after the last step's, the answer's."""
    engine: float
    reference: float

    @property
    def gap(self) -> float:
        return abs(self.engine - self.reference)


def reference_scores(model_folder: str, chains: Sequence[ChainRow], dtype: str) -> list[list[float]]:
    """P(good) at every tag, one forward of transformers a chain, in ``float32`` or ``bfloat16``. Errors: InputError."""
    import torch

    model, processor = load_checkpoint(model_folder, dtype=getattr(torch, dtype))
    model.eval()
    encoder, collate = TurnEncoder(processor.tokenizer), Collator(processor)
    good, bad = encoder.labels
    found: list[list[float]] = []
    with torch.inference_mode():
        for row in chains:
            turn = encoder.judged(row.steps, row.answer, [None] * (len(row.steps) + 1))
            batch = collate([Sample(picture_of(row.problem), row.problem.question, turn)])
            inputs: dict[str, Any] = {
                name: value.to(model.dtype) if value.is_floating_point() else value
                for name, value in model_inputs(batch).items()
            }
            logits: Any = model(**inputs).logits[0]
            margins = (logits[:, good].float() - logits[:, bad].float())[batch["is_tag"][0]]
            found.append([float(score) for score in margins.sigmoid()])
    return found


def compared(engine: Sequence[Sequence[float | None]], reference: Sequence[Sequence[float]]) -> list[Tag]:
    """Tag by tag. Errors: ValueError for a tag that one side did not score."""
    tags: list[Tag] = []
    for chain, (ours, theirs) in enumerate(zip(engine, reference, strict=True)):
        for segment, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            if mine is None:
                raise ValueError(f"the engine has no score for segment {segment} of chain {chain}")
            tags.append(Tag(chain, segment, mine, other))
    return tags
