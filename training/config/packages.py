"""Packages that keys ask for and that the extra ``train`` does not bring."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from cos.search.errors import InputError
from cos.training.config.keys import Keys, TrainingKeys
from cos.training.config.recipe import RoundsConfig


def missing_packages(keys: Keys) -> list[tuple[str, str]]:
    """What a stage lacks, each with the key that asks for it."""
    trained = keys.dpo if isinstance(keys, RoundsConfig) else keys
    if not isinstance(trained, TrainingKeys):
        return []
    wanted = [(name, "report_to") for name in trained.report_to]
    if trained.lora is not None and trained.lora.quantize is not None:
        wanted.append(("bitsandbytes", "lora.quantize"))
    return [
        (f"{key}: {name} is not installed; pip install {name}, or leave it out", key)
        for name, key in wanted
        if find_spec(name) is None
    ]


def check_packages(stages: Iterable[Keys]) -> None:
    """Errors: InputError for the first package that is not installed."""
    for stage in stages:
        for message, key in missing_packages(stage):
            raise InputError(message, key)
