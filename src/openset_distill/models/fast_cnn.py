"""A convolutional network that trains in minutes on a CPU core and comes near the field's numbers at 32x32."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

STEM_WIDTH = 24


class Group(nn.Module):
    """3x3 convolution, 2x2 max pool, batch norm, GELU, 3x3 convolution, batch norm, GELU: half the side."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.bn1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.bn2(self.conv2(x)))


class FastCNN(nn.Module):
    """2x2 stem without padding, one `Group` for each of `widths`, global max pool.

    The shape of the networks behind the record times for 94 % on CIFAR-10 (Jordan 2024, "94% on CIFAR-10 in 3.29
    seconds on a single GPU"), without their whitened stem and scaled initialisation. The first convolution of a group
    runs at the full side, so that pooling, and not a stride, picks what is kept.
    """

    def __init__(self, channels: int, widths: Sequence[int]):
        super().__init__()
        self.num_features = widths[-1]
        self.stem = nn.Conv2d(channels, STEM_WIDTH, 2)
        self.groups = nn.Sequential(
            *(Group(before, width) for before, width in zip((STEM_WIDTH, *widths), widths, strict=False))
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.groups(F.gelu(self.stem(images))).amax(dim=(2, 3))
