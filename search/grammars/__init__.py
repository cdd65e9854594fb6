"""The step grammars by name. Third parties add theirs through the entry-point group ``cos.grammars``."""

import logging

from cos.search.distributions import Menu
from cos.search.grammar import Grammar
from cos.search.grammars.cos import CosGrammar
from cos.search.grammars.marker import MarkerGrammar
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.ports import Stops, Vocabulary

__all__ = ["AUTO", "PARAGRAPH", "choose", "find", "menu"]

logger = logging.getLogger(__name__)

PARAGRAPH = ParagraphGrammar.name
AUTO = "auto"
"""Chooses by the policy's vocabulary; see `choose`."""

BUILT_IN: tuple[type[Grammar], ...] = (CosGrammar, ParagraphGrammar, MarkerGrammar)


def _menu() -> Menu[type[Grammar]]:
    return Menu("grammar", "grammar", "cos.grammars", ("name", "read", "spans"), BUILT_IN, AUTO)


def menu() -> dict[str, type[Grammar]]:
    """Every usable grammar by its name. What another distribution adds and cannot be used is logged."""
    return _menu().usable


def find(name: str) -> type[Grammar]:
    """The grammar of a name.

    Errors: InputError with the menu for an unknown name, or naming the entry point that cannot be used.
    """
    return _menu().find(name)


def choose(name: str, vocabulary: Vocabulary) -> Grammar:
    """The grammar of a name, as `find` has it, for a policy of this vocabulary. "auto" is the one that the policy was
    trained to write in, or else `paragraph`, which any policy can be told to write in.

    Errors: as `find`, or InputError naming what the policy lacks for this grammar.
    """
    grammar = (_recognised(vocabulary) if name == AUTO else find(name))(vocabulary)
    if not isinstance(stops := getattr(grammar, "stops", None), Stops):
        raise _menu().refusal(name, f"its `stops` is {stops!r}; it must be a cos.search.ports.Stops")
    return grammar


def _recognised(vocabulary: Vocabulary) -> type[Grammar]:
    for name, grammar in menu().items():
        try:
            # Somebody else's class need not inherit, and then may not have it.
            if hasattr(grammar, "recognises") and grammar.recognises(vocabulary):
                return grammar
        except Exception as error:
            logger.warning("grammar %r cannot tell whether it is the policy's: %s", name, error)
    return ParagraphGrammar
