"""Steps that ask themselves a question and answer it."""

from cos.search.grammar import Grammar, Span
from cos.search.ports import Drawn, Stops, Vocabulary
from cos.search.types import Piece

END = "\n---\n"
RESULT = "RESULT "


class QaLines(Grammar):
    name = "qa_lines"

    def __init__(self, vocabulary: Vocabulary) -> None:
        pass

    @property
    def stops(self) -> Stops:
        return Stops(strings=(END,))

    @property
    def instruction(self) -> str:
        return "Write steps of two lines, Q: and A:, with a line --- behind each. End with RESULT and the answer."

    def read(self, drawn: Drawn) -> Piece:
        if drawn.finish == "length":
            return Piece("truncated", drawn.text)
        text = drawn.text.strip()
        if text.startswith(RESULT):
            answer = text.removeprefix(RESULT).strip()
            return Piece("answer", answer) if answer else Piece("broken", drawn.text)
        question, mark, reply = text.removesuffix("---").strip().partition("\nA:")
        if drawn.stop != END or not mark or not question.startswith("Q:"):
            return Piece("broken", drawn.text)
        fields = {"question": question.removeprefix("Q:").strip(), "reply": reply.strip()}
        return Piece("step", " ".join(fields.values()).strip(), fields)

    def spans(self, piece: Piece, *, first: bool) -> list[Span]:
        if piece.kind == "answer":
            return [Span(RESULT + piece.text)]
        question, reply = piece.fields.get("question", ""), piece.fields.get("reply", piece.text)
        return [Span(f"Q: {question}\nA: {reply}{END}")]
