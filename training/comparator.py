"""A comparing layer, set by least squares: is this digit the one that the reader expected here?

Telling a written digit from the pictured one is an equality of two categories: neither alone says anything, so gradient
descent meets a plateau. Probing a trained reader shows why it is a high one: which digit is expected next is readable
from the upper layers alone (98 % before layer 8, 23 % before layer 0), which digit the token itself is from the lower
ones alone (100 % and 52 %). So the two are brought together by hand, and trained from there:

- every digit's embedding gets a direction of its own that the reader's residual stream hardly uses, and keeps;
- an attention head looks one token back (constant query and key, whose phases make distance 1 the best under rotary
  positions) and copies, through a least-squares probe, which digit the reader expected;
- ten hidden units of the MLP multiply "this token is d" (a probe again) with "another digit was expected", and write
  what they find along bad minus good.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import InternVLForConditionalGeneration

from cos.training.batches import Batch
from cos.training.text import Reader

MARK = 2.0
RIDGE = 1e-3
COPY_SHARE = 0.25
"""Length of the copied expectation, as a share of the residual stream's."""
SHARPNESS = 8.0
"""How decidedly the head looks back, and how steep the units' gates are."""
MARGIN = 6.0
"""How far a mismatch moves the label margin."""


@torch.no_grad()
def start_comparator(
    model: InternVLForConditionalGeneration,
    layer: int,
    batches: Sequence[Batch],
    digits: Sequence[int],
    labels: tuple[int, int],
    side: int,
) -> None:
    """Sets text layer ``layer`` (the first above the reader). ``digits``: ids of 0..9; ``labels``: good, bad."""
    states, own, expected = _observe(model, layer, batches, digits, side)
    is_digit = own.sum(1, keepdim=True)
    # Below zero for every other token: a gate that only hovered about zero would let ten units' noise through.
    probe_own = _ridge(states[1:], own * 1.5 - 0.5, 0.1 + 0.9 * is_digit)
    probe_expected = _ridge(states[:-1], expected, torch.ones_like(is_digit))
    block: Any = model.model.language_model.layers[layer]
    width = states.shape[1]
    directions = _free_directions(states, probe_own, len(digits))
    length = COPY_SHARE * width**0.5 * _rms(model, layer, batches, side)
    _look_back(block.self_attn)
    block.self_attn.v_proj.weight[: len(digits)] = probe_expected
    block.self_attn.v_proj.bias[: len(digits)] = 0.0
    block.self_attn.o_proj.weight[:, : len(digits)] = length * directions.T
    scale = 1 / (COPY_SHARE * width**0.5)
    others = directions.sum(0, keepdim=True) - directions
    block.mlp.gate_proj.weight[: len(digits)] = SHARPNESS * probe_own
    block.mlp.up_proj.weight[: len(digits)] = scale * others
    head = model.lm_head.weight
    against = head[labels[1]] - head[labels[0]]
    gain = model.model.language_model.norm.weight
    rms = _rms(model, layer, batches, side)
    per_unit = (against * gain * against).sum() / rms
    block.mlp.down_proj.weight[:, : len(digits)] = (MARGIN / SHARPNESS / per_unit * against).unsqueeze(1)


def _observe(
    model: InternVLForConditionalGeneration, layer: int, batches: Sequence[Batch], digits: Sequence[int], side: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Normed states before ``layer`` (places, width), and one-hot digits (places - 1, 10): own of each but the first
    place, expected next at each but the last."""
    seen: list[Tensor] = []
    block: Any = model.model.language_model.layers[layer]

    def note(_module: Any, _inputs: Any, output: Tensor) -> None:
        seen.append(output.float())

    hook = block.input_layernorm.register_forward_hook(note)
    owns: list[Tensor] = []
    expecteds: list[Tensor] = []
    reader = Reader(model, side)
    wanted = torch.tensor(list(digits))
    for batch in batches:
        logits = reader.run_plain(batch)
        owns.append((batch.ids.unsqueeze(-1) == wanted).float())
        expecteds.append((logits.argmax(-1, keepdim=True) == wanted).float())
    hook.remove()
    states = torch.cat([state.flatten(0, 1) for state in seen])
    own = torch.cat([one.flatten(0, 1) for one in owns])
    expected = torch.cat([one.flatten(0, 1) for one in expecteds])
    return states, own[1:], expected[:-1]


@torch.no_grad()
def mark_digits(
    model: InternVLForConditionalGeneration, batches: Sequence[Batch], digits: Sequence[int], side: int
) -> None:
    """Adds to each digit's embedding a direction of little use to the reader, twice as long as the embedding.

    The reader has to be trained on for some steps to get used to it.
    """
    streams: list[Tensor] = []
    blocks: Any = model.model.language_model.layers

    def note(_module: Any, inputs: tuple[Tensor, ...], _output: Any) -> None:
        stream = inputs[0].float().flatten(0, 1)
        streams.append(stream / stream.square().mean(-1, keepdim=True).sqrt())

    hooks = [block.input_layernorm.register_forward_hook(note) for block in blocks]
    Reader(model, side).run_plain(batches[0])
    for hook in hooks:
        hook.remove()
    _, vectors = torch.linalg.eigh(sum((unit.T @ unit for unit in streams), torch.zeros(())))
    table = model.model.language_model.embed_tokens.weight
    ids = list(digits)
    table[ids] += MARK * table[ids].norm(dim=1).mean() * vectors[:, : len(ids)].T


def _ridge(states: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Least-squares rows (targets, width); ``weights`` (places, 1)."""
    gram = states.T @ (weights * states)
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    return torch.linalg.solve(gram, states.T @ (weights * targets)).T


def _free_directions(states: Tensor, taken: Tensor, count: int) -> Tensor:
    """Orthonormal rows along which the states hardly vary and which the given rows do not see."""
    _, vectors = torch.linalg.eigh(states.T @ states)
    quiet = vectors[:, : len(taken) + count]
    basis, _ = torch.linalg.qr(taken.T)
    quiet = quiet - basis @ (basis.T @ quiet)
    left, _, _ = torch.linalg.svd(quiet, full_matrices=False)
    return left[:, :count].T


def _rms(model: InternVLForConditionalGeneration, layer: int, batches: Sequence[Batch], side: int) -> float:
    """Root mean square of the residual stream before ``layer``."""
    found: list[float] = []
    block: Any = model.model.language_model.layers[layer]

    def note(_module: Any, inputs: tuple[Tensor, ...], _output: Any) -> None:
        found.append(inputs[0].float().square().mean(-1).sqrt()[:, 40:].mean().item())

    hook = block.input_layernorm.register_forward_hook(note)
    Reader(model, side).run_plain(batches[0])
    hook.remove()
    return found[0]


def _look_back(attention: Any) -> None:
    """Head 0 attends to the token before."""
    size: int = attention.head_dim
    frequency = 10_000 ** (-torch.arange(size // 2) / (size // 2))
    spread = float((1 - torch.cos(frequency)).sum()) / size**0.5
    strength = (SHARPNESS / spread) ** 0.5
    attention.q_proj.weight[:size] = 0.0
    attention.k_proj.weight[:size] = 0.0
    attention.q_proj.bias[:size] = torch.cat([torch.full_like(frequency, strength), torch.zeros_like(frequency)])
    attention.k_proj.bias[:size] = strength * torch.cat([torch.cos(frequency), torch.sin(frequency)])
