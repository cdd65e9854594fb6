"""PRM formats that are given by their wording: a chain grows by turns or by tags, and two labels are read.

Each prefix begins with the one before it, so that what came before is cached: a read costs the newest step. The model
is causal, so that a prefix scores the same now as in the whole chain, where one pass reads all labels.
"""

import re
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from cos.prm.encoding import last_of, placed, single, untagged
from cos.prm.labels import p_good
from cos.prm.ports import READ_PRIORITY, Judged, PrmFormat, Reader, ReaderSession
from cos.prm.wording import Wording
from cos.search.ports import Reading, ScorerSession, Vocabulary
from cos.search.prompt import Prompt, as_one_turn, joined
from cos.search.types import Chain, Path, Picture, Piece, Question, Turn

_NUMBER = re.compile(r"^step\s+\d+\s*:\s*", re.IGNORECASE)
Content = tuple[str | Picture, ...]


@dataclass(frozen=True, slots=True)
class Marks:
    """Token ids that stand around the text of steps."""

    labels: tuple[int, int]
    """Good, bad."""
    tag: int | None
    read_at: tuple[int, ...]
    """Behind a step's text while it is read."""
    after: tuple[int, ...]
    """Behind a step's text once another step follows."""
    before_first: str
    """What the first step's text stands behind, by its last character; empty for a control token."""
    before_later: str
    """The same of any later step."""


class WordedPrm(PrmFormat):
    """A format that is given by its wording. A subclass has a `name` and a `wording`."""

    ability = "labels"
    wording: ClassVar[Wording]

    def __init_subclass__(cls) -> None:
        """The scale, and whether pictures are shown, follow from the wording."""
        super().__init_subclass__()
        if isinstance(wording := cls.__dict__.get("wording"), Wording):
            cls.scale = wording.scale
            cls.sees_pictures = wording.pictures != "none"

    def __init__(self, reader: Reader, judged: Judged) -> None:
        """Errors: InputError where the tag or a label is no single token of the PRM's, or its chat template cannot show
        a chain as a dialogue."""
        self._reader = reader
        self._suffix = judged.question_suffix
        self._marks = marks_of(self.wording, reader)

    async def open(self, question: Question) -> ScorerSession:
        """Shows the PRM a question, up to where the first step begins."""
        session = await self._reader.open(self._prompt(question))
        return _Session(session, self._reader.vocabulary, self.wording, self._marks)

    def _prompt(self, question: Question) -> Prompt:
        wording = self.wording
        head = self._head(question)
        if wording.steps == "tags" and wording.text_in == "no_turn":
            return Prompt((Turn("user", head),), "raw")
        system = (Turn("system", wording.system),) if wording.system else ()
        if wording.text_in == "assistant_alone":
            return Prompt((*system, Turn("user", ""), Turn("assistant", head)))
        return Prompt((*system, Turn("user", head)), "reply" if wording.text_in == "assistant" else "open_turn")

    def _head(self, question: Question) -> str | Content:
        """All that stands before the first step."""
        wording, marks = self.wording, self._marks
        said = as_one_turn(question, suffix=self._suffix)
        pictures = tuple(part for part in said if not isinstance(part, str))
        if wording.pictures != "with_question":
            said = ("".join(part for part in said if isinstance(part, str)),)
        begin, _, end = wording.question.partition("{question}")
        if marks.tag is not None:
            part_tags = partial(untagged, self._reader.vocabulary, tag=wording.tag, tag_id=marks.tag)
            said = tuple(
                part_tags(part, before=begin, behind=end.rstrip(" ")) if isinstance(part, str) else part
                for part in said
            )
        before = pictures if wording.pictures == "first" else ()
        content = joined(part for part in (*before, begin, *said, end.rstrip(" ")) if part != "")
        return content if any(not isinstance(part, str) for part in content) else "".join(map(str, content))


class _Session:
    def __init__(self, session: ReaderSession, vocabulary: Vocabulary, wording: Wording, marks: Marks) -> None:
        self._session = session
        self._vocabulary = vocabulary
        self._wording = wording
        self._marks = marks
        self._texts: dict[Path, tuple[int, ...]] = {}

    async def score(self, chain: Chain) -> Reading:
        """P(good) of the newest candidate."""
        ids: list[int] = []
        for number, candidate in enumerate(chain.candidates, 1):
            if number > 1:
                ids += self._marks.after
            if candidate.path not in self._texts:
                self._texts[candidate.path] = self._encoded(candidate.piece, number)
            ids += self._texts[candidate.path]
        ids += self._marks.read_at
        read = await self._session.read_labels(tuple(ids), self._marks.labels, READ_PRIORITY)
        good, bad = read.logprobs
        return Reading(p_good(good, bad), read.prompt_tokens, read.cached_tokens)

    def _encoded(self, piece: Piece, number: int) -> tuple[int, ...]:
        wording, marks = self._wording, self._marks
        text = said_by(piece, number, wording)
        lead = _lead(wording) if number == 1 else wording.separator
        if marks.tag is not None:
            text = untagged(self._vocabulary, text, wording.tag, marks.tag, before=lead)
        return placed(self._vocabulary, lead + text, marks.before_first if number == 1 else marks.before_later)


def said_by(piece: Piece, number: int, wording: Wording) -> str:
    """A step or an answer in a PRM's wording. What was written before an answer in one piece with it is kept there."""
    said = [piece.text]
    if piece.kind == "answer":
        said = [*piece.fields.values(), wording.answer.replace("{answer}", piece.text)]
    text = " ".join(" ".join(said).split()) if wording.is_one_line else "\n".join(said).strip()
    if "{number}" in wording.step:
        text = _NUMBER.sub("", text)
    begin, _, end = (part.replace("{number}", str(number)) for part in wording.step.partition("{step}"))
    return f"{begin}{text}".rstrip() + end


def marks_of(wording: Wording, reader: Reader) -> Marks:
    """The ids around steps in a PRM's vocabulary. Errors: InputError naming what it lacks."""
    vocabulary = reader.vocabulary
    good, bad = (single(vocabulary, label, "a label") for label in (wording.good, wording.bad))
    head = wording.question.rpartition("{question}")[2].rstrip(" ")
    before_first = "" if _lead(wording) else head[-1:]
    if wording.steps == "turns":
        marks = reader.turn_marks()
        return Marks(
            labels=(good, bad),
            tag=None,
            read_at=marks.to_assistant,
            # Whatever the model held of a step, it is shown as called right: so were the dialogues of its training.
            after=(*marks.to_assistant, good, *marks.to_user),
            before_first=before_first or "a",
            before_later=last_of(vocabulary, marks.to_user),
        )
    tag = single(vocabulary, wording.tag, "the step tag")
    behind_tag = "" if vocabulary.control_id(wording.tag) is not None else wording.tag[-1]
    if wording.text_in == "assistant":
        before_first = last_of(vocabulary, reader.turn_marks().to_assistant)
    return Marks(
        labels=(good, bad),
        tag=tag,
        read_at=(tag,) if wording.read == "at_tag" else (),
        after=(tag,),
        before_first=before_first or "a",
        before_later="a" if wording.separator or behind_tag.strip() else behind_tag,
    )


def _lead(wording: Wording) -> str:
    """The spaces that stand before the first step in its own turn: a space belongs to the word behind it."""
    if wording.text_in == "assistant":
        return ""
    return wording.question[len(wording.question.rstrip(" ")) :]
