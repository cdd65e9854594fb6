"""The answer to a search, with all it took to find it."""

from typing import Annotated, Any

from pydantic import Field

from cos.search.types import Path
from cos.wire.message import CandidateEnd, Message, SearchEnd


class Candidate(Message):
    """One step, or one answer, that the policy proposed."""

    path: Path
    """Its place in the search tree: the child index at each level. That of its parent is the same without the last."""
    text: str
    """All that the step says, or the answer, in plain words. Of a text that could not be read as either, all of it as
    the policy wrote it."""
    fields: dict[str, str]
    """The step's named parts, where the policy's step format names parts."""
    answer: str | None = None
    """The answer, if it is one."""
    end: CandidateEnd
    """"step", "answer", or why nothing could follow it."""
    score: float | None
    """The PRM's, on its own scale, or in likelihood mode the mean log-probability of a token; null is unscored."""
    tokens: int
    logprob: float | None = None
    """Log-probability of its text, nats; null where the search did not ask for it."""
    kept: bool = False
    """Whether it stands in the winning chain."""


class Usage(Message):
    """What the search cost. Every generated token is kept (in the winning chain), a duplicate, asked for, aborted, or
    discarded."""

    tokens_generated: int
    tokens_kept: int
    tokens_duplicate: int
    """Of candidates whose chains say what another chain says."""
    tokens_asked: int
    """Of what the policy was asked about its own candidates (self_critique)."""
    tokens_aborted: int
    """Of requests that were aborted before they ended, or begun ahead in vain."""
    tokens_discarded: int
    """Of all other candidates outside the winning chain."""
    policy_prompt_tokens: int
    """Prompt tokens over all policy requests, cached ones included."""
    policy_cached_tokens: int
    candidates: int
    candidates_duplicate: int
    """Candidates whose chains say what another chain says."""
    candidates_aborted: int
    """Candidates that were begun and are not in the tree: broken off, or begun ahead in vain."""
    candidates_begun_ahead: int
    """Candidates that were begun before it was decided that they are wanted."""
    candidates_begun_in_vain: int
    """Begun ahead, too, and dropped."""
    prm_reads: int
    prm_prompt_tokens: int
    prm_cached_tokens: int
    prm_tokens_generated: int = 0
    """Written by a PRM that writes its verdicts, those that came to nothing included; in no other count."""
    unscored: int
    """Candidates whose score was missing or not finite."""
    requests_aborted: int
    requests_failed: int


class Stages(Message):
    """Where the wall time of a search went, seconds. At each instant it is in exactly one stage."""

    queue_s: float
    """It waited for a place."""
    decode_s: float
    """Its picture was decoded."""
    open_s: float
    """The engines rendered its question."""
    generate_s: float
    """At least one candidate was being drawn."""
    score_s: float
    """Nothing was drawn any more, and PRM scores were waited for."""
    vote_s: float
    """Neither of these, and answers were compared."""
    select_s: float
    """No engine had anything to do for it."""


class Timings(Message):
    """Wall time, seconds, from when the search was asked for: its wait for a place counts."""

    first_candidate_s: float | None
    total_s: float
    stages: Stages
    """They add up to the total."""


class Solution(Message):
    """The best answer, its scored chain of steps, and all it took to find it."""

    id: str
    model: str
    question: str
    answer: str | None
    """Null where a limit came before any whole answer."""
    choice: str | None = None
    """The one of the request's choices that the answer means."""
    confidence: float | None
    """The chain's score on a scale from 0 to 1; by likelihood, the mean probability of its tokens. Null where it is
    unscored, or where the PRM's scale has no ends."""
    steps: tuple[Candidate, ...]
    """The winning chain without its answer, in order."""
    answer_fields: Annotated[dict[str, str], Field(default_factory=dict)]
    """Named parts of the text that holds the answer, such as the reasoning before it, where the policy's step format
    names parts."""
    answer_score: float | None
    chain_score: float | None
    strategy: str
    parameters: dict[str, Any]
    """All that was in force, the seed included: the same parameters ask for the same search again."""
    finish_reason: SearchEnd
    complete: bool
    """Whether there is a whole answer."""
    usage: Usage
    timings: Timings
    warnings: tuple[str, ...] = ()
    tree: tuple[Candidate, ...] | None = None
    """Every candidate in path order, on request."""

    @property
    def has_step_scores(self) -> bool:
        """Whether steps may have scores: a PRM that judges whole answers gives the answer one, and its steps none."""
        return self.answer_score is None or any(step.score is not None for step in self.steps)
