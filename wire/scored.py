"""From the chains of a request to pieces that a PRM can be shown, and from its scores to the reply."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

from cos.search import grammars
from cos.search.chain_scores import ScoredChain
from cos.search.cutting import is_written_in, pieces_in
from cos.search.errors import InputError
from cos.search.models import Models
from cos.search.ports import Scorer
from cos.search.scale import Scale
from cos.search.select import Ruler, finite
from cos.search.trust import Trust, picture_warnings
from cos.search.types import Piece
from cos.wire.score import MOST_STEPS, ChainScores, Measure, PieceScore, Scores, ScoringUsage, WrittenChain


def ruler_of(scorer: Scorer, asked: Measure) -> Ruler:
    """How chain scores are made for a request: as the PRM's format does, but for what it names. Errors: InputError for
    a PRM that scores no chain by itself."""
    scale = scorer.scale
    if scale.judges == "pairs":
        raise InputError(
            "this PRM compares the answers of a search with each other, and scores none alone; "
            "search with best_of_n, or use another PRM",
            "prm",
        )
    weight = scale.step_weight if asked.step_weight is None else asked.step_weight
    return Ruler("prm", asked.aggregation or scale.aggregation, weight, scale)


def pieces_of(written: WrittenChain, models: Models, param: str) -> tuple[Piece, ...]:
    """The steps and the answer of a chain. A text is cut by the policy's grammar where its marks stand in it, else at
    blank lines. Errors: InputError naming ``param`` for a text that cannot be read."""
    if written.text is None:
        steps = tuple(Piece("step", step.text, step.fields) for step in written.steps or ())
        return steps if written.answer is None else (*steps, Piece("answer", written.answer))
    vocabulary, grammar = models.policy.vocabulary, models.grammar
    if not is_written_in(written.text, grammar, vocabulary):
        grammar = grammars.choose(grammars.PARAGRAPH, vocabulary)
    # A long text may hold very many pieces: no more are cut than are told of.
    pieces = tuple(islice(pieces_in(written.text, grammar, vocabulary), MOST_STEPS + 2))
    for number, piece in enumerate(pieces, 1):
        if piece.kind not in ("step", "answer"):
            raise InputError(
                f"piece {number} of the text, {piece.text[:80]!r}, is neither a step nor an answer of the grammar "
                f"{grammar.name!r}; give the chain as steps and answer",
                param,
            )
    if sum(piece.kind == "step" for piece in pieces) > MOST_STEPS:
        raise InputError(f"the text has more than {MOST_STEPS} steps, the most of one chain; send a shorter one", param)
    if not pieces:
        raise InputError("the text is empty; give a chain", param)
    return pieces


def scores_of(
    found: Sequence[ScoredChain],
    ruler: Ruler,
    *,
    kind: Literal["score", "rerank"],
    id: str,
    prm: str,
    models: Models,
    pictures: int,
    top_n: int | None = None,
) -> Scores:
    """The reply. ``pictures``: how many its questions have together. ``top_n``: how many of a rerank's results it has;
    all unless given."""
    results = [_result(index, one, ruler) for index, one in enumerate(found)]
    if kind == "rerank":
        results.sort(key=lambda result: (result.score is None, -(result.score or 0.0), result.index))
    scale = ruler.scale
    return Scores(
        object=kind,
        id=id,
        prm=prm,
        prm_format=models.prm_format or "",
        threshold=scale.threshold,
        aggregation=ruler.aggregation,
        step_weight=ruler.step_weight,
        lowest=scale.lowest if math.isfinite(scale.lowest) else None,
        highest=scale.highest if math.isfinite(scale.highest) else None,
        is_probability=scale.is_probability,
        results=tuple(results[:top_n]),
        usage=ScoringUsage(
            prm_reads=sum(one.prm_reads for one in found),
            prm_prompt_tokens=sum(one.prm_prompt_tokens for one in found),
            prm_cached_tokens=sum(one.prm_cached_tokens for one in found),
            prm_tokens_generated=sum(one.prm_tokens_generated for one in found),
        ),
        warnings=tuple(_warnings(found, models, pictures)),
    )


def _warnings(found: Sequence[ScoredChain], models: Models, pictures: int) -> Iterator[str]:
    if failures := sum(len(one.failures) for one in found):
        yield f"PRM reads that failed twice: {failures}; their steps are unscored"
    if unread := [one.too_long for one in found if one.too_long]:
        what = "1 chain is" if len(unread) == 1 else f"{len(unread)} chains are"
        yield f"{what} longer than the PRM's context has room for: {sum(unread)} steps and answers are unscored"
    yield from Trust(beyond=sum(one.beyond for one in found)).warnings
    yield from picture_warnings(pictures, models)


def _result(index: int, scored: ScoredChain, ruler: Ruler) -> ChainScores:
    chain, scale = scored.chain, ruler.scale
    steps = tuple(PieceScore(text=step.piece.text, score=step.score) for step in chain.steps)
    judges_steps = scale.judges == "steps"
    measured = chain.candidates if judges_steps else chain.candidates[len(steps) :]
    return ChainScores(
        index=index,
        steps=steps,
        answer=None if chain.answer is None else PieceScore(text=chain.answer, score=chain.answer_score),
        score=ruler.value(chain) if judges_steps else finite(chain.answer_score),
        first_suspicious_step=_first_suspicious(steps, scale) if judges_steps else None,
        unscored=sum(candidate.score is None for candidate in measured),
    )


def _first_suspicious(steps: Sequence[PieceScore], scale: Scale) -> int | None:
    threshold = scale.threshold
    if threshold is None:
        return None
    low = (number for number, step in enumerate(steps, 1) if step.score is not None and step.score < threshold)
    return next(low, None)
