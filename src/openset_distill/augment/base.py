"""What all augmentations share: random draws, memory layout, and work on parts of a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import lazy_loader as lazy
import numpy as np
import pydantic

from ..core.errors import DataError

# A lazy proxy: the workflow reads the registries, and reading them must not cost the start of torch.
if TYPE_CHECKING:
    import torch
else:
    torch = lazy.load("torch")

Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]
# a Beta distribution of less is a coin toss that underflows, one of more is a constant
Positive = Annotated[float, pydantic.Field(ge=0.001, le=1000)]
# no image is larger (`data.image_size`)
Pixels = Annotated[int, pydantic.Field(ge=0, le=2048)]


def _in_order(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"the lower limit {limits[0]} is above the upper limit {limits[1]}; swap them")
    return limits


FractionRange = Annotated[tuple[Fraction, Fraction], pydantic.AfterValidator(_in_order)]
PositiveRange = Annotated[tuple[Positive, Positive], pydantic.AfterValidator(_in_order)]
Key = TypeVar("Key", bound=Hashable)


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """A NumPy generator seeded by one draw from `generator`, which must live on the CPU.

    NumPy draws every distribution that is needed here (Beta, Dirichlet, permutations) in one vectorised call.
    Each augmentation call takes exactly one number from `generator`, so the stream after it does not depend on
    which augmentation ran.
    """
    return np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator, dtype=torch.int64)))


def to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """`values` on `device`, without waiting for work that the device still has to do.

    A copy from pageable memory makes the host wait for the CUDA stream; one from pinned memory does not.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def full_precision(device: torch.device) -> contextlib.AbstractContextManager:
    """Switches autocast off: convolutions of pixel values in bfloat16 would lose grey levels."""
    if torch.amp.autocast_mode.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def memory_format(images: torch.Tensor) -> torch.memory_format:
    """Channels-last if `images` is stored so and not also in the plain order (as one-channel images are)."""
    if images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def as_rows(images: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The images as rows of neighbouring memory, and the number of elements from one pixel to the next.

    Channels-last `[batch, channels, height, width]` gives `[batch, 1, height, width * channels]` and `channels`;
    the plain order gives the images themselves and 1. One piece of code then handles both at the speed of memory.
    """
    if memory_format(images) is torch.channels_last:
        batch, channels, height, width = images.shape
        return images.permute(0, 2, 3, 1).reshape(batch, 1, height, width * channels), channels
    return images.contiguous(), 1


def from_rows(rows: torch.Tensor, step: int) -> torch.Tensor:
    """The inverse of `as_rows`."""
    if step == 1:
        return rows
    batch, _, height, length = rows.shape
    return rows.view(batch, height, length // step, step).permute(0, 3, 1, 2)


def take(images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`images[index]` for an int64 `index` on the device of the images; keeps the memory format."""
    rows, step = as_rows(images)
    return from_rows(rows.index_select(0, index), step)


def box_mask(
    top: torch.Tensor, bottom: torch.Tensor, left: torch.Tensor, right: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """True inside the boxes: bool `[boxes, 1, height, width]` from four tensors `[boxes]`, ends exclusive."""
    y = torch.arange(height, device=top.device).view(1, 1, -1, 1)
    x = torch.arange(width, device=top.device).view(1, 1, 1, -1)
    top, bottom, left, right = (edge.view(-1, 1, 1, 1) for edge in (top, bottom, left, right))
    return (y >= top) & (y < bottom) & ((x >= left) & (x < right))


def fill_boxes(images: torch.Tensor, boxes: np.ndarray, fill: torch.Tensor) -> torch.Tensor:
    """Writes `fill`, uint8 `[1 or batch, channels, 1 or height, 1 or width]`, into one box of each image.

    `boxes` is int64 `[4, batch]`: top, bottom, left, right; ends exclusive.
    """
    rows, step = as_rows(images)
    height, length = rows.shape[-2:]
    edges = to_device(boxes * np.array([[1], [1], [step], [step]]), images.device)
    if step > 1:
        # In channels-last rows one pixel is `step` neighbours, so the fill is laid out as an image would be.
        fill = fill.expand(-1, -1, fill.shape[2], images.shape[3]).permute(0, 2, 3, 1)
        fill = fill.reshape(len(fill), 1, -1, length)
    top, bottom, left, right = edges
    return from_rows(torch.where(box_mask(top, bottom, left, right, height, length), fill, rows), step)


def colour_of(colour: int | tuple[int, int, int], images: torch.Tensor) -> torch.Tensor:
    """A colour as uint8 `[1, channels, 1, 1]`; one-channel images get its luma (ITU-R 601-2)."""
    channels = images.shape[1]
    if isinstance(colour, int):
        values = [colour] * channels
    elif channels == 1:
        values = [round(0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2])]
    else:
        values = list(colour)
    return to_device(np.array(values, np.uint8), images.device).view(1, channels, 1, 1)


def group_rows(keys: Sequence[Key]) -> dict[Key, np.ndarray]:
    """The positions of each distinct key."""
    groups: dict[Key, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return {key: np.array(rows) for key, rows in groups.items()}


def apply_by_group(
    images: torch.Tensor,
    groups: Mapping[Key, np.ndarray],
    function: Callable[[Key, torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Applies `function(key, images, rows)` to each group and puts the results back in the batch's order.

    `rows` are the group's positions in the batch, int64 on the device; they move there once for all groups, which
    must cover the batch. Sorting, joining and sorting back copies whole images, which is several times faster on a
    CPU than writing rows in place.
    """
    order = np.concatenate(list(groups.values()))
    index = to_device(np.stack([order, np.argsort(order)]), images.device)
    layout = memory_format(images)
    sizes = [len(rows) for rows in groups.values()]
    parts = zip(groups, take(images, index[0]).split(sizes), index[0].split(sizes), strict=True)
    changed = [function(key, part, rows).contiguous(memory_format=layout) for key, part, rows in parts]
    return take(torch.cat(changed), index[1])


class SingleSample:
    """A single-sample augmentation (SSA). A subclass is a `settings_class` with the method `augment`."""

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """New images: uint8 `[batch, channels, height, width]`, each sample with its own random parameters.

        `images` is never changed, but may be returned itself where nothing was drawn to change. The memory format is
        kept. `generator` is a CPU generator, whatever device holds the images; the device is never waited for.

        Raises:
            DataError: not uint8, not four-dimensional, or not 1 or 3 channels.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise DataError(
                f"{type(self).__name__} needs uint8 images [batch, 1 or 3, height, width], "
                f"got {images.dtype} {list(images.shape)}; convert them before augmentation"
            )
        if len(images) == 0:
            return images
        with torch.no_grad(), full_precision(images.device):
            return self.augment(images, numpy_generator(generator))

    def augment(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """The augmentation itself, on images that were checked."""
        raise NotImplementedError
