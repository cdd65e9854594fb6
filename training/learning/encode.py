"""From chains to tensors: token ids of a turn, targets and tags, and batches for any image-text-to-text checkpoint.

Picture and chat template go through the checkpoint's own processor; what a row says never does. The question and the
fields of the assistant's turn are encoded as plain text, as serving does it: a control token spelt in them stays text.
Sequences are padded on the right and carry no attention mask: attention is causal, so padding is never seen.

It is a part of the trainer that knows CoS: turns are chains in that format, tagged behind each piece for a PRM.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, PreTrainedTokenizerBase

from cos.checkpoints import EMBEDDED, embedded
from cos.engines.chat import ChatPrompt, templater_of
from cos.engines.vocabulary import HfVocabulary
from cos.search.errors import InputError
from cos.search.grammars.cos import COS_TOKENS, LABEL_BAD, LABEL_GOOD, POLICY_TOKENS, STEP_TAG, Step, segment_ids

IGNORED = -100
"""No target (the index that PyTorch's cross-entropy leaves out)."""
UNJUDGED = -1.0
"""No verdict."""
BLANK = (28, 28)
"""Width and height of a picture that stands where nothing sees it, pixels."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The assistant's turn as token ids. All sequences have the length of ``ids``."""

    ids: list[int]
    should: list[int]
    """The token that should stand at this place, `IGNORED` where nobody teaches it."""
    verdict: list[float]
    """P(good) that is taught at this place (unshifted), `UNJUDGED` where there is none."""
    is_tag: list[bool]


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture or none, one question, one turn."""

    picture: Any
    """A PIL image, or uint8 (3, height, width); None where the question is about none."""
    question: str
    turn: Turn
    row: str = ""
    """Id of the row it is made of, for errors; empty where it is made of none."""


def add_step_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Adds what is missing of the 17 step, answer and PRM tokens to a tokenizer, in place, and returns it."""
    known = tokenizer.get_vocab()
    missing = [token for token in COS_TOKENS if token not in known]
    tokenizer.add_special_tokens({"additional_special_tokens": missing}, replace_extra_special_tokens=False)
    return missing


class TurnEncoder:
    """Writes turns in a checkpoint's vocabulary."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Errors: InputError when the tokenizer has no end of turn, or lacks step tokens."""
        vocabulary = HfVocabulary(tokenizer)
        self._encode = lru_cache(maxsize=1 << 16)(vocabulary.encode)
        self.control_id = vocabulary.control_id
        missing = [token for token in POLICY_TOKENS if vocabulary.control_id(token) is None]
        if missing:
            raise InputError(
                f"the tokenizer lacks {len(missing)} of the {len(POLICY_TOKENS)} step tokens, {missing[0]!r} among "
                "them; run the stage `tokens` on the checkpoint first",
                "model",
            )
        self._end = end_of_turn(tokenizer)

    def encode(self, text: str) -> tuple[int, ...]:
        """Plain text."""
        return self._encode(text)

    def segments(self, steps: Sequence[Step], answer: str) -> list[list[int]]:
        """Token ids of every segment, the answer's last."""
        contents: list[Step | str] = [*steps, answer]
        return [[*segment_ids(self, content, first=index == 0)] for index, content in enumerate(contents)]

    def chain(self, steps: Sequence[Step], answer: str) -> Turn:
        """A chain to be imitated: every token is taught, the end of the turn included."""
        ids = [token for segment in self.segments(steps, answer) for token in segment] + [self._end]
        return Turn(ids, ids, [UNJUDGED] * len(ids), [False] * len(ids))

    def judged(self, steps: Sequence[Step], answer: str, good: Sequence[float | None]) -> Turn:
        """A chain with a tag glued to every segment, and P(good) for each tag (None: not taught).

        Errors: ValueError when labels and tags do not line up.
        """
        segments = self.segments(steps, answer)
        if len(good) != len(segments):
            raise ValueError(f"{len(good)} labels for {len(segments)} tags ({len(steps)} steps and the answer)")
        tag = self.tag
        ids: list[int] = []
        verdict: list[float] = []
        for segment, label in zip(segments, good, strict=True):
            ids += [*segment, tag]
            verdict += [*[UNJUDGED] * len(segment), UNJUDGED if label is None else label]
        return Turn(ids, [IGNORED if token == tag else token for token in ids], verdict, [t == tag for t in ids])

    @property
    def tag(self) -> int:
        """The step tag's id."""
        return self._control(STEP_TAG)

    @property
    def labels(self) -> tuple[int, int]:
        """Ids of good and bad."""
        return self._control(LABEL_GOOD), self._control(LABEL_BAD)

    def _control(self, token: str) -> int:
        found = self.control_id(token)
        if found is None:
            raise InputError(f"the tokenizer lacks {token!r}; run the stage `tokens` on the checkpoint first", "model")
        return found


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends a turn. Errors: InputError when the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {tokenizer.name_or_path!r} has no eos_token; set one", "model")
    return cast(int, tokenizer.eos_token_id)


def that_pads(processor: Any) -> Any:
    """The processor, or, where its tokenizer has no padding token, a copy that pads with the end of the turn.

    No target stands on padding and no token sees it, so which token it is does not matter. A copy, as the processor is
    written beside the trained model. Errors: InputError when there is no end of turn either.
    """
    if processor.tokenizer.pad_token_id is not None:
        return processor
    end_of_turn(processor.tokenizer)
    padding = copy.deepcopy(processor)
    padding.tokenizer.pad_token = padding.tokenizer.eos_token
    return padding


@dataclass(frozen=True, slots=True)
class Shown:
    """Pictures as a processor prepares them."""

    ids: list[list[int]]
    """Tokens of the markup around each picture, its placeholder expanded."""
    kinds: list[Tensor]
    """Which of these tokens are of the picture, for the models that ask; else none."""
    others: dict[str, Tensor]
    """What the vision tower takes, of all pictures together."""


class Collator:
    """Samples to one padded batch: what the model takes, and ``should``, ``verdict``, ``is_tag`` (batch, length)."""

    def __init__(
        self,
        processor: Any,
        buckets: Sequence[int] | None = None,
        max_tokens: int | None = None,
        *,
        always_looks: bool = False,
    ) -> None:
        """``buckets``: lengths to pad to, ascending (few shapes compile few times). ``max_tokens``: longest sample.
        ``always_looks``: a batch without a picture gets a blank one where nothing sees it, behind the shortest sample.

        Errors: InputError for a tokenizer that has nothing to pad with, or a chat template without the question.
        """
        self._processor = that_pads(processor)
        self._buckets = tuple(buckets or ())
        self._max_tokens = max_tokens
        self._padding = int(self._processor.tokenizer.pad_token_id)
        prompt = ChatPrompt(HfVocabulary(processor.tokenizer), templater_of(processor))
        self._picture = prompt.picture
        self._around_picture = lru_cache(maxsize=4096)(prompt.around_picture)
        self._without_picture = lru_cache(maxsize=4096)(partial(prompt.token_ids, image=False))
        self._always_looks = always_looks

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Errors: InputError for a sample longer than ``max_tokens``."""
        shown = self._shown([sample.picture for sample in samples if sample.picture is not None])
        pictures = iter(shown.ids)
        prompts: list[list[int]] = []
        # Where each picture stands: sample, and place of its first token.
        places: list[tuple[int, int]] = []
        for number, sample in enumerate(samples):
            if sample.picture is None:
                prompts.append(self._without_picture(sample.question))
                continue
            before, behind = self._around_picture(sample.question)
            places.append((number, len(before)))
            prompts.append([*before, *next(pictures), *behind])
        turns = [sample.turn for sample in samples]
        longest = max(len(prompt) + len(turn.ids) for prompt, turn in zip(prompts, turns, strict=True))
        if self._max_tokens is not None and longest > self._max_tokens:
            raise InputError(
                f"a sample has {longest} tokens, more than max_tokens {self._max_tokens}; raise it or leave it out",
                "max_tokens",
            )
        ids = [[*prompt, *turn.ids] for prompt, turn in zip(prompts, turns, strict=True)]
        if self._always_looks and not places:
            shown = self._shown([Image.new("RGB", BLANK, "white")])
            number = min(range(len(ids)), key=lambda one: len(ids[one]))
            places.append((number, len(ids[number])))
            ids[number] += shown.ids[0]
            longest = max(longest, len(ids[number]))
        length = next((bucket for bucket in self._buckets if bucket >= longest), longest)

        def table(rows: Sequence[Sequence[Any]], empty: Any, dtype: torch.dtype) -> Tensor:
            return torch.tensor([[*row, *[empty] * (length - len(row))] for row in rows], dtype=dtype)

        def of_turns(parts: Sequence[Sequence[Any]], empty: Any, dtype: torch.dtype) -> Tensor:
            rows = [[*[empty] * len(prompt), *part] for prompt, part in zip(prompts, parts, strict=True)]
            return table(rows, empty, dtype)

        others = dict(shown.others)
        if shown.kinds:
            # Where pictures are: Qwen2.5-VL's positions follow from it. Text is 0.
            kinds = torch.zeros(len(samples), length, dtype=shown.kinds[0].dtype)
            for (number, place), kind in zip(places, shown.kinds, strict=True):
                kinds[number, place : place + len(kind)] = kind
            others["mm_token_type_ids"] = kinds
        return {
            **others,
            "input_ids": table(ids, self._padding, torch.long),
            "should": of_turns([turn.should for turn in turns], IGNORED, torch.long),
            "verdict": of_turns([turn.verdict for turn in turns], UNJUDGED, torch.float32),
            "is_tag": of_turns([turn.is_tag for turn in turns], False, torch.bool),
            "first": torch.tensor(min(map(len, prompts)) - 1),
        }

    def _shown(self, pictures: Sequence[Any]) -> Shown:
        """Pictures as the checkpoint's processor prepares them."""
        if not pictures:
            return Shown([], [], {})
        made: Mapping[str, Tensor] = self._processor(
            text=[self._picture] * len(pictures),
            images=[*pictures],
            padding=True,
            add_special_tokens=False,
            return_tensors="pt",
        )
        kept = made["attention_mask"].bool()
        types = made.get("mm_token_type_ids")
        return Shown(
            [ids[mask].tolist() for ids, mask in zip(made["input_ids"], kept, strict=True)],
            [] if types is None else [kinds[mask] for kinds, mask in zip(types, kept, strict=True)],
            {name: value for name, value in made.items() if name not in PADDED},
        )


PADDED = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""What a processor makes of the prompt alone."""
TARGETS = ("should", "verdict", "is_tag", "first")
"""What a collator adds for the losses."""


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What of a batch the model takes."""
    return {name: value for name, value in batch.items() if name not in TARGETS}


def load_checkpoint(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, quantization: Any = None
) -> tuple[PreTrainedModel, Any]:
    """Model and processor of a checkpoint folder, a hub name, or the embedded policy. ``quantization``: transformers'
    settings of how its layers are held in few bits (`cos.training.learning.quantized`).

    Errors: InputError for a folder that is none, has no config.json or lacks files, and a hub name that leads nowhere.
    """
    local = Path(folder).expanduser()
    if str(folder) == EMBEDDED and not local.exists():
        local = embedded("policy")
    looks_local = str(folder).startswith((".", "/", "~")) or str(folder).count("/") > 1 or local.exists()
    if looks_local and not (local / "config.json").is_file():
        raise InputError(
            f"model {str(folder)!r}: no config.json there; give a checkpoint folder or a hub name", "model"
        )
    source = str(local if looks_local else folder)
    try:
        held = {} if quantization is None else {"quantization_config": quantization}
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype, **held)
        return cast(PreTrainedModel, model), AutoProcessor.from_pretrained(source)
    except OSError as error:
        where = "cannot be loaded" if looks_local else "is no folder here and could not be had from the hub"
        raise InputError(f"model {source!r} {where}: {str(error).splitlines()[0]}", "model") from error
