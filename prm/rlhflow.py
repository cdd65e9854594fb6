"""The RLHFlow PRM format: each step is a turn of the user's, the first behind the question, and "+" or "-" is read as
the first token of the reply.

Source: the RLHFlow/RLHF-Reward-Modeling code for Llama3.1-8B-PRM-Mistral-Data and Llama3.1-8B-PRM-Deepseek-Data. There
is no system message but what the chat template writes itself, and no picture. A score is softmax over {"+", "-"}, a
chain's is the mean.
"""

from cos.prm.ports import Checkpoint
from cos.prm.worded import WordedPrm
from cos.prm.wording import Wording


class RlhFlow(WordedPrm):
    """Judges chains of any grammar with a PRM of RLHFlow's, by their text alone: it sees no picture."""

    name = "rlhflow"
    wording = Wording(steps="turns", question="{question} ", good="+", bad="-", pictures="none")

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """By the names of its authors' checkpoints: their tokens and config are those of any Llama 3.1."""
        return checkpoint.kind == "llama" and checkpoint.own_name.startswith("llama3.1-8b-prm-")
