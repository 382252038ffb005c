"""The image operations of AutoAugment and its relatives, applied to a batch with a choice per sample.

Each operation is torchvision's: its kernels run on the group of samples that drew the same operation and magnitude.
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

from .base import apply_by_group, group_rows
from .warp import warp

_GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
# name -> (magnitudes(number of bins, height, width), whether the sign is random), as torchvision's policies hold them
Space = Mapping[str, tuple[Callable[[int, int, int], torch.Tensor | None], bool]]
RAND_AUGMENT: Space = v2.RandAugment._AUGMENTATION_SPACE
TRIVIAL_AUGMENT: Space = v2.TrivialAugmentWide._AUGMENTATION_SPACE
AUTO_AUGMENT: Space = v2.AutoAugment._AUGMENTATION_SPACE
AUGMIX: Space = v2.AugMix._AUGMENTATION_SPACE
AUGMIX_PARTIAL: Space = v2.AugMix._PARTIAL_AUGMENTATION_SPACE


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


_WITH_MAGNITUDE: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "Brightness": lambda images, magnitude: functional.adjust_brightness(images, 1.0 + magnitude),
    "Color": lambda images, magnitude: functional.adjust_saturation(images, 1.0 + magnitude),
    "Contrast": lambda images, magnitude: functional.adjust_contrast(images, 1.0 + magnitude),
    "Sharpness": lambda images, magnitude: adjust_sharpness(images, 1.0 + magnitude),
    "Posterize": lambda images, magnitude: functional.posterize(images, int(magnitude)),
    "Solarize": lambda images, magnitude: functional.solarize(images, 255.0 * magnitude),
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
    keys = []
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
            matrices = [_inverse_matrix(names[row], float(magnitudes[row]), height, width) for row in groups[key]]
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
