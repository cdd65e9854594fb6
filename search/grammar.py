"""The port of a step grammar: what ends a piece of a chain, what a piece is, and how it is written.

A policy's reply is cut into pieces: steps, and the answer that ends a chain. One grammar is one file in
`cos.search.grammars`, or a class that another distribution adds by the entry point ``cos.grammars``.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from cos.search.errors import InputError
from cos.search.ports import Drawn, Encoder, Stops, Vocabulary
from cos.search.types import KINDS, Chain, Piece


class Span(NamedTuple):
    """A stretch of a written piece."""

    text: str
    is_control: bool = False
    """Whether it is one control token that the grammar means. All else is plain text, in which a control token that is
    spelt out stays text."""


class Grammar(Protocol):
    """How a policy writes its chains. One object serves every search; it keeps no state.

    A grammar may inherit from this class and then needs `name`, `stops`, `read` and `spans` only.
    """

    name: ClassVar[str]
    """What ``--grammar`` calls it."""

    @classmethod
    def recognises(cls, vocabulary: Vocabulary) -> bool:
        """Whether a policy of this vocabulary was surely trained to write so. What ``--grammar auto`` goes by."""
        del vocabulary
        return False

    def __init__(self, vocabulary: Vocabulary) -> None:
        """For a policy of this vocabulary. Errors: InputError naming what the policy lacks to write so."""
        ...

    @property
    @abstractmethod
    def stops(self) -> Stops:
        """What ends a piece. The end of the policy's turn always does."""
        ...

    @property
    def instruction(self) -> str:
        """What the policy must be told, as a system message, so that it writes so; empty for a policy that was
        trained to."""
        return ""

    @abstractmethod
    def read(self, drawn: Drawn) -> Piece:
        """What a piece is.

        Where a token limit ended it (``drawn.finish`` is "length") it is "truncated", which ends its chain, or, by a
        grammar whose steps may end anywhere, a step that the next piece goes on with.
        """
        ...

    def goes_on(self, drawn: Drawn) -> bool:
        """Whether a piece is not whole yet although something ended it. Then the policy writes on, and `read` is given
        all of it."""
        del drawn
        return False

    @abstractmethod
    def spans(self, piece: Piece, *, first: bool) -> Sequence[Span]:
        """A step or an answer as the policy would have written it. ``first``: whether it begins its chain."""
        ...

    def brief(self, piece: Piece) -> str:
        """A step in one line, for somebody who compares several."""
        return piece.text


def read(grammar: Grammar, drawn: Drawn) -> Piece:
    """What a piece is, by a grammar of any origin. Errors: InputError where what it returns is no piece: such a grammar
    can serve no search."""
    piece: Any = grammar.read(drawn)  # Nobody has checked the types of somebody else's code.
    if type(piece) is not Piece:
        raise _unusable(grammar, f"a {type(piece).__name__} in place of a Piece")
    if piece.kind not in KINDS:
        raise _unusable(grammar, f"a piece of kind {piece.kind!r}; there are {', '.join(sorted(KINDS))}")
    try:
        # The quickest way to see that all of it is text: this is done for every candidate.
        "".join((piece.text, *piece.fields, *piece.fields.values()))
    except (TypeError, AttributeError) as error:
        raise _unusable(grammar, f"a piece of kind {piece.kind!r} of which not every part is text") from error
    return piece


def _unusable(grammar: Grammar, what: str) -> InputError:
    return InputError(f"grammar {grammar.name!r} returned {what}; mend its read()", "grammar")


def in_words(grammar: Grammar, chain: Chain) -> str:
    """A chain as plain text: a line a step, then what was written before the answer, then the answer."""
    steps = [candidate.piece for candidate in chain.candidates if candidate.piece.kind == "step"]
    lines = [f"Step {index}. {grammar.brief(step)}" for index, step in enumerate(steps, start=1)]
    if chain.is_answered:
        newest = chain.candidates[-1].piece
        lines += [*newest.fields.values(), f"Answer: {newest.text}"]
    return "\n".join(lines)


def written(spans: Sequence[Span]) -> str:
    """The text of a piece, markup included."""
    return "".join(span.text for span in spans)


def token_ids(vocabulary: Encoder, spans: Sequence[Span]) -> tuple[int, ...]:
    """A written piece in a vocabulary. Errors: ValueError where the vocabulary lacks one of its control tokens."""
    ids: list[int] = []
    for text, is_control in spans:
        if not is_control:
            ids += vocabulary.encode(text)
        elif (control := vocabulary.control_id(text)) is not None:
            ids.append(control)
        else:
            raise ValueError(f"the vocabulary has no control token {text!r}")
    return tuple(ids)
