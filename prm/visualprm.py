"""The VisualPRM format: each step is a turn of the user's, "+" stands for every judged step, and "+" or "-" is read as
the first token of the reply.

Source: the code that comes with OpenGVLab/VisualPRM-8B and VisualPRM-8B-v1.1 (class InternVLRewardModel) and arXiv
2503.10291. Both checkpoints are judged alike; their tokenizers differ (InternLM2's and Qwen2's), so labels are found by
their text. A score is softmax over {"+", "-"}, a chain's is the mean. VisualProcessBench takes a step for right above
0.85. The system message is InternVL's own, as that code leaves it: the one of the training data is given by a file
(examples/prms/visualprm_trained.yaml).
"""

from collections.abc import Mapping
from typing import Any

from cos.prm.ports import Checkpoint
from cos.prm.worded import WordedPrm
from cos.prm.wording import Wording

INTERNVL_SYSTEM = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)
"""What InternVL 2.5 is told unless its caller says otherwise (its conversation template "internvl2_5")."""


class VisualPrm(WordedPrm):
    """Judges chains of any grammar with VisualPRM, in view of the pictures."""

    name = "visualprm"
    wording = Wording(
        steps="turns",
        system=INTERNVL_SYSTEM,
        question="### Question:\n{question}\n\n### Solution Process:\n",
        answer="Final answer: {answer}",
        good="+",
        bad="-",
        threshold=0.85,
    )

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """By the class that comes with it, where no file of the checkpoint's has a head of its own."""
        code: Any = checkpoint.config.get("auto_map")
        classes = [*code.values()] if isinstance(code, Mapping) else []
        classes += checkpoint.config.get("architectures") or []
        has_code = any(str(name).endswith("InternVLRewardModel") for name in classes)
        return (
            has_code
            and checkpoint.kind == "internvl_chat"
            and checkpoint.vocabulary.control_id("<IMG_CONTEXT>") is not None
            and not any(name.startswith("value_head") for name in checkpoint.files)
        )
