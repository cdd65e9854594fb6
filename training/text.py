"""The text model over image features, as the training stages run it: batches in, residual streams out, compiled."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import InternVLForConditionalGeneration

from cos.training.batches import Batch
from cos.training.chains import UNKNOWN
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
        self._through = cast(
            "Callable[[Tensor, tuple[int, ...]], list[Tensor]]", torch.compile(self._layers, dynamic=False)
        )

    def _layers(self, stream: Tensor, stops: tuple[int, ...]) -> list[Tensor]:
        """Sequences are padded on the right, so causal attention needs no mask."""
        text: Any = self.model.model.language_model
        places = torch.arange(stream.shape[1]).unsqueeze(0)
        rotary = text.rotary_emb(stream, places)
        kept: list[Tensor] = []
        for number, layer in enumerate(text.layers, start=1):
            stream = layer(stream, position_embeddings=rotary, position_ids=places)
            if number in stops:
                kept.append(stream)
        return kept

    def streams(self, batch: Batch, stops: Sequence[int]) -> list[Tensor]:
        """The residual stream (batch, length, width) after each number of layers in ``stops``, which ascend."""
        with torch.autocast("cpu", torch.bfloat16):
            return self._through(self._embed(batch), tuple(stops))

    def logits(self, stream: Tensor) -> Tensor:
        """What the head says of a residual stream: float32 (batch, length, vocabulary)."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.model.lm_head(self.model.model.language_model.norm(stream)).float()

    def forward(self, batch: Batch) -> Tensor:
        """Logits, float32 (batch, length, vocabulary)."""
        return self.logits(self.streams(batch, (len(self.model.model.language_model.layers),))[0])

    def _embed(self, batch: Batch) -> Tensor:
        with torch.set_grad_enabled(self._thawed and torch.is_grad_enabled()):
            features = image_features(self.model, to_pixels(batch.pictures, self._side))
        embedded = self.model.model.language_model.embed_tokens(batch.ids)
        image = (batch.ids == self.model.config.image_token_id).unsqueeze(-1).expand_as(embedded)
        return embedded.masked_scatter(image, features.to(embedded.dtype).reshape(-1))


def next_token_loss(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over the tokens that should come next, and whether each was the likeliest: bool (batch,
    length - 1)."""
    targets = batch.should[:, 1:]
    ahead = logits[:, :-1]
    value = functional.cross_entropy(ahead.flatten(0, 1), targets.flatten(), ignore_index=UNKNOWN)
    return value, (ahead.argmax(-1) == targets) | (targets == UNKNOWN)
