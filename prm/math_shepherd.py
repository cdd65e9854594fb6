"""The Math-Shepherd PRM format: numbered steps in plain text, a tag behind each, and " +" or " -" read at the tag.

    question " Step 1: " text " ки" "\\nStep 2: " text " ки" ...

Source: arXiv 2312.08935 and the model card of peiyi9979/math-shepherd-mistral-7b-prm. There is no chat template and no
picture. A score is softmax over {" +", " -"} behind the tag; a chain's is its lowest. The model is causal, so that a
prefix scores the same now as in the whole chain.
"""

import re

from cos.prm.encoding import continued, single
from cos.prm.labels import p_good
from cos.prm.ports import READ_PRIORITY, Judged, PrmFormat, Reader, ReaderSession
from cos.search.ports import Encoder, Reading, ScorerSession
from cos.search.prompt import Prompt, Turn
from cos.search.scale import Scale
from cos.search.types import Chain, Path, Piece, Question

TAG = " ки"
GOOD = " +"
BAD = " -"
_NUMBER = re.compile(r"^step\s+\d+\s*:\s*", re.IGNORECASE)


class MathShepherd(PrmFormat):
    """Judges chains of any grammar with a Math-Shepherd PRM, by their text alone: it sees no picture."""

    name = "math_shepherd"
    ability = "labels"
    scale = Scale(aggregation="min")

    def __init__(self, reader: Reader, judged: Judged) -> None:
        """Errors: InputError where the tag or a label is no single token of the PRM's."""
        self._reader = reader
        self._suffix = judged.question_suffix
        self._tag = single(reader.vocabulary, TAG, "the step tag")
        self._labels = tuple(single(reader.vocabulary, label, "a label") for label in (GOOD, BAD))

    async def open(self, question: Question) -> ScorerSession:
        """Shows the PRM the question's text, without a chat template."""
        text = f"{question.text}\n{self._suffix}" if self._suffix else question.text
        prompt = Prompt((Turn("user", _untagged(text, self._reader.vocabulary, self._tag)),), is_raw=True)
        return _Session(await self._reader.open(prompt), self._reader.vocabulary, self._tag, self._labels)


class _Session:
    def __init__(self, session: ReaderSession, vocabulary: Encoder, tag: int, labels: tuple[int, ...]) -> None:
        self._session = session
        self._vocabulary = vocabulary
        self._tag = tag
        self._labels = labels
        self._steps: dict[Path, tuple[int, ...]] = {}

    async def score(self, chain: Chain) -> Reading:
        """P(good) behind the tag of the newest candidate."""
        ids: list[int] = []
        for number, candidate in enumerate(chain.candidates, 1):
            if candidate.path not in self._steps:
                self._steps[candidate.path] = self._encode(candidate.piece, number)
            ids += self._steps[candidate.path]
        read = await self._session.read_labels(tuple(ids), self._labels, READ_PRIORITY)
        good, bad = read.logprobs
        return Reading(p_good(good, bad), read.prompt_tokens, read.cached_tokens)

    def _encode(self, piece: Piece, number: int) -> tuple[int, ...]:
        """A piece as a line: a number, what it says, the tag."""
        said = [*piece.fields.values(), f"The answer is: {piece.text}"] if piece.kind == "answer" else [piece.text]
        line = _NUMBER.sub("", " ".join(" ".join(said).split()))
        lead = " " if number == 1 else "\n"
        text = f"{lead}Step {number}: {line}".rstrip()
        return (*continued(self._vocabulary, _untagged(text, self._vocabulary, self._tag)), self._tag)


def _untagged(text: str, vocabulary: Encoder, tag: int) -> str:
    """A text that the tag's token does not stand in: where it would, an invisible space parts the tag's letters."""
    return text.replace("ки", "к\u200bи") if tag in vocabulary.encode(text) else text
