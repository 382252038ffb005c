"""Reciprocal points: a class is told by how far it is from what it is not (Chen et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from ..core.registry import settings_class
from .base import Batch, Method, Teacher, Terms

if TYPE_CHECKING:
    from ..models.classifier import Classifier


@settings_class
class ReciprocalPoints(Method):
    """ARPL: `CE(logits / tau, y) + weight * max(0, d_e(z, p_y) - R)` with one learnable point p_k a class.

    Logits are distances from the points (`models.heads.ReciprocalPointHead`); the second term keeps the known classes
    within the learnable margin R of theirs, so that the open space outside them is bounded. Score: the maximum logit.
    "Adversarial reciprocal points learning for open set recognition", Chen et al. 2021, without the confusing samples
    that its extension ARPL+CS generates. On a mixed image both terms take the labels of the sources by their shares.

    Args:
        weight: of the margin term (authors: 0.1).
        tau: temperature of the logits in training.
        label_smoothing: of the cross entropy, as in the tuned version of Vaze et al. 2022.
    """

    weight: Annotated[float, Field(ge=0, le=1000)] = 0.1
    tau: Annotated[float, Field(ge=0.001, le=1000)] = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    family: ClassVar[str | None] = "baseline"
    head: ClassVar[str] = "reciprocal_points"

    def loss(self, student: Classifier, teacher: Teacher | None, batch: Batch) -> tuple[Terms, Terms]:
        from .losses import mixed_cross_entropy

        images, targets, weights = batch.inputs()
        _, logits, excess = student(images)
        outside = (weights * excess.gather(1, targets).relu()).sum(dim=1)
        return {
            "label": mixed_cross_entropy(logits / self.tau, targets, weights, smoothing=self.label_smoothing),
            "margin": self.weight * outside.mean(),
        }, {"outside_share": (outside > 0).float().mean()}
