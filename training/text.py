"""The text model over image features, as the training stages run it: embeddings in, logits out, compiled."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import InternVLForConditionalGeneration

from cos.training.batches import Batch
from cos.training.sight import image_features, to_pixels


class Reader(nn.Module):
    """The text model and its head; the tower is frozen unless ``thawed``. Embeddings are tied to the head.

    ``frozen_layers``: that many text layers from below, and the embeddings, are not trained either.
    """

    def __init__(
        self, model: InternVLForConditionalGeneration, side: int, thawed: bool = False, frozen_layers: int = 0
    ) -> None:
        super().__init__()
        self.model = model
        self._side = side
        self._thawed = thawed
        for part in (model.model.vision_tower, model.model.multi_modal_projector):
            part.requires_grad_(thawed)
        if frozen_layers:
            model.model.language_model.embed_tokens.requires_grad_(False)
            for layer in model.model.language_model.layers[:frozen_layers]:
                layer.requires_grad_(False)
        self._logits = cast("Callable[[Tensor], Tensor]", torch.compile(self._run, dynamic=False))

    def _run(self, embedded: Tensor) -> Tensor:
        hidden = self.model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return self.model.lm_head(hidden)

    def run_plain(self, batch: Batch) -> Tensor:
        """Logits without compilation, so that hooks on the model are heard."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return self._run(self._embed(batch)).float()

    def forward(self, batch: Batch) -> Tensor:
        """Logits, float32 (batch, length, vocabulary)."""
        with torch.autocast("cpu", torch.bfloat16):
            return self._logits(self._embed(batch)).float()

    def _embed(self, batch: Batch) -> Tensor:
        with torch.set_grad_enabled(self._thawed and torch.is_grad_enabled()):
            features = image_features(self.model, to_pixels(batch.pictures, self._side))
        embedded = self.model.model.language_model.embed_tokens(batch.ids)
        image = (batch.ids == self.model.config.image_token_id).unsqueeze(-1).expand_as(embedded)
        return embedded.masked_scatter(image, features.to(embedded.dtype).reshape(-1))


def next_token_loss(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over the taught tokens, and whether each was the likeliest: bool (batch, length - 1)."""
    taught = batch.teaches_next[:, 1:]
    targets = batch.ids[:, 1:]
    ahead = logits[:, :-1]
    value = functional.cross_entropy(ahead[taught], targets[taught])
    return value, (ahead.argmax(-1) == targets) | ~taught
