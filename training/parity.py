"""Whether the engine's PRM scores are those of the same checkpoint in transformers, tag by tag."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cos.prm.cos import CosPrm
from cos.prm.ports import Reader
from cos.search.grammar import segment_ids
from cos.search.ports import Vocabulary
from cos.search.tasks import together
from cos.search.types import Candidate, Chain, Step
from cos.training.encode import Collator, Sample, TurnEncoder, load_checkpoint, model_inputs
from cos.training.engines import picture_of
from cos.training.progress import side_by_side
from cos.training.rollout import question_of
from cos.training.rows import ChainRow


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


def as_chain(vocabulary: Vocabulary, steps: Sequence[Step], answer: str) -> Chain:
    """A written chain as a search would hold it: one candidate a segment."""
    found: list[Candidate] = []
    for index, content in enumerate([*steps, answer]):
        path = (0,) * (index + 1)
        ids = segment_ids(vocabulary, content, first=index == 0)
        text = vocabulary.decode(ids)
        if isinstance(content, Step):
            found.append(Candidate(path=path, token_ids=ids, text=text, end="step", step=content))
        else:
            found.append(Candidate(path=path, token_ids=ids, text=text, end="answer", answer=content))
    return Chain(tuple(found))


async def engine_scores(reader: Reader, chains: Sequence[ChainRow], concurrency: int = 16) -> list[list[float | None]]:
    """P(good) at every tag of every chain, one read a tag, as a search reads them; None where it is not finite.

    Errors: InputError for a picture that cannot be read; EngineError, EngineDead.
    """
    return await side_by_side(lambda row: chain_scores(reader, row), chains, concurrency, "chains scored")


async def chain_scores(reader: Reader, row: ChainRow) -> list[float | None]:
    """The same of one chain."""
    session = await CosPrm(reader, reader.vocabulary).open(await question_of(row.problem))
    whole = as_chain(reader.vocabulary, row.steps, row.answer).candidates
    readings = await together(session.score(Chain(whole[: end + 1])) for end in range(len(whole)))
    return [reading.score for reading in readings]


def reference_scores(model_folder: str, chains: Sequence[ChainRow], dtype: str) -> list[list[float]]:
    """The same from one forward of transformers a chain, in ``float32`` or ``bfloat16``. Errors: InputError."""
    import torch

    model, processor = load_checkpoint(model_folder, dtype=getattr(torch, dtype))
    model.eval()
    encoder, collate = TurnEncoder(processor.tokenizer), Collator(processor)
    good, bad = encoder.labels
    found: list[list[float]] = []
    with torch.inference_mode():
        for row in chains:
            picture = picture_of(Path(row.problem.image).read_bytes()).image
            turn = encoder.judged(row.steps, row.answer, [None] * (len(row.steps) + 1))
            batch = collate([Sample(picture, row.problem.question, turn)])
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
