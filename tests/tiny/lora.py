"""A LoRA adapter with random weights over a tiny checkpoint, in the files that PEFT saves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

EYES = r".*(vision|visual|projector).*"
RANK = 4


def write(
    folder: Path, model: Any, *, targets: Sequence[str] = ("q_proj", "v_proj", "down_proj"), base: Path | None = None
) -> Any:
    """Puts an adapter on the text layers of a model and saves it; the model with it. ``base``: the folder that the
    adapter says it was trained on."""
    import torch
    from peft import LoraConfig, get_peft_model

    # PEFT takes what the model says of its name for that of its base.
    model.name_or_path = str(base) if base else ""
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=[*targets], exclude_modules=EYES)
    adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.15, generator=generator)
    adapted.save_pretrained(str(folder))
    return adapted.eval()
