"""Prepared images on their way to the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..augment.base import as_rows, from_rows
from .index import StreamedImages
from .prepared import Images

# On a GPU the images of a part are kept there whole up to this size, and this part of its memory; larger parts are sent
# batch by batch.
RESIDENT_BYTES = 8 * 2**30
RESIDENT_PART = 0.25


def resident_bytes(device: torch.device) -> float:
    """How many bytes of images a GPU keeps: trainings that share it, and their networks, need the rest."""
    return min(RESIDENT_BYTES, RESIDENT_PART * torch.cuda.get_device_properties(device).total_memory)


class Shown(Protocol):
    """What a training takes its batches from: images (`ImageLoader`), or features in their place.

    Attributes:
        resident: all images on the device, where they are there.
        reads_ahead: whether the next batch is fetched while the network works on this one.
    """

    resident: Tensor | None
    reads_ahead: bool

    def __len__(self) -> int: ...

    def place(self, indices: Tensor) -> Tensor: ...

    def batch(self, indices: Tensor, next_indices: Tensor | None = None) -> Tensor: ...


class ImageLoader:
    """Images of a prepared array as batches on the device.

    Args:
        images: one part of a prepared dataset, memory-mapped or decoded as it is read: on a CPU it is never held as a
            whole, so memory does not grow with the dataset.
        index: int64 `[m]`, which of its images take part.
    """

    def __init__(self, images: Images | StreamedImages, index: np.ndarray, device: torch.device):
        self.images, self.index, self.device = images, index, device
        self.channels = images.shape[-1]
        self.resident: Tensor | None = None
        # arrays that a CPU maps from disk are there at once
        self.reads_ahead = device.type == "cuda" or isinstance(images, StreamedImages)
        self._ahead: tuple[np.ndarray, Future[Tensor]] | None = None
        if device.type == "cuda" and len(index) * math.prod(images.shape) <= resident_bytes(device):
            self.resident = torch.from_numpy(images.batch(index)).to(device)

    def __len__(self) -> int:
        return len(self.index)

    def place(self, indices: Tensor) -> Tensor:
        """`indices` (int64) where `batch` reads them: on the device if the images are there, else on the CPU."""
        return indices.to(self.device) if self.resident is not None else indices

    def batch(self, indices: Tensor, next_indices: Tensor | None = None) -> Tensor:
        """Images uint8 `[batch, channels, height, width]`, channels last in memory, with these indices (int64).

        With `next_indices`, those of the next batch, images that must be decoded or sent to a GPU are fetched for
        it by a thread of their own while the network works on this one.
        """
        if self.resident is not None:
            return self.resident[self.place(indices)].permute(0, 3, 1, 2)
        requested = indices.numpy()
        if self._ahead is not None and np.array_equal(self._ahead[0], requested):
            pixels = self._ahead[1].result()
        else:
            pixels = self._read(requested)
        self._ahead = None
        if next_indices is not None and self.reads_ahead:
            self._ahead = (next_indices.numpy(), self._reader.submit(self._read, next_indices.numpy()))
        return pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)

    def _read(self, indices: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(self.images.batch(self.index[indices]))
        # only from pinned memory does a copy leave the host free
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    @cached_property
    def _reader(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="read-ahead")


class Normalize:
    """uint8 images -> float32, `(x / 255 - mean) / std` per channel; the memory format is kept.

    A statistic for three channels serves grey images by its mean over the channels.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int, device: torch.device):
        def per_channel(values: Sequence[float]) -> Tensor:
            statistic = torch.tensor(values, dtype=torch.float32, device=device)
            if len(values) != channels:
                statistic = statistic.mean().expand(channels)
            return 255 * statistic

        self.mean, self.std = per_channel(mean), per_channel(std)

    def __call__(self, images: Tensor) -> Tensor:
        rows, step = as_rows(images)
        # channels last: a row of memory holds the channels in turn, and a statistic of that length is the fast way
        mean, std = (s.repeat(rows.shape[-1] // step) if step > 1 else s[:, None, None] for s in (self.mean, self.std))
        return from_rows(rows.float().sub_(mean).div_(std), step)
