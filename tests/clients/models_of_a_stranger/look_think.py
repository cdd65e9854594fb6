"""Steps with two parts: what is seen, and what follows."""

import re

from cos.search.grammar import Grammar, Span
from cos.search.ports import Drawn, Stops, Vocabulary
from cos.search.types import Piece

STEP = re.compile(r"<look>(.*?)</look>\s*<think>(.*?)</think>", re.DOTALL)
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class LookThink(Grammar):
    name = "look_think"

    def __init__(self, vocabulary: Vocabulary) -> None:
        pass

    @property
    def stops(self) -> Stops:
        return Stops(strings=("</think>", "</answer>"))

    @property
    def instruction(self) -> str:
        return "Write each step as <look>what you see</look><think>what follows</think>. End with <answer>...</answer>."

    def read(self, drawn: Drawn) -> Piece:
        if drawn.finish == "length":
            return Piece("truncated", drawn.text)
        if drawn.stop == "</think>" and (step := STEP.search(drawn.text)):
            look, think = step[1].strip(), step[2].strip()
            return Piece("step", f"{look} {think}".strip(), {"look": look, "think": think})
        if drawn.stop == "</answer>" and (answer := ANSWER.search(drawn.text)) and answer[1].strip():
            return Piece("answer", answer[1].strip())
        return Piece("broken", drawn.text)

    def spans(self, piece: Piece, *, first: bool) -> list[Span]:
        if piece.kind == "answer":
            return [Span(f"<answer>{piece.text}</answer>")]
        look, think = piece.fields.get("look", ""), piece.fields.get("think", piece.text)
        return [Span(f"<look>{look}</look><think>{think}</think>")]
