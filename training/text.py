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
    """The text model and its head; the tower is frozen unless ``thawed``. Embeddings are tied to the head."""

    def __init__(self, model: InternVLForConditionalGeneration, side: int, thawed: bool = False) -> None:
        super().__init__()
        self.model = model
        self._side = side
        self._thawed = thawed
        for part in (model.model.vision_tower, model.model.multi_modal_projector):
            part.requires_grad_(thawed)
        self._logits = cast("Callable[[Tensor], Tensor]", torch.compile(self._run, dynamic=False))

    def _run(self, embedded: Tensor) -> Tensor:
        hidden = self.model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return self.model.lm_head(hidden)

    def forward(self, batch: Batch) -> Tensor:
        """Logits, float32 (batch, length, vocabulary)."""
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(self._thawed and torch.is_grad_enabled()):
                features = image_features(self.model, to_pixels(batch.pictures, self._side))
            embedded = self.model.model.language_model.embed_tokens(batch.ids)
            image = (batch.ids == self.model.config.image_token_id).unsqueeze(-1).expand_as(embedded)
            embedded = embedded.masked_scatter(image, features.to(embedded.dtype).reshape(-1))
            return self._logits(embedded).float()


def next_token_loss(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over the taught tokens, and whether each was the likeliest: bool (batch, length - 1)."""
    taught = batch.teaches_next[:, 1:]
    targets = batch.ids[:, 1:]
    ahead = logits[:, :-1]
    value = functional.cross_entropy(ahead[taught], targets[taught])
    return value, (ahead.argmax(-1) == targets) | ~taught
