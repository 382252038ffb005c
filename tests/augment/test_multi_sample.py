"""Multi-sample augmentation: the pixels are the mixture that the weights state."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torchvision.transforms import v2

from openset_distill.augment import MULTI_SAMPLE, base, multi_sample
from openset_distill.core.errors import SettingsError

SHAPES = [(6, 1, 8, 8), (6, 3, 8, 8), (5, 3, 64, 64), (5, 3, 24, 16)]
PASTING = sorted(set(MULTI_SAMPLE) - {"mixup", "cutmix_or_mixup"})
SURE = 1e-3  # a fixed seed fails a true distribution with this chance, once and for all


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(shape: tuple[int, ...], seed: int = 0, channels_last: bool = False) -> torch.Tensor:
    images = torch.randn(shape, generator=generator(seed))
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def numbered(shape: tuple[int, ...]) -> torch.Tensor:
    """Images in which every pixel is the image's number in the batch."""
    return torch.arange(shape[0], dtype=torch.float32).view(-1, 1, 1, 1).expand(shape).contiguous()


def roll(batch: int) -> torch.Tensor:
    """The partner that torchvision takes: the sample before, the last one for the first."""
    return torch.arange(batch).roll(1)


def draws(seed: int = 0) -> np.random.Generator:
    return base.numpy_generator(generator(seed))


def build(name: str, **settings):
    return MULTI_SAMPLE.build({"name": name, **settings})


def check(mixed: multi_sample.Mixed, images: torch.Tensor) -> None:
    """Types, ranges and sums that every result must have."""
    batch = len(images)
    assert (mixed.images.shape, mixed.images.dtype) == (images.shape, images.dtype)
    assert mixed.images.isfinite().all()
    assert mixed.sources.dtype == torch.int64
    assert mixed.weights.dtype == torch.float32
    assert mixed.sources.shape == mixed.weights.shape
    assert mixed.sources.shape[0] == batch
    assert torch.equal(mixed.sources[:, 0], torch.arange(batch))
    for column in mixed.sources.T:
        assert torch.equal(column.sort().values, torch.arange(batch))
    assert ((mixed.weights >= 0) & (mixed.weights <= 1)).all()
    torch.testing.assert_close(mixed.weights.sum(dim=1), torch.ones(batch))


# what holds for every method


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MULTI_SAMPLE)
def test_shape_types_sources_and_weights(name, shape, channels_last, per_sample):
    images = pictures(shape, channels_last=channels_last)
    before = images.clone()
    for seed in range(4):
        mixed = build(name, per_sample=per_sample)(images, generator(seed))
        check(mixed, images)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert mixed.images.is_contiguous(memory_format=layout)
    assert torch.equal(images, before)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", MULTI_SAMPLE)
def test_seed_decides_everything(name, per_sample):
    images, method = pictures((8, 3, 16, 16)), build(name, per_sample=per_sample)
    first, again, other = (method(images, generator(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(left, right) for left, right in zip(first, again, strict=True))
    assert not torch.equal(first.images, other.images)
    used, counted = generator(), generator()
    method(images, used)
    base.numpy_generator(counted)
    assert torch.equal(used.get_state(), counted.get_state())


@pytest.mark.parametrize("name", sorted(set(MULTI_SAMPLE) - {"saliencymix"}))
def test_one_draw_serves_the_batch_unless_per_sample(name):
    images = pictures((12, 3, 32, 32))
    assert len(build(name)(images, generator(1)).weights[:, 0].unique()) == 1
    assert len(build(name, per_sample=True)(images, generator(1)).weights[:, 0].unique()) > 3


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", MULTI_SAMPLE)
def test_a_batch_of_one_is_mixed_with_itself(name, per_sample):
    image = pictures((1, 3, 16, 16))
    mixed = build(name, per_sample=per_sample)(image, generator(2))
    check(mixed, image)
    assert (mixed.sources == 0).all()
    if name != "resizemix":  # which shows the image again, smaller
        torch.testing.assert_close(mixed.images, image)


@pytest.mark.parametrize("with_generator", [False, True])
@pytest.mark.parametrize("name", MULTI_SAMPLE)
def test_lambda_one_keeps_the_images(name, with_generator):
    images = pictures((5, 3, 9, 16))
    mixed = build(name).mix(images, roll(5), 1.0, generator() if with_generator else None)
    check(mixed, images)
    assert torch.equal(mixed.images, images)
    assert torch.equal(mixed.weights[:, 0], torch.ones(5))


@pytest.mark.parametrize("size", [(16, 16), (7, 9)])
@pytest.mark.parametrize("name", sorted(set(MULTI_SAMPLE) - {"saliencymix", "mosaic"}))
def test_lambda_zero_shows_the_partner(name, size):
    images = pictures((5, 3, *size))
    mixed = build(name).mix(images, roll(5), 0.0)
    check(mixed, images)
    torch.testing.assert_close(mixed.images, images[roll(5)])
    assert torch.equal(mixed.weights[:, 1], torch.ones(5))


@pytest.mark.parametrize("name", ["saliencymix", "mosaic"])
def test_lambda_zero_where_the_partner_does_not_fill_the_image(name):
    images = numbered((5, 3, 16, 16))
    mixed = build(name).mix(images, roll(5), 0.0)
    check(mixed, images)
    shares = torch.stack(
        [(mixed.images == source.view(-1, 1, 1, 1)).float().mean((1, 2, 3)) for source in mixed.sources.T]
    )
    assert torch.equal(shares.T, mixed.weights)
    if name == "mosaic":
        assert torch.equal(mixed.weights[:, 3], torch.ones(5))


@pytest.mark.parametrize("name", MULTI_SAMPLE)
def test_given_lambda_is_the_share_within_what_pixels_allow(name):
    images = numbered((9, 1, 64, 64))
    scan = np.linspace(0, 1, 9)
    method = build(name)
    alone = [method.mix(images, roll(9), float(lam)) for lam in scan]
    assert torch.equal(alone[4].images, method.mix(images, roll(9), float(scan[4])).images)
    # One lambda per sample gives each what it would get with that lambda for all.
    together = method.mix(images, roll(9), torch.from_numpy(scan))
    check(together, images)
    for number, (lam, mixed) in enumerate(zip(scan, alone, strict=True)):
        if name != "saliencymix":  # whose box may be cut off at the border
            assert abs(float(mixed.weights[0, 0]) - lam) <= (1 / 32 if name != "fmix" else 1e-6)
        if name in {"cutmix", "mixup", "resizemix", "mosaic", "saliencymix"}:
            assert torch.equal(together.images[number], mixed.images[number])
            assert torch.equal(together.weights[number], mixed.weights[number])


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan"), [0.5, 2.0]])
def test_lambda_out_of_range_is_refused(lam):
    with pytest.raises(ValueError, match=r"lam must be in \[0, 1\]"):
        build("mixup").mix(pictures((2, 1, 8, 8)), roll(2), lam)


@pytest.mark.parametrize("name", MULTI_SAMPLE)
def test_never_reads_a_pixel_back_to_the_host(name):
    # Tensors on the meta device have no values: whatever asks for one fails.
    images = torch.empty((8, 3, 16, 16), device="meta")
    for per_sample in (False, True):
        assert build(name, per_sample=per_sample)(images, generator()).images.shape == images.shape


@pytest.mark.parametrize("name", MULTI_SAMPLE)
def test_bfloat16_images_keep_their_type(name):
    mixed = build(name)(pictures((4, 3, 16, 16)).to(torch.bfloat16), generator())
    assert mixed.images.dtype == torch.bfloat16
    assert mixed.weights.dtype == torch.float32


# the mixture is the stated one


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PASTING)
def test_weights_are_the_shares_of_pixels(name, shape, per_sample):
    images = numbered(shape)
    for seed in range(4):
        mixed = build(name, per_sample=per_sample)(images, generator(seed))
        # An image of one value stays one when it is resized, up to rounding.
        for row, image in enumerate(mixed.images.round()):
            shares = {int(source): 0.0 for source in mixed.sources[row]}
            for source, weight in zip(mixed.sources[row], mixed.weights[row], strict=True):
                shares[int(source)] += float(weight)
            for source, share in shares.items():
                assert math.isclose(float((image == source).float().mean()), share, abs_tol=1e-6)


@pytest.mark.parametrize("name", sorted(set(PASTING) - {"resizemix"}))
def test_pasted_pixels_stay_in_their_places(name):
    images = pictures((6, 3, 16, 16))
    mixed = build(name, per_sample=True)(images, generator(1))
    candidates = images[mixed.sources]
    assert (mixed.images[:, None] == candidates).all(dim=2).any(dim=1).all()


@pytest.mark.parametrize("per_sample", [False, True])
def test_mixup_is_the_weighted_mean(per_sample):
    images = pictures((6, 3, 8, 8))
    mixed = build("mixup", per_sample=per_sample)(images, generator())
    share = mixed.weights[:, 0].view(-1, 1, 1, 1)
    expected = share * images + (1 - share) * images[mixed.sources[:, 1]]
    assert torch.equal(mixed.images, expected)


@pytest.mark.parametrize("lam", [0.0, 0.2, 0.77, 1.0])
def test_mixup_is_torchvisions(lam):
    images = pictures((6, 3, 8, 8))
    expected = v2.MixUp(num_classes=6).transform(images, {"lam": lam, "labels": None, "batch_size": 6})
    torch.testing.assert_close(build("mixup").mix(images, roll(6), lam).images, expected)


@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (4, 1, 8, 8), (4, 3, 15, 24)])
def test_cutmix_boxes_are_torchvisions(shape):
    images, (height, width) = pictures(shape), shape[-2:]
    for seed, lam in enumerate(np.linspace(0, 1, 12)):
        mixed = build("cutmix").mix(images, roll(4), float(lam), generator(seed))
        rng = draws(seed)
        y, x = int(rng.integers(height)), int(rng.integers(width))
        # torchvision's formula for the corners, from the same centre
        half = 0.5 * math.sqrt(1 - lam)
        x1, x2 = max(x - int(half * width), 0), min(x + int(half * width), width)
        y1, y2 = max(y - int(half * height), 0), min(y + int(half * height), height)
        kept = 1 - (x2 - x1) * (y2 - y1) / (width * height)
        params = {"box": (x1, y1, x2, y2), "lam_adjusted": kept, "labels": None, "batch_size": 4}
        assert torch.equal(mixed.images, v2.CutMix(num_classes=4).transform(images, params))
        torch.testing.assert_close(mixed.weights[:, 0], torch.full((4,), kept))


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_corrected_lambda_of_cutmix_is_distributed_as_torchvisions(alpha):
    ours = build("cutmix", alpha=alpha, per_sample=True)(torch.zeros((2000, 1, 32, 32)), generator()).weights[:, 0]
    torch.manual_seed(0)
    theirs, flat = v2.CutMix(alpha=alpha, num_classes=2), [torch.zeros((1, 1, 32, 32))]
    reference = [theirs.make_params(flat)["lam_adjusted"] for _ in range(2000)]
    assert scipy.stats.ks_2samp(ours.numpy().round(5), np.round(reference, 5)).pvalue > SURE


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("per_sample", [False, True])
def test_lambda_of_mixup_is_beta_distributed(alpha, per_sample):
    method = build("mixup", alpha=alpha, per_sample=per_sample)
    if per_sample:
        lam = method(torch.zeros((2000, 1, 1, 1)), generator()).weights[:, 0].numpy()
    else:
        shared, images = generator(), torch.zeros((2, 1, 1, 1))
        lam = np.array([float(method(images, shared).weights[0, 0]) for _ in range(600)])
    assert scipy.stats.kstest(lam, scipy.stats.beta(alpha, alpha).cdf).pvalue > SURE


def test_partners_are_uniform_permutations():
    shared, images, method = generator(), torch.zeros((5, 1, 1, 1)), build("mixup")
    counts = np.zeros((5, 5))
    for _ in range(500):
        counts[np.arange(5), method(images, shared).sources[:, 1]] += 1
    assert scipy.stats.chisquare(counts.ravel()).pvalue > SURE


# method by method


def test_cutmix_without_a_generator_pastes_in_the_centre():
    mixed = build("cutmix").mix(numbered((2, 1, 8, 8)), roll(2), 0.75)
    expected = torch.zeros((8, 8))
    expected[2:6, 2:6] = 1
    assert torch.equal(mixed.images[0, 0], expected)
    assert mixed.weights[0].tolist() == [0.75, 0.25]


@pytest.mark.parametrize("per_sample", [False, True])
def test_resizemix_pastes_the_whole_partner_made_smaller(per_sample):
    images = pictures((6, 3, 32, 24))
    mixed = build("resizemix", per_sample=per_sample)(images, generator(3))
    for row, image in enumerate(mixed.images):
        places = (image != images[row]).any(dim=0).nonzero()
        (top, left), (bottom, right) = places.amin(dim=0).tolist(), (places.amax(dim=0) + 1).tolist()
        partner = images[mixed.sources[row, 1]][None]
        small = torch.nn.functional.interpolate(
            partner, size=(bottom - top, right - left), mode="bilinear", antialias=True
        )
        torch.testing.assert_close(image[:, top:bottom, left:right], small[0])
        area = (bottom - top) * (right - left) / (32 * 24)
        assert math.isclose(float(mixed.weights[row, 1]), area, abs_tol=1e-6)


def test_resizemix_scale_is_uniform():
    images = torch.zeros((1500, 1, 100, 100))
    kept = build("resizemix", per_sample=True, scale=[0.2, 0.6]).draw_lam(draws(), 1500)
    assert scipy.stats.kstest(np.sqrt(1 - kept), scipy.stats.uniform(0.2, 0.4).cdf).pvalue > SURE
    weights = build("resizemix", per_sample=True, scale=[0.2, 0.6])(images[:20], generator()).weights[:, 1]
    assert ((weights >= 0.2**2 - 1e-6) & (weights <= 0.6**2 + 1e-6)).all()


def test_fmix_masks_are_exact_smooth_and_roughly_connected():
    images = numbered((32, 1, 32, 32))
    lam = np.full(32, 0.5)
    smooth = build("fmix").mix(images, roll(32), lam, generator())
    rough = build("fmix", decay=0.01).mix(images, roll(32), lam, generator())
    borders = []
    for mixed in (smooth, rough):
        mask = mixed.images != images
        assert (mask.float().mean((1, 2, 3)) == 0.5).all()
        borders.append(float((mask[..., 1:] != mask[..., :-1]).float().mean()))
    assert borders[0] < 0.1 < 0.4 < borders[1]
    assert len({bytes(mask.numpy()) for mask in smooth.images != images}) == 32


def test_gridmix_pastes_whole_cells():
    mixed = build("gridmix", cells=4, per_sample=True)(numbered((30, 1, 8, 16)), generator())
    cells = mixed.images.view(30, 4, 2, 4, 4)
    assert (cells == cells[:, :, :1, :, :1]).all()
    assert torch.equal(mixed.weights * 16, (mixed.weights * 16).round())
    counts = np.zeros(16)
    for seed in range(300):
        mixed = build("gridmix").mix(numbered((2, 1, 4, 4)), roll(2), 0.5, generator(seed))
        counts += mixed.images[0].flatten().numpy()
    assert counts.sum() == 300 * 8
    assert scipy.stats.chisquare(counts).pvalue > SURE


@pytest.mark.parametrize("place", [(8, 8), (20, 11), (2, 29)])
def test_saliencymix_cuts_around_the_partners_peak(place):
    images = 0.05 * pictures((2, 3, 32, 32))
    y, x = place
    images[1, :, y - 1 : y + 2, x - 1 : x + 2] += 3
    peak = int(multi_sample.saliency(images)[1].argmax())
    assert max(abs(peak // 32 - y), abs(peak % 32 - x)) <= 1
    mixed = build("saliencymix").mix(images, roll(2), 0.75)
    pasted = (mixed.images[0] == images[1]).all(dim=0)
    expected = torch.zeros((32, 32), dtype=torch.bool)
    top, left = peak // 32 - 8, peak % 32 - 8
    expected[max(top, 0) : top + 16, max(left, 0) : left + 16] = True
    assert torch.equal(pasted, expected)


def test_saliency_is_the_spectral_residual():
    image = pictures((1, 3, 24, 16))
    spectrum = np.fft.fft2(image[0].double().mean(dim=0).numpy())
    log, phase = np.log(np.abs(spectrum)), np.angle(spectrum)
    around = sum(np.roll(log, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)) / 9
    residual = np.abs(np.fft.ifft2(np.exp(log - around + 1j * phase))) ** 2
    offset = np.hypot(np.fft.fftfreq(24, 1 / 24)[:, None], np.fft.fftfreq(16, 1 / 16))
    kernel = np.exp(-0.5 * (offset / (16 / 25)) ** 2)
    expected = np.fft.ifft2(np.fft.fft2(residual) * np.fft.fft2(kernel / kernel.sum())).real
    correlation = np.corrcoef(multi_sample.saliency(image)[0].numpy().ravel(), expected.ravel())[0, 1]
    assert correlation > 0.99


def test_saliency_of_an_even_image_is_finite():
    assert multi_sample.saliency(torch.zeros((2, 3, 8, 8))).isfinite().all()
    check(build("saliencymix")(torch.ones((2, 3, 8, 8)), generator()), torch.ones((2, 3, 8, 8)))


def test_mosaic_shows_four_quadrants():
    images = numbered((8, 1, 16, 12))
    mixed = build("mosaic").mix(images, roll(8), 0.25)
    # Without a generator: the partner, its partner, and the partner of that.
    expected = torch.arange(8)[:, None] - torch.arange(4)
    assert torch.equal(mixed.sources, expected % 8)
    assert torch.equal(mixed.weights, torch.full((8, 4), 0.25))
    for row, image in enumerate(mixed.images[:, 0]):
        quadrants = [image[:8, :6], image[:8, 6:], image[8:, :6], image[8:, 6:]]
        assert [quadrant.unique().tolist() for quadrant in quadrants] == [[float(s)] for s in expected[row] % 8]


def test_mosaic_centre_is_uniform():
    weights = build("mosaic", per_sample=True)(torch.zeros((1500, 1, 64, 64)), generator()).weights.double().numpy()
    for part in (weights[:, 0] + weights[:, 1], weights[:, 0] + weights[:, 2]):
        # Whole pixels: the drawn place is uniform within half a pixel of the cut.
        spread = np.random.default_rng(0).uniform(-0.5, 0.5, size=1500) / 64
        assert scipy.stats.kstest(np.abs(part + spread), scipy.stats.uniform(0, 1).cdf).pvalue > SURE


def test_switch_takes_cutmix_in_its_share_of_batches():
    images, shared = numbered((12, 1, 16, 16)), generator()
    for share in (0.0, 0.3, 1.0):
        method = build("cutmix_or_mixup", cutmix_share=share)
        cut = sum(bool((method(images, shared).images % 1 == 0).all()) for _ in range(300))
        assert scipy.stats.binomtest(cut, 300, share).pvalue > SURE
    assert torch.equal(
        build("cutmix_or_mixup").mix(images, roll(12), 0.5).images, build("cutmix").mix(images, roll(12), 0.5).images
    )


# settings


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("cutmx", "did you mean 'cutmix'"),
        ({"name": "mixup", "alfa": 1}, "'alfa'; did you mean 'alpha'"),
        ({"name": "mixup", "alpha": 0}, "alpha: Input should be greater than or equal to 0.001"),
        ({"name": "cutmix", "probability": 2}, "probability: Input should be less than or equal to 1"),
        ({"name": "resizemix", "scale": [0.8, 0.1]}, "lower limit 0.8 is above the upper limit 0.1; swap them"),
        ({"name": "gridmix", "cells": 0}, "cells: Input should be greater than or equal to 1"),
        ({"name": "fmix", "decay": -1}, "decay: Input should be greater than"),
    ],
)
def test_bad_settings_are_named(specification, message):
    with pytest.raises(SettingsError) as caught:
        MULTI_SAMPLE.build(specification)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", MULTI_SAMPLE)
def test_every_method_has_the_common_settings(name):
    settings = MULTI_SAMPLE.resolve({"name": name, "alpha": 0.4})
    assert (settings["probability"], settings["alpha"], settings["per_sample"]) == (0.5, 0.4, False)
