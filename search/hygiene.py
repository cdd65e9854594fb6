"""What ends a chain that would only go in circles: a step that says nothing, or one it has taken before."""

from cos.search.types import Chain, End, Piece


def end_of(piece: Piece, chain: Chain) -> End:
    """How a candidate ends, as a continuation of ``chain``: as the grammar has it, unless a whole step is empty or a
    repetition. A cycle of steps ends with the first that comes again. Signs without a word, such as a line or a bracket
    around a formula, may come again: they are a repetition only directly behind themselves."""
    if piece.kind != "step":
        return piece.kind
    words = words_of(piece)
    if not words:
        return "empty"
    for candidate in chain.candidates:
        is_same = candidate.piece.kind == "step" and words_of(candidate.piece) == words
        if is_same and (candidate is chain.candidates[-1] or _has_word(words)):
            return "repeated"
    return "step"


def words_of(step: Piece) -> list[str]:
    """What a step says, without case and spacing."""
    return step.text.casefold().split()


def _has_word(words: list[str]) -> bool:
    return any(char.isalnum() for word in words for char in word)
