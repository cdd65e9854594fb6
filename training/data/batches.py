"""Which rows make a batch: by chance, or those of like length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from cos.training.config.keys import TrainingKeys
from cos.training.data.lengths import Lengths
from cos.training.data.rows import ChainRow, PairRow


class ByLength(Sampler[int]):
    """transformers' `LengthGroupedSampler` with an order that follows from the seed and the epoch: all ranks draw the
    same one, and so does a run that goes on."""

    def __init__(self, lengths: Sequence[int], at_once: int, seed: int) -> None:
        """``lengths``: tokens of each row. ``at_once``: rows of an optimiser step, over all its batches and ranks."""
        self._lengths, self._at_once, self._seed = list(lengths), at_once, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch is drawn next, from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(LengthGroupedSampler(self._at_once, lengths=self._lengths, generator=generator))


def lengths_of(data: Dataset[Any], lengths: Lengths, keys: TrainingKeys) -> list[int] | None:
    """Tokens of each row of a dataset; None where batches are not to be of like length, and for ledgers, which have no
    rows."""
    rows: Sequence[ChainRow | PairRow] | None = getattr(data, "rows", None)
    return None if rows is None or not keys.group_by_length else [lengths.tokens(row) for row in rows]
