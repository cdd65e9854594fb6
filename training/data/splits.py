"""Split hygiene: policy training, PRM training and evaluation share no digit and no question, and a leak is an error.

A stage that uses data has a role. When it starts it writes down what it uses, ``<runs>/splits/<stage>.json`` (role,
sets of digits, keys of questions), and compares that with what stages of other roles wrote: those of its own run, and
those that trained in runs whose checkpoints it uses. As it writes first and compares then, of two stages that run side
by side one at least sees the other. What a recipe says of digits is compared when it is read.

A question is its text and its picture, if it has one; its key is of the text, and of the picture file's first 64 KiB
and size. So a picture that was encoded anew counts as another one. Ledgers without end have no keys: their digits say
it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, cast

from cos.evaluation.files import replacing
from cos.evaluation.progress import tell
from cos.search.errors import InputError
from cos.training.config.keys import LedgerSource, ProblemSource
from cos.training.config.names import Split
from cos.training.config.recipe import Recipe, StageConfig, folder_name
from cos.training.data.rows import ProblemRow
from cos.training.data.sources import paths_of
from cos.training.runs.folder import DONE, StageContext

Role = Literal["policy", "prm", "evaluation"]
"""What data is used for."""

TITLES: Mapping[Role, str] = {"policy": "policy training", "prm": "PRM training", "evaluation": "evaluation"}
SPLITS = "splits"
"""The folder of the records, in the run's."""
KEYED_BYTES = 64 << 10
"""How much of a picture's file its key is made of, so that 300,000 of them take no long time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a stage uses."""

    role: Role
    digits: frozenset[Split]
    questions: frozenset[str]
    """Their keys."""


def claim(
    context: StageContext,
    role: Role,
    problems: Iterable[ProblemRow] = (),
    digits: Iterable[Split] = (),
    checkpoints: Iterable[str | None] = (),
) -> dict[str, Any]:
    """Writes down what a stage uses and compares it with what stages of other roles use.

    ``digits`` are those of ledgers, beside what the problems tell; ``checkpoints`` those that the stage uses, as a
    recipe names them. Of several ranks the first one does it, and the others wait. Returns what done.json is to tell:
    nothing, or, where leaks are to be reported, ``leaks``: how many questions and which digits are shared with each
    stage.

    Errors: InputError for a leak, naming both stages and the first question, and for a record that cannot be read.
    """
    problems = list(problems)
    return context.ranks.first(lambda: _claimed(context, role, problems, frozenset(digits), checkpoints))


def _claimed(
    context: StageContext,
    role: Role,
    problems: Sequence[ProblemRow],
    digits: frozenset[Split],
    checkpoints: Iterable[str | None],
) -> dict[str, Any]:
    names, served = keys_of(problems), _digits(problems) | digits
    path = record_path(context)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        json.dump({"role": role, "digits": sorted(served), "questions": sorted(names)}, file)
    others = frozenset(TITLES) - {role}
    try:
        return _compared(context, TITLES[role], served, names, _records(context, checkpoints, others))
    except InputError:
        path.unlink()  # a stage that is refused uses nothing
        raise


def check_unseen(
    context: StageContext, problems: Sequence[ProblemRow], checkpoints: Iterable[str | None] = ()
) -> dict[str, Any]:
    """Compares the questions of a stage without a role of its own with those of policy training: labels are to be about
    chains for questions that the policy never saw. Returns and raises as `claim`; writes no record."""
    others = _records(context, checkpoints, frozenset[Role]({"policy"}))
    return _compared(context, "labels", _digits(problems), keys_of(problems), others)


def _digits(problems: Iterable[ProblemRow]) -> frozenset[Split]:
    return frozenset(row.digits for row in problems if row.digits is not None)


def digits_of(source: ProblemSource | LedgerSource | None) -> tuple[Split, ...]:
    """The set of digits that a source's generated problems are drawn with; none for rows of files."""
    ledger = source.ledger if isinstance(source, ProblemSource) else source
    return () if ledger is None else (ledger.digits,)


def keys_of(problems: Iterable[ProblemRow]) -> dict[str, str]:
    """The first problem's id for the key of each question: 16 hex digits of SHA-256."""
    pictures: dict[str | None, bytes] = {None: b""}
    found: dict[str, str] = {}
    for row in problems:
        if row.image not in pictures:
            pictures[row.image] = _picture_key(Path(row.image or ""))
        text = " ".join(row.question.split()).encode()
        found.setdefault(sha256(pictures[row.image] + text).hexdigest()[:16], row.id)
    return found


def _picture_key(path: Path) -> bytes:
    """One that cannot be read goes by its path: whether that is an error is for the stage to say that looks at it."""
    try:
        with path.open("rb") as file:
            return sha256(file.read(KEYED_BYTES)).digest() + path.stat().st_size.to_bytes(8, "big")
    except OSError:
        return sha256(str(path).encode()).digest()


def record_path(context: StageContext) -> Path:
    """Where a stage's record stands: below ``splits`` as the stage's folder below the run's, so that the parts of
    rounds have records of their own."""
    folder, runs = context.folder.resolve(), context.runs.resolve()
    name = folder.relative_to(runs) if folder.is_relative_to(runs) else Path(folder.name)
    return runs / SPLITS / name.with_name(f"{name.name}.json")


def read_record(path: Path) -> Record:
    """A stage's record. Errors: InputError naming a file that is no record."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["role"] not in TITLES:
            raise ValueError(f"role {found['role']!r} is unknown")
        return Record(
            role=found["role"], digits=frozenset(found["digits"]), questions=frozenset(map(str, found["questions"]))
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no record of what a stage uses ({error!r}); remove it, and run its stage again", "runs"
        ) from error


def _records(
    context: StageContext, checkpoints: Iterable[str | None], roles: frozenset[Role]
) -> Iterator[tuple[str, Path, Record]]:
    """What other stages of these roles use: their names, their records' files, the records.

    Of other runs only what their models were trained on counts: what somebody else evaluates on is no leak here.
    """
    own, mine = context.runs.resolve(), record_path(context)
    behind = {_run_of(Path(context.checkpoint(name))) for name in checkpoints if name is not None} - {None, own}
    for run in (own, *sorted(cast("set[Path]", behind))):
        for path in sorted((run / SPLITS).rglob("*.json")):
            if path == mine:
                continue
            record = read_record(path)
            if record.role in roles and (run == own or record.role != "evaluation"):
                name = _name(path, run)
                yield name if run == own else f"{run}/{name}", path, record


def _name(record: Path, run: Path) -> str:
    return str(record.relative_to(run / SPLITS).with_suffix(""))


def _run_of(checkpoint: Path) -> Path | None:
    """The run's folder of a checkpoint ``<run>/<stage>/model``; None for one that no stage made."""
    stage = checkpoint.resolve().parent
    if not (stage / DONE).is_file():
        return None
    # A policy of rounds stands deeper: <run>/<stage>/round-1/dpo/model.
    return next((folder for folder in stage.parents[:3] if (folder / SPLITS).is_dir()), None)


def _compared(
    context: StageContext,
    use: str,
    digits: frozenset[Split],
    names: Mapping[str, str],
    others: Iterable[tuple[str, Path, Record]],
) -> dict[str, Any]:
    """A stage's digits and questions (`keys_of`) beside those of others. ``use`` is what the stage has them for.

    Errors: InputError for a leak, unless leaks are to be reported.
    """
    stage = _name(record_path(context), context.runs.resolve())
    leaks: dict[str, Any] = {}
    for name, path, other in others:
        questions, same = names.keys() & other.questions, sorted(digits & other.digits)
        if not (questions or same):
            continue
        shared = [f"the digits {', '.join(map(repr, same))}"] if same else []
        if questions:
            first = next(row for key, row in names.items() if key in questions)
            shared.append(f"{len(questions)} question{'s' * (len(questions) > 1)}, the first {first!r}")
        leak = f"{stage!r} ({use}) and stage {name!r} ({TITLES[other.role]}) share {' and '.join(shared)}"
        if context.leaks == "error":
            raise InputError(
                f"stage {leak}; take them out of one of the two, or, if there is no stage {name!r} any more, "
                f"remove {path}; if this is meant, set leaks: report in the recipe",
                "leaks",
            )
        tell("leak", {"stage": leak})
        leaks[name] = {"questions": len(questions), "digits": same}
    return {"leaks": leaks} if leaks else {}


def check_digits(recipe: Recipe, where: str) -> None:
    """What a recipe, read from ``where``, says of digits. Chains of an earlier stage count as its digits.

    Errors: InputError where one set of digits serves two roles, unless leaks are to be reported, or where a stage has
    the name of the records' folder.
    """
    digits_by_stage: dict[str, frozenset[Split]] = {}
    served: dict[Split, dict[Role, list[str]]] = {}
    for stage in recipe.stages:
        name = folder_name(stage)
        if name == SPLITS:
            raise InputError(
                f"{where}: {SPLITS} is the folder of the stages' records; name the stage otherwise", "name"
            )
        role, digits, files = _plan(stage)
        before = (digits_by_stage.get(file.split("/")[0], frozenset[Split]()) for file in files)
        digits_by_stage[name] = frozenset(digits).union(*before)
        if role is not None:
            for one in sorted(digits_by_stage[name]):
                served.setdefault(one, {}).setdefault(role, []).append(name)
    twice = [
        f"digits {one!r} serve " + " and ".join(f"{TITLES[role]} ({', '.join(names)})" for role, names in roles.items())
        for one, roles in served.items()
        if len(roles) > 1
    ]
    if twice and recipe.leaks == "error":
        raise InputError(
            f"{where}: {'; '.join(twice)}; give each its own digits, or set leaks: report if this is meant", "digits"
        )


def role_of(stage: StageConfig) -> Role | None:
    """What a stage uses data for; None for one that neither trains nor measures."""
    return _plan(stage)[0]


def _plan(stage: StageConfig) -> tuple[Role | None, tuple[Split, ...], tuple[str, ...]]:
    """A stage's role, the digits of its own ledgers, and the files it reads for it."""
    match stage.stage:
        case "sight":
            return stage.role, (stage.role,), ()
        case "sft":
            return stage.trains, digits_of(stage.ledger), paths_of(stage.data)
        case "prm":
            return "prm", digits_of(stage.ledger), paths_of(stage.chains)
        case "dpo":
            return "policy", (), paths_of(stage.pairs)
        case "rounds":
            return "policy", digits_of(stage.rollout.problems), stage.rollout.problems.data
        case "evaluate":
            asked = () if stage.problems is None else stage.problems.data
            return "evaluation", digits_of(stage.problems), (*paths_of(stage.chains), *asked)
        case "rollout":
            return None, digits_of(stage.problems), stage.problems.data
        case "label" | "pairs":
            return None, (), paths_of(stage.chains)
        case "tokens" | "export" | "widen":
            return None, (), ()
