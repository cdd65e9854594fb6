"""The arguments of transformers' Trainer, as a stage's keys have them."""

from __future__ import annotations

import torch
from transformers import TrainingArguments

from cos.training.config.keys import TrainingKeys
from cos.training.config.packages import check_packages
from cos.training.learning.precision import is_bf16
from cos.training.runs.folder import StageContext


def arguments(keys: TrainingKeys, context: StageContext, *, in_order: bool) -> TrainingArguments:
    """The library's arguments for a stage. Errors: InputError as `check_packages` has it."""
    check_packages([keys])
    return TrainingArguments(
        output_dir=str(context.folder),
        max_steps=keys.steps or -1,
        num_train_epochs=keys.epochs or 1,
        per_device_train_batch_size=keys.batch,
        gradient_accumulation_steps=keys.accumulate,
        learning_rate=keys.learning_rate,
        weight_decay=keys.weight_decay,
        max_grad_norm=keys.max_grad_norm,
        bf16=is_bf16(keys.precision),
        use_cpu=not torch.cuda.is_available(),
        seed=context.seed,
        # A tower's last layers may have no part in a loss; by the library's default they may end training of ranks.
        ddp_find_unused_parameters=True,
        train_sampling_strategy="sequential" if in_order else "random",
        logging_steps=keys.log_every,
        logging_nan_inf_filter=False,
        save_strategy="no" if context.trial else "steps",
        save_steps=keys.save_every,
        eval_strategy="no" if keys.validation is None else "steps",
        eval_steps=None if keys.validation is None else keys.validation.every,
        per_device_eval_batch_size=keys.batch,
        report_to=[name for name in keys.report_to if name != "tensorboard"],
        remove_unused_columns=False,
        dataloader_num_workers=keys.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        include_num_input_tokens_seen="no",
    )
