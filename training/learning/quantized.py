"""A checkpoint whose text layers are held in few bits while adapters are trained on them (QLoRA, arXiv 2305.14314), by
bitsandbytes through transformers."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from cos.training.config.keys import Quantized, TrainingKeys
from cos.training.config.packages import check_packages
from cos.training.learning.encode import load_checkpoint
from cos.training.learning.precision import is_bf16

WHOLE = ("model.vision_tower", "model.visual", "model.multi_modal_projector", "lm_head")
"""Parts that stay as they are, by their modules' names: what sees, and the head."""
BYTES: dict[Quantized, float] = {"nf4": 0.5, "int8": 1.0}
"""Of a weight, without the scales, which are 3 % of it or less."""


def quantized_by(keys: TrainingKeys) -> Quantized | None:
    """In which format the text layers are held; None for their own."""
    return None if keys.lora is None else keys.lora.quantize


def load_base(folder: str | Path, keys: TrainingKeys) -> tuple[PreTrainedModel, Any]:
    """Model and processor as a stage with these keys trains them. Errors: InputError as `load_checkpoint` has them, and
    where bitsandbytes is wanted and not installed."""
    kind = quantized_by(keys)
    if kind is None:
        return load_checkpoint(folder)
    check_packages([keys])
    model, processor = load_checkpoint(folder, quantization=_settings(kind, keys))
    for layer in cast(Any, model).modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # Else the first pass without gradients (a reference, a validation) would pack the weights for inference.
            layer.support_avx512bf16_for_cpu = False
    return model, processor


def _settings(kind: Quantized, keys: TrainingKeys) -> BitsAndBytesConfig:
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=[*WHOLE])
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if is_bf16(keys.precision) else torch.float32,
        llm_int8_skip_modules=[*WHOLE],
    )


def merged_at_full_precision(adapted: PeftModel, checkpoint: str | Path, folder: Path) -> PreTrainedModel:
    """The checkpoint as it was before its layers were rounded, with the adapters added into its weights.

    Written by way of a folder in ``folder``, as PEFT has it.
    """
    with TemporaryDirectory(dir=folder, prefix=".adapters-") as temporary:
        cast(Any, adapted).save_pretrained(temporary)
        base, _ = load_checkpoint(checkpoint)
        whole: Any = PeftModel.from_pretrained(cast(Any, base), temporary)
        return cast(PreTrainedModel, whole.merge_and_unload())


def bytes_saved(model: nn.Module, kind: Quantized, weight_bytes: int) -> float:
    """Memory that the format saves on a model whose weights have ``weight_bytes`` each."""
    saved = weight_bytes - BYTES[kind]
    layers = [module for name, module in model.named_modules() if isinstance(module, nn.Linear) and not _is_whole(name)]
    return saved * sum(layer.weight.numel() for layer in layers)


def _is_whole(name: str) -> bool:
    return any(name == whole or name.startswith(f"{whole}.") for whole in WHOLE)
