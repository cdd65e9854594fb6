"""The step grammars by name. Third parties add theirs through the entry-point group ``cos.grammars``."""

from functools import cache
from importlib.metadata import entry_points

from cos.search.errors import InputError
from cos.search.grammar import Grammar
from cos.search.grammars.cos import CosGrammar
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.ports import Vocabulary

__all__ = ["AUTO", "choose", "menu"]

AUTO = "auto"
"""Chooses by the policy's vocabulary."""

BUILT_IN: tuple[type[Grammar], ...] = (CosGrammar, ParagraphGrammar)


@cache
def third_party() -> tuple[type[Grammar], ...]:
    """The grammars other distributions add. Looked up once: it reads the metadata of all that is installed."""
    return tuple(point.load() for point in entry_points(group="cos.grammars"))


def menu() -> dict[str, type[Grammar]]:
    """Every grammar by its name. Errors: ValueError when two have the same name."""
    found: dict[str, type[Grammar]] = {}
    for grammar in (*BUILT_IN, *third_party()):
        if grammar.name in found or grammar.name == AUTO:
            raise ValueError(f"two grammars are called {grammar.name!r}")
        found[grammar.name] = grammar
    return found


def choose(name: str, vocabulary: Vocabulary) -> Grammar:
    """The grammar of a name, for a policy of this vocabulary. "auto" is the first of the menu: the format with control
    tokens of its own.

    Errors: InputError with the menu for an unknown name, or naming what the policy lacks for this grammar.
    """
    grammars = menu()
    if name == AUTO:
        return BUILT_IN[0](vocabulary)
    if name not in grammars:
        raise InputError(f"unknown grammar {name!r}; available: auto, {', '.join(sorted(grammars))}", "grammar")
    return grammars[name](vocabulary)
