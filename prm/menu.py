"""The PRM formats by name. Third parties add theirs through the entry-point group ``cos.prms``."""

from functools import cache

from cos.prm.cos import CosPrm
from cos.prm.math_shepherd import MathShepherd
from cos.prm.ports import Judged, PrmFormat, Reader
from cos.search.distributions import added
from cos.search.errors import InputError

AUTO = "auto"
"""Chooses by the PRM's vocabulary."""

BUILT_IN: tuple[type[PrmFormat], ...] = (CosPrm, MathShepherd)


@cache
def third_party() -> tuple[type[PrmFormat], ...]:
    """The formats other distributions add. Looked up once. Errors: InputError naming one that cannot be used."""
    return added("cos.prms", "name", "ability", "scale", "open")


def menu() -> dict[str, type[PrmFormat]]:
    """Every format by its name. Errors: InputError when two have the same name."""
    found: dict[str, type[PrmFormat]] = {}
    for prm_format in (*BUILT_IN, *third_party()):
        if prm_format.name in found or prm_format.name == AUTO:
            raise InputError(f"two PRM formats are called {prm_format.name!r}; uninstall one of them", "prm_format")
        found[prm_format.name] = prm_format
    return found


def choose(name: str, reader: Reader, judged: Judged) -> PrmFormat:
    """The format of a name, for a PRM and the policy whose chains it is to judge. "auto" is the first of the menu: the
    format with control tokens of its own.

    Errors: InputError with the menu for an unknown name, or naming what the PRM lacks for this format.
    """
    formats = menu()
    if name != AUTO and name not in formats:
        raise InputError(f"unknown PRM format {name!r}; available: auto, {', '.join(sorted(formats))}", "prm_format")
    chosen = BUILT_IN[0] if name == AUTO else formats[name]
    if chosen.ability not in reader.abilities:
        able = ", ".join(sorted(reader.abilities)) or "none"
        raise InputError(
            f"PRM format {chosen.name!r} needs a model that can be asked for its {chosen.ability}; "
            f"what this one can be asked for: {able}",
            "prm",
        )
    return chosen(reader, judged)
