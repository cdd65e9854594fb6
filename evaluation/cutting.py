"""A reply that was drawn in one piece, cut where a grammar's stops stand in it."""

from collections.abc import Iterator, Sequence
from typing import cast

from msgspec.structs import replace

from cos.search.grammar import Grammar, Span
from cos.search.ports import Drawn, Stops, Vocabulary
from cos.search.types import Piece

_SAYS = Piece("step", "."), Piece("answer", ".")
"""A step and an answer, to see how a grammar ends each."""


def closing_stops(grammar: Grammar, vocabulary: Vocabulary) -> Stops:
    """The stops of a grammar that end an answer and no step: with them a chain is drawn to its end in one request.
    Empty where the end of the model's turn is all that ends a chain."""
    step, answer = (grammar.spans(piece, first=False)[-1] for piece in _SAYS)
    stops = grammar.stops
    return Stops(
        tuple(
            stop
            for stop in stops.token_ids
            if _is_ended_by_token(answer, stop, vocabulary) and not _is_ended_by_token(step, stop, vocabulary)
        ),
        tuple(stop for stop in stops.strings if answer.text.endswith(stop) and not step.text.endswith(stop)),
    )


def _is_ended_by_token(last: Span, stop: int, vocabulary: Vocabulary) -> bool:
    return last.is_control and vocabulary.control_id(last.text) == stop


def cut(drawn: Drawn, stops: Stops, vocabulary: Vocabulary) -> Iterator[Drawn]:
    """The pieces of a reply of token ids, each as if it had been drawn alone, the one without a stop last.

    As a runtime has it, a piece ends with the token in which its stop is whole, whatever else that token says.
    ``logprob`` is None and the prompt's tokens are the reply's: nobody knows them of a piece.
    """
    ids = cast("tuple[int, ...]", drawn.written)
    start = 0
    while start < len(ids):
        length, stop = _first_stop(ids[start:], stops, vocabulary)
        piece = ids[start : start + length]
        if stop is None:
            # The token that ends the model's turn is written and is no text.
            text = drawn.text[len(vocabulary.decode(ids[:start])) :]
            yield replace(drawn, written=piece, text=text, tokens=length, logprob=None)
        else:
            text = vocabulary.decode(piece)
            yield replace(drawn, written=piece, text=text, tokens=length, finish="stop", stop=stop, logprob=None)
        start += length


def _first_stop(ids: Sequence[int], stops: Stops, vocabulary: Vocabulary) -> tuple[int, int | str | None]:
    """How many tokens come before the first stop, itself included, and which it is; all and None without one."""
    tokens = [(number, token) for number, token in enumerate(ids, 1) if token in stops.token_ids][:1]
    text = vocabulary.decode(ids) if stops.strings else ""
    found: list[tuple[int, int | str]] = [*tokens]
    found += [(_reach(ids, stop, vocabulary), stop) for stop in stops.strings if stop in text]
    return min(found, key=lambda end: end[0], default=(len(ids), None))


def _reach(ids: Sequence[int], stop: str, vocabulary: Vocabulary) -> int:
    """How many of the tokens it takes until a stop stands in their text, found by halving."""
    low, high = 0, len(ids)
    while high - low > 1:
        middle = (low + high) // 2
        if stop in vocabulary.decode(ids[:middle]):
            high = middle
        else:
            low = middle
    return high
