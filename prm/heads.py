"""Reading a head in place of words: what its values mean, and chains that are shown as texts with a mark behind each.

A value is turned into a probability here and nowhere else: a runtime gives what the head says before any activation.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from cos.prm.ports import READ_PRIORITY, HasHead, Judged, PrmFormat, Reader, ReaderSession
from cos.search.errors import EngineError, InputError
from cos.search.ports import CountsPictures, Reading, ScorerSession
from cos.search.prompt import Prompt, as_one_turn
from cos.search.types import Chain, Path, Piece, Question, Turn


def logistic(value: float) -> float | None:
    """Sigmoid of one value; None where it is no finite number."""
    if not math.isfinite(value):
        return None
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def second_of_two(values: Sequence[float]) -> float | None:
    """Softmax of two values, of which the second stands for "good"; None where one is no finite number."""
    bad, good = values
    return logistic(good - bad)


def check_head(reader: Reader, width: int, prm_format: str) -> None:
    """Errors: InputError for a model whose head gives another number of values than ``width``, naming both. A runtime
    that does not know is believed."""
    found = reader.head_width if isinstance(reader, HasHead) else None
    if found is not None and found != width:
        raise InputError(
            f"PRM format {prm_format!r} reads a head of {_values(width)}, and this model's head gives {_values(found)} "
            "at a token; give a PRM trained in this format, or another --prm-format",
            "prm",
        )


def takes_pictures(reader: Reader) -> bool:
    """Whether a model can be shown pictures. A runtime that does not know is taken to."""
    return not isinstance(reader, CountsPictures) or reader.most_pictures > 0


def plain_words(piece: Piece, answer: str = "The answer is: {}") -> str:
    """All that a piece says as one text; ``answer`` has a place for the answer."""
    said = [*piece.fields.values(), answer.format(piece.text)] if piece.kind == "answer" else [piece.text]
    return " ".join(part.strip() for part in said)


class HeadSession:
    """One question in view of a PRM whose head is read at the last token of each prefix. Each piece is encoded once,
    and a prefix begins with the one before it."""

    def __init__(
        self,
        session: ReaderSession,
        encode: Callable[[Piece], tuple[int, ...]],
        width: int,
        score_of: Callable[[Sequence[float]], float | None],
    ) -> None:
        """``encode``: a piece in the PRM's tokens, up to the one at which it is read. ``score_of``: a score, of as many
        values as ``width`` says."""
        self._session = session
        self._encode = encode
        self._width = width
        self._score_of = score_of
        self._pieces: dict[Path, tuple[int, ...]] = {}

    async def score(self, chain: Chain) -> Reading:
        """The score of the newest candidate. Errors: as `cos.search.ports.ScorerSession`."""
        ids: list[int] = []
        for candidate in chain.candidates:
            if candidate.path not in self._pieces:
                self._pieces[candidate.path] = self._encode(candidate.piece)
            ids += self._pieces[candidate.path]
        read = await self._session.read_head(tuple(ids), READ_PRIORITY)
        if len(read.values) != self._width:
            raise EngineError(f"the PRM's head gave {_values(len(read.values))} where {self._width} were expected")
        return Reading(self._score_of(read.values), read.prompt_tokens, read.cached_tokens)


class StepHeadPrm(PrmFormat):
    """A format that reads a head behind each step, of a chain's text alone. A subclass has a `name`, a `scale` and what
    stands here without a value."""

    ability = "head"
    sees_pictures = False
    width: ClassVar[int]
    """Values of the head."""

    def __init__(self, reader: Reader, judged: Judged) -> None:
        """Errors: InputError for a head that does not give as many values as the format reads."""
        check_head(reader, self.width, self.name)
        self._vocabulary = reader.vocabulary
        self._reader = reader
        self._suffix = judged.question_suffix

    async def open(self, question: Question) -> ScorerSession:
        """Shows the PRM a question's text, up to where the first step begins."""
        asked = Turn("user", as_one_turn(question, suffix=self._suffix)).text
        session = await self._reader.open(self.prompt_of(asked))
        return HeadSession(session, self.encode, self.width, self.score_of)

    @abstractmethod
    def prompt_of(self, asked: str) -> Prompt:
        """All that stands before the first step, of a question."""
        ...

    @abstractmethod
    def encode(self, piece: Piece) -> tuple[int, ...]:
        """A piece in the PRM's tokens, up to the one at which it is read."""
        ...

    @abstractmethod
    def score_of(self, values: Sequence[float]) -> float | None:
        """A score, of as many values as `width` says."""
        ...


class TwoLabelPrm(StepHeadPrm):
    """A head of two, (bad, good). A score is the softmax of the two."""

    width = 2

    def score_of(self, values: Sequence[float]) -> float | None:
        """See `second_of_two`."""
        return second_of_two(values)


def one_line(piece: Piece) -> str:
    """All that a piece says, in one line."""
    return " ".join(plain_words(piece).split())


def _values(number: int) -> str:
    return f"{number} value" if number == 1 else f"{number} values"
