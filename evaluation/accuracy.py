"""Accuracy and cost of a search over problems whose answers are known."""

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from cos.engines.pictures import Origin, decode
from cos.evaluation.failures import named, of_row
from cos.evaluation.progress import side_by_side
from cos.search.answers import equal
from cos.search.errors import EngineDead, EngineError, InputError, SearchFailed
from cos.search.models import Models
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.types import Question


class EvaluationProblem(Protocol):
    """A question, about a picture or not, and its answer. `cos.checkpoints.LedgerProblem` is one."""

    @property
    def id(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def question(self) -> str: ...

    @property
    def answer(self) -> str: ...

    @property
    def image_png(self) -> bytes | None: ...


P = TypeVar("P", bound=EvaluationProblem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What became of one problem."""

    problem_id: str
    kind: str
    answer: str | None
    """None: the search failed or ended without an answer."""
    is_right: bool
    steps: int = 0
    """Of the chain it ended with, the answer not counted."""
    tokens: int = 0
    prm_reads: int = 0
    seconds: float | None = field(default=None, compare=False)
    """Of the search, with all that runs beside it; None where it was not measured."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of all problems, in their order."""

    records: tuple[Record, ...]
    seconds: float

    @property
    def hits(self) -> list[float]:
        """1.0 for each problem that was answered right, else 0.0."""
        return [float(record.is_right) for record in self.records]

    @property
    def accuracy(self) -> float:
        return sum(self.hits) / len(self.records)

    @property
    def unanswered(self) -> int:
        return sum(record.answer is None for record in self.records)

    @property
    def policy_tokens(self) -> int:
        """Generated tokens over all problems, discarded ones included."""
        return sum(record.tokens for record in self.records)

    @property
    def prm_reads(self) -> int:
        return sum(record.prm_reads for record in self.records)

    def latency_s(self, percentile: float) -> float | None:
        """That percentile of the searches' own seconds; None where none was measured."""
        import numpy as np

        measured = [record.seconds for record in self.records if record.seconds is not None]
        return float(np.percentile(measured, percentile)) if measured else None

    @property
    def by_kind(self) -> dict[str, list[Record]]:
        """The records of each kind of question."""
        kinds = sorted({record.kind for record in self.records})
        return {kind: [record for record in self.records if record.kind == kind] for kind in kinds}


def choose(problems: Sequence[P], count: int, seed: int) -> list[P]:
    """``count`` problems drawn without replacement. Errors: InputError when there are not that many."""
    if not 1 <= count <= len(problems):
        raise InputError(f"--problems {count}: the held-out set has {len(problems)}; choose 1 to that", "problems")
    return random.Random(seed).sample(list(problems), count)


def root_seed(seed: int, problem_id: str) -> int:
    """The root sampling seed of one problem: problems differ, whatever else is evaluated beside them."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{problem_id}".encode(), digest_size=8).digest(), "big") >> 1


def ask(problem: EvaluationProblem) -> Question:
    """A problem as a question to search. Errors: InputError naming the problem whose picture cannot be used."""
    data = problem.image_png
    pictures = () if data is None else (decode(data, Origin(f"picture of problem {problem.id!r}")),)
    return Question(problem.question, pictures)


def is_right(answer: str | None, problem: EvaluationProblem) -> bool:
    """Whether an answer says what the problem's does."""
    return answer is not None and equal(answer, problem.answer)


async def evaluate(
    models: Models,
    problems: Sequence[P],
    spec_for: Callable[[P], SearchSpec],
    concurrency: int,
    label: str,
) -> Outcome:
    """Searches every problem. One that fails or ends without an answer counts as wrong.

    Errors: EngineDead, since nothing after it would be worth counting; InputError, StageError.
    """

    async def one(problem: P) -> Record:
        return await search_one(models, problem, spec_for(problem))

    started = time.perf_counter()
    records = await side_by_side(one, problems, concurrency, label)
    return Outcome(tuple(records), time.perf_counter() - started)


async def search_one(models: Models, problem: EvaluationProblem, spec: SearchSpec) -> Record:
    """One search; one that fails or ends without an answer counts as wrong.

    Errors: EngineDead; with the problem's name InputError, and StageError for all else.
    """
    try:
        result = await solve(ask(problem), spec, models)
    except EngineDead:
        raise
    except (EngineError, SearchFailed):
        return Record(problem_id=problem.id, kind=problem.kind, answer=None, is_right=False)
    except Exception as error:
        raise named(of_row(problem.id), error) from error
    answer = result.chain.answer
    return Record(
        problem_id=problem.id,
        kind=problem.kind,
        answer=answer,
        is_right=is_right(answer, problem),
        steps=len(result.chain.steps),
        tokens=result.usage.tokens_generated,
        prm_reads=result.usage.prm_reads,
        seconds=result.timings.total_s,
    )
