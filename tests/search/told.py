"""A search's result in words that no redesign changes: what was written, how it was judged, what came of it, its cost.

Stored trees are compared in this form. So it names no class and no token id: text is what the vocabulary decodes, and
numbers are rounded, as the last digits differ between C libraries and orders of summation.
"""

import hashlib
import json
from typing import Any, cast

from cos.search.ports import Vocabulary
from cos.search.result import Result
from cos.search.types import Candidate

DIGITS = 9
"""Decimal places of a score."""
COUNTERS = (
    "tokens_kept",
    "tokens_duplicate",
    "tokens_asked",
    "tokens_discarded",
    "candidates",
    "candidates_duplicate",
    "prm_reads",
    "prm_prompt_tokens",
    "requests_failed",
    "unscored",
)
"""Of a search's usage what does not depend on which request ends first. What is begun ahead in vain does, and so does
what a prefix cache has by then."""


def told(result: Result, vocabulary: Vocabulary) -> dict[str, Any]:
    """All of a result that the question, the settings and the seed decide."""
    usage = result.usage
    cost = {name: getattr(usage, name) for name in COUNTERS}
    return {
        "tree": [candidate_told(candidate, vocabulary) for candidate in result.tree],
        "winner": list(result.chain.path),
        "winner_scores": [rounded(candidate.score) for candidate in result.chain.candidates],
        "answer": result.chain.answer,
        "value": rounded(result.value),
        "finish_reason": result.finish_reason,
        "cost": {**cost, "tokens_not_aborted": usage.tokens_generated - usage.tokens_aborted},
        "warnings": list(result.warnings),
    }


def candidate_told(candidate: Candidate, vocabulary: Vocabulary) -> dict[str, Any]:
    """One candidate of the tree."""
    piece = candidate.piece
    return {
        "path": list(candidate.path),
        "end": candidate.end,
        "tokens": candidate.tokens,
        "text": vocabulary.decode(cast("tuple[int, ...]", candidate.written)),
        "answer": candidate.answer,
        "step": dict(piece.fields) if piece.kind == "step" else None,
        "score": rounded(candidate.score),
    }


def rounded(score: float | None) -> float | None:
    """A score without the digits that the machine decides."""
    return None if score is None else round(score, DIGITS)


def digest(of: Any, length: int = 16) -> str:
    """The first hexadecimal digits of the SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(of, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:length]
