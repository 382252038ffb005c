"""The image operations of AutoAugment and its relatives, applied to a batch with a choice per sample.

Each operation is torchvision's, but for two that only other lists have (`solarize_add`, `cover`): its kernels run on
the group of samples that drew the same operation and magnitude.
The five geometric operations share one resampling with torchvision's matrices, so that their many magnitudes cost one
pass; sharpness is written out because torchvision's kernel makes a GPU's host wait. Both give the same pixels.

This module imports torchvision, which takes a second: policies import it when they first run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional
from torchvision.transforms.v2.functional import _color, _geometry

from .base import apply_by_group, colour_of, fill_boxes, group_rows
from .warp import warp

_GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
# name -> (magnitudes(number of bins, height, width), whether the sign is random), as torchvision's policies hold them
Space = Mapping[str, tuple[Callable[[int, int, int], torch.Tensor | None], bool]]
RAND_AUGMENT: Space = v2.RandAugment._AUGMENTATION_SPACE
TRIVIAL_AUGMENT: Space = v2.TrivialAugmentWide._AUGMENTATION_SPACE
AUTO_AUGMENT: Space = v2.AutoAugment._AUGMENTATION_SPACE
AUGMIX: Space = v2.AugMix._AUGMENTATION_SPACE
AUGMIX_PARTIAL: Space = v2.AugMix._PARTIAL_AUGMENTATION_SPACE


def _between(low: float, high: float) -> Callable[[int, int, int], torch.Tensor]:
    return lambda bins, height, width: torch.linspace(low, high, bins, dtype=torch.float64)


def _pixels(largest: int) -> Callable[[int, int, int], torch.Tensor]:
    # Pillow reads the nearest pixel, which rounds the distance
    return lambda bins, height, width: torch.linspace(0, largest, bins, dtype=torch.float64).round()


def _bits(bins: int, _height: int, _width: int) -> torch.Tensor:
    return torch.linspace(0, 4, bins, dtype=torch.float64).floor().clamp(min=1)


def _nothing(_bins: int, _height: int, _width: int) -> None:
    return None


# The operations of Vaze et al. 2022 and of the authors of asymmetric distillation, in the ranges of EfficientNet's
# AutoAugment policies. Unlike torchvision's they do not begin at the identity: the posterized image keeps 1 to 4 bits,
# the factors of the enhancements are 0.1 to 1.9 and never mirrored about 1, and translations are in pixels, whatever
# the image's size.
VAZE: Space = {
    "AutoContrast": (_nothing, False),
    "Equalize": (_nothing, False),
    "Invert": (_nothing, False),
    "Rotate": (_between(0, 30), True),
    "Posterize": (_bits, False),
    "Solarize": (_between(0, 256 / 255), False),
    "SolarizeAdd": (_between(0, 110), False),
    "Color": (_between(-0.9, 0.9), False),
    "Contrast": (_between(-0.9, 0.9), False),
    "Brightness": (_between(-0.9, 0.9), False),
    "Sharpness": (_between(-0.9, 0.9), False),
    "ShearX": (_between(0, 0.3), True),
    "ShearY": (_between(0, 0.3), True),
    "Cutout": (_between(0, 40), False),
    "TranslateX": (_pixels(100), True),
    "TranslateY": (_pixels(100), True),
}
# of the digits datasets, where a turned or moved digit may be another one
VAZE_DIGITS: Space = {name: VAZE[name] for name in VAZE if name not in ("Rotate", "TranslateX", "TranslateY")}
RAND_AUGMENT_SPACES: Mapping[str, Space] = {
    "torchvision": RAND_AUGMENT,
    "vaze": VAZE,
    "vaze_digits": VAZE_DIGITS,
}


def auto_augment_pairs(policy: str) -> list[tuple[tuple[str, float, int | None], ...]]:
    """The 25 pairs of (operation, probability, level out of ten or None) of AutoAugment for a dataset's name."""
    return v2.AutoAugment(v2.AutoAugmentPolicy(policy))._policies


def magnitude_table(space: Space, bins: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The magnitudes of a policy's operations: float64 `[operations, bins]`, and bool `[operations]`, signed or not.

    Operations without a magnitude have zeros.
    """
    table = np.zeros((len(space), bins))
    for row, (magnitudes, _) in enumerate(space.values()):
        values = magnitudes(bins, height, width)
        if values is not None:
            table[row] = values.numpy()
    return table, np.array([signed for _, signed in space.values()])


def _inverse_matrix(name: str, magnitude: float, height: int, width: int) -> list[float]:
    """torchvision's six numbers of the map from an output position to an input position."""
    center, angle, translate, shear = [0.0, 0.0], 0.0, [0.0, 0.0], [0.0, 0.0]
    if name.startswith("Shear"):
        # Sheared about the upper left corner, as in the published policies.
        center = [-0.5 * width, -0.5 * height]
        shear[name == "ShearY"] = math.degrees(math.atan(magnitude))
    elif name.startswith("Translate"):
        translate[name == "TranslateY"] = float(int(magnitude))
    else:
        angle = -magnitude
    return _geometry._get_inverse_affine_matrix(center, angle, translate, 1.0, shear)


def adjust_sharpness(images: torch.Tensor, factor: float) -> torch.Tensor:
    """torchvision's `adjust_sharpness`; its kernel weights are made on the device instead of copied to it."""
    channels, height, width = images.shape[-3:]
    if height <= 2 or width <= 2:
        return images
    kernel = torch.full((channels, 1, 3, 3), 1 / 13, device=images.device)
    kernel[:, :, 1, 1] = 5 / 13
    output = images.to(torch.float32)
    blurred = torch.nn.functional.conv2d(output, kernel, groups=channels).round_()
    inner = output[..., 1:-1, 1:-1]
    inner.add_(blurred.sub_(inner), alpha=1.0 - factor)
    return output.clamp_(0, 255).to(torch.uint8)


def solarize(images: torch.Tensor, threshold: float) -> torch.Tensor:
    """torchvision's `solarize`, which inverts pixels of `threshold` and more, for thresholds above white too."""
    return torch.where(images >= threshold, 255 - images, images)


def solarize_add(images: torch.Tensor, addition: float) -> torch.Tensor:
    """Adds `addition` grey levels, cuts off at white, and inverts what is then in the brighter half."""
    brighter = images.to(torch.float32).add_(addition).clamp_(max=255).to(torch.uint8)
    return solarize(brighter, 128)


def cover(images: torch.Tensor, sides: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Covers a grey box of `sides[i]` pixels, float `[batch]`, in image i; of none where it is negative.

    The box's upper left corner is half a side before a uniform point, but inside the image; the pixels of both its
    first and its last row and column are covered, as Pillow draws a rectangle, so it is one pixel wider than its side.
    """
    height, width = images.shape[-2:]
    corner = np.maximum(rng.random((2, len(images))) * np.array([[height], [width]]) - sides / 2, 0).astype(np.int64)
    end = corner + np.where(sides < 0, 0, np.floor(sides) + 1).astype(np.int64)
    boxes = np.stack([corner[0], end[0], corner[1], end[1]])
    return fill_boxes(images, boxes, colour_of((125, 123, 114), images))


_WITH_MAGNITUDE: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "Brightness": lambda images, magnitude: functional.adjust_brightness(images, 1.0 + magnitude),
    "Color": lambda images, magnitude: functional.adjust_saturation(images, 1.0 + magnitude),
    "Contrast": lambda images, magnitude: functional.adjust_contrast(images, 1.0 + magnitude),
    "Sharpness": lambda images, magnitude: adjust_sharpness(images, 1.0 + magnitude),
    "Posterize": lambda images, magnitude: functional.posterize(images, int(magnitude)),
    "Solarize": lambda images, magnitude: solarize(images, 255.0 * magnitude),
    "SolarizeAdd": solarize_add,
}
_WITHOUT_MAGNITUDE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Identity": lambda images: images,
    "AutoContrast": functional.autocontrast,
    "Equalize": functional.equalize,
    "Invert": functional.invert,
}


def apply_operations(
    images: torch.Tensor, names: Sequence[str], magnitudes: np.ndarray, interpolation: str
) -> torch.Tensor:
    """Applies to sample i the operation `names[i]` (torchvision's names) with `magnitudes[i]`.

    Args:
        images: uint8 `[batch, channels, height, width]`.
        names: `[batch]`.
        magnitudes: float `[batch]`; not read for operations without a magnitude.
        interpolation: `nearest` or `bilinear`, of the geometric operations; pixels from outside the image are 0.
    """
    height, width = images.shape[-2:]
    keys: list[tuple[str, float | None]] = []
    for name, magnitude in zip(names, magnitudes, strict=True):
        if name in _GEOMETRIC:
            keys.append(("geometric", None))
        elif name in _WITH_MAGNITUDE:
            keys.append((name, float(magnitude)))
        else:
            keys.append((name, None))
    groups = group_rows(keys)

    def apply(key: tuple[str, float | None], part: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        name, magnitude = key
        if name == "geometric":
            group: list[int] = groups[key].tolist()
            matrices = [_inverse_matrix(names[row], float(magnitudes[row]), height, width) for row in group]
            return warp(part, np.array(matrices).reshape(-1, 2, 3), interpolation)
        if magnitude is None:
            return _WITHOUT_MAGNITUDE[name](part)
        return _WITH_MAGNITUDE[name](part, magnitude)

    return apply_by_group(images, groups, apply)


def _blend(images: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """`factor * images + (1 - factor) * other`, held to 0..255; `factor` float32 `[batch, 1, 1, 1]`."""
    mixed = images.to(torch.float32).mul_(factor).addcmul_(other, 1.0 - factor)
    return mixed.clamp_(0, 255).to(torch.uint8)


def _grey(images: torch.Tensor) -> torch.Tensor:
    return functional.rgb_to_grayscale(images).to(torch.float32)


def brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """torchvision's `adjust_brightness` with a factor per sample, float32 `[batch, 1, 1, 1]`."""
    return images.to(torch.float32).mul_(factor).clamp_(0, 255).to(torch.uint8)


def contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """torchvision's `adjust_contrast` with a factor per sample, float32 `[batch, 1, 1, 1]`."""
    return _blend(images, _grey(images).mean(dim=(-3, -2, -1), keepdim=True), factor)


def saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """torchvision's `adjust_saturation` with a factor per sample, float32 `[batch, 1, 1, 1]`; grey images stay."""
    return images if images.shape[1] == 1 else _blend(images, _grey(images), factor)


def hue(images: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """torchvision's `adjust_hue` with a turn of the colour circle per sample, float32 `[batch, 1, 1, 1]`."""
    if images.shape[1] == 1:
        return images
    hsv = _color._rgb_to_hsv(functional.to_dtype(images, torch.float32, scale=True))
    hsv[:, :1] = hsv[:, :1].add(turn).remainder_(1.0)
    return functional.to_dtype(_color._hsv_to_rgb(hsv), torch.uint8, scale=True)
