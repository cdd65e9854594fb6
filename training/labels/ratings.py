"""A judge's reply: one rating a step, or why there is none. Whatever a server sends, nothing here fails otherwise.

Replies are held to a JSON schema and checked again, so no free text is parsed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cos.evaluation.failures import kind_of_failure
from cos.training.data.rows import BAD, GOOD, TagLabel

Rating = Literal["Good", "Neutral", "Bad"]
RATINGS: tuple[Rating, ...] = ("Good", "Neutral", "Bad")
MOST_QUOTED = 300
"""Longest piece of a server's own words in a message, characters."""
MOST_TOKENS = 1 << 53
"""More than that are no count of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of asking about one chain."""

    ratings: Sequence[Rating] | None
    """One a step; None where no reply could be used."""
    why: str = ""
    """Why there are no ratings: the kind of fault, and after a colon more of it."""
    tokens_in: int = 0
    """Prompt tokens of all replies, by the server's count."""
    tokens_out: int = 0

    def plus(self, tokens_in: int, tokens_out: int) -> Verdict:
        """The same with more tokens spent."""
        return replace(self, tokens_in=self.tokens_in + tokens_in, tokens_out=self.tokens_out + tokens_out)


class _Labels(BaseModel):
    """What the judge has to write."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: tuple[Rating, ...]


class _Message(BaseModel):
    content: str | None = None
    refusal: Any = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: Any = None


class Completion(BaseModel):
    """A chat completion as far as it is read; servers differ in all else."""

    choices: list[_Choice] = Field(min_length=1)
    usage: Any = None

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens in and out, by the server's count; 0 where it does not say."""
        found = self.usage if isinstance(self.usage, dict) else {}
        counts = (found.get("prompt_tokens"), found.get("completion_tokens"))
        known = [count if type(count) is int and 0 <= count < MOST_TOKENS else 0 for count in counts]
        return known[0], known[1]


def completion_of(body: bytes) -> Completion:
    """A reply's body. Errors: ValueError saying what is wrong with it, and how it begins."""
    if not body.strip():
        raise ValueError("the reply has no body")
    try:
        return Completion.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        fault = f"{place}: {first['msg']}" if place else first["msg"]
        begins = body[:MOST_QUOTED].decode(errors="replace")
        raise ValueError(f"the reply is no chat completion: {fault}; it begins {begins!r}") from error


def ratings_of(reply: Completion, steps: int) -> tuple[Rating, ...]:
    """The ratings of a reply; servers differ in how far they keep to a schema. Errors: ValueError saying what is wrong
    with it."""
    choice = reply.choices[0]
    if choice.finish_reason == "length":
        raise ValueError("the reply was cut at its longest; raise judge.max_tokens")
    if not choice.message.content:
        raise ValueError(f"the reply is empty: refusal {choice.message.refusal!r}"[:MOST_QUOTED])
    try:
        labels = _Labels.model_validate_json(choice.message.content).labels
    except ValidationError as error:
        raise ValueError(f"the reply does not keep to the schema: {choice.message.content[:MOST_QUOTED]!r}") from error
    if len(labels) != steps:
        raise ValueError(f"the reply has another number of labels than of steps: {len(labels)} for {steps}")
    return labels


def labels_of(ratings: Sequence[Rating], *, right: bool) -> tuple[TagLabel, ...]:
    """Ratings as labels: where the chain ends right, Neutral counts as good, where it ends wrong only Good does (paper,
    section 3.3). The answer is good when it is right. Soft labels are 0 or 1: a rating is no probability."""
    good = ("Good", "Neutral") if right else ("Good",)
    return (*(GOOD if rating in good else BAD for rating in ratings), GOOD if right else BAD)


def summary_of(verdicts: Sequence[Verdict], distinct: Iterable[Verdict]) -> dict[str, Any]:
    """Chains with and without labels, kinds of failures and how many there were, of the chains' steps the share of each
    rating (None of nothing), and tokens of the distinct ones."""
    found = Counter(rating for verdict in verdicts for rating in verdict.ratings or ())
    steps = found.total()
    judged = sum(verdict.ratings is not None for verdict in verdicts)
    reasons = Counter(kind_of_failure(verdict.why) for verdict in verdicts if verdict.ratings is None)
    spent = list(distinct)
    return {
        "judged": judged,
        "failed": len(verdicts) - judged,
        "reasons": dict(reasons.most_common()),
        **{rating.lower(): round(found[rating] / steps, 4) if steps else None for rating in RATINGS},
        "tokens_in": sum(verdict.tokens_in for verdict in spent),
        "tokens_out": sum(verdict.tokens_out for verdict in spent),
    }
