"""What a classifier has on top of its encoder, by name. A head maps features `[batch, d]` to logits `[batch, classes]`.

Adding a head: a module, and one line in `HEADS`; a method asks for it by its name (`Method.head`). In training mode a
head may give a tuple that begins with the logits, the rest being for the loss of its method: what a loss needs of a
head's parameters passes through here, so that it is right on several processes too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class ReciprocalPointHead(nn.Module):
    """Distances from one learnable point a class, its reciprocal point: large for the class (Chen et al. 2021).

    Logits: `d_e(z, p_k) - d_d(z, p_k)`, d_e the squared distance divided by d, d_d the inner product. In training mode
    also `d_e(z, p_k) - R` `[batch, classes]`, with the learnable margin R.
    """

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.points = nn.Parameter(0.1 * torch.randn(classes, features))
        self.radius = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        direction = features @ self.points.T
        squares = features.square().mean(dim=1, keepdim=True) + self.points.square().mean(dim=1)
        distance = squares - 2 * direction / features.shape[1]
        logits = distance - direction
        return (logits, distance - self.radius) if self.training else logits


class PlaceholderHead(nn.Module):
    """A linear head with further outputs, the largest of which speaks for the unknown (Zhou et al. 2021).

    In training mode: logits and the placeholder's logit `[batch, 1]`. Otherwise logits less the placeholder's, which
    changes neither their order nor their softmax, and makes them comparable between images.
    """

    def __init__(self, features: int, classes: int, bias: bool, placeholders: int = 5):
        super().__init__()
        self.known = nn.Linear(features, classes, bias=bias)
        self.unknown = nn.Linear(features, placeholders, bias=bias)

    def forward(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits, placeholder = self.known(features), self.unknown(features).amax(dim=1, keepdim=True)
        return (logits, placeholder) if self.training else logits - placeholder


HEADS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "linear": lambda features, classes, bias: nn.Linear(features, classes, bias=bias),
    "reciprocal_points": lambda features, classes, bias: ReciprocalPointHead(features, classes),
    "placeholders": PlaceholderHead,
}
