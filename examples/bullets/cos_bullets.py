"""A step grammar of your own: every step is one line, and the answer is a line that begins with "=>"."""

from cos.search.grammar import Grammar, Span
from cos.search.ports import Drawn, Stops, Vocabulary
from cos.search.types import Piece


class Bullets(Grammar):
    """Steps "- like this", then "=> the answer"."""

    name = "bullets"

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Any tokenizer will do."""

    @property
    def stops(self) -> Stops:
        return Stops(strings=("\n",))

    @property
    def instruction(self) -> str:
        return 'Write one step a line, each behind "- ". End with one line: "=> " and the answer.'

    def read(self, drawn: Drawn) -> Piece:
        line = drawn.text.strip()
        if drawn.finish == "length":
            return Piece("truncated", drawn.text)
        if line.startswith("=>"):
            answer = line.removeprefix("=>").strip()
            return Piece("answer", answer) if answer else Piece("broken", drawn.text)
        if drawn.stop is None:
            return Piece("broken", drawn.text)
        return Piece("step", line.removeprefix("-").strip())

    def spans(self, piece: Piece, *, first: bool) -> list[Span]:
        words = " ".join(piece.text.split())
        return [Span(f"=> {words}" if piece.kind == "answer" else f"- {words}\n")]
