"""The step grammars by name. Third parties add theirs through the entry-point group ``cos.grammars``."""

from functools import cache

from cos.search.distributions import added
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
    """The grammars other distributions add. Looked up once. Errors: InputError naming one that cannot be used."""
    return added("cos.grammars", "name", "read", "spans", "stops")


def menu() -> dict[str, type[Grammar]]:
    """Every grammar by its name. Errors: InputError when two have the same name."""
    found: dict[str, type[Grammar]] = {}
    for grammar in (*BUILT_IN, *third_party()):
        if grammar.name in found or grammar.name == AUTO:
            raise InputError(f"two grammars are called {grammar.name!r}; uninstall one of them", "grammar")
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
