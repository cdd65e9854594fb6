"""A training loop written by hand for one model on one machine: the yardstick of `cos.benchmarks.training_speed`.

It does what step-structured SFT of an InternVL with a frozen tower needs and nothing else: the tower without gradients,
the whole text model with its loss as one compiled graph, two optimisers, one learning rate. No checkpoint, no log, no
schedule, no other architecture.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from cos.training.learning.muon import muon
from cos.training.learning.precision import computes_bf16

IGNORED = -100
"""The label of a token that teaches nothing."""


class HandLoop:
    """Trains ``model`` (InternVLForConditionalGeneration over a Qwen2 text model, float32) in place, step by step.

    Batches are padded on the right, so causal attention needs no mask.
    """

    def __init__(self, model: Any, rate: float, *, compiled: bool = True) -> None:
        model.model.vision_tower.requires_grad_(False)
        model.model.multi_modal_projector.requires_grad_(False)
        model.train()
        self._model = model
        self._bf16 = computes_bf16()
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        matrices = [part for part in model.model.language_model.layers.parameters() if part.ndim == 2]
        chosen = {id(part) for part in matrices}
        others = [part for part in self._parameters if id(part) not in chosen]
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (
            muon([{"params": matrices}], rate, weight_decay=0.05),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )
        whole = torch.compile(self._loss, dynamic=False) if compiled else self._loss
        self._whole = cast("Callable[[Tensor, Tensor, Tensor], Tensor]", whole)
        features = torch.compile(self._features, dynamic=False) if compiled else self._features
        self._see = cast("Callable[[Tensor], Tensor]", features)

    def step(self, batch: Mapping[str, Tensor]) -> float:
        """One update; the batch has input_ids, labels (batch, length) and pixel_values. The loss before it."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            with torch.no_grad():
                features = self._see(batch["pixel_values"])
            loss = self._whole(batch["input_ids"], batch["labels"], features)
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimizer in self._optimizers:
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]
            optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def _features(self, pixels: Tensor) -> Tensor:
        """What tower and projector make of pictures: (image tokens of the batch, width)."""
        found = self._model.model.get_image_features(pixel_values=pixels)
        return cast(Tensor, found if isinstance(found, Tensor) else found.pooler_output).flatten(0, -2)

    def _loss(self, ids: Tensor, labels: Tensor, features: Tensor) -> Tensor:
        text = self._model.model.language_model
        stream = text.embed_tokens(ids)
        image = (ids == self._model.config.image_token_id).unsqueeze(-1).expand_as(stream)
        stream = stream.masked_scatter(image, features.to(stream.dtype).reshape(-1))
        places = torch.arange(ids.shape[1]).unsqueeze(0)
        rotary = text.rotary_emb(stream, places)
        for layer in text.layers:
            stream = layer(stream, position_embeddings=rotary, position_ids=places)
        logits = self._model.lm_head(text.norm(stream)).float()
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
