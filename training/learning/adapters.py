"""Low-rank adapters (PEFT) around a model, and back.

It is a part of the trainer that knows CoS: the rows of the format's tokens are trained beside the adapters.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cos.evaluation.files import replacing_folder
from cos.search.errors import InputError
from cos.search.grammars.cos import COS_TOKENS
from cos.training.config.keys import LoraKeys, TrainingKeys
from cos.training.learning.parts import modules_of, part_of, trained_parts
from cos.training.learning.quantized import merged_at_full_precision, quantized_by

ADAPTERS = "adapters"
"""The folder of kept adapters, in the stage's."""
EYES = r".*(vision|visual|projector).*"
"""What gets no adapters."""


def with_lora(
    model: PreTrainedModel, keys: TrainingKeys, tokenizer: PreTrainedTokenizerBase, seed: int
) -> PreTrainedModel:
    """The model with adapters on its text layers, drawn from ``seed``; the model itself when ``keys`` ask for none.

    Vision tower and projector are trained in full where the keys say so (a copy is trained, so that they take their
    memory twice), and so are the rows of the step, answer and PRM tokens, which mean nothing to a checkpoint that was
    just given them.

    Errors: InputError for a target or a module that the model does not have.
    """
    lora = keys.lora
    if lora is None:
        return model
    check_names(lora.targets, linear_layers(model), "lora.targets")
    check_names(lora.modules_to_save, [name for name, _ in model.named_modules() if name], "lora.modules_to_save")
    eyes = trained_parts(keys) - {"text"}
    whole = [*modules_of(model, lambda name: part_of(name) in eyes), *lora.modules_to_save]
    stay_one = are_one(model) and any(_names(table, lora.modules_to_save) for table in tables_of(model))
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        exclude_modules=EYES,
        modules_to_save=whole or None,
        trainable_token_indices=token_rows(model, lora, tokenizer) or None,
        ensure_weight_tying=stay_one,
    )
    torch.manual_seed(seed)
    adapted = get_peft_model(cast(Any, model), config)
    head = model.get_output_embeddings()
    if isinstance(head, TrainableTokensWrapper):
        # TRL's fused head asks for it, and the wrapper knows of the weight alone. No supported head has one.
        head.register_parameter("bias", None)
    return cast(PreTrainedModel, adapted)


def linear_layers(model: nn.Module) -> list[str]:
    """Names of the layers that can have an adapter."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding) and not re.fullmatch(EYES, name)
    ]


def check_names(given: Sequence[str], there: Sequence[str], key: str) -> None:
    """Errors: InputError for a name that none of the modules has, by its last parts as PEFT finds them."""
    for name in given:
        if not any(_names(own, (name,)) for own in there):
            ends = sorted({own.rpartition(".")[2] for own in there if not own.rpartition(".")[2].isdigit()})
            raise InputError(f"the model has no module {name!r}; it has {', '.join(ends)}", key)


def token_rows(model: PreTrainedModel, keys: LoraKeys, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """Ids of the 17 tokens for each table (embeddings, and the head where it is another) that is not trained anyway."""
    known = tokenizer.get_vocab()
    ids = [known[token] for token in COS_TOKENS if token in known]
    if not keys.train_tokens or not ids:
        return {}
    embeddings, head = tables_of(model)
    trained = [name for name in (embeddings, head) if _names(name, (*keys.modules_to_save, *keys.targets))]
    if are_one(model):
        return {} if trained else {embeddings: ids}
    return {name: ids for name in (embeddings, head) if name not in trained}


def tables_of(model: PreTrainedModel) -> tuple[str, str]:
    """Names of embeddings and head."""
    embeddings, head = (
        next(name for name, module in model.named_modules() if module is table)
        for table in (model.get_input_embeddings(), model.get_output_embeddings())
    )
    return embeddings, head


def are_one(model: PreTrainedModel) -> bool:
    """Whether embeddings and head have the same weights."""
    return cast(Any, model.get_input_embeddings()).weight is cast(Any, model.get_output_embeddings()).weight


def _names(module: str, given: Sequence[str]) -> bool:
    """Whether one of the names given is that of a module, or its last parts."""
    return any(module == name or module.endswith(f".{name}") for name in given)


def merge_lora(model: PreTrainedModel, keys: TrainingKeys, folder: Path, checkpoint: str | Path) -> PreTrainedModel:
    """The model with its adapters added into its weights: those of ``checkpoint`` where they were rounded for training.
    Where the keys say so the adapters are kept in ``folder``, too."""
    if not isinstance(model, PeftModel):
        return model
    if keys.lora is not None and keys.lora.keep_adapters:
        with replacing_folder(folder / ADAPTERS) as partial:
            cast(Any, model).save_pretrained(partial)
    if quantized_by(keys) is not None:
        return merged_at_full_precision(model, checkpoint, folder)
    return cast(PreTrainedModel, cast(Any, model).merge_and_unload())
