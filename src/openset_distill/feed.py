"""Prepared images on their way to the network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .datasets.pack import Images

# On a GPU the images of a part are kept there whole up to this size; larger parts are sent batch by batch.
RESIDENT_BYTES = 8 * 2**30


class Feed:
    """Some images of a prepared array, by position, as batches on the device.

    Args:
        images: one part of a prepared dataset, memory-mapped or decoded as it is read: on a CPU it is never held as a
            whole, so memory does not grow with the dataset.
        index: int64 `[m]`, which of its images take part.
    """

    def __init__(self, images: Images, index: np.ndarray, device: torch.device):
        self.images, self.index, self.device = images, index, device
        self.channels = images.shape[-1]
        self.resident: Tensor | None = None
        if device.type == "cuda" and len(index) * math.prod(images.shape) <= RESIDENT_BYTES:
            self.resident = torch.from_numpy(images.batch(index)).to(device)

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, positions: Tensor) -> Tensor:
        """Images uint8 `[batch, channels, height, width]`, channels last in memory, at `positions` (int64, CPU)."""
        if self.resident is not None:
            return self.resident[positions.to(self.device, non_blocking=True)].permute(0, 3, 1, 2)
        chosen = torch.from_numpy(self.images.batch(self.index[positions.numpy()]))
        return chosen.to(self.device, non_blocking=True).permute(0, 3, 1, 2)


class Normalize:
    """uint8 images -> float32, `(x / 255 - mean) / std` per channel.

    A statistic for three channels serves grey images by its mean over the channels.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int, device: torch.device):
        def per_channel(values: Sequence[float]) -> Tensor:
            statistic = torch.tensor(values, dtype=torch.float32, device=device)
            if len(values) != channels:
                statistic = statistic.mean().expand(channels)
            return 255 * statistic[:, None, None]

        self.mean, self.std = per_channel(mean), per_channel(std)

    def __call__(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.std
