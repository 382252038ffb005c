"""The nine-layer network of the open-set recognition protocol."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 64, 128, 128, 128, 128, 128, 128, 128)


class VGG32(nn.Module):
    """Nine 3x3 convolutions with batch normalisation and LeakyReLU 0.2; numbers 3, 6 and 9 have stride 2.

    Layer names follow the published checkpoints of Vaze et al. 2022 so that they load as they are; `bn10` is stored
    there and used by nobody. Dropout2d of 0.2 stands before the first convolution of each group of three.
    """

    num_features = 128

    def __init__(self, channels: int):
        super().__init__()
        width_in = channels
        for number, width in enumerate(WIDTHS, start=1):
            stride = 2 if number % 3 == 0 else 1
            setattr(self, f"conv{number}", nn.Conv2d(width_in, width, 3, stride, 1, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(width))
            width_in = width
        self.bn10 = nn.BatchNorm2d(128).requires_grad_(False)  # never used, so never trained
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.05)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for number in range(1, len(WIDTHS) + 1):
            if number % 3 == 1:
                x = F.dropout2d(x, 0.2, training=self.training)
            x = getattr(self, f"conv{number}")(x)
            x = F.leaky_relu(getattr(self, f"bn{number}")(x), 0.2)
        return x.mean(dim=(2, 3))
