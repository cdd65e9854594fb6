"""The sizes of text models, and which can grow to which."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from cos.search.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a text model, in the names of its config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int

    @property
    def head_size(self) -> int:
        """Channels of a head. vLLM takes no other for Qwen2."""
        return self.hidden_size // self.num_attention_heads

    @property
    def group(self) -> int:
        """Heads that share keys and values."""
        return self.num_attention_heads // self.num_key_value_heads


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "7b": Shape(
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
        ),
        "14b": Shape(
            hidden_size=5120,
            intermediate_size=13824,
            num_hidden_layers=48,
            num_attention_heads=40,
            num_key_value_heads=8,
        ),
        "38b": Shape(
            hidden_size=5120,
            intermediate_size=27648,
            num_hidden_layers=64,
            num_attention_heads=40,
            num_key_value_heads=8,
        ),
    }
)
"""Text models by the name of the model that they are part of: Qwen2.5-7B, Qwen2.5-14B, and the Qwen2.5-32B that
InternVL2.5-38B has behind its tower."""


def shape_of(text: Mapping[str, Any]) -> Shape:
    """The sizes in a text model's config. Errors: InputError for one that leaves a size out."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    if missing := [name for name in sizes if not text.get(name)]:
        raise InputError(f"the config.json of the checkpoint has no {missing[0]}; write it there", missing[0])
    heads = text["num_attention_heads"]
    return Shape(
        hidden_size=text["hidden_size"],
        intermediate_size=text["intermediate_size"],
        num_hidden_layers=text["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=text.get("num_key_value_heads") or heads,
    )


def check_shape(old: Shape, new: Shape, text: Mapping[str, Any]) -> None:
    """Errors: InputError for sizes that a text model cannot grow to."""
    for name, size in asdict(old).items():
        if getattr(new, name) < size:
            raise InputError(
                f"{name} {getattr(new, name)} is less than the {size} of the checkpoint, which can only grow", name
            )
    for whole, part in (
        ("hidden_size", "num_attention_heads"),
        ("num_attention_heads", "num_key_value_heads"),
    ):
        if getattr(new, whole) % getattr(new, part):
            raise InputError(f"{whole} {getattr(new, whole)} is no multiple of {part} {getattr(new, part)}", whole)
    if new.head_size % old.head_size:
        raise InputError(
            f"heads of {new.head_size} channels (hidden_size / num_attention_heads) cannot hold the rotary pairs of "
            f"heads of {old.head_size}; give a multiple of {old.head_size}",
            "num_attention_heads",
        )
    if new.group < old.group:
        raise InputError(
            f"{new.num_attention_heads} heads over {new.num_key_value_heads} for keys and values are {new.group} each, "
            f"and the checkpoint has {old.group}; give fewer num_key_value_heads",
            "num_key_value_heads",
        )
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if new.head_size != old.head_size and kind != "default":
        raise InputError(
            f"rotary embeddings of type {kind!r} change with the head size; keep heads of {old.head_size} channels",
            "num_attention_heads",
        )
