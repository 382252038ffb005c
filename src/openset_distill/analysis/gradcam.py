"""Where networks look in mixed images: Grad-CAM, and how much of it lies on each source."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..augment.base import numpy_generator
from ..augment.multi_sample import CutMix
from ..core.determinism import named_if_not_deterministic
from ..core.device import generator
from ..models.classifier import Classifier
from .mixing_scan import other_class_partners

LARGEST = 64  # pixels, of a picture that is kept
BATCH = 16  # images whose activations are held at a time


def last_map(model: Classifier, images: Tensor) -> nn.Module:
    """The module whose output is the network's last feature map, `[batch, channels, height, width]`."""
    finished: list[nn.Module] = []

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            finished.append(module)

    hooks = [module.register_forward_hook(note) for module in model.encoder.modules()]
    with torch.inference_mode():
        model(images[:1])
    for hook in hooks:
        hook.remove()
    return finished[-1]


def grad_cam(model: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Where a network sees the class that it says, by the last feature map.

    Selvaraju et al. 2017, "Grad-CAM: Visual explanations from deep networks via gradient-based localization": the maps
    weighted by the mean gradient of the class's logit, summed, negative parts set to zero; enlarged bilinearly.

    Args:
        model: in evaluation mode.
        images: normalised float `[n, channels, height, width]`.

    Returns:
        float32 `[n, height, width]`, not negative, and the classes, int64 `[n]`, both on the CPU. A map is zero
        everywhere where every part speaks against the class.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    explain = LayerGradCam(lambda part: model(part)[1], last_map(model, images))
    maps, classes = [], []
    for part in images.split(BATCH):
        with torch.no_grad():
            top = model(part)[1].argmax(dim=1)
        with named_if_not_deterministic(model):
            found = explain.attribute(part, target=top, relu_attributions=True)
        found = LayerAttribution.interpolate(found.detach().float(), part.shape[-2:], "bilinear")
        maps.append(found[:, 0].clamp(min=0).cpu())
        classes.append(top.cpu())
    return torch.cat(maps), torch.cat(classes)


class Pairs:
    """Pairs of images a and b of different classes, and their CutMix, whose sources are known pixel by pixel.

    Args:
        images: uint8 `[n, channels, height, width]`, each of which is the image a of one pair.
        labels: int64 `[n]`.
        seed: of the partners b, of lambda (uniform from 0.2 to 0.8, before the box is cut off at the border) and of
            the boxes.
    """

    def __init__(self, images: Tensor, labels: Tensor, *, seed: int):
        partner = other_class_partners(labels, generator(seed, "partners"))
        self.labels = {"a": labels.tolist(), "b": labels[partner].tolist()}
        partners = images[partner.to(images.device)]
        rng = numpy_generator(generator(seed, "boxes"))
        lam = rng.uniform(0.2, 0.8, len(images))
        # bool [n, height, width], True where b shows
        self.pasted = CutMix().masks(partners, lam, rng)[:, 0]
        mixed = torch.where(self.pasted[:, None], partners, images)
        self.views = {"a": images, "b": partners, "mixed": mixed}

    def pictures(self, classes: Sequence[str], shown: int) -> Iterator[dict[str, Any]]:
        """The images of the first `shown` pairs: rows with pair, view (a, b, mixed, or pasted: the place of b), class
        (of a and b) and picture.
        """
        white = self.pasted[:, None].to(torch.uint8) * 255
        for view, images in {**self.views, "pasted": white}.items():
            for pair, pixels in enumerate(images[:shown].permute(0, 2, 3, 1).cpu().numpy()):
                name = classes[self.labels[view][pair]] if view in self.labels else ""
                yield {"pair": pair, "view": view, "class": name, "picture": picture(pixels)}

    def attention(
        self, models: Mapping[str, Classifier], normalize: Callable[[Tensor], Tensor], shown: int
    ) -> Iterator[dict[str, Any]]:
        """What each network predicts for each pair's mixed image, and which part of the image its Grad-CAM is on.

        Args:
            models: by run name, in evaluation mode.
            normalize: uint8 images -> what the networks take.
            shown: for this many pairs, the first ones, the maps are kept too, and those of the raw images a and b.

        Yields:
            rows with run, pair, view (a, b or mixed), predicted (a, b or neither: whose class it is), area_b and on_b
            (the shares in [0, 1] of the mixed image and of its map that are b's; on_b is NaN where the map is
            zero), and map (`picture` of the map over its largest value; empty for pairs that are not shown).
        """
        pasted = self.pasted.cpu()
        area = pasted.double().mean(dim=(1, 2)).tolist()
        for run, model in models.items():
            for view, images in self.views.items():
                maps, classes = grad_cam(model, normalize(images if view == "mixed" else images[:shown]))
                for pair, (seen, top) in enumerate(zip(maps.double(), classes.tolist(), strict=True)):
                    predicted = next((source for source in "ab" if self.labels[source][pair] == top), "neither")
                    row = {"run": run, "pair": pair, "view": view, "predicted": predicted, "area_b": None, "on_b": None}
                    if view == "mixed":
                        row |= {"area_b": area[pair], "on_b": (seen[pasted[pair]].sum() / seen.sum()).item()}
                    grey = (255 * seen / seen.max().clamp(min=1e-12)).round().byte()
                    yield {**row, "map": picture(grey.numpy()) if pair < shown else ""}


def picture(pixels: np.ndarray) -> str:
    """uint8 `[height, width]` or `[height, width, 1 or 3]` as text: a PNG of at most 64 x 64 pixels in base64."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")
