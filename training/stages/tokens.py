"""Stage `tokens`: the step, answer and PRM tokens for a checkpoint that does not have them.

Source: arXiv 2509.19003, appendix A, and the released add_special_token.py: 17 tokens in a fixed order; the rows of a
new token in embeddings and head start as the mean of those of a short English description. It is a part of the trainer
that knows CoS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cos.search.errors import InputError
from cos.search.grammars.cos import COS_TOKENS, LABEL_BAD, LABEL_GOOD, STEP_TAG
from cos.training.config.recipe import TokensConfig
from cos.training.learning.encode import add_step_tokens, load_checkpoint
from cos.training.runs.folder import StageContext, StageRun

_PRM_DESCRIPTIONS = {
    STEP_TAG: "tag of a step to be judged",
    LABEL_GOOD: "good, correct step",
    LABEL_BAD: "bad, incorrect step",
}


def run_tokens(config: TokensConfig, context: StageContext) -> None:
    """Writes ``model/``. Errors: InputError for a checkpoint that cannot be used."""
    with StageRun(context, "tokens") as run:
        model, processor = load_checkpoint(context.checkpoint(config.checkpoint))
        added = add_tokens(model, processor.tokenizer)
        run.finish(model, processor, {"added": len(added), "vocabulary": len(processor.tokenizer)})


def add_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Adds what is missing of the 17 tokens to both, in place, and returns it; nothing when all are there.

    Errors: InputError when a token is not one id afterwards.
    """
    # Encoded while the tokenizer is as it came.
    described = {token: _ids(tokenizer, description_of(token)) for token in COS_TOKENS}
    missing = add_step_tokens(tokenizer)
    _check(tokenizer)
    if not missing:
        return []
    _grow(model, len(tokenizer))
    for token in missing:
        _begin(model, cast(int, tokenizer.convert_tokens_to_ids(token)), described[token])
    return missing


def description_of(token: str) -> str:
    """What a token means, in a few English words: ``<|reasoning_step_start|>`` is "start of reasoning step"."""
    if token in _PRM_DESCRIPTIONS:
        return _PRM_DESCRIPTIONS[token]
    *what, edge = token.strip("<|>").split("_")
    return f"{edge} of {' '.join(what)}"


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def _check(tokenizer: PreTrainedTokenizerBase) -> None:
    split = [token for token in COS_TOKENS if len(_ids(tokenizer, token)) != 1]
    if split:
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path!r} makes several ids of {', '.join(split)}; "
            "add each as a special token of its own",
            "checkpoint",
        )


def _grow(model: PreTrainedModel, tokens: int) -> None:
    """Rows for all tokens; a table that has spare rows already keeps its size."""
    if cast(Any, model.get_input_embeddings()).weight.shape[0] < tokens:
        cast(Any, model).resize_token_embeddings(tokens, mean_resizing=False)


@torch.no_grad()
def _begin(model: PreTrainedModel, token: int, described_by: Sequence[int]) -> None:
    """The token's row in embeddings and head (the same one where they are tied)."""
    tables = [cast(Any, model.get_input_embeddings()).weight, cast(Any, model.get_output_embeddings()).weight]
    for table in tables[:1] if tables[0] is tables[1] else tables:
        table[token] = table[list(described_by)].mean(0)
