"""The step grammars by name. Third parties add theirs through the entry-point group ``cos.grammars``."""

from cos.search.distributions import Menu
from cos.search.grammar import Grammar
from cos.search.grammars.cos import CosGrammar
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.ports import Stops, Vocabulary

__all__ = ["AUTO", "choose", "find", "menu"]

AUTO = "auto"
"""Chooses by the policy's vocabulary."""

BUILT_IN: tuple[type[Grammar], ...] = (CosGrammar, ParagraphGrammar)


def _menu() -> Menu[type[Grammar]]:
    return Menu("grammar", "grammar", "cos.grammars", ("name", "read", "spans"), BUILT_IN, AUTO)


def menu() -> dict[str, type[Grammar]]:
    """Every usable grammar by its name. What another distribution adds and cannot be used is logged."""
    return _menu().usable


def find(name: str) -> type[Grammar]:
    """The grammar of a name. "auto" is the first of the menu: the format with control tokens of its own.

    Errors: InputError with the menu for an unknown name, or naming the entry point that cannot be used.
    """
    return BUILT_IN[0] if name == AUTO else _menu().find(name)


def choose(name: str, vocabulary: Vocabulary) -> Grammar:
    """The grammar of a name, as `find` has it, for a policy of this vocabulary.

    Errors: as `find`, or InputError naming what the policy lacks for this grammar.
    """
    grammar = find(name)(vocabulary)
    if not isinstance(stops := getattr(grammar, "stops", None), Stops):
        raise _menu().refusal(name, f"its `stops` is {stops!r}; it must be a cos.search.ports.Stops")
    return grammar
