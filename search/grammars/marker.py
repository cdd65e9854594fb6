r"""The marker grammar: each step begins with a mark of its own, such as "Step 3:", "## Step 3" or "3." in a list.

    chain := [ step ] ( mark step )* last
    mark  := "Step" number ":" | "## Step" number ":" | "**Step" number ":**" | number "."
    last  := [ mark ] [ reasoning ] answer, as `cos.search.final_answer` finds it

A step ends where the next mark begins, so that the beginning of a mark is the end of the piece before it: a piece is
what follows a mark. "Final answer" at the beginning of a line is a mark, too. What is decided where models differ:

- Marks and their numbers are no words of a step: what it says is what follows.
- Words before the first mark are a step. A mark with no words before it is a step that says the mark.
- A step that a token limit cut, answers, and the tags of a think block are as in `cos.search.grammars.paragraph`.
"""

import re

from cos.search.final_answer import Found, behind_mark, in_last_line, marked
from cos.search.grammar import Grammar, Span
from cos.search.grammars.paragraph import answer_piece, answer_spans, tidy
from cos.search.ports import Drawn, Stops, Vocabulary
from cos.search.types import Piece

HEADS = ("", "# ", "## ", "### ", "#### ", "**", "### **", "## **")
"""What may stand before a mark at the beginning of a line."""
MOST_ITEMS = 64
"""Most items of a list: the most steps that a search takes."""
STEP_MARKS = tuple(f"\n{head}{word} " for head in HEADS for word in ("Step", "STEP"))
LIST_MARKS = tuple(f"\n{number}. " for number in range(1, MOST_ITEMS + 1))
ANSWER_MARKS = tuple(f"\n{head}{word}" for head in HEADS for word in ("Final answer", "Final Answer", "FINAL ANSWER"))
_NUMBER = re.compile(r"(?:(?:#{1,4} )?\*{0,2}(?:Step|STEP) )?(\d+)\*{0,2}\s*[:.)]\*{0,2}\s*")
_COLON = re.compile(r"[*_]{0,3}\s*[:：][*_]{0,3}\s*")


class MarkerGrammar(Grammar):
    """Reads steps that are numbered. Any policy can write so once it is told to."""

    name = "marker"

    def __init__(self, vocabulary: Vocabulary) -> None:
        del vocabulary

    @property
    def stops(self) -> Stops:
        """The beginnings of marks."""
        return Stops(strings=(*STEP_MARKS, *LIST_MARKS, *ANSWER_MARKS))

    @property
    def instruction(self) -> str:
        """For models that were not trained to write so."""
        return (
            'Reason step by step. Begin each step on a line of its own with "Step", its number and a colon, as in '
            '"Step 1:". End with one line: "Final answer:" and then nothing but the answer.'
        )

    def read(self, drawn: Drawn) -> Piece:
        """What a mark ended is a step. What follows the mark of an answer, or holds one, is the answer."""
        text = drawn.text
        is_cut = drawn.finish == "length"
        if isinstance(drawn.stop, str) and not is_cut:
            text = text[: text.rfind(drawn.stop)]
        if colon := _COLON.match(text):
            # The piece before it ended with the mark of the answer.
            line_end = "\n" if "\n" in colon[0] else ""
            found: Found | None = Found("", behind_mark(line_end + tidy(text[colon.end() :])))
        else:
            found = marked(tidy(text))
        if is_cut:
            return Piece("step", _words(text)) if found is None else Piece("truncated", drawn.text)
        if found is None and drawn.stop is not None:
            return Piece("step", _words(text) or drawn.text.strip())
        return answer_piece(found or in_last_line(_words(text)), drawn)

    def goes_on(self, drawn: Drawn) -> bool:
        """Where a list stands behind "Final answer:": its numbers are no marks of steps."""
        return drawn.finish != "length" and drawn.stop in LIST_MARKS and _COLON.match(drawn.text) is not None

    def spans(self, piece: Piece, *, first: bool) -> list[Span]:
        """``first``: whether the mark of the piece is still to be written."""
        if piece.kind == "answer":
            return answer_spans(piece)
        return [Span(f"{'Step ' if first else ''}{tidy(piece.text)}\nStep ")]


def _words(text: str) -> str:
    """A step without the number that its mark has."""
    words = tidy(text)
    number = _NUMBER.match(words)
    return words[number.end() :] if number else words
