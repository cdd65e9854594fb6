"""The CoS PRM format: the step tag is glued to a segment's end and the two labels are read at the tag.

Source: arXiv 2509.19003, section 3.3 and the released code (modeling_internvl_chat.py, generate_prm). A score is
softmax over {good, bad} at the tag position, P(good) = sigmoid(log p(good) - log p(bad)). The model is causal, so a
prefix scores the same now as in the whole chain: each read costs only the new segment, whatever came before is cached.
"""

from dataclasses import dataclass

from cos.prm.labels import p_good
from cos.prm.ports import READ_PRIORITY, Checkpoint, Judged, PrmFormat, Reader, ReaderSession
from cos.search.errors import InputError
from cos.search.grammar import token_ids
from cos.search.grammars.cos import LABEL_BAD, LABEL_GOOD, PRM_TOKENS, STEP_TAG, CosGrammar, spans_of
from cos.search.ports import Encoder, Reading, ScorerSession, Vocabulary
from cos.search.prompt import pictures_first, question_prompt
from cos.search.scale import Scale
from cos.search.types import Candidate, Chain, Path, Piece, Question


@dataclass(frozen=True, slots=True)
class ReadingMarks:
    """What is put behind a step or an answer to have it read, and what is read there."""

    tag: str
    tag_id: int
    labels: tuple[str, str]
    """Good, bad."""
    label_ids: tuple[int, int]


def reading_marks(vocabulary: Encoder) -> ReadingMarks:
    """The tag and the labels in a PRM's vocabulary. Errors: InputError naming what it lacks."""
    ids = {token: vocabulary.control_id(token) for token in PRM_TOKENS}
    missing = [token for token, its_id in ids.items() if its_id is None]
    if missing:
        raise InputError(
            f"the PRM's tokenizer lacks {', '.join(map(repr, missing))} (step tag and labels); "
            "give a PRM trained in the CoS format, or --prm none to rank by the policy's likelihood",
            "prm",
        )
    tag, good, bad = (its_id for token in (STEP_TAG, LABEL_GOOD, LABEL_BAD) if (its_id := ids[token]) is not None)
    return ReadingMarks(STEP_TAG, tag, (LABEL_GOOD, LABEL_BAD), (good, bad))


class CosPrm(PrmFormat):
    """Judges chains with a PRM that was trained in the CoS format. A chain of another grammar is written in this format
    for it, the text of a step as its thought."""

    name = "cos"
    ability = "labels"
    scale = Scale(aggregation="cos", step_weight=0.2, threshold=0.5)

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """By the tag and the labels: no other PRM has all three as tokens of their own."""
        return None not in map(checkpoint.vocabulary.control_id, PRM_TOKENS)

    def __init__(self, reader: Reader, judged: Judged) -> None:
        """Errors: InputError when the PRM's tokenizer lacks the tag or a label."""
        vocabulary = reader.vocabulary
        self._marks = reading_marks(vocabulary)
        self._reader = reader
        self._suffix = judged.question_suffix
        self._same = vocabulary.fingerprint == judged.vocabulary.fingerprint and isinstance(judged.grammar, CosGrammar)

    async def open(self, question: Question) -> ScorerSession:
        """Shows the PRM a question as its chat template has it."""
        session = await self._reader.open(question_prompt(pictures_first(question), suffix=self._suffix))
        return _Session(session, self._reader.vocabulary, self._marks, same=self._same)


class _Session:
    def __init__(self, session: ReaderSession, vocabulary: Vocabulary, marks: ReadingMarks, *, same: bool) -> None:
        self._session = session
        self._vocabulary = vocabulary
        self._marks = marks
        self._same = same
        self._segments: dict[Path, tuple[int, ...]] = {}

    async def score(self, chain: Chain) -> Reading:
        """P(good) at the tag of the newest candidate."""
        read = await self._session.read_labels(self._tagged(chain), self._marks.label_ids, READ_PRIORITY)
        good, bad = read.logprobs
        return Reading(p_good(good, bad), read.prompt_tokens, read.cached_tokens)

    def _tagged(self, chain: Chain) -> tuple[int, ...]:
        """The chain with a tag behind every piece."""
        tag_id, same, ids = self._marks.tag_id, self._same, list[int]()
        for candidate in chain.candidates:
            written = candidate.written
            # In the policy's own vocabulary a candidate is passed on as it was written.
            ids += written if same and isinstance(written, tuple) else self._segment(candidate)
            ids.append(tag_id)
        return tuple(ids)

    def _segment(self, candidate: Candidate) -> tuple[int, ...]:
        """The candidate in the PRM's vocabulary."""
        if candidate.path not in self._segments:
            self._segments[candidate.path] = self._encode(candidate.piece, first=len(candidate.path) == 1)
        return self._segments[candidate.path]

    def _encode(self, piece: Piece, *, first: bool) -> tuple[int, ...]:
        """A piece as the format has it. What stands before an answer in one piece with it is a step, as in training."""
        before = " ".join(piece.fields.values()) if piece.kind == "answer" else ""
        if not before:
            return token_ids(self._vocabulary, spans_of(piece, first=first))
        step = token_ids(self._vocabulary, spans_of(Piece("step", before), first=first))
        return (*step, self._marks.tag_id, *token_ids(self._vocabulary, spans_of(piece, first=False)))
