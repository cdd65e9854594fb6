"""The format of Qwen's math PRMs: steps in the assistant's turn, ``<extra_0>`` behind each, a head of two read there.

    system: Please reason step by step, and put your final answer within \\boxed{}.
    user: the question
    assistant: step <extra_0> step <extra_0> ...

Source: arXiv 2501.07301 and the model card of Qwen/Qwen2.5-Math-PRM-7B. The head gives (bad, good); a score is the
softmax of the two, and a chain's is the product. The model is causal, so that a prefix scores the same now as in the
whole chain. It sees no picture.
"""

from cos.prm.encoding import single
from cos.prm.heads import TwoLabelPrm, plain_words
from cos.prm.ports import Checkpoint, Judged, Reader
from cos.search.prompt import Prompt
from cos.search.scale import Scale
from cos.search.types import Piece, Turn

ARCHITECTURE = "Qwen2ForProcessRewardModel"
TAG = "<extra_0>"
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
ANSWER = "The answer is \\boxed{{{}}}."


class QwenMathPrm(TwoLabelPrm):
    """Judges chains of any grammar with a Qwen2.5-Math-PRM, by their text alone."""

    name = "qwen_math_prm"
    scale = Scale(aggregation="prod")

    def __init__(self, reader: Reader, judged: Judged) -> None:
        """Errors: InputError for a tokenizer without the tag, or a head that does not give two values."""
        super().__init__(reader, judged)
        self._tag = single(reader.vocabulary, TAG, "the step tag")

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """By its architecture, and the tag in its tokenizer."""
        is_headed = ARCHITECTURE in (checkpoint.config.get("architectures") or ())
        return is_headed and checkpoint.vocabulary.control_id(TAG) is not None

    def prompt_of(self, asked: str) -> Prompt:
        """The question in its turn. The assistant's is begun."""
        return Prompt((Turn("system", INSTRUCTION), Turn("user", asked), Turn("assistant", "")))

    def encode(self, piece: Piece) -> tuple[int, ...]:
        """A step or the answer, and the tag."""
        return (*self._vocabulary.encode(plain_words(piece, ANSWER)), self._tag)
