"""Self-distillation without a teacher: an image learns from another one of its class (Yun et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

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
class ClassWiseSelfDistillation(Method):
    """CS-KD: `CE(S(x), y) + weight * tau^2 * KL(softmax(S(x') / tau) || softmax(S(x) / tau))`, x' of the class of x.

    No gradient reaches S(x'). "Regularizing class-wise predictions via self-knowledge distillation", Yun et al. 2020.
    The paper draws x' from all training images and so doubles the batch; here x' is the next image of that class in the
    batch, at no cost, and an image that is alone with its class is its own x', which gives nothing. A mixed image
    counts to the class with the largest share.

    Args:
        weight: of the term between images.
        tau: its temperature.
    """

    weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    tau: Annotated[float, Field(ge=0.001, le=1000)] = 4.0

    family: ClassVar[str | None] = "distillation"

    def loss(self, student: Classifier, teacher: Teacher | None, batch: Batch) -> tuple[Terms, Terms]:
        from .losses import kl_distillation, main_label, mixed_cross_entropy, next_of_class

        images, targets, weights = batch.inputs()
        _, logits = student(images)
        partner = next_of_class(main_label(targets, weights))
        paired = partner != torch.arange(len(partner), device=partner.device)
        return {
            "label": mixed_cross_entropy(logits, targets, weights),
            "distill": self.weight * kl_distillation(logits, logits[partner], tau=self.tau),
        }, {"paired_share": paired.float().mean()}
