"""Low-rank adapters (PEFT) around a model, and back."""

from typing import Any, cast

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from cos.training.keys import LoraKeys


def with_lora(model: PreTrainedModel, keys: LoraKeys | None) -> PreTrainedModel:
    """The model with adapters on its text layers; the model itself when there are no keys."""
    if keys is None:
        return model
    config = LoraConfig(
        r=keys.rank,
        lora_alpha=keys.alpha,
        lora_dropout=keys.dropout,
        target_modules=list(keys.targets),
        exclude_modules=r".*(vision|visual|projector).*",
    )
    return cast(PreTrainedModel, get_peft_model(cast(Any, model), config))


def merge_lora(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its adapters added into its weights."""
    if isinstance(model, PeftModel):
        return cast(PreTrainedModel, cast(Any, model).merge_and_unload())
    return model
