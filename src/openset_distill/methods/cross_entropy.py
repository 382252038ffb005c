"""Cross entropy, on raw and on mixed images, with optional label smoothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import lazy_loader as lazy
from pydantic import Field

from ..core.registry import settings_class
from .base import Batch, Method, Teacher, Terms

# Parsing the workflow reads the settings of every method: torch waits until a loss is computed.
if TYPE_CHECKING:
    import torch

    from ..models.classifier import Classifier
else:
    torch = lazy.load("torch")


@settings_class
class CrossEntropy(Method):
    """`CE(S(x), y)`; on a mixed image the cross entropy with the labels of its sources, by their mixing weights.

    Claim it controls for: mixing lowers open-set performance. With `combine: add` the raw images keep their loss beside
    the mixed ones, `CE(S(x), y) + lam * CE(S(m), y_a) + (1 - lam) * CE(S(m), y_b)`: what mixing takes away may be the
    raw loss that it replaces (RegMixup: Pinto et al. 2022, "Using mixup as a regularizer can surprisingly improve
    accuracy and out-of-distribution robustness", who mix every batch and draw lambda near one half).

    Args:
        label_smoothing: of raw and of mixed labels.
        combine: on a mixed batch the mixed loss replaces the raw loss, or is added to it (a second pass).
    """

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    combine: Literal["replace", "add"] = "replace"

    @property
    def needs_mixing(self) -> bool:
        return self.combine == "add"

    def loss(self, student: Classifier, teacher: Teacher | None, batch: Batch) -> tuple[Terms, Terms]:
        from .losses import mixed_cross_entropy

        terms: Terms = {}
        if batch.mixed is None or self.combine == "add":
            _, logits = student(batch.images)
            terms["label"] = torch.nn.functional.cross_entropy(
                logits, batch.labels, label_smoothing=self.label_smoothing
            )
        if batch.mixed is not None:
            _, logits = student(batch.mixed.images)
            mixed = mixed_cross_entropy(
                logits, batch.labels[batch.mixed.sources], batch.mixed.weights, smoothing=self.label_smoothing
            )
            terms["mixed_label" if self.combine == "add" else "label"] = mixed
        return terms, {}
