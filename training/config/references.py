"""Everything that a recipe's stages name, looked for before anything runs.

A name is that of a file or folder (as `StageContext.resolve` finds it), of what a stage writes (``sft/model``), or, for
checkpoints, of a model on the hub. What is spelt like a thing that is here is never asked of the hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Literal

from cos.checkpoints import EMBEDDED, embedded
from cos.engines.settings import SCRIPTED
from cos.prm.choice import ITSELF
from cos.search.errors import InputError
from cos.training.config.names import Named, Thing, meant, named_in, nearest
from cos.training.config.recipe import Recipe, StageConfig, folder_name
from cos.training.data.sources import FileKeys
from cos.training.runs.folder import DONE, MODEL, StageContext

WRITES = {
    "tokens": (MODEL,),
    "sight": (MODEL,),
    "sft": (MODEL,),
    "rollout": ("chains.jsonl", "problems.jsonl"),
    "label": ("chains.jsonl",),
    "prm": (MODEL, "heads.safetensors"),
    "pairs": ("pairs.jsonl", "scored.jsonl"),
    "dpo": (MODEL,),
    "rounds": (MODEL,),
    "evaluate": ("evaluation.json",),
    "export": (MODEL,),
    "widen": (MODEL,),
}
"""What a stage of a kind leaves in its folder for others."""
_ROUND = re.compile(r"round-\d+/(rollout/chains\.jsonl|pairs/(pairs|scored)\.jsonl|dpo/model)")
_HUB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
ROWS = ("chains", "pairs", "problems")
"""Files of rows."""
_FEW = 2_000
"""Entries of a folder that are looked at for a near name."""

State = Literal["here", "planned", "hub", "missing"]


@dataclass(frozen=True, slots=True)
class Reference:
    """One thing that a stage names, and whether it is there."""

    key: str
    name: str
    to: Thing
    path: Path
    """Where it stands or should."""
    state: State
    """``planned``: an earlier stage of the recipe writes it; ``hub``: not here, and spelt as a hub name."""
    maker: str | None = None
    """The stage of this recipe that writes it."""
    fault: str = ""
    """Why it is missing, and the fix."""
    images: Path | None = None
    """For a file of rows: the folder that their pictures are below, where that is not the file's own."""
    source: FileKeys | None = None
    """For a file of rows: what the recipe says of it."""


def names_of(stage: StageConfig) -> Iterator[Named]:
    """What a stage names. In a section of rounds the round itself fills in the rest."""
    for named in named_in(stage):
        if stage.stage != "rounds" or named.key in ("policy", "prm") or named.key.startswith("rollout.problems."):
            # Held-out rows are like those that are trained on.
            yield replace(named, to="pairs") if stage.stage == "dpo" and named.to == "chains" else named
        elif named.key.startswith("dpo.validation."):
            yield replace(named, to="pairs")


def references(recipe: Recipe, stage: StageConfig) -> list[Reference]:
    """Everything that a stage names, looked for."""
    found = [_found(recipe, stage, named) for named in names_of(stage)]
    roots = {one.key: one.path for one in found if one.to == "images"}
    context = recipe.context(stage)
    return [replace(one, images=_root_of(one, roots, context)) if one.to in ROWS else one for one in found]


def _root_of(one: Reference, roots: Mapping[str, Path], context: StageContext) -> Path | None:
    """The folder of pictures that is named for a file itself, beside its key, or beside a section that it stands in."""
    if one.source is not None and one.source.images is not None:
        return context.resolve(one.source.images)
    *sections, _ = one.key.split(".")
    keys = [".".join([*sections[:depth], "images"]) for depth in range(len(sections), -1, -1)]
    return next((roots[one] for one in keys if one in roots), None)


def check_references(recipe: Recipe, stages: Sequence[StageConfig], *, in_order: bool, anew: bool = False) -> None:
    """Looks for everything that stages name. ``in_order``: all stages of the recipe are run, so that what an earlier
    one writes need not be there yet. Stages that are done need nothing any more, unless they begin ``anew``.

    Errors: InputError naming all that is missing, with stage and key, and what it may mean.
    """
    faults = [
        f"stage {folder_name(stage)!r}: {fault}"
        for stage in stages
        if anew or not (recipe.folder / folder_name(stage) / DONE).is_file()
        for fault in faults_of(references(recipe, stage), in_order=in_order)
    ]
    if faults:
        raise InputError(f"recipe {recipe.name!r} names what is not there:\n  " + "\n  ".join(faults), "recipe")


def faults_of(found: Iterable[Reference], *, in_order: bool) -> list[str]:
    """What is missing of a stage's references, a sentence each."""
    faults: list[str] = []
    for one in found:
        if one.state == "missing":
            faults.append(f"{one.key} {one.name!r}: {one.fault}")
        elif one.state == "planned" and not in_order:
            faults.append(f"{one.key} {one.name!r}: there is no {one.path} yet; run the stage {one.maker!r} first")
    return faults


def _found(recipe: Recipe, stage: StageConfig, named: Named) -> Reference:
    context = recipe.context(stage)
    path = context.resolve(named.name)
    first, _, rest = named.name.partition("/")
    makers = {folder_name(one): one for one in recipe.stages}
    maker = makers.get(first) if rest else None

    def reference(state: State, fault: str = "") -> Reference:
        by = first if maker is not None else None
        source = named.by if isinstance(named.by, FileKeys) else None
        return Reference(named.key, named.name, named.to, path, state, by, fault, source=source)

    if named.to == "checkpoint" and named.name == EMBEDDED and not path.exists():
        path = embedded("prm" if stage.stage == "prm" or named.key.endswith("prm") else "policy")
    if path.exists():
        fault = _unfit(path, named)
        return reference("missing" if fault else "here", fault)
    if maker is not None:
        fault = _not_an_output(recipe, stage, maker, named.name, rest)
        return reference("missing" if fault else "planned", fault)
    if named.to == "checkpoint" and named.name == SCRIPTED:
        return reference("hub")
    if stage.stage == "evaluate" and (named.key, named.name) == ("prm", ITSELF):
        # No checkpoint of its own: the policy judges.
        return reference("hub")
    near = _near(recipe, stage, context, named)
    is_path = named.name.startswith((".", "/", "~")) or Path(named.name).name == MODEL
    if named.to == "checkpoint" and near is None and not is_path and _HUB.fullmatch(named.name):
        return reference("hub")
    what = "a checkpoint folder or a hub name" if named.to == "checkpoint" else "a file or folder that is there"
    hint = f"; did you mean {near!r}?" if near else f"; give {what}"
    where = path if Path(named.name).expanduser().is_absolute() else f"{named.name}, here or in {recipe.folder}"
    return reference("missing", f"there is no {where}{hint}")


def _unfit(path: Path, named: Named) -> str:
    """Why something that is there is not what the key is for; empty where it is."""
    if named.to == "checkpoint" and not (path / "config.json").is_file():
        return f"{path} is no checkpoint: there is no config.json in it"
    if named.to in ("folder", "images") and not path.is_dir():
        return f"{path} is no folder"
    if named.to in (*ROWS, "file") and not path.is_file():
        return f"{path} is no file"
    return ""


def _not_an_output(recipe: Recipe, stage: StageConfig, maker: StageConfig, name: str, rest: str) -> str:
    """Why an earlier stage will not have written a thing; empty where it will."""
    own, order = folder_name(maker), [folder_name(one) for one in recipe.stages]
    outputs = [f"{own}/{what}" for what in WRITES[maker.stage]]
    if name not in outputs and not (maker.stage == "rounds" and _ROUND.fullmatch(rest)):
        return f"the stage {own!r} writes {', '.join(outputs)}{meant(name, outputs)}"
    if order.index(own) >= order.index(folder_name(stage)):
        return f"the stage {own!r} does not come before this one; put it first"
    return ""


def _near(recipe: Recipe, stage: StageConfig, context: StageContext, named: Named) -> str | None:
    """What may be meant: something that an earlier stage writes, or that stands where the name would."""
    before = takewhile(lambda one: folder_name(one) != folder_name(stage), recipe.stages)
    is_model = named.to == "checkpoint"
    outputs = [
        f"{folder_name(one)}/{what}" for one in before for what in WRITES[one.stage] if (what == MODEL) == is_model
    ]
    if (found := nearest(named.name, outputs)) is not None:
        return found
    head, _, last = named.name.rpartition("/")
    if (found := _sibling(context, head, last)) is not None:
        return found
    # The folder itself may be misspelt.
    parent, _, folder = head.rpartition("/")
    sibling = _sibling(context, parent, folder) if folder else None
    return f"{sibling}/{last}" if sibling is not None and context.resolve(f"{sibling}/{last}").exists() else None


def _sibling(context: StageContext, head: str, last: str) -> str | None:
    """The name, below ``head``, of something that is there and spelt like ``last``."""
    for folder in (Path(head or ".").expanduser(), context.runs / head):
        try:
            entries = sorted(entry.name for entry in islice(folder.iterdir(), _FEW))
        except OSError:
            continue
        found = nearest(last, entries)
        if found is not None:
            return f"{head}/{found}" if head else found
    return None
