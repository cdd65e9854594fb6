"""The format of models that tell which of two answers is better: both are shown, and "1" or "2" is read at once.

    user: pictures, [Question] ... [Response 1] ... [Response 2] ...
    assistant: <answer>

Source: the layout of R1-Reward (arXiv 2505.02835), whose verdict stands between ``<answer>`` and ``</answer>``; the
instruction is ours, so any chat model can be asked. R1-Reward writes down its reasons first, which is not done here. An
answer's score is the mean of its chances against each other answer of a search, asked both ways round.
"""

from cos.prm.chain_prompt import open_chain
from cos.prm.encoding import single
from cos.prm.heads import plain_words, takes_pictures
from cos.prm.labels import p_good
from cos.prm.ports import READ_PRIORITY, Judged, PrmFormat, Reader
from cos.search.ports import Reading, ScorerSession
from cos.search.prompt import Prompt, as_one_turn, without_pictures
from cos.search.scale import Scale
from cos.search.types import Chain, Picture, Question, Turn

INSTRUCTION = (
    "Compare two responses to a question. Check each against what the question and the picture, if there is one, say. "
    "Tell which of them is better by its number alone, as <answer>1</answer> or <answer>2</answer>."
)
VERDICT = "<answer>"
LABELS = ("1", "2")


class Pairwise(PrmFormat):
    """Compares the finished answers of a search, of any grammar, with each other."""

    name = "pairwise"
    ability = "labels"
    scale = Scale(aggregation="last", threshold=None, judges="pairs", is_probability=False)

    def __init__(self, reader: Reader, judged: Judged) -> None:
        """Errors: InputError where a label is no single token of the model's."""
        self.sees_pictures = takes_pictures(reader)
        self._reader = reader
        self._suffix = judged.question_suffix
        self._labels = tuple(single(reader.vocabulary, label, "a label") for label in LABELS)

    async def open(self, question: Question) -> ScorerSession:
        """Nothing is asked yet: the question is shown together with each two answers."""
        shown = question if self.sees_pictures else without_pictures(question)
        return _Session(self._reader, as_one_turn(shown, suffix=self._suffix), self._labels)


class _Session:
    """Satisfies `cos.search.ports.ComparesAnswers`."""

    def __init__(self, reader: Reader, asked: tuple[str | Picture, ...], labels: tuple[int, ...]) -> None:
        self._reader = reader
        self._asked = asked
        self._labels = labels

    async def score(self, chain: Chain) -> Reading:
        """None: of one answer alone nothing is said."""
        del chain
        return Reading(None, 0, 0)

    async def compare(self, one: Chain, other: Chain) -> Reading:
        """The chance that the first of two answers is the better one."""
        pictures = tuple(part for part in self._asked if isinstance(part, Picture))
        question = "".join(part for part in self._asked if isinstance(part, str))
        shown = f"[Question]\n{question}\n\n[Response 1]\n{_said(one)}\n\n[Response 2]\n{_said(other)}"
        content = (*pictures, shown) if pictures else shown
        prompt = Prompt((Turn("system", INSTRUCTION), Turn("user", content), Turn("assistant", VERDICT)))
        session = await open_chain(self._reader, prompt)
        read = await session.read_labels((), self._labels, READ_PRIORITY)
        first, second = read.logprobs
        return Reading(p_good(first, second), read.prompt_tokens, read.cached_tokens)


def _said(chain: Chain) -> str:
    return "\n\n".join(plain_words(candidate.piece) for candidate in chain.candidates)
