"""The VersaPRM format: steps in plain text with a space and four line ends behind each, where "+" or "-" is read.

    question " \\n\\n" text " \\n\\n\\n\\n" text " \\n\\n\\n\\n" ...

Source: arXiv 2502.06737 and its released code (UW-Madison-Lee-Lab/VersaPRM). There is no chat template and no picture.
A score is P("+") of softmax over {"-", "+"}, in this order there; a chain's is its lowest.
"""

from cos.prm.ports import Checkpoint
from cos.prm.worded import WordedPrm
from cos.prm.wording import Wording


class VersaPrm(WordedPrm):
    """Judges chains of any grammar with VersaPRM, by their text alone: it sees no picture."""

    name = "versaprm"
    wording = Wording(
        steps="tags",
        text_in="no_turn",
        question="{question} \n\n",
        tag=" \n\n\n\n",
        good="+",
        bad="-",
        pictures="none",
        aggregation="min",
    )

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """By its name: its tokens and its config are those of any Llama 3.1 or Qwen2.5."""
        return checkpoint.kind in ("llama", "qwen2") and "versaprm" in checkpoint.own_name
