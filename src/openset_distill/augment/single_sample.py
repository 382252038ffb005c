"""Single-sample augmentations (SSA): each image of a uint8 batch is changed by itself.

To add one, write a `settings_class` with the method `augment` and name it in `SINGLE_SAMPLE` below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import lazy_loader as lazy
import numpy as np
import pydantic

from ..core.errors import SettingsError
from ..core.registry import Registry, settings_class
from .base import (
    Fraction,
    FractionRange,
    Pixels,
    PositiveRange,
    SingleSample,
    apply_by_group,
    colour_of,
    fill_boxes,
    group_rows,
    to_device,
)
from .policies import AugMix, AutoAugment, ColorJitter, Interpolation, RandAugment, TrivialAugment
from .warp import crop_and_resize, shift, warp

# A lazy proxy: the workflow reads the registries, and reading them must not cost the start of torch.
if TYPE_CHECKING:
    import torch
else:
    torch = lazy.load("torch")

GreyLevel = Annotated[int, pydantic.Field(ge=0, le=255)]
Colour = GreyLevel | tuple[GreyLevel, GreyLevel, GreyLevel]


@settings_class
class RandomCrop(SingleSample):
    """Pads each side by `padding` pixels of value `fill` and cuts the original size at a uniform place."""

    padding: Pixels = 4
    fill: GreyLevel = 0

    def augment(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        down, right = rng.integers(-self.padding, self.padding + 1, size=(2, len(images)))
        return shift(images, down, right, self.padding, self.fill)


@settings_class
class RandomShift(SingleSample):
    """Moves each image by a whole number of pixels, uniform from -`pixels` to `pixels` on each axis.

    For small images, where the padding of the usual random crop would push most of the object out.
    """

    pixels: Pixels = 1
    fill: GreyLevel = 0

    def augment(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        down, right = rng.integers(-self.pixels, self.pixels + 1, size=(2, len(images)))
        return shift(images, down, right, self.pixels, self.fill)


@settings_class
class HorizontalFlip(SingleSample):
    """Mirrors left and right with a chance of `probability`."""

    probability: Fraction = 0.5

    def augment(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        groups = group_rows((rng.random(len(images)) < self.probability).tolist())
        return apply_by_group(images, groups, lambda flipped, part, _: part.flip(-1) if flipped else part)


@settings_class
class Rotation(SingleSample):
    """Turns each image about its centre by a uniform angle from [-degrees, degrees]; zero outside."""

    degrees: Annotated[float, pydantic.Field(ge=0, le=180)] = 15.0
    interpolation: Interpolation = "bilinear"

    def augment(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        angle = np.radians(rng.uniform(-self.degrees, self.degrees, size=len(images)))
        matrices = np.zeros((len(images), 2, 3))
        # Counter-clockwise on the screen, where y points down.
        matrices[:, 0, 0] = matrices[:, 1, 1] = np.cos(angle)
        matrices[:, 1, 0] = np.sin(angle)
        matrices[:, 0, 1] = -np.sin(angle)
        return warp(images, matrices, self.interpolation)


@settings_class
class Cutout(SingleSample):
    """Covers one square, whose centre is uniform over the image; the part outside the image is lost.

    DeVries and Taylor 2017, "Improved regularization of convolutional neural networks with cutout". The side is the
    part `size` of the shorter image side. `fill` is a grey level or a colour (red, green, blue); its default is the
    mean colour that the protocol's normalization takes away.
    """

    size: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.5
    fill: Colour = (125, 123, 114)

    def augment(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        height, width = images.shape[-2:]
        side = max(1, round(self.size * min(height, width)))
        top = rng.integers(height, size=len(images)) - side // 2
        left = rng.integers(width, size=len(images)) - side // 2
        boxes = np.stack([top, top + side, left, left + side])
        return fill_boxes(images, boxes, colour_of(self.fill, images))


def _rectangles(
    rng: np.random.Generator,
    batch: int,
    image: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    largest: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ten tries per sample at a rectangle of random area and shape.

    The area is uniform in `scale` times that of the image `(height, width)`; the logarithm of width by height is
    uniform between those of `ratio`.

    Returns:
        Bool `[batch]`, whether a try gave a rectangle of at least one pixel and at most `largest` (height, width);
        int64 `[batch]` twice, height and width of the first try that did.
    """
    area = rng.uniform(*scale, size=(batch, 10)) * (image[0] * image[1])
    shape = np.exp(rng.uniform(*np.log(ratio), size=(batch, 10)))
    height, width = np.rint(np.sqrt(area / shape)), np.rint(np.sqrt(area * shape))
    fits = (height >= 1) & (height <= largest[0]) & (width >= 1) & (width <= largest[1])
    first = np.arange(batch), fits.argmax(axis=1)
    return fits[first], height[first].astype(np.int64), width[first].astype(np.int64)


@settings_class
class RandomErasing(SingleSample):
    """Covers a random rectangle with a chance of `probability`.

    Zhong et al. 2020, "Random erasing data augmentation". The area is the part `scale` of the image, the shape
    log-uniform in `ratio`. `fill` is a grey level, a colour (red, green, blue), or `noise`: each pixel uniform from 0
    to 255.
    """

    probability: Fraction = 0.5
    scale: FractionRange = (0.02, 0.33)
    ratio: PositiveRange = (0.3, 3.3)
    fill: Colour | Literal["noise"] = 0

    def boxes(self, rng: np.random.Generator, batch: int, height: int, width: int) -> np.ndarray:
        """Draws the rectangles, int64 `[4, batch]`: top, left, height, width; height and width 0 for none."""
        limit = (height - 1, width - 1)
        fits, tall, wide = _rectangles(rng, batch, (height, width), self.scale, self.ratio, limit)
        tall, wide = np.where(fits & (rng.random(batch) < self.probability), (tall, wide), 0)
        return np.stack([rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1), tall, wide])

    def augment(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        top, left, tall, wide = self.boxes(rng, len(images), *images.shape[-2:])
        if self.fill == "noise":
            noise = rng.integers(0, 256, size=images.shape, dtype=np.uint8)
            fill = to_device(noise, images.device)
        else:
            fill = colour_of(self.fill, images)
        return fill_boxes(images, np.stack([top, top + tall, left, left + wide]), fill)


@settings_class
class RandomResizedCrop(SingleSample):
    """A random rectangle, enlarged to the image's size, bilinear; for fine-grained datasets.

    Szegedy et al. 2015, "Going deeper with convolutions". The area is the part `scale` of the image, the shape (width
    by height) log-uniform in `ratio`. A sample without a rectangle that fits in ten tries gets the largest central
    one with a shape in `ratio`.
    """

    scale: FractionRange = (0.08, 1.0)
    ratio: PositiveRange = (3 / 4, 4 / 3)

    def boxes(self, rng: np.random.Generator, batch: int, height: int, width: int) -> np.ndarray:
        """Draws the rectangles, int64 `[4, batch]`: top, left, height, width."""
        fits, tall, wide = _rectangles(rng, batch, (height, width), self.scale, self.ratio, (height, width))
        central = (
            max(1, round(min(height, width / self.ratio[0]))),
            max(1, round(min(width, height * self.ratio[1]))),
        )
        tall, wide = np.where(fits, tall, central[0]), np.where(fits, wide, central[1])
        top = np.where(fits, rng.integers(0, height - tall + 1), (height - tall) // 2)
        left = np.where(fits, rng.integers(0, width - wide + 1), (width - wide) // 2)
        return np.stack([top, left, tall, wide])

    def augment(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        return crop_and_resize(images, self.boxes(rng, len(images), *images.shape[-2:]))


@settings_class
class GaussianBlur(SingleSample):
    """Blurs with a chance of `probability`; the standard deviation, in pixels, is uniform in `sigma`.

    The kernel is `kernel_size` pixels wide and cut off there; the image is mirrored at its border.
    """

    probability: Fraction = 0.5
    kernel_size: Annotated[int, pydantic.Field(ge=3, le=255)] = 5
    sigma: PositiveRange = (0.1, 2.0)

    @pydantic.field_validator("kernel_size")
    @classmethod
    def _kernel_has_a_centre(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError(f"{size} is even; take {size + 1}")
        return size

    def augment(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        batch, channels, height, width = images.shape
        margin = self.kernel_size // 2
        if margin >= min(height, width):
            raise SettingsError(
                f"gaussian_blur: kernel_size {self.kernel_size} needs images of more than {margin} pixels a side, "
                f"got {height}x{width}; set a smaller kernel_size"
            )
        blurred = rng.random(batch) < self.probability
        sigma = rng.uniform(*self.sigma, size=(batch, 1))
        profile = np.exp(-0.5 * (np.arange(-margin, margin + 1) / sigma) ** 2)
        profile /= profile.sum(axis=1, keepdims=True)
        kernels = to_device(profile.astype(np.float32), images.device)

        def blur(chosen: bool, part: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            if not chosen:
                return part
            # One group per channel of each sample gives every sample its own kernel in one convolution.
            weight = kernels[rows].repeat_interleave(channels, dim=0)
            planes = part.to(torch.float32, memory_format=torch.contiguous_format).view(1, -1, height, width)
            planes = torch.nn.functional.pad(planes, [margin] * 4, mode="reflect")
            planes = torch.nn.functional.conv2d(planes, weight[:, None, :, None], groups=len(weight))
            planes = torch.nn.functional.conv2d(planes, weight[:, None, None, :], groups=len(weight))
            return planes.view(part.shape).round_().clamp_(0, 255).to(torch.uint8)

        return apply_by_group(images, group_rows(blurred.tolist()), blur)


@settings_class
class RandomizedQuantization(SingleSample):
    """Replaces the values of each channel by one value per bin, with bins between random edges.

    Wu et al. 2023, "Randomized quantization: A generic augmentation for data agnostic self-supervised learning". The
    range of each channel of each image is cut at `regions` - 1 uniform places; all pixels of a bin become one value:
    a uniform one of the bin (`random`) or its middle (`middle`).
    """

    probability: Fraction = 1.0
    regions: Annotated[int, pydantic.Field(ge=2, le=256)] = 8
    value: Literal["random", "middle"] = "random"

    def augment(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        batch, channels = images.shape[:2]
        changed = rng.random(batch) < self.probability
        cuts = np.sort(rng.random((batch, channels, self.regions - 1)), axis=-1)
        ends = np.pad(cuts, ((0, 0), (0, 0), (1, 1)), constant_values=(0, 1))
        inside = rng.random((batch, channels, self.regions)) if self.value == "random" else 0.5
        values = ends[..., :-1] + np.diff(ends) * inside
        drawn = to_device(np.concatenate([cuts, values], axis=-1).astype(np.float32), images.device)

        def quantize(chosen: bool, part: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            if not chosen:
                return part
            pixels = part.flatten(2)
            low = pixels.amin(-1, keepdim=True).to(torch.float32)
            spread = pixels.amax(-1, keepdim=True).to(torch.float32) - low
            edges, levels = (low + spread * drawn[rows]).split([self.regions - 1, self.regions], dim=-1)
            grey = torch.arange(256, dtype=torch.float32, device=part.device).expand(*pixels.shape[:2], -1)
            bins = torch.searchsorted(edges.contiguous(), grey.contiguous(), right=True)
            table = levels.round().to(torch.uint8).gather(-1, bins)
            return table.gather(-1, pixels.long()).view(part.shape)

        return apply_by_group(images, group_rows(changed.tolist()), quantize)


SINGLE_SAMPLE: Registry[SingleSample] = Registry(
    "single-sample augmentation",
    {
        "augmix": AugMix,
        "auto_augment": AutoAugment,
        "color_jitter": ColorJitter,
        "cutout": Cutout,
        "gaussian_blur": GaussianBlur,
        "horizontal_flip": HorizontalFlip,
        "randaugment": RandAugment,
        "random_crop": RandomCrop,
        "random_erasing": RandomErasing,
        "random_resized_crop": RandomResizedCrop,
        "random_shift": RandomShift,
        "randomized_quantization": RandomizedQuantization,
        "rotation": Rotation,
        "trivial_augment": TrivialAugment,
    },
)
