"""What other distributions add by an entry point, such as a strategy or a step grammar."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from cos.search.errors import InputError


def added(group: str, *needed: str) -> tuple[Any, ...]:
    """All that is installed for a group of entry points. It reads the metadata of every distribution: keep the result.

    ``needed``: attributes without which it is none of this group.

    Errors: InputError naming the entry point, its distribution, and why it cannot be used.
    """
    return tuple(_loaded(point, needed) for point in entry_points(group=group))


def _loaded(point: EntryPoint, needed: tuple[str, ...]) -> Any:
    try:
        found = point.load()
    except Exception as error:  # It is somebody else's code, and may raise anything.
        raise _unusable(point, f"{type(error).__name__}: {error}") from error
    if missing := [name for name in needed if not hasattr(found, name)]:
        raise _unusable(point, f"it has no {' and no '.join(missing)}")
    return found


def _unusable(point: EntryPoint, reason: str) -> InputError:
    owner = point.dist.name if point.dist else "an unknown distribution"
    what = f"the entry point {point.name!r} of the group {point.group}, which {owner} adds, cannot be used"
    return InputError(f"{what}: {reason}; mend or uninstall {owner}", point.group)
