"""Single-sample augmentation: against torchvision one image at a time, and against the stated distributions."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from openset_distill.augment import SINGLE_SAMPLE, base, operations
from openset_distill.augment import warp as geometry
from openset_distill.core.errors import DataError, SettingsError

SHAPES = [(6, 1, 8, 8), (6, 3, 8, 8), (5, 3, 64, 64), (5, 3, 24, 16)]
SURE = 1e-3  # a fixed seed fails a true distribution with this chance, once and for all


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(shape: tuple[int, ...], channels_last: bool = False, seed: int = 0) -> torch.Tensor:
    """Smooth random images with noise, so that every operation changes something."""
    batch, channels, height, width = shape
    coarse = torch.rand((batch, channels, 4, 4), generator=generator(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear") * 200
    noise = torch.rand(shape, generator=generator(seed + 1)) * 55
    images = (smooth + noise).to(torch.uint8)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def same_images(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return pictures((1, *shape[1:]), seed=seed).repeat(shape[0], 1, 1, 1)


def draws(seed: int = 0) -> np.random.Generator:
    """The stream that an augmentation sees when it is called with `generator(seed)`."""
    return base.numpy_generator(generator(seed))


def almost_equal(result: torch.Tensor, expected: torch.Tensor, share: float = 0.99) -> bool:
    """At most one grey level apart, and equal in most pixels: what another order of float operations may do."""
    apart = (result.int() - expected.int()).abs()
    return int(apart.max()) <= 1 and float((apart == 0).float().mean()) >= share


# what holds for every augmentation


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SINGLE_SAMPLE)
def test_shape_type_and_memory_format_are_kept_and_the_input_is_not_changed(name, shape, channels_last):
    images = pictures(shape, channels_last)
    before = images.clone()
    result = SINGLE_SAMPLE.build(name)(images, generator())
    assert (result.shape, result.dtype) == (images.shape, torch.uint8)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert result.is_contiguous(memory_format=layout)
    assert torch.equal(images, before)


@pytest.mark.parametrize("shape", [(24, 1, 8, 8), (24, 3, 32, 32)])
@pytest.mark.parametrize("name", SINGLE_SAMPLE)
def test_seed_decides_everything_and_layout_nothing(name, shape):
    images, augmentation = pictures(shape), SINGLE_SAMPLE.build(name)
    first = augmentation(images, generator(3))
    assert torch.equal(first, augmentation(images, generator(3)))
    assert torch.equal(first, augmentation(images.contiguous(memory_format=torch.channels_last), generator(3)))
    assert not torch.equal(first, augmentation(images, generator(4)))


@pytest.mark.parametrize("shape", [(24, 1, 8, 8), (24, 3, 32, 32)])
@pytest.mark.parametrize("name", SINGLE_SAMPLE)
def test_samples_are_augmented_independently(name, shape):
    result = SINGLE_SAMPLE.build(name)(same_images(shape), generator())
    assert len({bytes(image.numpy()) for image in result}) >= 2
    # A mirrored image is the only other one that a flip can give.
    if name != "horizontal_flip":
        assert len({bytes(image.numpy()) for image in result}) >= 6


@pytest.mark.parametrize("name", SINGLE_SAMPLE)
def test_takes_one_number_from_the_generator(name):
    used, counted = generator(), generator()
    SINGLE_SAMPLE.build(name)(pictures((3, 3, 16, 16)), used)
    base.numpy_generator(counted)
    assert torch.equal(used.get_state(), counted.get_state())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SINGLE_SAMPLE)
def test_never_reads_a_pixel_back_to_the_host(name, channels):
    # Tensors on the meta device have no values: whatever asks for one fails.
    images = torch.empty((64, channels, 16, 16), dtype=torch.uint8, device="meta")
    for seed in range(3):
        assert SINGLE_SAMPLE.build(name)(images, generator(seed)).shape == images.shape


@pytest.mark.parametrize("name", SINGLE_SAMPLE)
def test_batches_of_one_and_none(name):
    augmentation = SINGLE_SAMPLE.build(name)
    assert augmentation(pictures((1, 3, 16, 16)), generator()).shape == (1, 3, 16, 16)
    assert augmentation(torch.empty((0, 3, 16, 16), dtype=torch.uint8), generator()).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("name", ["gaussian_blur", "randaugment"])
def test_autocast_does_not_reach_the_pixels(name):
    images, augmentation = pictures((16, 3, 32, 32)), SINGLE_SAMPLE.build(name)
    expected = augmentation(images, generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augmentation(images, generator()), expected)


def test_registries_are_read_without_torch_and_simple_augmentations_run_without_torchvision():
    program = """
import sys
from openset_distill.augment import MULTI_SAMPLE, SINGLE_SAMPLE
for registry in (SINGLE_SAMPLE, MULTI_SAMPLE):
    for name in registry:
        registry.resolve(name)
assert "torch._C" not in sys.modules
import torch
images = torch.zeros((4, 1, 8, 8), dtype=torch.uint8)
needs_torchvision = {"augmix", "auto_augment", "color_jitter", "randaugment", "trivial_augment"}
for name in set(SINGLE_SAMPLE) - needs_torchvision:
    SINGLE_SAMPLE.build(name)(images, torch.Generator())
for name in MULTI_SAMPLE:
    MULTI_SAMPLE.build(name)(images.float(), torch.Generator())
assert not any(module.split(".")[0] == "torchvision" for module in sys.modules)
SINGLE_SAMPLE.build("randaugment")(images, torch.Generator())
assert "torchvision" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# crop, shift, flip


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("fill", [0, 9])
@pytest.mark.parametrize("shape", SHAPES)
def test_shift_is_torchvisions_padded_crop(shape, fill, channels_last):
    images, margin = pictures(shape, channels_last), 4
    down, right = np.random.default_rng(1).integers(-margin, margin + 1, size=(2, len(images)))
    result = geometry.shift(images, down, right, margin, fill)
    for image, moved, y, x in zip(images, result, down, right, strict=True):
        padded = functional.pad(image, [margin] * 4, fill=fill)
        assert torch.equal(moved, functional.crop(padded, margin - y, margin - x, *image.shape[-2:]))


@pytest.mark.parametrize(
    ("specification", "reach"),
    [("random_crop", 4), ({"name": "random_crop", "padding": 2}, 2), ({"name": "random_shift", "pixels": 1}, 1)],
)
def test_offsets_are_uniform(specification, reach):
    images = torch.zeros((8100, 1, 9, 9), dtype=torch.uint8)
    images[:, :, 4, 4] = 255
    place = SINGLE_SAMPLE.build(specification)(images, generator(1)).flatten(1).int().argmax(dim=1).numpy()
    side = 2 * reach + 1
    y, x = place // 9 - 4 + reach, place % 9 - 4 + reach
    counts = np.bincount(y * side + x, minlength=side**2)
    assert len(counts) == side**2
    assert scipy.stats.chisquare(counts).pvalue > SURE


def test_flip_mirrors_the_stated_part():
    images = pictures((1000, 3, 8, 8))
    result = SINGLE_SAMPLE.build({"name": "horizontal_flip", "probability": 0.3})(images, generator())
    flipped = (result == functional.horizontal_flip(images)).flatten(1).all(dim=1)
    assert (flipped ^ (result == images).flatten(1).all(dim=1)).all()
    assert scipy.stats.binomtest(int(flipped.sum()), 1000, 0.3).pvalue > SURE


@pytest.mark.parametrize("probability", [0, 1])
def test_flip_of_none_and_of_all(probability):
    images = pictures((7, 3, 8, 8))
    result = SINGLE_SAMPLE.build({"name": "horizontal_flip", "probability": probability})(images, generator())
    assert torch.equal(result, images.flip(-1) if probability else images)


# policies


def torchvision_operation(image: torch.Tensor, name: str, magnitude: float, interpolation: str) -> torch.Tensor:
    """One operation on one image `[channels, height, width]`, by torchvision's own policy code."""
    policy = v2.AutoAugment()
    mode = v2.InterpolationMode(interpolation)
    return policy._apply_image_or_video_transform(image, name, magnitude, interpolation=mode, fill=policy._fill)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (3, 64, 64), (3, 24, 16)])
def test_operations_are_torchvisions(shape, interpolation, channels_last):
    space = {**operations.AUTO_AUGMENT, **operations.TRIVIAL_AUGMENT}
    table, signed = operations.magnitude_table(space, 31, *shape[1:])
    names, magnitudes = [], []
    for row, name in enumerate(space):
        for level in (0, 3, 9, 20, 29):
            for sign in (1, -1) if signed[row] else (1,):
                names.append(name)
                magnitudes.append(sign * table[row, level])
    images = pictures((len(names), *shape), channels_last)
    result = operations.apply_operations(images, names, np.array(magnitudes), interpolation)
    for number, (name, magnitude) in enumerate(zip(names, magnitudes, strict=True)):
        expected = torchvision_operation(images[number], name, magnitude, interpolation)
        if interpolation == "nearest":
            assert torch.equal(result[number], expected), (name, magnitude)
        else:
            assert almost_equal(result[number], expected, share=0.95), (name, magnitude)


def torchvision_outcomes(policy, name, image):
    """Every image that a policy can give and its probability, from torchvision's spaces and operations."""
    height, width = image.shape[-2:]

    def operation(start, space, title, level, bins):
        magnitudes, signed = space[title]
        values = magnitudes(bins, height, width)
        magnitude = 0.0 if values is None else float(values[level])
        for sign in (1, -1) if signed else (1,):
            yield 0.5 if signed else 1.0, torchvision_operation(start, title, sign * magnitude, "nearest")

    if name == "auto_augment":
        for pair in policy._policies:
            reached = [(1 / len(policy._policies), image)]
            for title, probability, level in pair:
                step = [(chance * (1 - probability), start) for chance, start in reached]
                for chance, start in reached:
                    for part, result in operation(start, policy._AUGMENTATION_SPACE, title, level, 10):
                        step.append((chance * probability * part, result))
                reached = step
            yield from reached
        return
    space = policy._AUGMENTATION_SPACE
    levels = [policy.magnitude] if name == "randaugment" else range(policy.num_magnitude_bins)
    for title in space:
        for level in levels:
            for chance, result in operation(image, space, title, level, policy.num_magnitude_bins):
                yield chance / len(space) / len(levels), result


@pytest.mark.parametrize(
    ("specification", "policy"),
    [
        ("randaugment", v2.RandAugment(num_ops=1, magnitude=9)),
        ("trivial_augment", v2.TrivialAugmentWide()),
        ("auto_augment", v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)),
        ({"name": "auto_augment", "policy": "imagenet"}, v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)),
    ],
)
def test_policies_give_torchvisions_images_with_torchvisions_chances(specification, policy):
    name = specification if isinstance(specification, str) else specification["name"]
    # An odd side: on an even one, 45 degrees put pixels exactly between two others, where rounding noise decides.
    image = pictures((1, 3, 9, 9), seed=7)[0]
    chances: dict[bytes, float] = {}
    for chance, result in torchvision_outcomes(policy, name, image):
        key = bytes(result.contiguous().numpy())
        chances[key] = chances.get(key, 0.0) + chance
    assert math.isclose(sum(chances.values()), 1.0, rel_tol=1e-9)
    count = 4000
    results = SINGLE_SAMPLE.build(specification)(image.repeat(count, 1, 1, 1), generator())
    seen: dict[bytes, int] = {}
    for result in results:
        key = bytes(result.contiguous().numpy())
        seen[key] = seen.get(key, 0) + 1
    assert not set(seen) - {key for key, chance in chances.items() if chance > 0}
    # Outcomes that are too rare for a chi-square test are counted together.
    rare = {key for key, chance in chances.items() if chance * count < 10}
    expected = [chance * count for key, chance in chances.items() if key not in rare]
    observed = [seen.get(key, 0) for key in chances if key not in rare]
    if rare:
        expected.append(sum(chances[key] for key in rare) * count)
        observed.append(sum(seen.get(key, 0) for key in rare))
    assert scipy.stats.chisquare(observed, expected).pvalue > SURE


def pillow_operation(image: Image.Image, name: str, level: int, sign: int) -> Image.Image:
    """One operation of the space `vaze` with Pillow, at a magnitude out of 30; all but the cutout."""

    def between(low: float, high: float) -> float:
        return low + (high - low) * level / 30

    def read_at(*matrix: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix)

    if name in ("AutoContrast", "Equalize", "Invert"):
        return getattr(ImageOps, name.lower())(image)
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return getattr(ImageEnhance, name)(image).enhance(between(0.1, 1.9))
    if name == "Posterize":
        return ImageOps.posterize(image, max(1, 4 * level // 30))
    if name == "Solarize":
        return ImageOps.solarize(image, between(0, 256))
    if name == "SolarizeAdd":
        brighter = np.clip(np.asarray(image, np.float64) + between(0, 110), 0, 255).astype(np.uint8)
        return ImageOps.solarize(Image.fromarray(brighter), 128)
    if name == "Rotate":
        return image.rotate(sign * between(0, 30))
    # a translation tells Pillow where to read and torchvision where to move
    shear, pixels = sign * between(0, 0.3), -sign * between(0, 100)
    return {
        "ShearX": lambda: read_at(1, shear, 0, 0, 1, 0),
        "ShearY": lambda: read_at(1, 0, 0, shear, 1, 0),
        "TranslateX": lambda: read_at(1, 0, pixels, 0, 1, 0),
        "TranslateY": lambda: read_at(1, 0, 0, 0, 1, pixels),
    }[name]()


def as_pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy().squeeze())


# the others: torchvision's kernels and Pillow's round elsewhere, and Pillow's mean grey is a whole number
EXACT = {"Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd", "TranslateX", "TranslateY"}


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64), (3, 33, 24)])
@pytest.mark.parametrize("name", [name for name in operations.VAZE if name != "Cutout"])
def test_the_operations_of_vaze_are_pillows_at_every_magnitude(name, shape):
    table, signed = operations.magnitude_table(operations.VAZE, 31, *shape[1:])
    row = list(operations.VAZE).index(name)
    cases = [(level, sign) for level in range(31) for sign in ((1, -1) if signed[row] else (1,))]
    images = pictures((len(cases), *shape))
    magnitudes = np.array([sign * table[row, level] for level, sign in cases])
    result = operations.apply_operations(images, [name] * len(cases), magnitudes, "nearest")
    for number, (level, sign) in enumerate(cases):
        drawn = np.asarray(pillow_operation(as_pillow(images[number]), name, level, sign))
        expected = torch.from_numpy(drawn.reshape(*shape[1:], -1).copy()).permute(2, 0, 1)
        if name in EXACT:
            assert torch.equal(result[number], expected), level
        elif name.startswith("Shear"):
            # a line that is moved by half a pixel is read from the pixels of either side
            axis = 2 if name == "ShearX" else 1
            moved = 0.01 * level * (torch.arange(shape[3 - axis]) + 0.5)
            certain = torch.nonzero((moved % 1 - 0.5).abs() > 1e-4).flatten()
            same = result[number] == expected
            assert same.index_select(3 - axis, certain).all(), level
        elif name == "Rotate":
            assert float((result[number] == expected).float().mean()) > 0.97, level
        else:
            assert int((result[number].int() - expected.int()).abs().max()) <= 1, level


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 48)])
@pytest.mark.parametrize("level", [0, 1, 9, 20, 30])
def test_the_cutout_of_vaze_is_pillows_rectangle(level, shape):
    images = pictures((40, *shape))
    side = 40 * level / 30
    sides = np.where(np.arange(40) % 2 == 0, side, -1)
    result = operations.cover(images, sides, draws())
    places = draws().random((2, 40))
    grey = 123 if shape[0] == 1 else (125, 123, 114)
    for number in range(40):
        expected = as_pillow(images[number])
        if number % 2 == 0:
            left = int(max(0.0, places[1, number] * shape[2] - side / 2))
            top = int(max(0.0, places[0, number] * shape[1] - side / 2))
            right, bottom = min(shape[2], left + side), min(shape[1], top + side)
            ImageDraw.Draw(expected).rectangle((left, top, right, bottom), grey)
        assert np.array_equal(np.asarray(as_pillow(result[number])), np.asarray(expected)), number


@pytest.mark.parametrize(("space", "count"), [("vaze", 16), ("vaze_digits", 13)])
def test_randaugment_draws_the_operations_of_its_space_evenly(space, count):
    image = pictures((1, 3, 40, 40), seed=3)
    chosen = operations.RAND_AUGMENT_SPACES[space]
    assert len(chosen) == count
    assert "Identity" not in chosen
    table, signed = operations.magnitude_table(chosen, 31, 40, 40)
    outcomes: dict[bytes, str] = {}
    for row, name in enumerate(chosen):
        if name != "Cutout":
            for sign in (1, -1) if signed[row] else (1,):
                one = operations.apply_operations(image, [name], np.array([sign * table[row, 9]]), "nearest")
                outcomes[bytes(one.contiguous().numpy())] = name
    results = SINGLE_SAMPLE.build({"name": "randaugment", "space": space})(image.repeat(3200, 1, 1, 1), generator())
    seen = [outcomes.get(bytes(one.contiguous().numpy()), "Cutout") for one in results]
    assert scipy.stats.chisquare([seen.count(name) for name in chosen]).pvalue > SURE
    covered = torch.stack([one for one, name in zip(results, seen, strict=True) if name == "Cutout"])
    grey = torch.tensor([125, 123, 114], dtype=torch.uint8).view(3, 1, 1)
    areas = (covered == grey).all(dim=1).flatten(1).sum(dim=1)
    assert int(areas.max()) == 13**2
    assert (covered != image).flatten(1).any(dim=1).all()


def test_randaugment_applies_as_many_operations_as_asked():
    images = same_images((64, 3, 16, 16))
    once = SINGLE_SAMPLE.build({"name": "randaugment", "num_ops": 1, "magnitude": 20})(images, generator())
    twice = SINGLE_SAMPLE.build({"name": "randaugment", "num_ops": 2, "magnitude": 20})(images, generator())
    changed = [(result != images).flatten(1).any(dim=1).float().mean() for result in (once, twice)]
    assert changed[1] > changed[0]
    assert len({bytes(image.numpy()) for image in twice}) > len({bytes(image.numpy()) for image in once})


@pytest.mark.parametrize("settings", [{}, {"depth": 2, "width": 2}, {"all_ops": False, "severity": 1}])
def test_augmix_is_the_stated_mixture_of_chains(settings):
    images = pictures((12, 3, 16, 16))
    augmentation = SINGLE_SAMPLE.build({"name": "augmix", **settings})
    result = augmentation(images, generator(2))
    # The same draws, one image at a time.
    rng, batch = draws(2), len(images)
    space = v2.AugMix._AUGMENTATION_SPACE if augmentation.all_ops else v2.AugMix._PARTIAL_AUGMENTATION_SPACE
    titles = list(space)
    kept = rng.beta(1, 1, size=batch)
    chains = rng.dirichlet([1.0] * augmentation.width, size=batch)
    expected = images.double() * torch.from_numpy(kept).view(-1, 1, 1, 1)
    for chain in range(augmentation.width):
        depths = [augmentation.depth] * batch if augmentation.depth else rng.integers(1, 4, size=batch)
        changed = images.clone()
        for step in range(max(depths)):
            drawn = rng.integers(len(titles), size=batch)
            level = rng.integers(augmentation.severity, size=batch)
            negative = rng.random(batch) < 0.5
            for row in range(batch):
                if step >= depths[row]:
                    continue
                magnitudes, signed = space[titles[drawn[row]]]
                values = magnitudes(10, 16, 16)
                magnitude = 0.0 if values is None else float(values[level[row]])
                magnitude = -magnitude if signed and negative[row] else magnitude
                changed[row] = torchvision_operation(changed[row], titles[drawn[row]], magnitude, "bilinear")
        share = torch.from_numpy((1 - kept) * chains[:, chain]).view(-1, 1, 1, 1)
        expected += changed.double() * share
    assert almost_equal(result, expected.round().to(torch.uint8), share=0.999)


def test_augmix_does_not_darken_an_image_that_no_operation_changes():
    # At severity 1 geometry stands still, and four bits hold an even grey of 240.
    grey = torch.full((200, 3, 8, 8), 240, dtype=torch.uint8)
    result = SINGLE_SAMPLE.build({"name": "augmix", "severity": 1, "all_ops": False})(grey, generator())
    assert (result == 240).all()


# colour


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (operations.brightness, functional.adjust_brightness, (0.0, 0.6, 1.0, 1.37)),
        (operations.contrast, functional.adjust_contrast, (0.0, 0.6, 1.0, 1.37)),
        (operations.saturation, functional.adjust_saturation, (0.0, 0.6, 1.0, 1.37)),
        (operations.hue, functional.adjust_hue, (-0.5, -0.1, 0.0, 0.23)),
    ],
)
def test_colour_operations_are_torchvisions(ours, theirs, factors, channels):
    images = pictures((4, channels, 32, 32))
    result = ours(images, torch.tensor(factors).view(-1, 1, 1, 1))
    expected = torch.stack([theirs(image, factor) for image, factor in zip(images, factors, strict=True)])
    assert almost_equal(result, expected)


def test_color_jitter_applies_all_four_in_an_order_per_sample():
    images = pictures((24, 3, 16, 16))
    result = SINGLE_SAMPLE.build("color_jitter")(images, generator(1))
    rng = draws(1)
    factors = rng.uniform([0.6, 0.6, 0.6, -0.1], [1.4, 1.4, 1.4, 0.1], size=(24, 4))
    order = rng.permuted(np.tile(np.arange(4), (24, 1)), axis=1)
    theirs = [
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    ]
    assert len(np.unique(order, axis=0)) > 6
    for image, drawn, steps, changed in zip(images, factors, order, result, strict=True):
        for step in steps:
            image = theirs[step](image, float(drawn[step]))
        apart = (changed.int() - image.int()).abs()
        assert float((apart <= 1).float().mean()) > 0.98


def test_color_jitter_factors_are_uniform():
    images = torch.full((3000, 1, 2, 2), 150, dtype=torch.uint8)
    jitter = SINGLE_SAMPLE.build({"name": "color_jitter", "brightness": 0.5, "contrast": 0})
    factor = (jitter(images, generator())[:, 0, 0, 0].double().numpy() + 0.5) / 150
    assert scipy.stats.kstest(factor, scipy.stats.uniform(0.5, 1.0).cdf).pvalue > SURE


# geometry


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rotation_is_torchvisions(shape, interpolation):
    images = pictures(shape)
    rotation = SINGLE_SAMPLE.build({"name": "rotation", "degrees": 60, "interpolation": interpolation})
    result = rotation(images, generator())
    mode = v2.InterpolationMode(interpolation)
    for image, turned, angle in zip(images, result, draws().uniform(-60, 60, size=len(images)), strict=True):
        assert almost_equal(turned, functional.rotate(image, float(angle), mode), share=0.98)


def test_crop_and_resize_is_torchvisions():
    images = pictures((5, 3, 32, 24))
    boxes = np.array([[0, 0, 32, 24], [3, 4, 10, 12], [31, 23, 1, 1], [0, 5, 32, 2], [12, 0, 20, 24]]).T
    result = geometry.crop_and_resize(images, boxes)
    for image, box, enlarged in zip(images, boxes.T.tolist(), result, strict=True):
        expected = functional.resized_crop(image.float(), *box, size=[32, 24], antialias=True)
        assert almost_equal(enlarged, expected.round().to(torch.uint8), share=0.98)


@pytest.mark.parametrize("shape", [(48, 48), (48, 16), (16, 48)])
def test_resized_crops_are_distributed_as_torchvisions(shape):
    boxes = SINGLE_SAMPLE.build("random_resized_crop").boxes(draws(), 1500, *shape)
    torch.manual_seed(0)
    theirs, image = v2.RandomResizedCrop(size=shape), torch.zeros((1, *shape), dtype=torch.uint8)
    reference = [theirs.make_params([image]) for _ in range(1500)]
    for values, key in zip(boxes, ("top", "left", "height", "width"), strict=True):
        assert scipy.stats.ks_2samp(values, [box[key] for box in reference]).pvalue > SURE


def test_resized_crop_without_a_fitting_rectangle_takes_the_central_one():
    crop = SINGLE_SAMPLE.build({"name": "random_resized_crop", "scale": [1, 1], "ratio": [2, 3]})
    assert (crop.boxes(draws(), 5, 24, 24) == np.array([[6], [0], [12], [24]])).all()
    crop = SINGLE_SAMPLE.build({"name": "random_resized_crop", "scale": [1, 1], "ratio": [0.25, 0.5]})
    assert (crop.boxes(draws(), 5, 24, 24) == np.array([[0], [6], [24], [12]])).all()


# covering


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("channels", "settings", "colour"),
    [
        (3, {}, [125, 123, 114]),
        (1, {}, [123]),
        (3, {"fill": 7, "size": 0.25}, [7, 7, 7]),
        (3, {"fill": [1, 2, 3], "size": 1}, [1, 2, 3]),
        (1, {"fill": 200, "size": 0.01}, [200]),
    ],
)
def test_cutout_covers_one_clipped_square(channels, settings, colour, channels_last):
    images = torch.full((64, channels, 16, 20), 255, dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last) if channels_last else images
    result = SINGLE_SAMPLE.build({"name": "cutout", **settings})(images, generator())
    side = max(1, round(settings.get("size", 0.5) * 16))
    rng = draws()
    top, left = rng.integers(16, size=64) - side // 2, rng.integers(20, size=64) - side // 2
    for row, image in enumerate(result):
        expected = torch.full((channels, 16, 20), 255, dtype=torch.uint8)
        y, x = max(top[row], 0), max(left[row], 0)
        expected[:, y : top[row] + side, x : left[row] + side] = torch.tensor(colour).view(-1, 1, 1)
        assert torch.equal(image, expected)


def test_erasing_covers_the_drawn_rectangles():
    images = pictures((40, 3, 16, 12))
    erasing = SINGLE_SAMPLE.build({"name": "random_erasing", "fill": [9, 8, 7]})
    result = erasing(images, generator())
    boxes = erasing.boxes(draws(), 40, 16, 12)
    assert 0 < np.count_nonzero(boxes[2]) < 40
    for image, erased, (top, left, tall, wide) in zip(images, result, boxes.T, strict=True):
        colour = torch.tensor([9, 8, 7], dtype=torch.uint8).view(-1, 1, 1)
        expected = functional.erase(image, top, left, tall, wide, colour) if tall else image
        assert torch.equal(erased, expected)


def test_erasing_is_distributed_as_torchvisions():
    boxes = SINGLE_SAMPLE.build({"name": "random_erasing", "probability": 1}).boxes(draws(), 1500, 48, 32)
    torch.manual_seed(0)
    theirs, image = v2.RandomErasing(p=1), torch.zeros((1, 48, 32), dtype=torch.uint8)
    reference = [theirs.make_params([image]) for _ in range(1500)]
    for values, key in zip(boxes, "ijhw", strict=True):
        assert scipy.stats.ks_2samp(values, [box[key] for box in reference]).pvalue > SURE


def test_erasing_probability_and_noise():
    images = torch.full((1000, 1, 16, 16), 128, dtype=torch.uint8)
    result = SINGLE_SAMPLE.build({"name": "random_erasing", "probability": 0.25, "fill": "noise"})(images, generator())
    covered = (result != 128).flatten(1).any(dim=1)
    assert scipy.stats.binomtest(int(covered.sum()), 1000, 0.25).pvalue > SURE
    values = result[result != 128].numpy()
    counts = np.delete(np.bincount(values, minlength=256), 128)
    assert scipy.stats.chisquare(counts).pvalue > SURE


# blur and quantization


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_blur_is_torchvisions(shape, channels_last):
    images = pictures(shape, channels_last)
    result = SINGLE_SAMPLE.build({"name": "gaussian_blur", "probability": 0.6, "kernel_size": 7})(images, generator())
    rng = draws()
    blurred, sigma = rng.random(len(images)) < 0.6, rng.uniform(0.1, 2.0, size=len(images))
    assert 0 < blurred.sum() < len(images)
    for image, changed, chosen, deviation in zip(images, result, blurred, sigma, strict=True):
        expected = functional.gaussian_blur(image, [7, 7], [float(deviation)] * 2) if chosen else image
        assert almost_equal(changed, expected)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("value", ["random", "middle"])
@pytest.mark.parametrize("shape", SHAPES)
def test_quantization_is_the_papers(shape, value, channels_last):
    images, regions = pictures(shape, channels_last), 5
    settings = {"name": "randomized_quantization", "regions": regions, "value": value, "probability": 0.8}
    result = SINGLE_SAMPLE.build(settings)(images, generator())
    rng, (batch, channels) = draws(), shape[:2]
    changed = rng.random(batch) < 0.8
    cuts = np.sort(rng.random((batch, channels, regions - 1)), axis=-1)
    inside = rng.random((batch, channels, regions)) if value == "random" else np.full((batch, channels, regions), 0.5)
    for row in range(batch):
        for channel in range(channels):
            before, after = images[row, channel].double().numpy(), result[row, channel].numpy()
            if not changed[row]:
                assert (before == after).all()
                continue
            low, spread = before.min(), before.max() - before.min()
            ends = [low, *(low + cuts[row, channel] * spread), before.max() + 1e-6]
            for number in range(regions):
                chosen = (before >= ends[number]) & (before < ends[number + 1])
                level = ends[number] + inside[row, channel, number] * (ends[number + 1] - ends[number])
                assert (np.abs(after[chosen] - level) <= 0.5 + 1e-3).all()
            assert len(np.unique(after)) <= regions
    assert changed.any()


# settings


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("randaugmnt", "did you mean 'randaugment'"),
        ({"name": "random_crop", "pading": 2}, "'pading'; did you mean 'padding'"),
        ({"name": "random_crop", "padding": -1}, "padding: Input should be greater than or equal to 0"),
        ({"name": "horizontal_flip", "probability": 1.5}, "probability: Input should be less than or equal to 1"),
        ({"name": "randaugment", "magnitude": 31}, "magnitude 31 must be below bins 31"),
        ({"name": "randaugment", "space": "vase"}, "space: Input should be 'torchvision', 'vaze' or 'vaze_digits'"),
        ({"name": "auto_augment", "policy": "mnist"}, "policy: Input should be 'cifar10', 'imagenet' or 'svhn'"),
        ({"name": "random_erasing", "scale": [0.5, 0.1]}, "lower limit 0.5 is above the upper limit 0.1; swap them"),
        ({"name": "gaussian_blur", "kernel_size": 4}, "4 is even; take 5"),
        ({"name": "cutout", "fill": [1, 2]}, "fill"),
        ({"name": "color_jitter", "hue": 0.6}, "hue: Input should be less than or equal to 0.5"),
    ],
)
def test_bad_settings_are_named(specification, message):
    with pytest.raises(SettingsError) as caught:
        SINGLE_SAMPLE.build(specification)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros((2, 3, 8, 8)),
        torch.zeros((3, 8, 8), dtype=torch.uint8),
        torch.zeros((2, 4, 8, 8), dtype=torch.uint8),
        torch.zeros((2, 8, 8, 3), dtype=torch.uint8),
    ],
)
def test_images_of_another_kind_are_refused(images):
    with pytest.raises(DataError, match=r"RandomCrop needs uint8 images \[batch, 1 or 3, height, width\]"):
        SINGLE_SAMPLE.build("random_crop")(images, generator())


def test_blur_wider_than_the_image_is_refused():
    with pytest.raises(SettingsError, match="kernel_size 17 needs images of more than 8 pixels a side, got 8x8"):
        SINGLE_SAMPLE.build({"name": "gaussian_blur", "kernel_size": 17})(pictures((2, 1, 8, 8)), generator())
