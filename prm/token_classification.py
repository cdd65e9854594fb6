"""The format of PRMs that TRL and axolotl train: plain text, a newline behind each step, a head of two read there.

    question step "\\n" step "\\n" ...

Source: TRL's PRMTrainer and axolotl's ``stepwise_supervised`` datasets, with their default separator. Question and
steps are tokenised each by itself, without a chat template. The head gives (bad, good) for every token; a score is the
softmax of the two at the newline, which is found by its place: it is an ordinary token, and stands in texts as well.
The model is causal, so that a prefix scores the same now as in the whole chain. It sees no picture.
"""

from cos.prm.heads import TwoLabelPrm, one_line
from cos.prm.ports import Checkpoint, Judged, Reader
from cos.search.errors import InputError
from cos.search.prompt import Prompt
from cos.search.scale import Scale
from cos.search.types import Piece, Turn

SEPARATOR = "\n"


class TokenClassification(TwoLabelPrm):
    """Judges chains of any grammar with a PRM that classifies tokens, by their text alone."""

    name = "token_classification"
    scale = Scale(aggregation="min")

    def __init__(self, reader: Reader, judged: Judged) -> None:
        """Errors: InputError for a head that does not give two values, or a tokenizer without newlines."""
        super().__init__(reader, judged)
        self._separator = reader.vocabulary.encode(SEPARATOR)
        if not self._separator:
            raise InputError("the PRM's tokenizer has no token for a newline; give another --prm-format", "prm")

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """A language model, which an encoder is not, that classifies tokens and has no names for its two labels."""
        config = checkpoint.config
        names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
        is_classifier = any(name.endswith("ForTokenClassification") for name in config.get("architectures") or ())
        return is_classifier and "num_key_value_heads" in config and sorted(names.values()) == ["LABEL_0", "LABEL_1"]

    def prompt_of(self, asked: str) -> Prompt:
        """The question, without a chat template."""
        return Prompt((Turn("user", asked),), "raw_with_bos")

    def encode(self, piece: Piece) -> tuple[int, ...]:
        """A step or the answer in one line, and the newline."""
        return (*self._vocabulary.encode(one_line(piece)), *self._separator)
