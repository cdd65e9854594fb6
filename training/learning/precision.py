"""Number formats of training, as the machine bears them."""

from typing import Literal

Precision = Literal["auto", "bf16", "fp32"]


def is_bf16(precision: Precision) -> bool:
    """Whether forward and backward pass run in bfloat16; ``auto`` is where the device computes in it."""
    return precision == "bf16" or (precision == "auto" and computes_bf16())


def computes_bf16() -> bool:
    """Whether the device that trains has instructions for bfloat16."""
    import torch

    from cos.engines.environment import computes_bfloat16

    return torch.cuda.is_bf16_supported(including_emulation=False) if torch.cuda.is_available() else computes_bfloat16()
