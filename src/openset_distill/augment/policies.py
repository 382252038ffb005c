"""Augmentation policies: operations drawn per sample, in the spaces and magnitudes of torchvision and of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import lazy_loader as lazy
import numpy as np
import pydantic

from ..core.registry import settings_class
from .base import SingleSample, apply_by_group, group_rows, memory_format, to_device

# A lazy proxy: the workflow reads the registries, and reading them must not cost the start of torch. The modules that
# need torchvision are imported when a policy runs: a job without a policy does not pay for torchvision either.
if TYPE_CHECKING:
    import torch

    from .operations import Space
else:
    torch = lazy.load("torch")

Interpolation = Literal["nearest", "bilinear"]
# operations in a row, or chains of them: each costs a pass over the images
PositiveInt = Annotated[int, pydantic.Field(ge=1, le=100)]


def _draw_sign(rng: np.random.Generator, signed: np.ndarray) -> np.ndarray:
    """-1 or 1 with equal chance where `signed`, else 1."""
    return np.where(signed & (rng.random(len(signed)) < 0.5), -1.0, 1.0)


@settings_class
class RandAugment(SingleSample):
    """`num_ops` operations per sample, uniform over those of `space`, all at one magnitude of `bins` (0 .. bins - 1).

    Cubuk et al. 2020, "RandAugment: Practical automated data augmentation with a reduced search space". `space`:

    - `torchvision`: its 14 operations, the identity among them. At magnitude 9 of 30 a translation is 14 % of the side,
      the enhancements' factors are 0.73 and 1.27, posterizing keeps 7 bits;
    - `vaze`: the 16 operations of Vaze et al. 2022, "Open-set recognition: A good closed-set classifier is all you
      need?", which the authors of asymmetric distillation train with: no identity, Invert, a cutout and an addition
      before solarizing, in wider ranges. At magnitude 9 of 30 a translation is 30 pixels, the enhancements' factor is
      always 0.64, posterizing keeps 1 bit. Theirs stands before crop and flip;
    - `vaze_digits`: the same without rotation and translation, their list for MNIST and SVHN.
    """

    space: Literal["torchvision", "vaze", "vaze_digits"] = "torchvision"
    num_ops: PositiveInt = 1
    magnitude: Annotated[int, pydantic.Field(ge=0, le=999)] = 9
    bins: Annotated[int, pydantic.Field(ge=2, le=1000)] = 31
    interpolation: Interpolation = "nearest"

    @pydantic.model_validator(mode="after")
    def _magnitude_is_a_bin(self) -> RandAugment:
        if self.magnitude >= self.bins:
            raise ValueError(f"magnitude {self.magnitude} must be below bins {self.bins}")
        return self

    def augment(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        from . import operations

        space = operations.RAND_AUGMENT_SPACES[self.space]
        names = np.array(list(space))
        table, signed = operations.magnitude_table(space, self.bins, *images.shape[-2:])
        for _ in range(self.num_ops):
            drawn = rng.integers(len(names), size=len(images))
            magnitudes = table[drawn, self.magnitude] * _draw_sign(rng, signed[drawn])
            covered = names[drawn] == "Cutout"
            chosen = np.where(covered, "Identity", names[drawn]).tolist()
            images = operations.apply_operations(images, chosen, magnitudes, self.interpolation)
            if "Cutout" in space:
                images = operations.cover(images, np.where(covered, magnitudes, -1), rng)
        return images


@settings_class
class TrivialAugment(SingleSample):
    """One operation per sample, uniform over 14, at a uniform magnitude of the wide space.

    Mueller and Hutter 2021, "TrivialAugment: Tuning-free yet state-of-the-art data augmentation" (TA, wide).
    """

    bins: Annotated[int, pydantic.Field(ge=2, le=1000)] = 31
    interpolation: Interpolation = "nearest"

    def augment(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        from . import operations

        space = operations.TRIVIAL_AUGMENT
        names = np.array(list(space))
        table, signed = operations.magnitude_table(space, self.bins, *images.shape[-2:])
        drawn = rng.integers(len(names), size=len(images))
        level = rng.integers(self.bins, size=len(images))
        magnitudes = table[drawn, level] * _draw_sign(rng, signed[drawn])
        return operations.apply_operations(images, names[drawn].tolist(), magnitudes, self.interpolation)


@settings_class
class AutoAugment(SingleSample):
    """One of 25 learned pairs of operations per sample, each operation with its own chance and magnitude.

    Cubuk et al. 2019, "AutoAugment: Learning augmentation strategies from data". `policy` names the dataset on which
    the pairs were learned.
    """

    policy: Literal["cifar10", "imagenet", "svhn"] = "cifar10"
    interpolation: Interpolation = "nearest"

    def augment(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        from . import operations

        bins = 10  # the levels that the published policies count in
        policies = operations.auto_augment_pairs(self.policy)
        space = operations.AUTO_AUGMENT
        row = {name: number for number, name in enumerate(space)}
        table, signed = operations.magnitude_table(space, bins, *images.shape[-2:])
        drawn = rng.integers(len(policies), size=len(images))
        for step in range(2):
            chosen = [policies[number][step] for number in drawn]
            kept = rng.random(len(images)) < [probability for _, probability, _ in chosen]
            names = [name if keep else "Identity" for (name, _, _), keep in zip(chosen, kept, strict=True)]
            rows = [row[name] for name, _, _ in chosen]
            magnitudes = table[rows, [level or 0 for _, _, level in chosen]] * _draw_sign(rng, signed[rows])
            images = operations.apply_operations(images, names, magnitudes, self.interpolation)
        return images


@settings_class
class AugMix(SingleSample):
    """A random convex mixture of the image and `width` chains of 1 to 3 operations (or exactly `depth` of them).

    Hendrycks et al. 2020, "AugMix: A simple data processing method to improve robustness and uncertainty". The
    mixture is rounded to whole grey levels; cutting the fraction off would darken every image.
    """

    severity: Annotated[int, pydantic.Field(ge=1, le=10)] = 3
    width: PositiveInt = 3
    depth: PositiveInt | None = None
    alpha: Annotated[float, pydantic.Field(ge=0.001, le=1000)] = 1.0
    all_ops: bool = True
    interpolation: Interpolation = "bilinear"

    def augment(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        from . import operations

        bins = 10  # severity counts tenths of the largest magnitude
        space = operations.AUGMIX if self.all_ops else operations.AUGMIX_PARTIAL
        tables = operations.magnitude_table(space, bins, *images.shape[-2:])
        batch = len(images)
        kept = rng.beta(self.alpha, self.alpha, size=batch)
        chains = rng.dirichlet([self.alpha] * self.width, size=batch) * (1.0 - kept[:, None])
        weights = to_device(np.column_stack([kept, chains]).astype(np.float32), images.device)
        mixture = images.to(torch.float32) * weights[:, 0].view(-1, 1, 1, 1)
        for chain in range(self.width):
            depths = np.full(batch, self.depth) if self.depth else rng.integers(1, 4, size=batch)
            changed = self._chain(images, space, tables, depths, rng)
            mixture.addcmul_(changed.to(torch.float32), weights[:, chain + 1].view(-1, 1, 1, 1))
        return mixture.round_().clamp_(0, 255).to(torch.uint8, memory_format=memory_format(images))

    def _chain(
        self,
        images: torch.Tensor,
        space: Space,
        tables: tuple[np.ndarray, np.ndarray],
        depths: np.ndarray,
        rng: np.random.Generator,
    ) -> torch.Tensor:
        from . import operations

        names, (table, signed) = np.array(list(space)), tables
        for step in range(depths.max()):
            drawn = rng.integers(len(names), size=len(images))
            level = rng.integers(self.severity, size=len(images))
            magnitudes = table[drawn, level] * _draw_sign(rng, signed[drawn])
            chosen = np.where(step < depths, names[drawn], "Identity").tolist()
            images = operations.apply_operations(images, chosen, magnitudes, self.interpolation)
        return images


@settings_class
class ColorJitter(SingleSample):
    """Random brightness, contrast, saturation and hue, in a random order per sample, as torchvision's `ColorJitter`.

    A strength s of the first three draws a factor from [max(0, 1 - s), 1 + s]; `hue` h turns the colour circle by a
    part from [-h, h]. One-channel images have no saturation and no hue.
    """

    brightness: Annotated[float, pydantic.Field(ge=0, le=100)] = 0.4
    contrast: Annotated[float, pydantic.Field(ge=0, le=100)] = 0.4
    saturation: Annotated[float, pydantic.Field(ge=0, le=100)] = 0.4
    hue: Annotated[float, pydantic.Field(ge=0, le=0.5)] = 0.1

    def augment(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        from . import operations

        functions = [operations.brightness, operations.contrast, operations.saturation, operations.hue]
        strengths = [self.brightness, self.contrast, self.saturation]
        low = [*(max(0.0, 1.0 - strength) for strength in strengths), -self.hue]
        high = [*(1.0 + strength for strength in strengths), self.hue]
        drawn = rng.uniform(low, high, size=(len(images), 4))
        order = rng.permuted(np.tile(np.arange(4), (len(images), 1)), axis=1)
        factors = to_device(drawn.astype(np.float32), images.device)

        def apply(key: int, part: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return functions[key](part, factors[rows, key].view(-1, 1, 1, 1))

        for step in range(4):
            images = apply_by_group(images, group_rows(order[:, step].tolist()), apply)
        return images
