"""Which reader makes chains of a file's lines."""

from __future__ import annotations

from functools import partial

from cos.training.data import math_shepherd, prm800k, visualprm
from cos.training.data.rows import Reader
from cos.training.data.sources import ChainSource, FileKeys


def reader_of(source: FileKeys) -> Reader | None:
    """The reader of a file's form; None for rows of one's own and conversations."""
    if not isinstance(source, ChainSource):
        return None
    match source.form:
        case "prm800k":
            return prm800k.chains_of
        case "visualprm":
            return partial(visualprm.chains_of, good_above=source.good_above)
        case "math_shepherd":
            return math_shepherd.chains_of
        case None:
            return None
