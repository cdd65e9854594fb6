"""Which module carries out which stage."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

RUNS = {
    "tokens": "cos.training.stages.tokens:run_tokens",
    "sight": "cos.ledger.sight:run_sight",
    "sft": "cos.training.stages.sft:run_sft",
    "rollout": "cos.training.stages.rollout:run_rollout",
    "label": "cos.training.stages.label:run_label",
    "prm": "cos.training.stages.prm_training:run_prm",
    "pairs": "cos.training.stages.pairs:run_pairs",
    "dpo": "cos.training.stages.dpo:run_dpo",
    "rounds": "cos.training.stages.rounds:run_rounds",
    "evaluate": "cos.training.stages.evaluate:run_evaluate",
    "export": "cos.training.stages.export:run_export",
}
"""Each stage's function, which takes the stage's keys and its context. What a stage needs is imported when it runs."""


def function_of(stage: str) -> Callable[[Any, Any], None]:
    """A stage's function. Errors: ModuleNotFoundError when a library that the stage needs is not installed."""
    module, _, name = RUNS[stage].partition(":")
    return getattr(import_module(module), name)
