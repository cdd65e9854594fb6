"""The PRM formats by name. Third parties add theirs through the entry-point group ``cos.prms``."""

import logging
from typing import get_args

from cos.prm.cos import CosPrm
from cos.prm.dialogue import is_file, of_file
from cos.prm.genprm import GenPrm
from cos.prm.judge import JudgePrm
from cos.prm.judge_json import JsonJudgePrm
from cos.prm.math_shepherd import MathShepherd
from cos.prm.mm_prm import MmPrm
from cos.prm.pairwise import Pairwise
from cos.prm.pointwise import Pointwise
from cos.prm.ports import Checkpoint, Judged, PrmFormat, Reader
from cos.prm.qwen_math_prm import QwenMathPrm
from cos.prm.rlhflow import RlhFlow
from cos.prm.skywork_o1 import SkyworkO1
from cos.prm.thinkprm import ThinkPrm
from cos.prm.token_classification import TokenClassification
from cos.prm.versaprm import VersaPrm
from cos.prm.visualprm import VisualPrm
from cos.prm.vl_prm import VlPrm
from cos.search.distributions import Menu
from cos.search.errors import InputError
from cos.search.ports import Ability
from cos.search.scale import Scale

logger = logging.getLogger(__name__)

AUTO = "auto"
"""Chooses by the PRM's checkpoint; see `choose`."""

BUILT_IN: tuple[type[PrmFormat], ...] = (
    CosPrm,
    MathShepherd,
    VisualPrm,
    MmPrm,
    VlPrm,
    RlhFlow,
    VersaPrm,
    QwenMathPrm,
    TokenClassification,
    SkyworkO1,
    Pointwise,
    Pairwise,
    JudgePrm,
    JsonJudgePrm,
    ThinkPrm,
    GenPrm,
)


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
    """The format of a name, or of a file of a user's own.

    Errors: InputError with the menu for an unknown name, or naming the entry point or the file that cannot be used.
    """
    if is_file(name):
        return of_file(name)
    try:
        return _menu().find(name)
    except InputError as error:
        if name in _menu().names:
            raise
        raise InputError(f"{error}; or a file that ends in .yaml, see docs/models.md", error.param) from error


def choose(name: str, reader: Reader, judged: Judged) -> PrmFormat:
    """The format of a name, as `find` has it, for a PRM and the policy whose chains it is to judge. "auto" is the one
    format that recognises the PRM by its checkpoint; of a runtime without a checkpoint it is the first of the menu.

    Errors: as `find`, or InputError where "auto" finds no format or several, or naming what the PRM lacks for its
    format.
    """
    chosen = _recognised(reader) if name == AUTO else find(name)
    if chosen.ability not in reader.abilities:
        able = ", ".join(sorted(reader.abilities)) or "none"
        why = f"; what this one can be asked for: {able}"
        if chosen.ability == "head" and "text" in reader.abilities:
            why = ": a layer that gives values in place of words. This one has no head, it writes; "
            why += "give the PRM's own checkpoint, or another --prm-format"
        raise InputError(
            f"PRM format {chosen.name!r} needs a model that can be asked for its {chosen.ability}{why}", "prm"
        )
    prm_format = chosen(reader, judged)
    if not isinstance(scale := getattr(prm_format, "scale", None), Scale):
        raise _menu().refusal(name, f"its `scale` is {scale!r}; it must be a cos.search.scale.Scale")
    return prm_format


def _recognised(reader: Reader) -> type[PrmFormat]:
    """The one format that a PRM was surely trained for."""
    if not reader.config:
        return BUILT_IN[0]
    checkpoint = Checkpoint(name=reader.model, config=reader.config, files=reader.files, vocabulary=reader.vocabulary)
    formats = menu()
    found = [name for name, prm_format in formats.items() if _recognises(prm_format, checkpoint)]
    if len(found) == 1:
        return formats[found[0]]
    what = f"{' and '.join(found)} might all be its format" if found else "its files name none that cos-serve knows"
    raise InputError(
        f"cannot tell in which format the PRM {reader.model!r} was trained: {what}; name it by --prm-format, one of "
        f"{', '.join(formats)}, or a YAML file that says how it is asked (docs/models.md); or do without it by "
        "--prm judge or --prm none",
        "prm_format",
    )


def _recognises(prm_format: type[PrmFormat], checkpoint: Checkpoint) -> bool:
    # Somebody else's class need not inherit, and then may not have it.
    if not hasattr(prm_format, "recognises"):
        return False
    try:
        return prm_format.recognises(checkpoint)
    except Exception as error:
        logger.warning("PRM format %r cannot tell whether it is the PRM's: %s", prm_format.name, error)
        return False
