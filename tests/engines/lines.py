"""A grammar without control tokens: a step ends at a blank line, an answer begins with its own words."""

from cos.search.grammar import Grammar, Span
from cos.search.ports import Drawn, Stops, Vocabulary
from cos.search.types import Piece

BLANK = "\n\n"
ANSWER = "So it is: "


class Lines(Grammar):
    """Keeps no fields."""

    name = "lines"

    def __init__(self, vocabulary: Vocabulary) -> None:
        del vocabulary

    @property
    def stops(self) -> Stops:
        return Stops(strings=(BLANK,))

    def read(self, drawn: Drawn) -> Piece:
        if drawn.finish == "length":
            return Piece("truncated", drawn.text)
        if drawn.stop == BLANK:
            return Piece("step", drawn.text.partition(BLANK)[0])
        _, mark, answer = drawn.text.partition(ANSWER)
        return Piece("answer", answer) if mark and answer else Piece("broken", drawn.text)

    def spans(self, piece: Piece, *, first: bool) -> list[Span]:
        if piece.kind == "answer":
            return [Span(ANSWER), Span(piece.text)]
        return [Span(piece.text), Span(BLANK)]
