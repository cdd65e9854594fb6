"""How many tokens a row has, without running the processor for every picture: what a picture takes follows from its
size, so one of each size is enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from PIL import Image

from cos.search.errors import InputError
from cos.training.data.preflight import Intake, problem_of
from cos.training.data.rows import ChainRow, PairedChain, PairRow
from cos.training.learning.encode import Collator, Sample, Turn, TurnEncoder

Row = TypeVar("Row", ChainRow, PairRow)


class Lengths:
    """Tokens of chains and pairs as they are trained: prompt, picture and turn."""

    def __init__(
        self,
        processor: Any,
        encoder: TurnEncoder,
        sizes: Mapping[str, tuple[int, int]],
        *,
        tagged: bool = False,
    ) -> None:
        """``sizes``: width and height of every picture, pixels (`cos.training.data.preflight.Intake.sizes`).
        ``tagged``: whether a tag stands behind every segment (as a PRM learns) or an end behind the last."""
        self._collate, self._encoder, self._sizes = Collator(processor), encoder, sizes
        self._tagged = tagged
        self._prompts: dict[tuple[int, int] | None, int] = {}

    def tokens(self, row: ChainRow | PairRow) -> int:
        """Tokens of a chain, or of the longer chain of a pair."""
        return self._prompt(row) + max(map(self._turn, _chains_of(row)))

    def at_most(self, row: ChainRow | PairRow) -> int:
        """A bound from above, without tokenising the turn: no tokenizer makes more tokens than a text has bytes, and
        control tokens count with their spelling."""
        return self._prompt(row) + max(sum(len(text.encode()) for text in one.segments) for one in _chains_of(row))

    def _turn(self, chain: ChainRow | PairedChain) -> int:
        segments = self._encoder.segments(chain.steps, chain.answer)
        return sum(map(len, segments)) + (len(segments) if self._tagged else 1)

    def _prompt(self, row: ChainRow | PairRow) -> int:
        problem = problem_of(row)
        size = None if problem.image is None else self._sizes[problem.image]
        if size not in self._prompts:
            empty = Sample(None if size is None else Image.new("RGB", size), "", Turn([], [], [], []))
            self._prompts[size] = int(self._collate([empty])["first"]) + 1
        return self._prompts[size] + len(self._encoder.encode(problem.question))


def _chains_of(row: ChainRow | PairRow) -> Sequence[ChainRow | PairedChain]:
    return (row,) if isinstance(row, ChainRow) else (row.chosen, row.rejected)


def room(config: Any, max_tokens: int | None) -> tuple[int | None, str]:
    """The longest row that a stage can train, tokens, and whose limit that is; None where there is none.

    ``config``: the model's, whose text model says how far its positions go.
    """
    context = cast("int | None", getattr(config.get_text_config(), "max_position_embeddings", None))
    if context is not None and (max_tokens is None or context < max_tokens):
        return context, "the model's context of"
    return max_tokens, "max_tokens"


def fitting(rows: list[Row], lengths: Lengths, intake: Intake, limit: int | None, whose: str) -> list[Row]:
    """The rows that are not too long (limit and whose as `room` has them).

    Errors: InputError for others, unless they are to be skipped, and when none of ``rows`` is left.
    """
    if limit is None:
        return rows

    def tokens(row: ChainRow | PairRow) -> int:
        most = lengths.at_most(row)
        return most if most <= limit else lengths.tokens(row)

    kept = intake.fitting(rows, tokens, limit, whose)
    intake.settle("rows")
    if rows and not kept:
        raise InputError(f"all {len(rows)} rows had to be skipped; the last: {intake.faults[-1]}", "data")
    return kept
