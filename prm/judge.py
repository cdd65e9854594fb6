"""The judge: any chat model is asked whether the newest step is right, and "Yes" or "No" is read. Nothing is trained.

    question | the chain, as the assistant's turn | "Is the newest step right?" | Yes / No

Source: Kadavath et al., arXiv 2207.05221 (P(True)): a model is asked about what it has written itself; the wording is
ours. A score is softmax over all spellings of "Yes" and "No" that are single tokens. What is asked stands behind the
chain, so that all before it is the policy's own prompt: where the policy judges itself, its prefix cache has everything
but the question that is asked.
"""

import logging
import math
from collections.abc import Sequence
from typing import ClassVar

from cos.prm.encoding import continued, last_of, placed, single
from cos.prm.labels import p_good
from cos.prm.ports import READ_PRIORITY, Judged, PrmFormat, Reader, ReaderSession
from cos.search.errors import InputError
from cos.search.ports import Encoder, Reading, ScorerSession, Vocabulary
from cos.search.prompt import TurnMarks, question_prompt
from cos.search.scale import Scale
from cos.search.types import Chain, Path, Piece, Question

STEP_CHECKED = (
    "Check the newest step of this solution. Is all that it says right, by the question, by what can be seen and by "
    "the steps before it?"
)
ANSWER_CHECKED = "Check this solution. Is its final answer right?"
STEP_ASKED = f"{STEP_CHECKED} Answer with one word, Yes or No."
ANSWER_ASKED = f"{ANSWER_CHECKED} Answer with one word, Yes or No."
YES = "Yes"
NO = "No"
LEAST_LOGPROB = math.log(1e-9)
"""Of the likelier of the two words. Less than this is no opinion."""
FAIR_SHARE = 0.01
"""A model that gives both words together less does not answer what it is asked. Its scores are used all the same: the
user chose it."""

logger = logging.getLogger(__name__)


class JudgePrm(PrmFormat):
    """Asks a chat model about the newest step. The model may be the policy itself."""

    name = "judge"
    ability = "labels"
    asked: ClassVar[tuple[str, str]] = (STEP_ASKED, ANSWER_ASKED)
    """Of the newest step, and of an answer."""
    scale = Scale(aggregation="mean", threshold=0.5)
    is_trained = False

    def __init__(self, reader: Reader, judged: Judged) -> None:
        """Errors: InputError where "Yes" or "No" is no single token in any spelling, or the chat template cannot show
        a dialogue."""
        vocabulary = reader.vocabulary
        self._reader = reader
        self._instruction = judged.grammar.instruction
        self._suffix = judged.question_suffix
        self._same = vocabulary.fingerprint == judged.vocabulary.fingerprint
        self.yes, self.no = self._words(vocabulary)
        """What is read: the ids of all spellings of a word."""
        self._marks = reader.reply_marks()
        self._has_warned = False

    async def open(self, question: Question) -> ScorerSession:
        """Shows the judge a question as the policy is shown it, so that both have the same prompt."""
        prompt = question_prompt(question, instruction=self._instruction, suffix=self._suffix)
        session = await self._reader.open(prompt)
        return self._opened(session, Asker(self._reader.vocabulary, self._marks, self.asked, same=self._same))

    def _opened(self, session: ReaderSession, asker: "Asker") -> ScorerSession:
        return _Session(session, self, asker)

    def _words(self, vocabulary: Encoder) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return spellings(vocabulary, YES), spellings(vocabulary, NO)

    @property
    def labels(self) -> tuple[int, ...]:
        """All that is read, "Yes" first."""
        return (*self.yes, *self.no)

    def score_of(self, logprobs: Sequence[float]) -> float | None:
        """P(Yes) of Yes and No, by the log-probabilities of `labels`; None where they are missing or say nothing."""
        yes, no = total(logprobs[: len(self.yes)]), total(logprobs[len(self.yes) :])
        score = p_good(yes, no, LEAST_LOGPROB)
        if score is not None and not self._has_warned and (share := math.exp(yes) + math.exp(no)) < FAIR_SHARE:
            self._has_warned = True
            logger.warning(
                "the judge gives Yes and No together a probability of %.1e only: it does not answer what it is asked, "
                "so its scores mean little; give a chat model that answers at once, by --prm MODEL --prm-format judge",
                share,
            )
        return score


class _Session:
    def __init__(self, session: ReaderSession, judge: JudgePrm, asker: "Asker") -> None:
        self._session = session
        self._judge = judge
        self._asker = asker

    async def score(self, chain: Chain) -> Reading:
        """P(Yes) of Yes and No behind the chain and what is asked of its newest candidate."""
        prefix = self._asker.prefix(chain)
        read = await self._session.read_labels(prefix, self._judge.labels, READ_PRIORITY)
        return Reading(self._judge.score_of(read.logprobs), read.prompt_tokens, read.cached_tokens)


class Asker:
    """Asks about chains behind one prompt: the chain as the assistant's turn, then what is asked as the user's."""

    def __init__(self, vocabulary: Vocabulary, marks: TurnMarks, asked: tuple[str, str], *, same: bool) -> None:
        """``asked``: of the newest step, and of an answer. ``same``: whether the policy has the same vocabulary."""
        self._vocabulary = vocabulary
        self._marks = marks
        self._of_step, self._of_answer = asked
        self._same = same
        self._asked: dict[str, tuple[int, ...]] = {}
        self._pieces: dict[Path, tuple[int, ...]] = {}

    def prefix(self, chain: Chain) -> tuple[int, ...]:
        """Token ids behind the prompt, up to where the judge's reply begins."""
        asked = self._ids_of(self._of_answer if chain.candidates[-1].piece.kind == "answer" else self._of_step)
        return (*self._shown(chain), *self._marks.to_user, *asked, *self._marks.to_assistant)

    def _shown(self, chain: Chain) -> tuple[int, ...]:
        """The chain without the token that ends its turn: as it was written, or for a model with another tokenizer in
        plain words, a paragraph for each piece."""
        if self._same and isinstance(chain.prefix, tuple):
            return chain.prefix[:-1] if chain.prefix[-1:] == self._marks.to_user[:1] else chain.prefix
        ids: list[int] = []
        for number, candidate in enumerate(chain.candidates):
            if candidate.path not in self._pieces:
                text = said(candidate.piece)
                self._pieces[candidate.path] = (
                    continued(self._vocabulary, f"\n\n{text}")
                    if number
                    else self._behind(self._marks.to_assistant, text)
                )
            ids += self._pieces[candidate.path]
        return tuple(ids)

    def _ids_of(self, text: str) -> tuple[int, ...]:
        if text not in self._asked:
            self._asked[text] = self._behind(self._marks.to_user, text)
        return self._asked[text]

    def _behind(self, marks: tuple[int, ...], text: str) -> tuple[int, ...]:
        return placed(self._vocabulary, text, last_of(self._vocabulary, marks))


def said(piece: Piece) -> str:
    """A piece in plain words. What was written before an answer in one piece with it stands before it."""
    if piece.kind != "answer":
        return piece.text.strip()
    return "\n".join((*piece.fields.values(), f"Final answer: {piece.text}")).strip()


def spellings(vocabulary: Encoder, word: str) -> tuple[int, ...]:
    """The ids of all single tokens that a word is: with a capital letter, with none, in capitals, each with and without
    a space before it. A token of its own (a control token) stands for all.

    Errors: InputError where it is none in any spelling.
    """
    if (control := vocabulary.control_id(word)) is not None:
        return (control,)
    found: list[int] = []
    for spelling in (word, word.lower(), word.upper()):
        for text in (spelling, f" {spelling}"):
            try:
                found.append(single(vocabulary, text, "a label"))
            except InputError:
                # Few vocabularies have all of them.
                continue
    if not found:
        raise InputError(
            f"the judge's tokenizer has no single token for the word {word!r}, in any spelling; "
            "give another chat model as --prm, or --prm none to rank by the policy's likelihood",
            "prm",
        )
    return tuple(dict.fromkeys(found))


def total(logprobs: Sequence[float]) -> float:
    """The logarithm of the summed probabilities of a label's spellings. One that the runtime did not tell counts as
    nothing; NaN where it told none."""
    told = [logprob for logprob in logprobs if not math.isnan(logprob)]
    if not told:
        return math.nan
    largest = max(told)
    if not math.isfinite(largest):
        return largest
    return largest + math.log(math.fsum(math.exp(logprob - largest) for logprob in told))
