"""The models of a plan: the embedded pair as it is, and as large as other models."""

import shlex
import shutil
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from cos.checkpoints import EMBEDDED, embedded
from cos.engines.environment import is_cpu_build
from cos.engines.memory import GIB, main_memory
from cos.engines.settings import SCRIPTED, Role
from cos.evaluation.files import free_lock, replacing_folder, take_lock
from cos.evaluation.provenance import Facts
from cos.search.errors import InputError
from cos.training.runs.folder import SPARE_BYTES
from cos.training.widening.checkpoint import shape_in, widening_of
from cos.training.widening.shape import SHAPES, Shape

MEMORY = "/dev/shm"  # noqa: S108 - a file system, not a file
"""Where Linux keeps files in memory."""
TINY = "tiny"
SMALL = "small"
"""Twice as wide and four layers deeper: quick on CPU, and still widened in every way."""
ADDED_LAYERS = 4
PAIRS = "tiny:tiny,7b:7b"
"""What is measured unless told otherwise. The first is what the others are compared with."""
DRY_RUN_PAIRS = "tiny:tiny,small:small"
SIZES = (TINY, SMALL, *SHAPES, SCRIPTED)


@dataclass(frozen=True, slots=True)
class Pair:
    """A policy and a PRM by their sizes."""

    policy: str
    prm: str

    @property
    def name(self) -> str:
        return f"{self.policy}:{self.prm}"

    @property
    def is_reference(self) -> bool:
        """Whether it has the models that others are widened from."""
        return self.name in (f"{TINY}:{TINY}", f"{SCRIPTED}:{SCRIPTED}")


def parse_pairs(text: str) -> tuple[Pair, ...]:
    """``tiny:tiny,7b:14b`` as pairs of a policy and a PRM. Errors: InputError."""
    found: list[Pair] = []
    for part in text.split(","):
        policy, colon, prm = part.strip().partition(":")
        for size in (policy, prm) if colon else ("",):
            if size not in SIZES:
                raise InputError(
                    f"--pairs {text}: {part.strip()!r} is no pair; write POLICY:PRM, each one of {', '.join(SIZES)}",
                    "pairs",
                )
        found.append(Pair(policy, prm))
    return tuple(dict.fromkeys(found))


def check_machine(pairs: Sequence[Pair]) -> None:
    """Errors: InputError for pairs that would take hours on CPU."""
    large = [pair.name for pair in pairs if pair.policy in SHAPES or pair.prm in SHAPES]
    if large and is_cpu_build():
        raise InputError(
            f"--pairs {','.join(large)}: this vLLM is built for CPU, where models of that size take hours; try the "
            "plan out by --dry-run, or install cos-serve with its extra gpu on a machine that has one",
            "pairs",
        )


def check_flags(text: str) -> None:
    """Errors: InputError for flags of the server that no shell would take."""
    try:
        shlex.split(text)
    except ValueError as error:
        raise InputError(f"--server-flags {text}: {error}; close each quotation", "server_flags") from error


@contextmanager
def kept_in(folder: Path | None, needed_bytes: int = 0) -> Generator[Path]:
    """Where checkpoints are written: the folder, which stays and is this run's own meanwhile, or a temporary one that
    is removed at the end. That is in memory where so many bytes have room.

    Errors: InputError for a folder that cannot be written to, or that another run writes to.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="cos-wide-", dir=_roomy(needed_bytes)) as made:
            yield Path(made)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        take_lock(folder)
    except OSError as error:
        raise InputError(
            f"--folder {folder}: it cannot be written to: {error.strerror}; give another", "folder"
        ) from error
    try:
        yield folder
    finally:
        free_lock(folder)


def _roomy(needed_bytes: int) -> str | None:
    """Files in memory where there is room for that; None for where temporary files are. Containers have 64 MB of it
    unless they are told otherwise."""
    memory = main_memory()
    if memory is None or not Path(MEMORY).is_dir():
        return None
    free = min(memory.free_bytes, shutil.disk_usage(MEMORY).free)
    return MEMORY if free >= needed_bytes + SPARE_BYTES else None


def bytes_of(pairs: Sequence[Pair], dtype: torch.dtype) -> int:
    """Of all checkpoints that are written for pairs."""
    widened: set[tuple[Role, str]] = {(role, size) for pair in pairs for role, size in models(pair) if is_widened(size)}
    every = [widening_of(embedded(role), shape_of_size(size, role)) for role, size in widened]
    return sum(widening.parameters for widening in every) * dtype.itemsize


def is_widened(size: str) -> bool:
    """Whether a checkpoint is written for it."""
    return size not in (TINY, SCRIPTED)


def shape_of_size(size: str, role: Role) -> Shape:
    """The sizes of the text model. ``role``: whose small one it is made of."""
    old = shape_in(embedded(role))
    if size == SMALL:
        return replace(
            old,
            hidden_size=2 * old.hidden_size,
            intermediate_size=2 * old.intermediate_size,
            num_hidden_layers=old.num_hidden_layers + ADDED_LAYERS,
        )
    return SHAPES.get(size, old)


def model_of(size: str, role: Role, folder: Path, dtype: torch.dtype) -> str:
    """The name or the folder that a model of that size has; see `write`."""
    if size == SCRIPTED:
        return SCRIPTED
    return EMBEDDED if size == TINY else str(folder / f"{role}-{size}-{str(dtype).removeprefix('torch.')}")


def write(pair: Pair, folder: Path, dtype: torch.dtype, seed: int) -> Facts:
    """Writes the checkpoints of a pair that are not there yet; it blocks. Returns the sizes of both.

    Errors: InputError for a disk without room.
    """
    facts: Facts = {}
    for role, size in models(pair):
        if size == SCRIPTED:
            continue
        facts[role] = asdict(shape_of_size(size, role))
        target = Path(model_of(size, role, folder, dtype))
        if is_widened(size):
            widening = widening_of(embedded(role), shape_of_size(size, role))
            facts[role]["parameters"] = widening.parameters
            # The config is written last.
            if not (target / "config.json").is_file():
                folder.mkdir(parents=True, exist_ok=True)
                _check_room(folder, widening.parameters * dtype.itemsize)
                with replacing_folder(target) as partial:
                    widening.write(partial, dtype, seed=seed)
    return facts


def _check_room(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SPARE_BYTES:
        raise InputError(
            f"{folder}: a checkpoint of {needed_bytes / GIB:.1f} GiB is to be written, and {free / GIB:.1f} GiB are "
            "free; give --folder on a disk that has room, or smaller --pairs",
            "folder",
        )


def models(pair: Pair) -> Sequence[tuple[Role, str]]:
    """Both roles and their sizes."""
    return (("policy", pair.policy), ("prm", pair.prm))
