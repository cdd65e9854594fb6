"""The VL-PRM format: as VisualPRM's dialogue, on Qwen2.5-VL, with a system message of its own and the pictures before
all text.

Source: arXiv 2509.23250 and its released evaluation (ob11/Qwen-VL-PRM-3B and 7B). A score is softmax over {"+", "-"} as
the first token of the reply. The evaluation calls a step wrong where "-" is likelier; a chain's score is the mean.
"""

from cos.prm.ports import Checkpoint
from cos.prm.worded import WordedPrm
from cos.prm.wording import Wording

# Two spaces end the line of the first round, as in the prompt that the models were trained with.
_SYSTEM = """\
**You are a process supervision model for visual reasoning tasks. You will receive an image and an image-based problem \
statement, followed by solution steps to evaluate.**

First round: problem statement and first solution step.\x20\x20
Subsequent rounds: one new step per round.

Assess the cumulative correctness of the entire solution up to each step.

## Evaluation Criteria:

1. **Visual Accuracy**: Are visual elements from the image correctly identified (shapes, colors, positions, \
quantities, spatial relationships)?

2. **Logical Validity**: Do all inferences and calculations follow correctly from the image and previous steps?

## Response:
- **"+"** if correct up to this step
- **"-"** if any error exists up to this step

Only respond with "+" or "-". No explanations.

An error in any step invalidates all subsequent steps."""


class VlPrm(WordedPrm):
    """Judges chains of any grammar with VL-PRM, in view of the pictures."""

    name = "vl_prm"
    wording = Wording(
        steps="turns",
        system=_SYSTEM,
        question="### Question:\n{question}\n\n### Solution Process:\n",
        good="+",
        bad="-",
        pictures="first",
    )

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """By the name of its authors' checkpoints: its tokens and its config are those of any Qwen2.5-VL."""
        return checkpoint.kind == "qwen2_5_vl" and checkpoint.own_name.startswith("qwen-vl-prm")
