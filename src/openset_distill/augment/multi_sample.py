"""Multi-sample augmentations (MSA): images of a batch are mixed, with the share of each source.

To add one, write a `settings_class` with the method `mix_drawn` (or, for a method that cuts and pastes, a subclass of
`MaskMixing` with `masks`) and name it in `MULTI_SAMPLE` below.

`lam` is the share of the sample itself throughout, 1 - `lam` that of its partner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import lazy_loader as lazy
import numpy as np
import pydantic

from ..core.registry import Registry, settings_class
from .base import (
    Fraction,
    FractionRange,
    Positive,
    as_rows,
    box_mask,
    from_rows,
    full_precision,
    memory_format,
    numpy_generator,
    take,
    to_device,
)

# A lazy proxy: the workflow reads the registries, and reading them must not cost the start of torch.
if TYPE_CHECKING:
    import torch
else:
    torch = lazy.load("torch")


class Mixed(NamedTuple):
    """A mixed batch, on the device of the images it was made from."""

    images: torch.Tensor
    """float `[batch, channels, height, width]`."""
    sources: torch.Tensor
    """int64 `[batch, k]`, positions in the batch; column 0 is the sample itself."""
    weights: torch.Tensor
    """float32 `[batch, k]`, the share of each source; each row sums to one."""


def _two_sources(images: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor) -> Mixed:
    """`Mixed` of two sources; `lam` float32 `[1 or batch]`."""
    own = torch.arange(len(images), device=images.device)
    lam = lam.expand(len(images))
    return Mixed(images, torch.stack([own, partner], dim=1), torch.stack([lam, 1.0 - lam], dim=1))


@settings_class
class MultiSample:
    """What all multi-sample augmentations share.

    `probability` is the chance that a batch is mixed at all; the training loop draws it. `alpha` is the parameter of
    the Beta(alpha, alpha) distribution of lambda. One lambda (and one box, one mask) serves the whole batch, or each
    sample has its own with `per_sample`.
    """

    probability: Fraction = 0.5
    alpha: Positive = 1.0
    per_sample: bool = False

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> Mixed:
        """Mixes each sample with a partner, which a random permutation of the batch gives.

        Args:
            images: float `[batch, channels, height, width]`; not changed; the result keeps its memory format.
            generator: a CPU generator, whatever device holds the images; the device is never waited for.
        """
        rng = numpy_generator(generator)
        partner = to_device(rng.permutation(len(images)), images.device)
        lam = self.draw_lam(rng, len(images) if self.per_sample else 1)
        with torch.no_grad(), full_precision(images.device):
            return self.mix_drawn(images, partner, lam, rng)

    def mix(
        self,
        images: torch.Tensor,
        partner: torch.Tensor,
        lam: float | np.ndarray | torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> Mixed:
        """Mixes with given partners and lambda.

        Args:
            images: float `[batch, channels, height, width]`.
            partner: int64 `[batch]`, positions in the batch.
            lam: the wanted share of the sample itself, in [0, 1]; one number, or `[batch]` on the CPU. The weights of
                the result say which share the pixels really have.
            generator: places boxes and masks. Without one the placement is fixed: boxes in the centre, masks always
                the same ones for the same lambda.

        Raises:
            ValueError: `lam` is out of range.
        """
        lam = np.atleast_1d(np.asarray(lam, dtype=np.float64))
        if not ((lam >= 0) & (lam <= 1)).all():
            raise ValueError(f"lam must be in [0, 1], got {lam.tolist()}")
        rng = None if generator is None else numpy_generator(generator)
        with torch.no_grad(), full_precision(images.device):
            return self.mix_drawn(images, partner.to(images.device), lam, rng)

    def draw_lam(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draws lambda, float64 `[count]`."""
        return rng.beta(self.alpha, self.alpha, size=count)

    def mix_drawn(
        self, images: torch.Tensor, partner: torch.Tensor, lam: np.ndarray, rng: np.random.Generator | None
    ) -> Mixed:
        """The mixing itself; `lam` float64 `[1 or batch]`; fixed placement without `rng`."""
        raise NotImplementedError


@settings_class
class Mixup(MultiSample):
    """The weighted mean of two images. Zhang et al. 2018, "mixup: Beyond empirical risk minimization"."""

    def mix_drawn(
        self, images: torch.Tensor, partner: torch.Tensor, lam: np.ndarray, rng: np.random.Generator | None
    ) -> Mixed:
        share = to_device(lam.astype(np.float32), images.device)
        kept = share.view(-1, 1, 1, 1).to(images.dtype)
        return _two_sources(images * kept + take(images, partner) * (1 - kept), partner, share)


@settings_class
class MaskMixing(MultiSample):
    """What the methods share that paste pixels of the partner; the weights are the shares of pixels."""

    def masks(self, partners: torch.Tensor, lam: np.ndarray, rng: np.random.Generator | None) -> torch.Tensor:
        """True where the partner shows: bool `[1 or batch, 1, height, width]`, on the device of the images.

        `partners` are the partners' images in the order of the batch, `[batch, channels, height, width]`.
        """
        raise NotImplementedError

    def mix_drawn(
        self, images: torch.Tensor, partner: torch.Tensor, lam: np.ndarray, rng: np.random.Generator | None
    ) -> Mixed:
        partners = take(images, partner)
        masks = self.masks(partners, lam, rng)
        rows, step = as_rows(images)
        mixed = torch.where(masks.repeat_interleave(step, dim=-1), as_rows(partners)[0], rows)
        pasted = masks.to(torch.float32).mean(dim=(1, 2, 3))
        return _two_sources(from_rows(mixed, step), partner, 1.0 - pasted)


def _box_sides(lam: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Height and width, int64 `[n]`, of the box of area 1 - `lam` and the image's shape, rounded down."""
    part = np.sqrt(1.0 - lam)
    return (height * part).astype(np.int64), (width * part).astype(np.int64)


@settings_class
class CutMix(MaskMixing):
    """A box of the partner pasted at the same place.

    Yun et al. 2019, "CutMix: Regularization strategy to train strong classifiers with localizable features". The
    box's centre is uniform over the image and the part outside is lost; lambda becomes the share really kept. Without
    a generator the box is whole, in the image's centre.
    """

    def masks(self, partners: torch.Tensor, lam: np.ndarray, rng: np.random.Generator | None) -> torch.Tensor:
        height, width = partners.shape[-2:]
        tall, wide = _box_sides(lam, height, width)
        if rng is None:
            top, left = (height - tall) // 2, (width - wide) // 2
            box = np.stack([top, top + tall, left, left + wide])
        else:
            y, x = rng.integers(height, size=len(lam)), rng.integers(width, size=len(lam))
            box = np.stack([y - tall // 2, y + tall // 2, x - wide // 2, x + wide // 2])
        top, bottom, left, right = to_device(box, partners.device)
        return box_mask(top, bottom, left, right, height, width)


@settings_class
class SaliencyMix(MaskMixing):
    """CutMix with the box around the most salient pixel of the partner.

    Uddin et al. 2021, "SaliencyMix: A saliency guided data augmentation strategy for better regularization". The
    saliency here is the spectral residual (Hou and Zhang 2007, "Saliency detection: A spectral residual approach") of
    the channels' mean: the log amplitude of the spectrum less its 3x3 mean, transformed back, squared, and smoothed
    by a Gaussian whose standard deviation is 1/25 of the side. Each sample's box lies at its own partner's peak; one
    lambda gives all boxes their size. Nothing but lambda is drawn, so a generator changes nothing.
    """

    def masks(self, partners: torch.Tensor, lam: np.ndarray, rng: np.random.Generator | None) -> torch.Tensor:
        height, width = partners.shape[-2:]
        peak = saliency(partners).flatten(1).argmax(dim=1)
        y, x = peak // width, peak % width
        half = to_device(np.stack(_box_sides(lam, height, width)) // 2, partners.device)
        return box_mask(y - half[0], y + half[0], x - half[1], x + half[1], height, width)


def saliency(images: torch.Tensor) -> torch.Tensor:
    """Spectral residual saliency (Hou and Zhang 2007) of float images: float32 `[batch, height, width]`."""
    height, width = images.shape[-2:]
    spectrum = torch.fft.fft2(images.to(torch.float32).mean(dim=1))
    around = torch.log(spectrum.abs() + 1e-8)
    for axis in (-2, -1):
        around = (around + around.roll(1, axis) + around.roll(-1, axis)) / 3
    # Amplitude exp(log amplitude - mean of it) with the old phase is the spectrum over exp(mean).
    salient = torch.fft.ifft2(spectrum * torch.exp(-around)).real.square()
    deviation = min(height, width) / 25
    squared = (np.fft.fftfreq(height) ** 2)[:, None] + np.fft.rfftfreq(width) ** 2
    gaussian = to_device(np.exp(-2 * (np.pi * deviation) ** 2 * squared).astype(np.float32), images.device)
    return torch.fft.irfft2(torch.fft.rfft2(salient) * gaussian, s=(height, width))


@settings_class
class FMix(MaskMixing):
    """The partner shows where a random smooth image is largest.

    Harris et al. 2020, "FMix: Enhancing mixed sample data augmentation". The image is Fourier noise whose amplitude
    falls with the frequency to the power `decay`. Without a generator the noise comes from a fixed seed.
    """

    decay: Positive = 3.0

    def masks(self, partners: torch.Tensor, lam: np.ndarray, rng: np.random.Generator | None) -> torch.Tensor:
        rng = np.random.default_rng(0) if rng is None else rng
        height, width = partners.shape[-2:]
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
        amplitude = np.maximum(frequency, 1 / max(height, width)) ** -self.decay
        real, imaginary = rng.standard_normal((2, len(lam), *amplitude.shape))
        noise = np.fft.irfft2((real + 1j * imaginary) * amplitude, s=(height, width)).reshape(len(lam), -1)
        # Counting pixels down from the largest keeps the pasted part exact, whatever the values.
        ordered = np.sort(np.pad(noise, ((0, 0), (0, 1)), constant_values=np.inf), axis=1)
        count = np.rint((1.0 - lam) * height * width).astype(np.int64)
        pasted = noise >= np.take_along_axis(ordered, height * width - count[:, None], axis=1)
        return to_device(pasted, partners.device).view(-1, 1, height, width)


@settings_class
class GridMix(MaskMixing):
    """Random cells of a `cells` by `cells` grid show the partner.

    Baek et al. 2021, "GridMix: Strong regularization through local context mapping" (patch mixing; without its
    auxiliary loss of local labels). The number of pasted cells is the nearest to 1 - lambda. Without a generator the
    cells come from a fixed order.
    """

    cells: Annotated[int, pydantic.Field(ge=1, le=256)] = 4

    def masks(self, partners: torch.Tensor, lam: np.ndarray, rng: np.random.Generator | None) -> torch.Tensor:
        rng = np.random.default_rng(0) if rng is None else rng
        height, width = partners.shape[-2:]
        total = self.cells**2
        order = rng.permuted(np.tile(np.arange(total), (len(lam), 1)), axis=1)
        pasted = (order < np.rint((1.0 - lam) * total)[:, None]).reshape(-1, self.cells, self.cells)
        y, x = (np.arange(size) * self.cells // size for size in (height, width))
        return to_device(pasted[:, y[:, None], x], partners.device)[:, None]


@settings_class
class ResizeMix(MultiSample):
    """The whole partner, made smaller, pasted at a random place.

    Qin et al. 2020, "ResizeMix: Mixing data with preserved object information and true labels". The side of the
    pasted image is a part of the image's side drawn from `scale`, uniform for alpha 1, Beta-shaped otherwise; lambda
    is the share of pixels kept. Without a generator it lies in the centre. Reduced with smoothing against aliasing.
    """

    scale: FractionRange = (0.1, 0.8)

    def draw_lam(self, rng: np.random.Generator, count: int) -> np.ndarray:
        low, high = self.scale
        return 1.0 - (low + (high - low) * rng.beta(self.alpha, self.alpha, size=count)) ** 2

    def mix_drawn(
        self, images: torch.Tensor, partner: torch.Tensor, lam: np.ndarray, rng: np.random.Generator | None
    ) -> Mixed:
        height, width = images.shape[-2:]
        part = np.sqrt(1.0 - lam)
        tall, wide = np.rint(height * part).astype(np.int64), np.rint(width * part).astype(np.int64)
        if rng is None:
            top, left = (height - tall) // 2, (width - wide) // 2
        else:
            top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
        mixed = images.clone()
        boxes = np.stack([top, left, tall, wide], axis=1).tolist()
        for number, (y, x, h, w) in enumerate(boxes):
            if h == 0 or w == 0:
                continue
            rows = slice(None) if len(boxes) == 1 else slice(number, number + 1)
            small = torch.nn.functional.interpolate(
                take(images, partner[rows]).to(torch.float32), size=(h, w), mode="bilinear", antialias=True
            )
            mixed[rows, :, y : y + h, x : x + w] = small
        kept = 1.0 - tall * wide / (height * width)
        return _two_sources(mixed, partner, to_device(kept.astype(np.float32), images.device))


@settings_class
class Mosaic(MultiSample):
    """Four images in the quadrants around a random centre, each at its own place.

    The layout of Bochkovskiy et al. 2020, "YOLOv4: Optimal speed and accuracy of object detection", with the labels
    in the shares of the areas as in Takahashi et al. 2018, "RICAP: Random image cropping and patching". The sample
    itself is the upper left quadrant. The parts of the sides that it takes are drawn from Beta(alpha, alpha) each;
    with a given lambda their product is lambda, and without a generator they are equal. The other quadrants come from
    the partner and two more permutations; without a generator, from the partner's partner and its partner.
    """

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> Mixed:
        rng = numpy_generator(generator)
        partners = np.stack([rng.permutation(len(images)) for _ in range(3)])
        parts = rng.beta(self.alpha, self.alpha, size=(2, len(images) if self.per_sample else 1))
        with torch.no_grad():
            return self._assemble(images, to_device(partners, images.device), parts)

    def mix_drawn(
        self, images: torch.Tensor, partner: torch.Tensor, lam: np.ndarray, rng: np.random.Generator | None
    ) -> Mixed:
        if rng is None:
            second = partner[partner]
            partners = torch.stack([partner, second, partner[second]])
            exponent = np.full(len(lam), 0.5)
        else:
            others = to_device(np.stack([rng.permutation(len(images)) for _ in range(2)]), images.device)
            partners = torch.cat([partner[None], others])
            exponent = rng.random(len(lam))
        return self._assemble(images, partners, np.stack([lam**exponent, lam ** (1.0 - exponent)]))

    def _assemble(self, images: torch.Tensor, partners: torch.Tensor, parts: np.ndarray) -> Mixed:
        """`partners` int64 `[3, batch]`; `parts` float64 `[2, 1 or batch]`, of the height and the width."""
        batch, _, height, width = images.shape
        cut = np.rint(parts * np.array([[height], [width]]))
        y, x = to_device(cut.astype(np.int64), images.device).view(2, -1, 1, 1, 1)
        upper = torch.arange(height, device=images.device).view(-1, 1) < y
        left = torch.arange(width, device=images.device) < x
        own, right, below, opposite = images, *(take(images, partner) for partner in partners)
        mixed = torch.where(upper, torch.where(left, own, right), torch.where(left, below, opposite))
        upper_part, left_part = cut / np.array([[height], [width]])
        weights = np.stack(
            [
                upper_part * left_part,
                upper_part * (1 - left_part),
                (1 - upper_part) * left_part,
                (1 - upper_part) * (1 - left_part),
            ],
            axis=1,
        )
        return Mixed(
            mixed.contiguous(memory_format=memory_format(images)),
            torch.cat([torch.arange(batch, device=images.device)[None], partners]).T.contiguous(),
            to_device(weights.astype(np.float32), images.device).repeat(batch // len(weights), 1),
        )


@settings_class
class CutMixOrMixup(MultiSample):
    """CutMix or Mixup for each batch, CutMix with a chance of `cutmix_share`; without a generator, CutMix."""

    cutmix_share: Fraction = 0.5

    def mix_drawn(
        self, images: torch.Tensor, partner: torch.Tensor, lam: np.ndarray, rng: np.random.Generator | None
    ) -> Mixed:
        cut = rng is None or rng.random() < self.cutmix_share
        return (CutMix() if cut else Mixup()).mix_drawn(images, partner, lam, rng)


MULTI_SAMPLE: Registry[MultiSample] = Registry(
    "multi-sample augmentation",
    {
        "cutmix": CutMix,
        "cutmix_or_mixup": CutMixOrMixup,
        "fmix": FMix,
        "gridmix": GridMix,
        "mixup": Mixup,
        "mosaic": Mosaic,
        "resizemix": ResizeMix,
        "saliencymix": SaliencyMix,
    },
)
