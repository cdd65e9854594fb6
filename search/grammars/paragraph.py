r"""The paragraph grammar: each paragraph is a step, as chat models write without having been trained for it.

    chain := ( step BLANK_LINE )* last
    last  := [ reasoning ] "Final answer:" answer   or   [ reasoning ] "\boxed{" answer "}" [ reasoning ]

A chain is cut at each blank line, and ends with the first paragraph that holds an answer. What is decided where models
differ:

- Behind the last "Final answer:", the answer is what the last ``\boxed{}`` holds, or else the rest of the line, or all
  that follows where the line says no more. Without "Final answer:" it is what the last ``\boxed{}`` holds. Braces
  within a box are matched.
- What the paragraph says before the answer is the answer's part "reasoning".
- "Final answer:" counts with a capital letter only, so that "the final answer: we add" is none. An empty ``\boxed{}``
  is none either: models repeat what they were told.
- "Final answer:" with nothing behind it and a box that is not closed are broken: an answer was begun and is not there.
  So is a turn that ends without an answer.
- A blank line where a paragraph should be is a step that says nothing, and ends its chain. White space around a
  paragraph says nothing, nor does a line break that a model writes in one token with the blank line.
"""

import re

from cos.search.grammar import Grammar, Span
from cos.search.ports import Drawn, Stops, Vocabulary
from cos.search.types import NO_FIELDS, Piece

BLANK_LINE = "\n\n"
BLANK_LINES = (BLANK_LINE, "\r\n\r\n")
"""With the line breaks of Windows, too, which models write where a question has them."""
_MARK = re.compile(r"(?:#{1,6}[ \t]{0,3})?(\*\*)?(?:Final [Aa]nswer|FINAL ANSWER)(\*\*)?\s*:")
"""With the mark-up of a heading and the beginning and end of bold type."""
_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


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
        """A paragraph that holds an answer is the answer, and any other that a blank line ends is a step."""
        if drawn.finish == "length":
            return Piece("truncated", drawn.text)
        text = _tidy(drawn.text)
        if (found := _answer_in(text)) is not None:
            reasoning, answer = found[0], _without_bold(found[1])
            if not answer:
                return Piece("broken", drawn.text)
            return Piece("answer", answer, {"reasoning": reasoning} if reasoning else NO_FIELDS)
        return Piece("step", text) if drawn.stop in BLANK_LINES else Piece("broken", drawn.text)

    def spans(self, piece: Piece, *, first: bool) -> list[Span]:
        """``first`` makes no difference."""
        del first
        text = _tidy(piece.text)
        if piece.kind != "answer":
            return [Span(f"{text}{BLANK_LINE}")]
        reasoning = _tidy(piece.fields.get("reasoning", ""))
        lead, gap = (f"{reasoning}\n" if reasoning else ""), ("\n" if "\n" in text else " ")
        return [Span(f"{lead}Final answer:{gap}{text}")]


def _tidy(text: str) -> str:
    """A paragraph without white space around it, and without blank lines."""
    return re.sub(r"\n(?:[ \t]*\n)+", "\n", text.replace("\r\n", "\n").strip())


def _answer_in(text: str) -> tuple[str, str] | None:
    """Reasoning and answer of a paragraph, None where it has none. The answer is empty where one was begun and is not
    there."""
    marks = list(_MARK.finditer(text))
    if not marks:
        boxed = _boxed_in(text)
        return None if boxed is None else (text if re.search(r"\w", text.partition("\\boxed")[0]) else "", boxed)
    mark = marks[-1]
    before, behind = text[: mark.start()].strip(), text[mark.end() :]
    if mark[1] and not mark[2]:
        behind = behind.replace("**", "", 1)
    boxed = _boxed_in(behind)
    if boxed is None:
        line, _, more = behind.partition("\n")
        boxed = line.strip() or more.strip()
    return before, boxed


def _boxed_in(text: str) -> str | None:
    r"""What the last ``\boxed{}`` that is not empty holds; empty where that one is not closed, None without any."""
    opened: list[tuple[int, bool]] = []
    held: dict[int, str] = {}
    for mark in _BRACES.finditer(text):
        if mark[0] == "}" and opened:
            start, is_box = opened.pop()
            content = text[start : mark.start()].strip()
            if is_box and content:
                held[start] = content
        elif mark[0] == "{" or mark[0].startswith("\\boxed"):
            opened.append((mark.end(), mark[0] != "{"))
    held |= {start: "" for start, is_box in opened if is_box}
    return held[max(held)] if held else None


def _without_bold(answer: str) -> str:
    """An answer of which not all is in bold type."""
    while len(answer) > 4 and answer.startswith("**") and answer.endswith("**"):
        answer = answer[2:-2].strip()
    return answer
