"""One forward pass gives features and logits."""

from __future__ import annotations

from torch import Tensor, nn


class Classifier(nn.Module):
    """An encoder and a linear head.

    `forward`: images `[batch, channels, height, width]` -> (features `[batch, d]`, logits `[batch, classes]`).
    """

    def __init__(self, encoder: nn.Module, classes: int, *, bias: bool = True):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.num_features, classes, bias=bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(images)
        return features, self.head(features)
