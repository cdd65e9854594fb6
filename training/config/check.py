"""``cos train check``: a recipe looked through before it runs.

For every stage: whether what it names is there, how many rows can be used, how long they are, what their pictures are,
and what memory its training takes beside activations. Where a checkpoint is still to be written by an earlier stage,
the one which that stage begins with is looked at in its place.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

from cos.search.errors import CosError
from cos.training.config.keys import TrainingKeys
from cos.training.config.label_sources import label_faults
from cos.training.config.packages import missing_packages
from cos.training.config.recipe import DpoConfig, PrmConfig, Recipe, RoundsConfig, SftConfig, StageConfig, folder_name
from cos.training.config.references import ROWS, Reference, faults_of, references
from cos.training.config.trial import Step, one_step
from cos.training.data.mixing import Share, mix
from cos.training.data.preflight import Intake, problem_of, reads_pictures
from cos.training.data.rows import ChainRow, PairRow, ProblemRow
from cos.training.data.sources import FileKeys, Mixable, files_of
from cos.training.data.splits import TITLES, Role, keys_of, role_of
from cos.training.runs.digest import STAGE, changes, has_progress, read_record, record_of
from cos.training.runs.folder import DONE

BEGINS_WITH = {
    "tokens": "checkpoint",
    "sft": "model",
    "prm": "model",
    "dpo": "policy",
    "rounds": "policy",
    "export": "model",
}
"""The key of the checkpoint that a stage changes."""
WEIGHT_BYTES = 4
"""Bytes of a weight and of its gradient: both are kept in float32."""
SEEN, HELD_OUT = "seen_chains", "validation.data"
"""Keys of rows that serve another end than the rest of their stage."""
MOMENT_BYTES = 8
"""Bytes of AdamW's two moments of a weight; Muon keeps one of a matrix, so that this is a bound for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Lengths of rows as they are trained, tokens."""

    minimum: int
    median: int
    p95: int
    maximum: int
    limit: int | None
    """The longest that can be trained; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Pictures that can be read."""

    count: int
    smallest: tuple[int, int]
    """Width and height, pixels, of the one with the fewest."""
    largest: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of training in one process that holds the whole model, GiB. Activations are left out: they follow from the
    longest rows, the batch and gradient checkpointing."""

    parameters: int
    trained: int
    """Parameters that are trained."""
    weights_gib: float
    gradients_gib: float
    optimizer_gib: float
    total_gib: float
    """All three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """What was found of one stage."""

    name: str
    kind: str
    references: tuple[Reference, ...]
    rows: int | None = None
    """Rows that can be used; None for a stage that reads none, or none that are there."""
    skipped: int = 0
    """Those that cannot."""
    sources: tuple[Share, ...] = ()
    """Of a stage that trains on several files."""
    tokens: Tokens | None = None
    pictures: Pictures | None = None
    memory: Memory | None = None
    step: Step | None = None
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found of a recipe."""

    recipe: str
    stages: tuple[StageReport, ...]
    faults: tuple[str, ...]
    """All that has to be mended, each with its stage."""


def check_recipe(recipe: Recipe, *, step: bool = False) -> Report:
    """Looks through all stages. ``step``: also trains one step of each stage whose checkpoint and data are here."""
    asked: dict[str, dict[str, str]] = {}
    found = tuple(_check_stage(recipe, stage, asked, step=step) for stage in recipe.stages)
    faults = [f"stage {one.name!r}: {fault}" for one in found for fault in one.faults]
    faults += _leaks(recipe, asked) if recipe.leaks == "error" else []
    return Report(recipe=recipe.name, stages=found, faults=tuple(faults))


def _leaks(recipe: Recipe, asked: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Questions that stages of two roles share, as the later one would find when it starts."""
    users: list[tuple[str, Role]] = [
        (folder_name(stage), role) for stage in recipe.stages if (role := role_of(stage)) is not None
    ]
    for (earlier, its), (later, own) in combinations(users, 2):
        shared = [row for key, row in asked.get(later, {}).items() if key in asked.get(earlier, {})]
        if shared and its != own:
            yield (
                f"stage {later!r} ({TITLES[own]}) and stage {earlier!r} ({TITLES[its]}) share {len(shared)} questions, "
                f"the first {shared[0]!r}; take them out of one, or set leaks: report in the recipe if this is meant"
            )


def _check_stage(recipe: Recipe, stage: StageConfig, asked: dict[str, dict[str, str]], *, step: bool) -> StageReport:
    """``asked`` gets the keys of the stage's questions (`cos.training.data.splits.keys_of`)."""
    named = references(recipe, stage)
    folder = recipe.folder / folder_name(stage)
    report = StageReport(name=folder_name(stage), kind=stage.stage, references=tuple(named))
    changed = _changed(recipe, stage, folder)
    if (folder / DONE).is_file():
        return replace(report, notes=("done before",), faults=tuple(changed))
    faults, notes = (
        [*changed, *faults_of(named, in_order=True), *(message for message, _ in missing_packages(stage))],
        list[str](),
    )
    intake = Intake(replace(recipe.context(stage), skip_bad=True))
    facts: dict[str, Any] = {}
    try:
        by_key = _rows(stage, named, intake)
        # Those that a PRM was trained on are measured apart, on purpose.
        asked[report.name] = keys_of(problem_of(row) for key, some in by_key.items() if key != SEEN for row in some)
        rows = [row for some in by_key.values() for row in some]
        facts = _sizes(recipe, stage, intake, rows, notes)
        facts |= {"sources": _shares(recipe, stage, named, intake, rows)}
        facts |= {"rows": len(rows), "skipped": len(intake.faults)} if intake.read else {}
        faults += [] if rows or not intake.read else ["no row is left that can be used"]
        learnt = [row for key, some in by_key.items() if key != HELD_OUT for row in some]
        faults += label_faults(recipe, stage, named, learnt)
        _check_held_out(by_key)
    except CosError as error:
        faults.append(str(error))
    faults += intake.faults
    if step and isinstance(stage, TrainingKeys) and not faults:
        tried = one_step(recipe, stage, named)
        faults += [tried] if isinstance(tried, str) else []
        facts["step"] = tried if isinstance(tried, Step) else None
        notes += [] if tried is not None else ["no step was tried: its checkpoint or data are still to be made"]
    return replace(report, **facts, notes=tuple(notes), faults=tuple(faults))


def _changed(recipe: Recipe, stage: StageConfig, folder: Path) -> list[str]:
    """What a stage that was begun before was begun with otherwise."""
    before = read_record(folder / STAGE) if has_progress(folder) else None
    changed = [] if before is None else changes(before, record_of(recipe, stage, before))
    return [f"changed since it began (--fresh begins it again): {one}" for one in changed]


AnyRow = ProblemRow | ChainRow | PairRow


def _rows(stage: StageConfig, named: Sequence[Reference], intake: Intake) -> dict[str, list[AnyRow]]:
    """The rows of the files that are here, by the key that names them; those whose pictures cannot be read left out
    where pictures are needed."""
    found: dict[str, list[AnyRow]] = {}
    for one in named:
        if one.state != "here" or one.to not in ROWS:
            continue
        rows: list[AnyRow]
        if one.to == "problems":
            rows = [*intake.seen(intake.problems_of([one.name], one.images))]
        elif one.to == "pairs":
            rows = [*intake.seen(intake.rows_of(_file(one), PairRow, one.images))]
        else:
            chains = intake.rows_of(_file(one), ChainRow, one.images)
            rows = [*(intake.seen(chains) if reads_pictures(stage) else chains)]
        found.setdefault(one.key, []).extend(rows)
    return found


def _file(one: Reference) -> tuple[FileKeys, ...]:
    return files_of([one.name]) if one.source is None else (one.source,)


def _check_held_out(by_key: Mapping[str, Sequence[AnyRow]]) -> None:
    """Errors: InputError for a question that is both trained on and held out."""
    held = [problem_of(row) for key, rows in by_key.items() if key == HELD_OUT for row in rows]
    if held:
        from cos.training.learning.validation import check_apart

        check_apart((problem_of(row) for key, rows in by_key.items() if key != HELD_OUT for row in rows), held)


def _sizes(recipe: Recipe, stage: StageConfig, intake: Intake, rows: list[AnyRow], notes: list[str]) -> dict[str, Any]:
    """Pictures, lengths and memory, as far as they are known. Rows that are too long are taken out of ``rows``."""
    facts: dict[str, Any] = {}
    if intake.sizes:
        by_area = sorted(intake.sizes.values(), key=lambda size: size[0] * size[1])
        facts["pictures"] = Pictures(count=len(by_area), smallest=by_area[0], largest=by_area[-1])
    keys = stage.dpo if isinstance(stage, RoundsConfig) else stage
    if not isinstance(keys, TrainingKeys):
        return facts
    folder = _beginning(recipe, stage)
    if folder is None:
        notes.append("lengths and memory are not known: the checkpoint is not here")
        return facts
    facts["memory"] = _memory(folder, keys)
    if isinstance(stage, SftConfig | PrmConfig | DpoConfig) and rows:
        kept, facts["tokens"] = _tokens(folder, stage, intake, cast("list[ChainRow | PairRow]", rows))
        rows[:] = kept
    if isinstance(stage, PrmConfig) and stage.ledger is None:
        bare = sum(isinstance(row, ChainRow) and stage.labels not in row.labels for row in rows)
        left_out = f"{bare} of {len(rows)} chains have no labels by {stage.labels!r} and are left out"
        notes += [left_out] if 0 < bare < len(rows) else []
    return facts


def _shares(
    recipe: Recipe, stage: StageConfig, named: Sequence[Reference], intake: Intake, rows: Sequence[AnyRow]
) -> tuple[Share, ...]:
    """What an epoch has of each file, where there are several. Errors: InputError as `mix`."""
    if not isinstance(stage, SftConfig | PrmConfig | DpoConfig):
        return ()
    sources = sources_of(stage)
    if len(sources) < 2 or any(one.to in ROWS and one.state != "here" for one in named):
        return ()
    own = [row for row in cast("Sequence[ChainRow]", rows) if any(intake.source_of(row) is one for one in sources)]
    if isinstance(stage, PrmConfig):
        own = [row for row in own if stage.labels in row.labels]
    return tuple(mix(own, sources, intake, stage, recipe.seed).shares)


def sources_of(stage: SftConfig | PrmConfig | DpoConfig) -> Sequence[Mixable]:
    """The files that a stage is trained on."""
    match stage:
        case SftConfig():
            return stage.data
        case PrmConfig():
            return stage.chains
        case DpoConfig():
            return stage.pairs


def _beginning(recipe: Recipe, stage: StageConfig) -> Path | None:
    """The checkpoint folder that a stage begins with, or that the earlier stage which is to write it begins with."""
    key = BEGINS_WITH.get(stage.stage)
    found = next((one for one in references(recipe, stage) if one.key == key), None)
    if found is None:
        return None
    if found.state == "here":
        return found.path
    return _beginning(recipe, recipe.find(found.maker)) if found.state == "planned" and found.maker else None


Trained = ChainRow | PairRow
Fitting = Callable[[list[Trained], Callable[[Trained], int], int, str], list[Trained]]


def _tokens(
    folder: Path, stage: SftConfig | PrmConfig | DpoConfig, intake: Intake, rows: list[ChainRow | PairRow]
) -> tuple[list[ChainRow | PairRow], Tokens]:
    from transformers import AutoConfig, AutoProcessor

    from cos.training.data.lengths import Lengths, room
    from cos.training.learning.encode import TurnEncoder, add_step_tokens

    processor = AutoProcessor.from_pretrained(folder)
    add_step_tokens(processor.tokenizer)  # as the stage `tokens` will have done
    encoder = TurnEncoder(processor.tokenizer)
    lengths = Lengths(processor, encoder, intake.sizes, tagged=isinstance(stage, PrmConfig))
    tokens = {id(row): lengths.tokens(row) for row in rows}
    limit, whose = room(AutoConfig.from_pretrained(folder), stage.max_tokens)
    kept = rows
    if limit is not None:
        fit = cast("Fitting", intake.fitting)  # rows are of one kind, whichever it is
        kept = fit(rows, lambda row: tokens[id(row)], limit, whose)
    order = sorted(tokens.values())
    return kept, Tokens(
        minimum=order[0],
        median=round(statistics.median(order)),
        p95=order[min(len(order) - 1, int(0.95 * len(order)))],
        maximum=order[-1],
        limit=limit,
    )


def _memory(folder: Path, keys: TrainingKeys) -> Memory:
    """Counted on a model without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    from cos.training.learning.adapters import with_lora
    from cos.training.learning.quantized import bytes_saved, quantized_by
    from cos.training.learning.trainer import prepare_trainable

    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
        saved = 0.0 if (kind := quantized_by(keys)) is None else bytes_saved(model, kind, WEIGHT_BYTES)
        trained = with_lora(model, keys, AutoTokenizer.from_pretrained(folder), 0)
    prepare_trainable(trained, keys.model_copy(update={"compile": False, "gradient_checkpointing": False}))
    parameters = sum(weights.numel() for weights in trained.parameters())
    count = sum(weights.numel() for weights in trained.parameters() if weights.requires_grad)
    held = (parameters * WEIGHT_BYTES - saved, count * WEIGHT_BYTES, count * MOMENT_BYTES)
    weights, gradients, optimizer = (size / 2**30 for size in held)
    return Memory(
        parameters=parameters,
        trained=count,
        weights_gib=weights,
        gradients_gib=gradients,
        optimizer_gib=optimizer,
        total_gib=sum(held) / 2**30,
    )


def table(report: Report) -> str:
    """The report for people."""
    lines = [f"recipe {report.recipe}: {len(report.stages)} stages"]
    for stage in report.stages:
        lines += ["", stage.name if stage.name == stage.kind else f"{stage.name} ({stage.kind})"]
        lines += [f"  {label:<13} {text}" for label, text in _lines_of(stage)]
    count = len(report.faults)
    lines += ["", f"{count} fault{'s' * (count > 1)}:" if count else "no faults"]
    lines += [f"  {fault}" for fault in report.faults]
    return "\n".join(lines)


STATES = {"here": "", "hub": "  (from the hub; not looked at)", "missing": "  MISSING"}


def _lines_of(stage: StageReport) -> Iterator[tuple[str, str]]:
    for one in stage.references:
        state = f"  (the stage {one.maker!r} writes it)" if one.state == "planned" else STATES[one.state]
        yield one.key, f"{one.name}{state}"
    if stage.rows is not None:
        bad = f"; {stage.skipped} cannot be used" if stage.skipped else ""
        yield "rows", f"{stage.rows} of {stage.rows + stage.skipped}{bad}"
    for one in stage.sources:
        weight = "" if one.weight is None else f" (weight {one.weight:g})"
        yield "an epoch has", f"{one.in_epoch} rows of the {one.rows} of {one.path}{weight}"
    if (tokens := stage.tokens) is not None:
        limit = "" if tokens.limit is None else f"; limit {tokens.limit}"
        yield (
            "tokens a row",
            f"min {tokens.minimum}, median {tokens.median}, p95 {tokens.p95}, max {tokens.maximum}{limit}",
        )
    if (pictures := stage.pictures) is not None:
        (low, high) = ("{} x {}".format(*size) for size in (pictures.smallest, pictures.largest))
        yield "pictures", f"{pictures.count}, from {low} to {high} pixels"
    if (memory := stage.memory) is not None:
        yield "parameters", f"{memory.parameters:,}, {memory.trained:,} of them trained"
        yield (
            "memory",
            f"{memory.total_gib:.3g} GiB without activations: weights {memory.weights_gib:.3g}, "
            f"gradients {memory.gradients_gib:.3g}, optimiser {memory.optimizer_gib:.3g}",
        )
    if (step := stage.step) is not None:
        loss = "" if step.loss is None else f", loss {step.loss:.4g}"
        yield "one step", f"{step.seconds} s with loading, peak {step.peak_gib:.3g} GiB{loss}"
    yield from (("note", note) for note in stage.notes)
