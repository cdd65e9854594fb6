"""The models of a plan: the embedded pair as it is, and as large as other models."""

import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from cos.checkpoints import EMBEDDED, embedded
from cos.engines.environment import is_cpu_build
from cos.engines.settings import SCRIPTED, Role
from cos.evaluation.files import replacing_folder
from cos.evaluation.provenance import Facts
from cos.search.errors import InputError
from cos.training.runs.folder import check_disk
from cos.training.widening.checkpoint import shape_in, widening_of
from cos.training.widening.shape import SHAPES, Shape

MEMORY = "/dev/shm"  # noqa: S108 - a file system, not a file
"""Where Linux keeps files in memory."""
TINY = "tiny"
SMALL = "small"
"""Twice as wide and four layers deeper: quick on CPU, and still widened in every way."""
ADDED_LAYERS = 4
PAIRS = "tiny:tiny,7b:7b,7b:14b"
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


@contextmanager
def kept_in(folder: Path | None) -> Generator[Path]:
    """Where checkpoints are written: the folder, which stays, or one in memory that is removed at the end."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="cos-wide-", dir=MEMORY if Path(MEMORY).is_dir() else None) as made:
        yield Path(made)


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
            if not target.exists():
                folder.mkdir(parents=True, exist_ok=True)
                check_disk(folder, widening.parameters * dtype.itemsize)
                with replacing_folder(target) as partial:
                    widening.write(partial, dtype, seed=seed)
    return facts


def models(pair: Pair) -> Sequence[tuple[Role, str]]:
    """Both roles and their sizes."""
    return (("policy", pair.policy), ("prm", pair.prm))
