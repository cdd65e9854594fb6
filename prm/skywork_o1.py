"""The format of Skywork-o1-Open-PRM: plain text, a newline behind each step, a value head read there.

    <bos> question "\\n" step "\\n" step "\\n" ...

Source: the inference code that Skywork publishes with these PRMs. Steps are tokenised each by itself, without a chat
template. A score is the sigmoid of the head's one value at the newline. The model is causal, so that a prefix scores
the same now as in the whole chain. It sees no picture. vLLM is taught the architecture by `cos.engines.vllm_plugin`.
"""

from collections.abc import Sequence

from cos.prm.heads import StepHeadPrm, logistic, one_line
from cos.prm.ports import Checkpoint, Judged, Reader
from cos.search.errors import InputError
from cos.search.prompt import Prompt
from cos.search.scale import Scale
from cos.search.types import Piece, Turn

ARCHITECTURE = "Qwen2ForPrmModel"
SEPARATOR = "\n"


class SkyworkO1(StepHeadPrm):
    """Judges chains of any grammar with a Skywork-o1-Open-PRM, by their text alone."""

    name = "skywork_o1"
    scale = Scale(aggregation="mean")
    width = 1

    def __init__(self, reader: Reader, judged: Judged) -> None:
        """Errors: InputError for a head that does not give one value, or a tokenizer without newlines."""
        super().__init__(reader, judged)
        separator = reader.vocabulary.encode(SEPARATOR)
        if not separator:
            raise InputError("the PRM's tokenizer has no token for a newline; give another --prm-format", "prm")
        self._separator = separator[-1]

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """By its architecture, which is Skywork's own, on a Qwen2."""
        config = checkpoint.config
        return config.get("model_type") == "qwen2" and ARCHITECTURE in (config.get("architectures") or ())

    def prompt_of(self, asked: str) -> Prompt:
        """The question in a line of its own, without a chat template."""
        return Prompt((Turn("user", f"{asked}\n"),), "raw_with_bos")

    def encode(self, piece: Piece) -> tuple[int, ...]:
        """A step or the answer in one line, and the newline."""
        return (*self._vocabulary.encode(one_line(piece)), self._separator)

    def score_of(self, values: Sequence[float]) -> float | None:
        """Sigmoid of the head's value, once."""
        (value,) = values
        return logistic(value)
