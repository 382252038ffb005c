"""How networks answer as one image turns into another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..augment import MULTI_SAMPLE
from ..core.device import generator
from ..methods.losses import hard_samples
from ..models.classifier import Classifier
from ..models.inference import in_batches


def other_class_partners(labels: Tensor, draws: torch.Generator) -> Tensor:
    """For each sample one of another class, drawn at random: int64 `[n]`.

    A mix within a class has one semantic only, which is not what the scan over lambda asks about.
    """
    order = torch.randperm(len(labels), generator=draws)
    partner = torch.empty_like(order)
    for label in labels.unique():
        own, rest = torch.nonzero(labels == label).flatten(), order[labels[order] != label]
        partner[own] = rest[torch.randint(len(rest), (len(own),), generator=draws)]
    return partner


def part_of(images: Tensor) -> Callable[[int, int, int], Tensor]:
    """Images that are there already, as `in_batches` asks for them."""
    return lambda first, last, _end: images[first:last]


@torch.inference_mode()
def mixing_response(
    models: Mapping[str, Classifier],
    teacher: str,
    images: Tensor,
    labels: Tensor,
    *,
    mixing: str,
    lams: Sequence[float],
    seed: int,
) -> Iterator[dict[str, Any]]:
    """How networks answer as one image turns into another.

    Args:
        models: by run name, in evaluation mode.
        teacher: the name among them of the one whose confidence and hard samples are asked for.
        images: normalised float `[n, channels, height, width]` of known classes.
        labels: int64 `[n]`.
        mixing: a multi-sample augmentation's name.
        lams: shares of the first image, in [0, 1].

    Yields:
        rows with run, mixing, lam, quantity and value (a mean over the images): `teacher_confidence` (largest softmax
        output) and `hard_share` (top class is neither source's, in [0, 1]) of the teacher; `maximum_logit` and
        `feature_norm` of every network.
    """
    mixer = MULTI_SAMPLE.build(mixing)
    partner = other_class_partners(labels, generator(seed, "partners"))
    for lam in lams:
        mixed = mixer.mix(images, partner.to(images.device), float(lam))
        for run, model in models.items():
            features, logits = in_batches(model, len(labels), part_of(mixed.images))
            means = {
                "maximum_logit": logits.amax(dim=1).mean(),
                "feature_norm": features.norm(dim=1).mean(),
            }
            if run == teacher:
                means["teacher_confidence"] = logits.softmax(dim=1).amax(dim=1).mean()
                hard = hard_samples(logits, labels.to(logits.device), mixed.sources.to(logits.device))
                means["hard_share"] = hard.double().mean()
            for quantity, value in means.items():
                yield {"run": run, "mixing": mixing, "lam": lam, "quantity": quantity, "value": value.item()}
