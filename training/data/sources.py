"""Files of rows as a recipe names them: a path alone, or a path and what is to be known of it.

data: [data/a.jsonl, {path: data/b.jsonl, images: /data/pictures}]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from cos.training.config.names import ChainFile, ImageFolder, PairFile
from cos.training.config.section import Keys


class RowKeys(Keys):
    """The keys of a section that reads rows from files."""

    images: ImageFolder | None = None
    """Folder that the pictures' paths in its files are relative to; each file's own folder unless given."""


Form = Literal["prm800k", "visualprm", "math_shepherd"]


class FileKeys(RowKeys):
    """One file of rows. Its path alone stands for a file without other keys."""

    path: str
    """A JSONL file."""

    @model_validator(mode="before")
    @classmethod
    def _from_its_path(cls, given: Any) -> Any:
        return {"path": given} if isinstance(given, str) else given

    @model_serializer(mode="wrap")
    def _as_its_path(self, handler: SerializerFunctionWrapHandler) -> Any:
        return self.path if self.model_fields_set <= {"path"} else handler(self)


class ChainSource(FileKeys):
    """A file of chains."""

    path: ChainFile
    """A JSONL file of chains."""
    form: Form | None = None
    """The layout of published PRM data: ``prm800k``, ``visualprm`` (VisualPRM400K) or ``math_shepherd``. Their labels
    have the source ``published``. Rows of one's own and conversations need none."""
    good_above: float = Field(default=0.0, ge=0, lt=1)
    """For ``visualprm``: a step is good when more than this share of its continuations end right."""

    @model_validator(mode="after")
    def _has_scores(self) -> ChainSource:
        if self.good_above and self.form != "visualprm":
            raise ValueError("good_above is for the scores of form: visualprm; leave it out")
        return self


class WeightKeys(Keys):
    """The keys of a file among others that are trained on."""

    weight: float | None = Field(default=None, gt=0)
    """How often its rows come, relative to the weights of the other files; where one file has a weight all need one.
    Without weights every row comes once an epoch."""


class MixedChains(ChainSource, WeightKeys):
    """A file of chains among others."""


class MixedPairs(FileKeys, WeightKeys):
    """A file of pairs among others."""

    path: PairFile
    """A JSONL file of pairs."""


Mixable = MixedChains | MixedPairs


class MixKeys(Keys):
    """How files that have weights are mixed."""

    stopping_strategy: Literal["first_exhausted", "all_exhausted"] = "all_exhausted"
    """When an epoch of files with weights ends, as ``datasets.interleave_datasets`` has it: when all rows of the first
    file that comes to its end were there, or when all rows of all files were, those of smaller ones several times."""

    @model_validator(mode="after")
    def _weighs_all(self) -> MixKeys:
        for key in ("data", "chains", "pairs"):
            given = cast("Sequence[Mixable]", getattr(self, key, ()))
            bare = [one.path for one in given if one.weight is None]
            if bare and len(bare) < len(given):
                raise ValueError(f"{key}: {bare[0]} has no weight, and others have; give all of them one, or none")
            if given and not bare and getattr(self, "ledger", None) is not None:
                raise ValueError(f"{key}: weights are for files alone; leave them out with a ledger")
        return self


def files_of(paths: Sequence[str]) -> tuple[ChainSource, ...]:
    """Files of which nothing is known but their paths."""
    return tuple(ChainSource(path=path) for path in paths)


def paths_of(sources: Sequence[FileKeys]) -> tuple[str, ...]:
    """The files' paths as the recipe has them."""
    return tuple(one.path for one in sources)
