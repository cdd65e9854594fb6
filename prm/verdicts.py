"""Written verdicts: a PRM writes about a chain before a label is read, and what that costs.

What is not a whole verdict is none: one that was cut by its token limit, or that does not keep to the format, gives no
score. Nothing that a model writes is ever executed.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from cos.prm.chain_prompt import open_chain
from cos.prm.encoding import single
from cos.prm.labels import p_good
from cos.prm.ports import READ_PRIORITY, Checkpoint, Judged, PrmFormat, Reader, ReaderSession
from cos.search.errors import InputError
from cos.search.ports import Draw, Drawn, Encoder, Reading, ScorerSession, Vocabulary
from cos.search.prompt import Prompt, as_one_turn
from cos.search.types import Chain, Piece, Question

_NUMBER = re.compile(r"^step\s+\d+\s*:\s*", re.IGNORECASE)

Behind = Callable[[Drawn], tuple[int, ...] | None]
"""Behind which token ids the labels are read, given what was written; None where that is no verdict."""


class Writer:
    """Has verdicts written about one question, and adds up the tokens that come to nothing."""

    def __init__(self, reader: Reader, labels: tuple[int, int]) -> None:
        """``labels``: good, bad."""
        self._reader = reader
        self._labels = labels
        self._sessions: list[ReaderSession] = []
        self._lost = 0

    @property
    def tokens_aborted(self) -> int:
        """See `cos.search.ports.WritesVerdicts`."""
        return self._lost + sum(session.tokens_aborted for session in self._sessions)

    async def judged(
        self, prompt: Prompt, prefix: tuple[int, ...], draw: Draw, behind: Behind
    ) -> tuple[Drawn, Reading]:
        """A verdict written after prompt + ``prefix``, and P(good) as it is read there. Cancelling aborts both.

        Errors: as `cos.prm.chain_prompt.open_chain` and `cos.prm.ports.ReaderSession.draw`.
        """
        session = await open_chain(self._reader, prompt)
        self._sessions.append(session)
        drawn = await session.draw(prefix, draw)
        place = behind(drawn)
        if place is None:
            return drawn, Reading(None, drawn.prompt_tokens, drawn.cached_tokens, drawn.tokens)
        try:
            read = await session.read_labels((*prefix, *place), self._labels, READ_PRIORITY)
        except BaseException:
            self._lost += drawn.tokens
            raise
        good, bad = read.logprobs
        return drawn, Reading(
            score=p_good(good, bad),
            prompt_tokens=drawn.prompt_tokens + read.prompt_tokens,
            cached_tokens=drawn.cached_tokens + read.cached_tokens,
            tokens=drawn.tokens,
        )


class VerdictSession(ABC):
    """One question in view of a PRM that writes its verdicts. Each chain is a prompt of its own."""

    def __init__(self, writer: Writer, vocabulary: Encoder, problem: str, max_tokens: int) -> None:
        """``problem``: the question as text. ``max_tokens``: most of one verdict."""
        self._writer = writer
        self._vocabulary = vocabulary
        self._problem = problem
        self._max_tokens = max_tokens

    @property
    def tokens_aborted(self) -> int:
        """See `cos.search.ports.WritesVerdicts`."""
        return self._writer.tokens_aborted

    @abstractmethod
    async def score(self, chain: Chain) -> Reading:
        """The score of the newest candidate. Errors: as `cos.search.ports.ScorerSession`."""
        ...


class VerdictPrm(PrmFormat):
    """A format whose PRM writes a verdict on a Qwen2, from a chain's text alone. A subclass has a `name`, a `scale` and
    what stands here without a value."""

    ability = "text"
    sees_pictures = False
    labels: ClassVar[tuple[str, str]]
    """Good, bad: what is read behind a verdict."""
    verdict_tokens: ClassVar[int]
    """Most tokens of a verdict, as published."""
    session: ClassVar[type[VerdictSession]]

    def __init__(self, reader: Reader, judged: Judged) -> None:
        """Errors: InputError where a label is no single token of the PRM's, or its tokenizer loses spaces."""
        self._reader = reader
        self._suffix = judged.question_suffix
        self._max_tokens = judged.verdict_tokens or self.verdict_tokens
        self._labels = labels_of(reader.vocabulary, *self.labels)

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """By the name of its authors' checkpoints: their tokens and configs are those of the models they began with."""
        return checkpoint.kind == "qwen2" and checkpoint.own_name.startswith(cls.name)

    async def open(self, question: Question) -> ScorerSession:
        """Shows nothing yet."""
        problem = problem_of(question, self._suffix)
        return self.session(Writer(self._reader, self._labels), self._reader.vocabulary, problem, self._max_tokens)


def labels_of(vocabulary: Vocabulary, good: str, bad: str) -> tuple[int, int]:
    """The ids of the labels. Errors: InputError where one is no single token, or the tokenizer loses spaces: such a one
    takes " Yes" for "Yes", and what it is shown is not what the PRM was trained on."""
    said = f"{good.strip()} or {bad.strip()}"
    if (kept := vocabulary.decode(vocabulary.encode(said))) != said:
        raise InputError(
            f"the PRM's tokenizer makes {kept!r} of {said!r}: it is loaded as a class that its files are not for; "
            'write "tokenizer_class": "PreTrainedTokenizerFast" into its tokenizer_config.json',
            "prm",
        )
    return single(vocabulary, good, "a label"), single(vocabulary, bad, "a label")


def priority_of(chain: Chain) -> int:
    """Of a verdict among verdicts: that of the longest chain first, as its search is the nearest to its end. It is no
    read of one token, which goes before all."""
    return -len(chain.candidates)


def problem_of(question: Question, suffix: str) -> str:
    """The conversation and the question as text, without pictures."""
    return "".join(part for part in as_one_turn(question, suffix=suffix) if isinstance(part, str))


def line_of(piece: Piece) -> str:
    """What a piece says, in one line without a number. What was written before an answer stands before it."""
    said = [*piece.fields.values(), f"The answer is: {piece.text}"] if piece.kind == "answer" else [piece.text]
    return _NUMBER.sub("", " ".join(" ".join(said).split()))


def without_turn_end(drawn: Drawn) -> tuple[int, ...]:
    """The ids of what was written, without the token that ended the model's turn. Errors: ValueError where the runtime
    goes on from no token ids."""
    if not isinstance(drawn.written, tuple):
        raise ValueError("written verdicts need a runtime that continues token ids")
    return drawn.written[:-1] if drawn.turn_end else drawn.written
