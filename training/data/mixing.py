"""Rows of several files mixed by weights, as `datasets.interleave_datasets` does it: an epoch is a list of rows that
follows from the files' lengths, their weights and a seed, so that every process and every resumed run has the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from cos.search.errors import InputError
from cos.training.data.preflight import Intake
from cos.training.data.rows import ChainRow, PairRow
from cos.training.data.sources import Mixable, MixKeys

Row = TypeVar("Row", ChainRow, PairRow)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What an epoch has of one file."""

    path: str
    rows: int
    """Rows that can be used."""
    in_epoch: int
    """Rows an epoch, those that come again counted again."""
    weight: float | None


@dataclass(frozen=True, slots=True)
class Mix:
    """An epoch of several files."""

    order: list[int]
    """Places in the list of all rows."""
    shares: list[Share]

    def facts(self) -> dict[str, object]:
        """For ``done.json``, where there are several files."""
        return {"sources": [asdict(one) for one in self.shares]} if len(self.shares) > 1 else {}


def mix(rows: Sequence[Row], sources: Sequence[Mixable], intake: Intake, keys: MixKeys, seed: int) -> Mix:
    """An epoch of ``rows``, which ``intake`` has read from ``sources``: each once, or by the files' weights.

    Errors: InputError for a file with a weight and no row that can be used.
    """
    places = {id(one): list[int]() for one in sources}
    for place, row in enumerate(rows):
        places[id(intake.source_of(row))].append(place)
    weights = [one.weight for one in sources]
    given = [weight for weight in weights if weight is not None]
    order = list(range(len(rows)))
    if given:
        for one in sources:
            if not places[id(one)]:
                raise InputError(f"{one.path} has a weight, and no row of it can be used; leave it out", "data")
        order = interleaved([places[id(one)] for one in sources], given, keys.stopping_strategy, seed)
    count = [0] * len(rows)
    for place in order:
        count[place] += 1
    shares = [
        Share(
            path=one.path,
            rows=len(places[id(one)]),
            in_epoch=sum(count[place] for place in places[id(one)]),
            weight=one.weight,
        )
        for one in sources
    ]
    return Mix(order, shares)


def interleaved(parts: Sequence[Sequence[int]], weights: Sequence[float], until: str, seed: int) -> list[int]:
    """Numbers drawn from ``parts`` by ``weights``, each part's in their order and from its beginning again."""
    from datasets import Dataset, interleave_datasets

    total = sum(weights)
    drawn = interleave_datasets(
        [Dataset.from_dict({"row": list(part)}) for part in parts],
        probabilities=[weight / total for weight in weights],
        seed=seed,
        stopping_strategy=until,  # pyright: ignore[reportArgumentType]
    )
    return list(drawn["row"])
