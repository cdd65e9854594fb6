"""The embedded default, cos-tiny: a policy, its PRM, and the held-out ledgers to try them on."""

from pathlib import Path

EMBEDDED = "cos-tiny"
"""The model name that stands for the embedded checkpoint of a role."""


def embedded(role: str) -> Path:
    """Folder of the embedded checkpoint: ``policy`` or ``prm``."""
    return Path(__file__).parent / f"{EMBEDDED}-{role}"


def resolve(role: str, model: str) -> str:
    """The folder or hub name that a model name stands for."""
    return str(embedded(role)) if model == EMBEDDED else model
