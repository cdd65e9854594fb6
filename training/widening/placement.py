"""Where each tensor of a checkpoint stands in the widened one."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cos.search.errors import InputError
from cos.training.widening.shape import Shape

TEXT = "language_model."
"""What the names of a text model's tensors begin with in a checkpoint that also sees."""

Fill = Literal["zeros", "ones", "noise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One tensor of the widened checkpoint."""

    size: tuple[int, ...]
    source: str | None
    """The tensor that is placed in it; None in a new layer."""
    rows: Tensor | None = None
    """Where the rows of the source stand; all in their order unless given."""
    columns: Tensor | None = None
    scale: float = 1.0
    fill: Fill = "zeros"
    """What stands elsewhere."""
    silent_rows: Tensor | None = None
    """Rows that are zero, whatever stands elsewhere."""

    @property
    def source_size(self) -> tuple[int, ...]:
        """Of the source, where there is one."""
        given = (self.rows, self.columns)[: len(self.size)]
        return (
            tuple(whole if part is None else len(part) for whole, part in zip(self.size, given, strict=False))
            + (self.size[2:])
        )


def placements(sizes: Mapping[str, tuple[int, ...]], old: Shape, new: Shape) -> Iterator[tuple[str, Placement]]:
    """Every tensor of the widened checkpoint by its name. ``sizes``: those of the source's tensors.

    Errors: InputError for a tensor that belongs to no part that is known, that is missing, or that has other sizes than
    the config says.
    """
    for name, place in _placements(sizes, old, new):
        if place.source is not None:
            _check_size(place.source, place.source_size, sizes.get(place.source))
        yield name, place


def _check_size(name: str, wanted: tuple[int, ...], given: tuple[int, ...] | None) -> None:
    if given is None:
        raise InputError(
            f"the tensor {name} is missing, though its config.json has such a layer; give a whole checkpoint",
            "model",
        )
    if given != wanted:
        raise InputError(
            f"the tensor {name} has the sizes {given}, and by its config.json {wanted}; only heads of hidden_size "
            "/ num_attention_heads channels can be widened, and what the config leaves out has to be written there",
            "model",
        )


def _placements(sizes: Mapping[str, tuple[int, ...]], old: Shape, new: Shape) -> Iterator[tuple[str, Placement]]:
    stem = TEXT if any(name.startswith(TEXT) for name in sizes) else ""
    layers = f"{stem}model.layers."
    for name, size in sizes.items():
        if name.startswith("vision_tower.") or name.startswith("multi_modal_projector.layer_norm."):
            yield name, Placement(size=size, source=name)
        elif not name.startswith(layers):
            yield name, _outside_layers(name, name.removeprefix(stem), size, old, new)
    parts = {name.removeprefix(f"{layers}0."): size for name, size in sizes.items() if name.startswith(f"{layers}0.")}
    for layer in range(new.num_hidden_layers):
        for part, size in parts.items():
            source = f"{layers}{layer}.{part}"
            yield source, _in_layer(source if layer < old.num_hidden_layers else None, part, size, old, new)
    for name in sizes:
        if name.startswith(layers) and name.removeprefix(layers).partition(".")[2] not in parts:
            raise _unknown(name)


def _outside_layers(name: str, part: str, size: tuple[int, ...], old: Shape, new: Shape) -> Placement:
    hidden, wide = torch.arange(old.hidden_size), new.hidden_size
    match part:
        case "model.embed_tokens.weight":
            return Placement(size=(size[0], wide), source=name, columns=hidden)
        case "lm_head.weight":
            return Placement(size=(size[0], wide), source=name, columns=hidden, fill="noise")
        case "model.norm.weight":
            return _norm(name, old, new)
        case "multi_modal_projector.linear_1.weight":
            return Placement(size=(wide, size[1]), source=name, rows=hidden, fill="noise")
        case "multi_modal_projector.linear_1.bias":
            return Placement(size=(wide,), source=name, rows=hidden, fill="noise")
        case "multi_modal_projector.linear_2.weight":
            return Placement(size=(wide, wide), source=name, rows=hidden, columns=hidden)
        case "multi_modal_projector.linear_2.bias":
            return Placement(size=(wide,), source=name, rows=hidden)
        case _:
            raise _unknown(name)


def _in_layer(source: str | None, part: str, size: tuple[int, ...], old: Shape, new: Shape) -> Placement:
    hidden, inner = torch.arange(old.hidden_size), torch.arange(old.intermediate_size)
    columns = hidden if len(size) == 2 else None
    width = (new.hidden_size,) if len(size) == 2 else ()
    keys_size = new.num_key_value_heads * new.head_size
    match part.removesuffix(".weight").removesuffix(".bias"):
        case "input_layernorm" | "post_attention_layernorm":
            return _norm(source, old, new)
        case "self_attn.q_proj":
            return Placement(
                size=(new.hidden_size, *width),
                source=source,
                rows=_heads(query_heads(old, new), rotary_places(old, new), new),
                columns=columns,
                scale=math.sqrt(new.head_size / old.head_size),
                fill="noise",
            )
        case "self_attn.k_proj":
            rows = _heads(torch.arange(old.num_key_value_heads), rotary_places(old, new), new)
            unused = torch.ones(old.num_key_value_heads * new.head_size, dtype=torch.bool)
            unused[rows] = False
            return Placement(
                size=(keys_size, *width),
                source=source,
                rows=rows,
                columns=columns,
                fill="noise",
                # Queries are noise where keys are silent.
                silent_rows=None if source is None else unused.nonzero().flatten(),
            )
        case "self_attn.v_proj":
            rows = _heads(torch.arange(old.num_key_value_heads), torch.arange(old.head_size), new)
            return Placement(size=(keys_size, *width), source=source, rows=rows, columns=columns, fill="noise")
        case "self_attn.o_proj" if len(size) == 2:
            read = _heads(query_heads(old, new), torch.arange(old.head_size), new)
            return Placement(size=(new.hidden_size, new.hidden_size), source=source, rows=hidden, columns=read)
        case "mlp.gate_proj" | "mlp.up_proj" if len(size) == 2:
            size = (new.intermediate_size, new.hidden_size)
            return Placement(size=size, source=source, rows=inner, columns=hidden, fill="noise")
        case "mlp.down_proj" if len(size) == 2:
            size = (new.hidden_size, new.intermediate_size)
            return Placement(size=size, source=source, rows=hidden, columns=inner)
        case _:
            raise _unknown(source or part)


def _norm(source: str | None, old: Shape, new: Shape) -> Placement:
    scale = math.sqrt(old.hidden_size / new.hidden_size)
    rows = torch.arange(old.hidden_size)
    return Placement(size=(new.hidden_size,), source=source, rows=rows, scale=scale, fill="ones")


def query_heads(old: Shape, new: Shape) -> Tensor:
    """The new number of each old head: it keeps the head whose keys and values it reads."""
    numbers = torch.arange(old.num_attention_heads)
    return numbers // old.group * new.group + numbers % old.group


def rotary_places(old: Shape, new: Shape) -> Tensor:
    """The new place in a head of each old channel. Channel ``i`` is turned together with channel ``i + size / 2``, by
    ``theta ** (-2 i / size)``."""
    pairs = torch.arange(old.head_size // 2) * (new.head_size // old.head_size)
    return torch.cat([pairs, pairs + new.head_size // 2])


def _heads(heads: Tensor, places: Tensor, new: Shape) -> Tensor:
    """The rows of all heads' channels."""
    return (heads[:, None] * new.head_size + places[None, :]).flatten()


def _unknown(name: str) -> InputError:
    return InputError(
        f"the tensor {name} is none of a Qwen2 text model or of InternVL's tower and projector, which are all that can "
        "be widened; give such a checkpoint, not quantised and without adapters",
        "model",
    )


def made_of(place: Placement, source: Mapping[str, Tensor], noise: Tensor) -> Tensor:
    """One tensor, in the number format of the noise."""
    made = torch.empty(place.size, dtype=noise.dtype)
    if place.fill == "noise":
        flat = made.view(-1)
        for start in range(0, len(flat), len(noise)):
            part = flat[start : start + len(noise)]
            part.copy_(noise[: len(part)])
    else:
        made.fill_(1.0 if place.fill == "ones" else 0.0)
    if place.silent_rows is not None:
        made[place.silent_rows] = 0
    if place.source is not None:
        given = (source[place.source].to(torch.float32) * place.scale).to(noise.dtype)
        match place.rows, place.columns:
            case None, None:
                made.copy_(given)
            case rows, None:
                made[rows] = given
            case None, columns:
                made[:, columns] = given
            case rows, columns:
                made[rows[:, None], columns[None, :]] = given  # pyright: ignore[reportOptionalSubscript]
    return made
