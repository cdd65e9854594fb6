"""What ends a chain that would only go in circles: a step that says nothing, or one it has taken before."""

from cos.search.grammar import Segment
from cos.search.types import Chain, End, Step


def end_of(segment: Segment, chain: Chain) -> End:
    """How a segment ends, as a continuation of ``chain``: as the grammar has it, unless a whole step is empty or a
    repetition. A cycle of steps ends with the first that comes again."""
    if segment.end != "step" or segment.step is None:
        return segment.end
    words = words_of(segment.step)
    if not words:
        return "empty"
    earlier = (candidate.step for candidate in chain.candidates)
    return "repeated" if any(step is not None and words_of(step) == words for step in earlier) else "step"


def words_of(step: Step) -> tuple[str, ...]:
    """What a step says, without case and spacing."""
    return tuple(f"{step.name} {step.thought} {step.reflection}".casefold().split())
