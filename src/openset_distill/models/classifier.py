"""One forward pass gives features and logits."""

from __future__ import annotations

from torch import Tensor, nn

from .heads import HEADS


class Classifier(nn.Module):
    """An encoder and a head.

    `forward`: images `[batch, channels, height, width]` -> (features `[batch, d]`, logits `[batch, classes]`), and in
    training mode what else the head gives to the loss of its method.

    Args:
        bias: whether a linear head has one.
        head: a name of `HEADS`.
    """

    def __init__(self, encoder: nn.Module, classes: int, *, bias: bool = True, head: str = "linear"):
        super().__init__()
        self.encoder = encoder
        self.head = HEADS[head](encoder.num_features, classes, bias)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.encoder(images)
        answer = self.head(features)
        return (features, answer) if isinstance(answer, Tensor) else (features, *answer)
