"""One forward pass gives features and logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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


class Teacher(nn.Module):
    """One or several frozen classifiers; the answer of an ensemble is the mean of its members' logits.

    `forward`: images -> logits `[batch, classes]`, in evaluation mode and without a graph.
    """

    def __init__(self, members: Sequence[Classifier]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images)[1] for member in self.members]).mean(dim=0)
