"""The Math-Shepherd PRM format: numbered steps in plain text, a tag behind each, and " +" or " -" read at the tag.

    question " Step 1: " text " ки" "\\nStep 2: " text " ки" ...

Source: arXiv 2312.08935 and the model card of peiyi9979/math-shepherd-mistral-7b-prm. There is no chat template and no
picture. A score is softmax over {" +", " -"} at the tag; a chain's is its lowest.
"""

from cos.prm.ports import Checkpoint
from cos.prm.worded import WordedPrm
from cos.prm.wording import Wording


class MathShepherd(WordedPrm):
    """Judges chains of any grammar with a Math-Shepherd PRM, by their text alone: it sees no picture."""

    name = "math_shepherd"
    wording = Wording(
        steps="tags",
        text_in="no_turn",
        question="{question} ",
        step="Step {number}: {step}",
        tag=" ки",
        separator="\n",
        good=" +",
        bad=" -",
        is_one_line=True,
        pictures="none",
        aggregation="min",
    )

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """By the name of its authors' checkpoint: its tokens and its config are those of any Mistral."""
        return checkpoint.kind == "mistral" and checkpoint.own_name.startswith("math-shepherd")
