"""A chain that is there as text, cut into its pieces as if a policy had just written it."""

from collections.abc import Iterator, Sequence

from cos.search.grammar import Grammar, read
from cos.search.hygiene import words_of
from cos.search.ports import Drawn, Vocabulary
from cos.search.types import Piece


def is_written_in(text: str, grammar: Grammar, vocabulary: Vocabulary) -> bool:
    """Whether anything that ends a piece of this grammar stands in a text."""
    return any(stop in text for stop, _ in _stops(grammar, vocabulary))


def pieces_in(text: str, grammar: Grammar, vocabulary: Vocabulary) -> Iterator[Piece]:
    """The pieces of a chain in order, as the grammar reads them, up to its answer, without those that say nothing.
    ``vocabulary``: the policy's."""
    ends = _Ends(text, _stops(grammar, vocabulary))
    goes_on = getattr(grammar, "goes_on", None)  # of somebody else's, which need not inherit
    start, last = 0, len(text.rstrip())
    while start < last:
        end, stop = ends.behind(start)
        while goes_on is not None and end < last and goes_on(_drawn(text[start:end], stop)):
            end, stop = ends.behind(end)
        piece = read(grammar, _drawn(text[start:end], stop))
        start = end
        # Blank lines in a row are no step between them.
        if piece.kind != "step" or words_of(piece):
            yield piece
        if piece.kind == "answer":
            return


class _Ends:
    """Where pieces of a text end. Each stop is looked for from where it was found: the text is gone through once."""

    def __init__(self, text: str, stops: Sequence[tuple[str, int | str]]) -> None:
        self._text = text
        self._stops = stops
        self._places = [text.find(spelt) for spelt, _ in stops]

    def behind(self, start: int) -> tuple[int, int | str | None]:
        """The end of the piece that begins there, and what ends it."""
        found: list[tuple[int, int | str]] = []
        for number, (spelt, stop) in enumerate(self._stops):
            if 0 <= self._places[number] < start:
                self._places[number] = self._text.find(spelt, start)
            if self._places[number] >= 0:
                found.append((self._places[number] + len(spelt), stop))
        return min(found, key=_place_of, default=(len(self._text), None))


def _place_of(found: tuple[int, int | str]) -> int:
    return found[0]


def _stops(grammar: Grammar, vocabulary: Vocabulary) -> list[tuple[str, int | str]]:
    """What ends a piece, each spelt out."""
    strings, tokens = grammar.stops.strings, grammar.stops.token_ids
    return [*((stop, stop) for stop in strings), *((vocabulary.decode((stop,)), stop) for stop in tokens)]


def _drawn(text: str, stop: int | str | None) -> Drawn:
    return Drawn(
        written=text, text=text, tokens=0, finish="stop", stop=stop, logprob=None, prompt_tokens=0, cached_tokens=0
    )
