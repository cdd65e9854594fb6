"""The MM-PRM format: question and steps are one turn of the assistant's behind an empty one of the user's, the token
"<prm>" stands behind each step, and "Yes" or "No" is read at it.

Source: arXiv 2505.13427 and its released code (the model's prm() and eval/prm). Its evaluation joins steps by the tag
alone; its training data has a blank line behind each tag (examples/prms/mm_prm_trained.yaml). A score is softmax over
{"Yes", "No"}. The authors report several aggregations and name none as theirs; a chain's score is its lowest here.
"""

from cos.prm.ports import Checkpoint
from cos.prm.visualprm import INTERNVL_SYSTEM
from cos.prm.worded import WordedPrm
from cos.prm.wording import Wording

TAG = "<prm>"


class MmPrm(WordedPrm):
    """Judges chains of any grammar with MM-PRM, in view of the pictures."""

    name = "mm_prm"
    wording = Wording(
        steps="tags",
        text_in="assistant_alone",
        system=INTERNVL_SYSTEM,
        question="Question: {question}\nProcess: ",
        tag=TAG,
        good="Yes",
        bad="No",
        pictures="first",
        aggregation="min",
    )

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """By its tag, in an InternVL."""
        return checkpoint.kind == "internvl_chat" and checkpoint.vocabulary.control_id(TAG) is not None
