"""What other distributions add by an entry point, such as a strategy or a step grammar.

Nothing of theirs is loaded before somebody asks for it: one that is broken stands in nobody else's way.
"""

import logging
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, NamedTuple, TypeVar, cast

from cos.search.errors import InputError

T = TypeVar("T")
logger = logging.getLogger(__name__)


@cache
def installed(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group. Looked up once: it reads the metadata of all that is installed."""
    return tuple(entry_points(group=group))


def no_fault(found: Any) -> str | None:
    """Finds nothing wrong."""
    del found


class Menu(NamedTuple, Generic[T]):
    """Things of one kind by their names: those of cos-serve, and those that other distributions add."""

    what: str
    """In words, such as "grammar"."""
    param: str
    """What a caller names one by."""
    group: str
    """The group of entry points."""
    needed: tuple[str, ...]
    """Attributes without which something is none of this kind."""
    built_in: Sequence[T]
    """Those of cos-serve. Each has a ``name``."""
    automatic: str | None = None
    """A name that means none of them."""
    made: Callable[[Any], Any] = lambda found: found
    """Makes one of what an entry point names."""
    fault: Callable[[Any], str | None] = no_fault
    """What else is wrong with one, in words."""

    @property
    def names(self) -> list[str]:
        """Every name, of what cannot be used as well; nothing is loaded."""
        return sorted({self._name_of(thing) for thing in self.built_in} | {point.name for point in self._points})

    @property
    def usable(self) -> dict[str, T]:
        """All that can be used, by name. What cannot is logged and left out."""
        found: dict[str, T] = {}
        for name in dict.fromkeys([*map(self._name_of, self.built_in), *(point.name for point in self._points)]):
            try:
                found[name] = self.find(name)
            except InputError as error:
                logger.warning("left out: %s", error)
        return found

    def find(self, name: str) -> T:
        """The one of a name. Errors: InputError with the menu for an unknown name, for one that several have, or naming
        the entry point, its distribution and why it cannot be used."""
        ours = [thing for thing in self.built_in if self._name_of(thing) == name]
        theirs = [point for point in self._points if point.name == name]
        if len(ours) + len(theirs) > 1 or (theirs and name == self.automatic):
            raise InputError(
                f"two {self._plural} are called {name!r}: uninstall or rename that of "
                f"{' or '.join(_distribution(point) for point in theirs)}",
                self.param,
            )
        if ours:
            return ours[0]
        if theirs:
            return self._loaded(theirs[0])
        choices = [*([self.automatic] if self.automatic else []), *self.names]
        close = get_close_matches(name.lower(), choices, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"unknown {self.what} {name!r}; {hint}available: {', '.join(choices)}", self.param)

    def refusal(self, name: str, reason: str) -> InputError:
        """That the one of a name cannot be used, with where it comes from."""
        theirs = [point for point in self._points if point.name == name]
        if not theirs:
            return InputError(f"the {self.what} {name!r} cannot be used: {reason}", self.param)
        return self._unusable(theirs[0], reason)

    @property
    def _points(self) -> tuple[EntryPoint, ...]:
        return installed(self.group)

    @property
    def _plural(self) -> str:
        return f"{self.what[:-1]}ies" if self.what.endswith("y") else f"{self.what}s"

    @staticmethod
    def _name_of(thing: Any) -> str:
        return thing.name

    def _loaded(self, point: EntryPoint) -> T:
        try:
            found = point.load()
        except Exception as error:  # It is somebody else's code, and may raise anything.
            raise self._unusable(point, f"it cannot be loaded ({type(error).__name__}: {error})") from error
        undone: frozenset[str] = getattr(found, "__abstractmethods__", frozenset())
        if missing := [*(name for name in self.needed if not hasattr(found, name)), *sorted(undone)]:
            raise self._unusable(point, f"it has no {' and no '.join(map(repr, missing))}")
        if found.name != point.name:
            raise self._unusable(point, f"its `name` is {found.name!r}; both must be the same")
        if reason := self.fault(found):
            raise self._unusable(point, reason)
        try:
            return cast("T", self.made(found))
        except Exception as error:
            raise self._unusable(point, f"it cannot be made ({type(error).__name__}: {error})") from error

    def _unusable(self, point: EntryPoint, reason: str) -> InputError:
        return InputError(
            f"the {self.what} {point.name!r} cannot be used: the entry point "
            f"`{point.name} = {point.value!r}` of {_distribution(point)} in the group {self.group}: {reason}; "
            "mend or uninstall it",
            self.param,
        )


def _distribution(point: EntryPoint) -> str:
    return f"the distribution {point.dist.name!r}" if point.dist else "an unnamed distribution"
