"""Plain (symmetric) knowledge distillation: the teacher sees what the student sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import pydantic
from pydantic import Field

from ..core.registry import settings_class
from .base import Batch, Method, Teacher, Terms, needed

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.classifier import Classifier


@settings_class
class Distillation(Method):
    """`alpha * label loss + weight * D(S(x), T(x))`, with the same x, raw or mixed, for both networks.

    `loss_name` picks D: `dist` (Huang et al. 2022), `kl` (Hinton et al. 2015) or `decoupled` (Zhao et al. 2022).
    On a mixed image the label loss takes both labels, and the decoupled loss splits off the one of the largest weight.

    Claims it controls for. Without mixing (`kd_raw`): whatever asymmetric distillation gains may come from the teacher
    on raw images alone. With mixing (`kd_mixed`): plain distillation does not repair what mixing does; the label loss
    on mixed images is part of this one, so it does not speak of distillation alone.
    """

    loss_name: Literal["dist", "kl", "decoupled"] = "dist"
    alpha: Annotated[float, Field(ge=0, le=1000)] = 1.0
    weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    tau: Annotated[float, Field(ge=0.001, le=1000)] = 1.0

    needs_teacher: ClassVar[bool] = True
    family: ClassVar[str | None] = "distillation"

    @pydantic.model_validator(mode="after")
    def _asks_for_something(self) -> Distillation:
        if self.alpha == self.weight == 0:
            raise ValueError("alpha and weight are both 0, so nothing is learned; set one of them above 0")
        return self

    def loss(self, student: Classifier, teacher: Teacher | None, batch: Batch) -> tuple[Terms, Terms]:
        from .losses import main_label, mixed_cross_entropy

        images, targets, weights = batch.inputs()
        teacher = needed(teacher)
        answer = teacher.on_raw(batch) if batch.mixed is None else teacher.on_mixed(batch)
        _, logits = student(images)
        return {
            "label": self.alpha * mixed_cross_entropy(logits, targets, weights),
            "distill": self.weight * self._distance(logits, answer, main_label(targets, weights)),
        }, {}

    def _distance(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        from . import losses

        if self.loss_name == "dist":
            return losses.dist(student, teacher, tau=self.tau)
        if self.loss_name == "kl":
            return losses.kl_distillation(student, teacher, tau=self.tau)
        return losses.decoupled_distillation(student, teacher, target, tau=self.tau)
