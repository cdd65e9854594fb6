"""Problems of rows as questions that a search can be asked, and whether an answer is right."""

import asyncio

from cos.engines.pictures import decode, of_file, read_file
from cos.evaluation.failures import named
from cos.search.answers import equal
from cos.search.errors import InputError
from cos.search.types import Picture, Question
from cos.training.data.rows import ProblemRow


def is_right(answer: str | None, problem: ProblemRow) -> bool:
    """Whether an answer equals gold, compared as votes are."""
    return answer is not None and equal(answer, problem.answer)


async def question_of(problem: ProblemRow) -> Question:
    """The question with its picture if it has one, read beside the event loop. Errors: InputError, StageError; they
    name the picture, not the problem."""
    if problem.image is None:
        return Question(problem.question)
    return Question(problem.question, (await asyncio.to_thread(_picture, problem.image),))


def _picture(path: str) -> Picture:
    try:
        return decode(read_file(path), of_file(path))
    except InputError:
        # It names the picture.
        raise
    except Exception as error:
        # Named before it leaves its thread: an asyncio.Future that is to be given a bare StopIteration never ends.
        raise named(of_file(path).name, error) from error
