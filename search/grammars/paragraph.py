r"""The paragraph grammar: each paragraph is a step, as chat models write without having been trained for it.

    chain := ( step BLANK_LINE )* last
    last  := [ reasoning ] answer, as `cos.search.final_answer` finds it

A chain is cut at each blank line. It ends with the first paragraph that holds a marked answer, or where the policy ends
its turn. What is decided where models differ:

- What the last paragraph says before the answer is the answer's part "reasoning".
- Behind "Final answer:" with a blank line the next paragraph is the answer.
- An answer that was begun and is not there is broken, and so is a turn that ends without a word.
- A blank line where a paragraph should be is a step that says nothing, and ends its chain. White space around a
  paragraph says nothing, nor does a line break that a model writes in one token with the blank line.
- A paragraph that a token limit cut is a step, and the next one goes on where it ended. An answer that was cut is not
  whole: it ends its chain.
- What a reasoning model thinks between ``<think>`` and ``</think>`` is cut by the same rules. The tags are no words of
  its steps.
"""

import re

from cos.search.final_answer import Found, in_last_line, is_only_mark, marked
from cos.search.grammar import Grammar, Span
from cos.search.ports import Drawn, Stops, Vocabulary
from cos.search.types import NO_FIELDS, Piece

BLANK_LINE = "\n\n"
BLANK_LINES = (BLANK_LINE, "\r\n\r\n")
"""With the line breaks of Windows, too, which models write where a question has them."""


class ParagraphGrammar(Grammar):
    """Reads paragraphs. Any policy can write so once it is told to."""

    name = "paragraph"

    def __init__(self, vocabulary: Vocabulary) -> None:
        del vocabulary

    @property
    def stops(self) -> Stops:
        """The blank line."""
        return Stops(strings=BLANK_LINES)

    @property
    def instruction(self) -> str:
        """For models that were not trained to write so."""
        return (
            "Reason step by step. Write each step as one short paragraph, and leave a blank line between paragraphs. "
            'End with a paragraph of one line: "Final answer:" and then nothing but the answer.'
        )

    def read(self, drawn: Drawn) -> Piece:
        """A paragraph that holds an answer is the answer, and any other that a blank line or a token limit ends is a
        step."""
        text = tidy(drawn.text)
        found = marked(text)
        if drawn.finish == "length":
            return Piece("step", text) if found is None else Piece("truncated", drawn.text)
        if found is None and drawn.stop in BLANK_LINES:
            return Piece("step", text)
        return answer_piece(found or in_last_line(text), drawn)

    def goes_on(self, drawn: Drawn) -> bool:
        """Behind "Final answer:" alone, whose answer is the next paragraph."""
        return drawn.finish != "length" and drawn.stop in BLANK_LINES and is_only_mark(drawn.text)

    def spans(self, piece: Piece, *, first: bool) -> list[Span]:
        """``first`` makes no difference."""
        del first
        return answer_spans(piece) if piece.kind == "answer" else [Span(f"{tidy(piece.text)}{BLANK_LINE}")]


def tidy(text: str) -> str:
    """A piece without white space around it, without blank lines, and without the tags of a think block that stand
    beside its words."""
    text = re.sub(r"\n(?:[ \t]*\n)+", "\n", text.replace("\r\n", "\n").strip())
    return re.sub(r"\s*</?think>\s*", "\n", text).strip() or text


def answer_piece(found: Found, drawn: Drawn) -> Piece:
    """An answer with what was written before it; broken where it is not there."""
    if not found.answer:
        return Piece("broken", drawn.text)
    return Piece("answer", found.answer, {"reasoning": found.reasoning} if found.reasoning else NO_FIELDS)


def answer_spans(piece: Piece) -> list[Span]:
    """An answer as a chat model is told to write it, behind its reasoning."""
    text, reasoning = tidy(piece.text), tidy(piece.fields.get("reasoning", ""))
    lead, gap = (f"{reasoning}\n" if reasoning else ""), ("\n" if "\n" in text else " ")
    return [Span(f"{lead}Final answer:{gap}{text}")]
