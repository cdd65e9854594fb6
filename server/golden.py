"""A right and a wrong chain for the bundled example: what a PRM must tell apart."""

from dataclasses import dataclass

from cos.search.grammars.cos import Step, segment_ids
from cos.search.ports import Encoder
from cos.search.types import Candidate, Chain


@dataclass(frozen=True, slots=True)
class Solution:
    """A written-out chain."""

    steps: tuple[Step, ...]
    answer: str

    def prefixes(self, vocabulary: Encoder) -> list[Chain]:
        """The chain up to each of its steps and up to its answer, as a policy of this vocabulary writes it."""
        candidates: list[Candidate] = []
        for depth, content in enumerate((*self.steps, self.answer), 1):
            is_step = isinstance(content, Step)
            candidates.append(
                Candidate(
                    path=(0,) * depth,
                    token_ids=segment_ids(vocabulary, content, first=depth == 1),
                    text="",
                    end="step" if is_step else "answer",
                    step=content if is_step else None,
                    answer=None if is_step else content,
                )
            )
        return [Chain(tuple(candidates[:depth])) for depth in range(1, len(candidates) + 1)]


RIGHT = Solution(
    (
        Step("Read row 1", "Row 1 shows 62.", "It has 2 digits."),
        Step("Read row 2", "Row 2 shows 30.", "It has 2 digits."),
        Step("Subtract the ones", "2 - 0 = 2, write 2, borrow 0.", "It ends in 2."),
        Step("Subtract the tens", "6 - 3 = 3, write 3, borrow 0.", "It ends in 32."),
    ),
    "32",
)
WRONG = Solution(
    (
        Step("Read row 1", "Row 1 shows 85.", "It has 2 digits."),
        Step("Read row 2", "Row 2 shows 17.", "It has 2 digits."),
        Step("Subtract the ones", "5 - 7 = 9, write 9, borrow 0.", "It ends in 9."),
        Step("Subtract the tens", "8 - 1 = 4, write 4, borrow 0.", "It ends in 49."),
    ),
    "12",
)
