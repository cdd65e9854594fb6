"""Models in shards: what FSDP and DeepSpeed can train here, and their models made whole again.

Sharded weights are of no use to what follows training (adapters are merged, chains are checked, files are written), so
they are gathered on the first rank by the library that sharded them, and put into a model that was never wrapped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from accelerate.utils import DistributedType
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from cos.search.errors import InputError

if TYPE_CHECKING:
    from cos.training.config.keys import TrainingKeys

STARTED_PLAINLY = "start it with torchrun, or with accelerate's --multi_gpu"


def check_sharding(accelerator: Any, keys: TrainingKeys, *, has_heads: bool) -> None:
    """To be asked before the first step. Errors: InputError for what would not end well in shards, with the fix."""
    kind = accelerator.distributed_type
    if kind not in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        return
    name = "FSDP" if kind == DistributedType.FSDP else "DeepSpeed"
    if has_heads:
        raise InputError(f"heads beside a model cannot be trained with {name}: {STARTED_PLAINLY}", "stage")
    if keys.optimizer == "muon":
        raise InputError(
            f"optimizer muon needs whole matrices, and {name} shards them: set adamw, or {STARTED_PLAINLY}", "optimizer"
        )
    if keys.lora is not None and keys.lora.quantize is not None:
        raise InputError(
            f"weights in few bits cannot be trained with {name}: leave out lora.quantize, or {STARTED_PLAINLY}",
            "lora.quantize",
        )
    if kind == DistributedType.FSDP and keys.lora is not None and keys.lora.train_tokens:
        raise InputError(
            "rows of new tokens cannot be trained beside adapters with FSDP: set lora.train_tokens to false, or "
            + STARTED_PLAINLY,
            "lora.train_tokens",
        )
    if keys.validation is not None and (kind == DistributedType.FSDP or is_zero3(accelerator)):
        raise InputError(
            "validation keeps the best weights, which cannot be put back into shards: leave it out, or "
            + STARTED_PLAINLY,
            "validation",
        )
    if not is_zero3(accelerator):
        return
    if keys.lora is not None:
        raise InputError(
            "adapters cannot be merged with DeepSpeed's ZeRO stage 3: use stage 1 or 2, or FSDP, or leave out lora",
            "lora",
        )
    if not zero_of(accelerator).get("stage3_gather_16bit_weights_on_model_save"):
        raise InputError(
            "ZeRO stage 3 would write no weights: set zero3_save_16bit_model: true in accelerate's configuration "
            "(stage3_gather_16bit_weights_on_model_save in DeepSpeed's)",
            "stage",
        )


def name_layers(accelerator: Any, model: PreTrainedModel) -> None:
    """Tells FSDP which layers to shard one by one, where its configuration leaves it to the model: of those that the
    model names, the ones it has. (CLIP names layers of its text tower, which a vision tower lacks.)"""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.transformer_cls_names_to_wrap is None:
        there = {type(module).__name__ for module in cast("nn.Module", model).modules()}
        plugin.transformer_cls_names_to_wrap = sorted(there & set(cast(Any, model)._no_split_modules or ()))


def zero_of(accelerator: Any) -> Mapping[str, Any]:
    """DeepSpeed's settings of how it shards; none where it does not train."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return {}
    # The accelerator's own `deepspeed_config` is there only once a model is wrapped.
    return accelerator.deepspeed_plugin.deepspeed_config["zero_optimization"]


def is_zero3(accelerator: Any) -> bool:
    """Whether DeepSpeed shards the weights."""
    return zero_of(accelerator).get("stage") == 3


def check_loaded_everywhere() -> None:
    """Errors: InputError where a checkpoint would be loaded on one rank of a machine only (and the others' weights are
    to follow when the model is wrapped), but all of them are to compute with it before."""
    wanted = {"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    if all(os.environ.get(name, "").lower() == value for name, value in wanted.items()):
        raise InputError(
            "the reference is computed by all processes, before the model is sharded: set "
            "fsdp_cpu_ram_efficient_loading: false in accelerate's configuration",
            "stage",
        )


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a model is built of, but for its weights."""

    kind: type[PreTrainedModel]
    config: Any
    adapters: PeftConfig | None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Blueprint:
        """That of a model before it is wrapped."""
        if isinstance(model, PeftModel):
            base = cast(PreTrainedModel, model.get_base_model())
            return cls(type(base), base.config, cast(Any, model).peft_config[cast(Any, model).active_adapter])
        return cls(type(model), model.config, None)

    def build(self, weights: dict[str, Any]) -> PreTrainedModel:
        """A model with these weights, which are all there are."""
        with no_init_weights():
            model: Any = self.kind(self.config)
        if self.adapters is not None:
            model = get_peft_model(model, self.adapters)
        model.load_state_dict(weights, assign=True)
        return model


def whole_model(accelerator: Any, wrapped: Any, plain: PreTrainedModel, blueprint: Blueprint) -> PreTrainedModel | None:
    """The trained model on the first rank, None on the others. All ranks take part.

    ``plain``: the model inside ``wrapped``, which is the whole one where nothing is sharded.
    """
    if accelerator.distributed_type != DistributedType.FSDP and not is_zero3(accelerator):
        return plain if accelerator.is_main_process else None
    weights = accelerator.get_state_dict(wrapped)
    unset_hf_deepspeed_config()  # with it, the next checkpoint would be loaded in shards
    return blueprint.build(weights) if accelerator.is_main_process else None
