"""The PRM formats by name. Third parties add theirs through the entry-point group ``cos.prms``."""

from typing import get_args

from cos.prm.cos import CosPrm
from cos.prm.math_shepherd import MathShepherd
from cos.prm.ports import Judged, PrmFormat, Reader
from cos.search.distributions import Menu
from cos.search.errors import InputError
from cos.search.ports import Ability
from cos.search.scale import Scale

AUTO = "auto"
"""Chooses by the PRM's vocabulary."""

BUILT_IN: tuple[type[PrmFormat], ...] = (CosPrm, MathShepherd)


def _fault(found: type[PrmFormat]) -> str | None:
    if found.ability not in get_args(Ability):
        allowed = " or ".join(", ".join(map(repr, sorted(get_args(Ability)))).rsplit(", ", 1))
        return f"its `ability` is {found.ability!r}; it must be {allowed}"
    return None


def _menu() -> Menu[type[PrmFormat]]:
    needed = ("name", "ability", "open")
    return Menu("PRM format", "prm_format", "cos.prms", needed, BUILT_IN, AUTO, fault=_fault)


def menu() -> dict[str, type[PrmFormat]]:
    """Every usable format by its name. What another distribution adds and cannot be used is logged."""
    return _menu().usable


def find(name: str) -> type[PrmFormat]:
    """The format of a name. "auto" is the first of the menu: the format with control tokens of its own.

    Errors: InputError with the menu for an unknown name, or naming the entry point that cannot be used.
    """
    return BUILT_IN[0] if name == AUTO else _menu().find(name)


def choose(name: str, reader: Reader, judged: Judged) -> PrmFormat:
    """The format of a name, as `find` has it, for a PRM and the policy whose chains it is to judge.

    Errors: as `find`, or InputError naming what the PRM lacks for this format.
    """
    chosen = find(name)
    if chosen.ability not in reader.abilities:
        able = ", ".join(sorted(reader.abilities)) or "none"
        raise InputError(
            f"PRM format {chosen.name!r} needs a model that can be asked for its {chosen.ability}; "
            f"what this one can be asked for: {able}",
            "prm",
        )
    prm_format = chosen(reader, judged)
    if not isinstance(scale := getattr(prm_format, "scale", None), Scale):
        raise _menu().refusal(name, f"its `scale` is {scale!r}; it must be a cos.search.scale.Scale")
    return prm_format
