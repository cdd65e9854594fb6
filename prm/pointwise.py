"""The format of reward models that give a whole answer one value: a conversation, read at its end.

    user: pictures, the question
    assistant: the whole solution

Source: the model card of Skywork/Skywork-VL-Reward-7B, and the reward models of TRL and LLaMA-Factory, which share its
layout: the checkpoint's own chat template, no turn begun behind the assistant's, and the head's one value at the last
token. Values have no lowest and no highest. Steps have none: the model was trained on finished answers.
"""

import math

from cos.prm.chain_prompt import open_chain
from cos.prm.heads import check_head, plain_words, takes_pictures
from cos.prm.ports import READ_PRIORITY, Checkpoint, Judged, PrmFormat, Reader
from cos.search.errors import EngineError
from cos.search.ports import Reading, ScorerSession
from cos.search.prompt import Prompt, pictures_first, question_prompt, without_pictures
from cos.search.scale import Scale
from cos.search.types import Chain, Question, Turn

VALUE_HEAD = "value_head.safetensors"
"""Where TRL and LLaMA-Factory save the head of a reward model, and nothing else does."""
MODEL_TYPES = ("qwen2", "qwen2_5_vl")
"""What can be loaded with a head in a file of its own."""


class Pointwise(PrmFormat):
    """Judges finished answers of any grammar with a reward model."""

    name = "pointwise"
    ability = "head"
    scale = Scale(
        aggregation="last",
        threshold=None,
        lowest=-math.inf,
        highest=math.inf,
        judges="answers",
        is_probability=False,
    )

    def __init__(self, reader: Reader, judged: Judged) -> None:
        """Errors: InputError for a head that does not give one value."""
        check_head(reader, 1, self.name)
        self.sees_pictures = takes_pictures(reader)
        self._reader = reader
        self._suffix = judged.question_suffix

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """By the file of its value head, beside a model that can be loaded with it."""
        return VALUE_HEAD in checkpoint.files and checkpoint.config.get("model_type") in MODEL_TYPES

    async def open(self, question: Question) -> ScorerSession:
        """Nothing is asked yet: the question is shown together with each answer."""
        shown = question if self.sees_pictures else without_pictures(question)
        return _Session(self._reader, question_prompt(pictures_first(shown), suffix=self._suffix))


class _Session:
    def __init__(self, reader: Reader, asked: Prompt) -> None:
        self._reader = reader
        self._asked = asked

    async def score(self, chain: Chain) -> Reading:
        """The value of a chain that has answered; None for any other."""
        if not chain.is_answered:
            return Reading(None, 0, 0)
        said = "\n\n".join(plain_words(candidate.piece) for candidate in chain.candidates)
        session = await open_chain(self._reader, Prompt((*self._asked.turns, Turn("assistant", said)), "ended"))
        read = await session.read_head((), READ_PRIORITY)
        if len(read.values) != 1:
            raise EngineError(f"the reward model's head gave {len(read.values)} values where 1 was expected")
        return Reading(read.values[0], read.prompt_tokens, read.cached_tokens)
