"""The CoS PRM format: the step tag is glued to a segment's end and the two labels are read at the tag.

Source: arXiv 2509.19003, section 3.3 and the released code (modeling_internvl_chat.py, generate_prm). A score is
softmax over {good, bad} at the tag position, P(good) = sigmoid(log p(good) - log p(bad)). The model is causal, so a
prefix scores the same now as in the whole chain: each read costs only the new segment, whatever came before is cached.
"""

import math
from collections.abc import Sequence

from cos.prm.ports import Reader, ReaderSession
from cos.search.errors import InputError
from cos.search.grammar import COS_TOKENS, LABEL_BAD, LABEL_GOOD, PRM_TOKENS, STEP_TAG, segment_ids
from cos.search.ports import Reading, ScorerSession, Vocabulary
from cos.search.types import Candidate, Chain, Path, Question

READ_PRIORITY = -1_000
"""Reads are one token long and a search waits for them: they go before any generation."""
LEAST_LABEL_LOGPROB = math.log(1e-6)
"""A model that gives each label less than this was never taught to judge: what it would say is noise."""


class CosPrm:
    """Scores chains of a policy with a CoS PRM."""

    def __init__(self, reader: Reader, policy_vocabulary: Vocabulary) -> None:
        """Errors: InputError when the PRM's tokenizer lacks the tag or a label."""
        vocabulary = reader.vocabulary
        missing = [token for token in PRM_TOKENS if vocabulary.control_id(token) is None]
        if missing:
            raise InputError(
                f"the PRM's tokenizer lacks {', '.join(map(repr, missing))} (step tag and labels); "
                "give a PRM trained in the CoS format, or --prm none to rank by the policy's likelihood",
                "prm",
            )
        self._reader = reader
        self._same = vocabulary.fingerprint == policy_vocabulary.fingerprint

    async def open(self, question: Question) -> ScorerSession:
        """Renders a question in the PRM's engine."""
        return _Session(await self._reader.open(question), self._reader.vocabulary, same=self._same)


class _Session:
    def __init__(self, session: ReaderSession, vocabulary: Vocabulary, *, same: bool) -> None:
        self._session = session
        self._vocabulary = vocabulary
        self._same = same
        self._controls = {
            token: token_id for token in COS_TOKENS if (token_id := vocabulary.control_id(token)) is not None
        }
        self._labels = (self._controls[LABEL_GOOD], self._controls[LABEL_BAD])
        self._segments: dict[Path, tuple[int, ...]] = {}

    async def score(self, chain: Chain) -> Reading:
        """P(good) at the tag of the newest candidate."""
        tag = self._controls[STEP_TAG]
        ids: list[int] = []
        for candidate in chain.candidates:
            ids += self._ids(candidate)
            ids.append(tag)
        read = await self._session.read_labels(ids, self._labels, READ_PRIORITY)
        return Reading(p_good(read.good, read.bad), read.prompt_tokens, read.cached_tokens)

    def _ids(self, candidate: Candidate) -> Sequence[int]:
        """The candidate in the PRM's vocabulary. In the policy's own it is passed on as it was written."""
        if self._same:
            return candidate.token_ids
        if candidate.path not in self._segments:
            self._segments[candidate.path] = self._encode(candidate)
        return self._segments[candidate.path]

    def _encode(self, candidate: Candidate) -> tuple[int, ...]:
        content = candidate.step if candidate.step is not None else candidate.answer or ""
        return segment_ids(self._vocabulary, content, first=len(candidate.path) == 1)


def p_good(good: float, bad: float) -> float | None:
    """Two-way softmax of two log-probabilities; None when they are not finite, or both so small that the model meant
    neither."""
    margin = good - bad
    if not math.isfinite(margin) or max(good, bad) < LEAST_LABEL_LOGPROB:
        return None
    return 1 / (1 + math.exp(-margin)) if margin >= 0 else math.exp(margin) / (1 + math.exp(margin))
