"""The parts of an image-text-to-text model, by the names of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import nn
from transformers import PreTrainedModel

from cos.search.errors import InputError
from cos.training.config.keys import TrainingKeys

Part = Literal["text", "projector", "vision"]
PARTS: tuple[Part, ...] = get_args(Part)


def part_of(parameter: str) -> Part:
    """Which part a parameter of that name belongs to. What is neither tower nor projector is the text model's."""
    if "projector" in parameter or ".merger." in parameter:
        return "projector"
    return "vision" if "vision" in parameter or "visual." in parameter else "text"


def trained_parts(keys: TrainingKeys) -> frozenset[Part]:
    """The parts that a stage trains."""
    is_trained = {"vision": keys.train_vision, "projector": keys.train_projector, "text": keys.train_text}
    return frozenset(part for part in PARTS if is_trained[part])


def modules_of(model: nn.Module, wanted: Callable[[str], bool]) -> list[str]:
    """Names of the fewest modules that hold all ``wanted`` parameters (by name) and no other, and can be called.

    Errors: InputError for a wanted parameter beside others in a module that holds it itself.
    """
    found: list[str] = []

    def visit(name: str, module: nn.Module) -> None:
        before = f"{name}." if name else ""
        names = [before + own for own, _ in module.named_parameters()]
        chosen = [own for own in names if wanted(own)]
        if not chosen:
            return
        if name and len(chosen) == len(names) and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            found.append(name)
            return
        alone = [before + own for own, _ in module.named_parameters(recurse=False) if wanted(before + own)]
        if alone:
            raise InputError(f"{alone[0]} cannot be trained together with adapters; leave lora out", "lora")
        for child, inner in module.named_children():
            visit(before + child, inner)

    visit("", model)
    return found


def take_text(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Gives a model the text layers, embeddings and final norm of another one with the same text model.

    Errors: RuntimeError when they do not fit.
    """
    eyes = ("vision", "visual", "projector", "merger")
    own = {name: value for name, value in target.state_dict().items() if any(part in name for part in eyes)}
    others = {name: value for name, value in source.state_dict().items() if not any(part in name for part in eyes)}
    target.load_state_dict({**own, **others})
