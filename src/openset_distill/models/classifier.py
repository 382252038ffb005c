"""One forward pass gives features and logits."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .heads import HEADS

Network = TypeVar("Network", bound=nn.Module)


def channels_last(module: Network, device: torch.device | None = None) -> Network:
    """`module` with its weights in the memory format in which convolutions are fast, on `device` if one is given."""
    move: Any = module.to  # torch's own types do not know that it takes a memory format
    return move(*([] if device is None else [device]), memory_format=torch.channels_last)


def feature_count(encoder: nn.Module) -> int:
    """The number of features that an encoder gives, its attribute `num_features`."""
    count: Any = encoder.num_features
    return count


class Classifier(nn.Module):
    """An encoder and a head.

    `forward`: images `[batch, channels, height, width]` -> (features `[batch, d]`, logits `[batch, classes]`), and in
    training mode what else the head gives to the loss of its method.

    Only the encoder computes in `precision`, the type of automatic mixed precision (None: that of its weights), which
    training sets. The head is always in the type of its weights: logits in bfloat16 would have a grain of 1/32 at 8,
    so that scores tie and losses that relate logits to each other lose most of their digits.

    Args:
        bias: whether a linear head has one.
        head: a name of `HEADS`.
        frozen: whether the encoder keeps its weights and running statistics: it stays in evaluation mode.
    """

    precision: torch.dtype | None = None

    def __init__(
        self, encoder: nn.Module, classes: int, *, bias: bool = True, head: str = "linear", frozen: bool = False
    ):
        super().__init__()
        self.encoder = encoder.requires_grad_(False) if frozen else encoder
        self.frozen = frozen
        self.head = HEADS[head](feature_count(encoder), classes, bias)

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(images.device.type, dtype=self.precision, enabled=self.precision is not None):
            features = self.encoder(images)
        with torch.autocast(images.device.type, enabled=False):
            features = features.to(next(self.head.parameters()).dtype)
            answer = self.head(features)
        return (features, answer) if isinstance(answer, Tensor) else (features, *answer)
