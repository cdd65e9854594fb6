"""A step grammar of your own: every step is one line of two parts, and the answer is a line that begins with "=>"."""

from cos.search.grammar import Grammar, Span
from cos.search.ports import Drawn, Stops, Vocabulary
from cos.search.types import Piece


class Bullets(Grammar):
    """Steps "- what is seen | what follows", then "=> the answer"."""

    name = "bullets"

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Any tokenizer will do."""

    @property
    def stops(self) -> Stops:
        return Stops(strings=("\n",))

    @property
    def instruction(self) -> str:
        return 'Write one step a line: "- what you see | what follows". End with one line: "=> " and the answer.'

    def read(self, drawn: Drawn) -> Piece:
        line = drawn.text.strip()
        if drawn.finish == "length":
            return Piece("truncated", drawn.text)
        if line.startswith("=>"):
            answer = line.removeprefix("=>").strip()
            return Piece("answer", answer) if answer else Piece("broken", drawn.text)
        if drawn.stop is None:
            return Piece("broken", drawn.text)
        seen, _, follows = (part.strip() for part in line.removeprefix("-").partition("|"))
        return Piece("step", f"{seen} {follows}".strip(), {"seen": seen, "follows": follows})

    def spans(self, piece: Piece, *, first: bool) -> list[Span]:
        if piece.kind == "answer":
            return [Span(f"=> {_one_line(piece.text)}")]
        seen, follows = piece.fields.get("seen", piece.text), piece.fields.get("follows", "")
        return [Span(f"- {_one_line(seen)} | {_one_line(follows)}\n")]


def _one_line(text: str) -> str:
    return " ".join(text.split())
