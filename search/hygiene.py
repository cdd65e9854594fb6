"""What ends a chain that would only go in circles: a step that says nothing, or one it has taken before."""

from cos.search.types import Chain, End, Piece


def end_of(piece: Piece, chain: Chain) -> End:
    """How a candidate ends, as a continuation of ``chain``: as the grammar has it, unless a whole step is empty or a
    repetition. A cycle of steps ends with the first that comes again."""
    if piece.kind != "step":
        return piece.kind
    words = words_of(piece)
    if not words:
        return "empty"
    earlier = (candidate.piece for candidate in chain.candidates)
    return "repeated" if any(other.kind == "step" and words_of(other) == words for other in earlier) else "step"


def words_of(step: Piece) -> tuple[str, ...]:
    """What a step says, without case and spacing."""
    said = " ".join(step.fields.values()) if step.fields else step.text
    return tuple(said.casefold().split())
