"""Geometric changes of a batch in which each sample has its own parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np

from .base import as_rows, from_rows, memory_format, to_device

# A lazy proxy: the workflow reads the registries, and reading them must not cost the start of torch.
if TYPE_CHECKING:
    import torch
else:
    torch = lazy.load("torch")


def shift(images: torch.Tensor, down: np.ndarray, right: np.ndarray, margin: int, fill: int) -> torch.Tensor:
    """Moves each image by whole pixels: `out[i, :, y, x] = images[i, :, y - down[i], x - right[i]]`.

    Args:
        images: uint8 `[batch, channels, height, width]`.
        down, right: int64 `[batch]`, between -`margin` and `margin`.
        fill: value of the pixels that come from outside the image.
    """
    rows, step = as_rows(images)
    batch, planes, height, length = rows.shape
    tall, long = height + 2 * margin, length + 2 * margin * step
    canvas = rows.new_full((batch, planes, tall, long), fill)
    canvas[:, :, margin : margin + height, margin * step : margin * step + length] = rows
    # Every window of one row's length in the flat canvas, overlapping: choosing rows copies runs of memory.
    windows = canvas.view(-1).as_strided(((canvas.numel() - length) // step + 1, length), (step, 1))
    first = to_device(np.stack([margin - down, margin - right]), images.device).view(2, batch, 1, 1)
    plane = torch.arange(batch * planes, device=images.device).view(batch, planes, 1)
    y = first[0] + torch.arange(height, device=images.device)
    starts = (plane * tall + y) * (long // step) + first[1]
    return from_rows(windows.index_select(0, starts.view(-1)).view(rows.shape), step)


def _sample(images: torch.Tensor, grid: torch.Tensor, interpolation: str, outside: str) -> torch.Tensor:
    """Reads uint8 images at `grid` `[batch, height, width, 2]`, in the coordinates of torch's `grid_sample`."""
    sampled = torch.nn.functional.grid_sample(
        images.to(torch.float32), grid, mode=interpolation, padding_mode=outside, align_corners=False
    )
    return sampled.round_().to(torch.uint8, memory_format=memory_format(images))


def warp(images: torch.Tensor, matrices: np.ndarray, interpolation: str) -> torch.Tensor:
    """Affine maps of uint8 images, zero outside.

    Args:
        images: uint8 `[batch, channels, height, width]`.
        matrices: float `[batch, 2, 3]`; each takes an output position (x, y, 1), in pixels from the image's centre,
            to the input position to read.
        interpolation: `nearest` or `bilinear`.
    """
    height, width = images.shape[-2:]
    scaled = matrices.astype(np.float32) / np.array([[0.5 * width], [0.5 * height]], np.float32)
    theta = to_device(scaled, images.device)
    x = torch.arange(width, dtype=torch.float32, device=images.device) - (width - 1) / 2
    y = torch.arange(height, dtype=torch.float32, device=images.device).view(-1, 1) - (height - 1) / 2
    # Written out instead of a matrix product, which a GPU may be told to do with ten bits of mantissa.
    along, across, offset = theta.permute(2, 1, 0).reshape(3, 2, -1, 1, 1)
    grid = (x * along + (y * across + offset)).permute(1, 2, 3, 0)
    return _sample(images, grid, interpolation, "zeros")


def crop_and_resize(images: torch.Tensor, boxes: np.ndarray) -> torch.Tensor:
    """Enlarges a box of each image to the full size, bilinear.

    Args:
        images: uint8 `[batch, channels, height, width]`.
        boxes: int64 `[4, batch]`: top, left, height, width, inside the image.

    A box is never larger than the image, so this never reduces and needs no smoothing against aliasing.
    """
    axes = []
    for axis, size in enumerate(images.shape[-2:]):
        start, extent = boxes[axis, :, None], boxes[axis + 2, :, None]
        position = start + (np.arange(size) + 0.5) * extent / size - 0.5
        # Held inside the box: a neighbour outside it would leak in at the border.
        position = np.clip(position, start, start + extent - 1)
        axes.append(to_device(((2 * position + 1) / size - 1).astype(np.float32), images.device))
    y, x = axes
    height, width = images.shape[-2:]
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
    return _sample(images, grid, "bilinear", "border")
