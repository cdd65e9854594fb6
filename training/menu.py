"""What training can do by name: the stages of a recipe, and the tasks whose problems a program draws.

What stands behind a name is imported when it is used. A task of its own is registered here, and nowhere else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from cos.training.data.generated import GeneratedTask

STAGES = {
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
    "widen": "cos.training.stages.widen:run_widen",
}
"""Each stage's function. It takes the stage's keys and its context."""
TASKS = {"ledger": "cos.ledger.generated:LedgerTask"}
"""Each generated task's class. Its name is the key of recipes under which it is asked for."""


def stage_function(stage: str) -> Callable[[Any, Any], None]:
    """A stage's function. Errors: ModuleNotFoundError when a library that the stage needs is not installed."""
    return _found(STAGES[stage])


def generated_task(name: str = "ledger") -> GeneratedTask:
    """A task whose problems a program draws."""
    return _found(TASKS[name])()


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
