"""Distillation by the distance of logits, on raw and on mixed images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import lazy_loader as lazy
from pydantic import Field

from ..core.registry import settings_class
from .base import Batch, Method, Teacher, Terms, needed

# Parsing the workflow reads the settings of every method: torch waits until a loss is computed.
if TYPE_CHECKING:
    import torch

    from ..models.classifier import Classifier
else:
    torch = lazy.load("torch")


@settings_class
class LogitMatching(Method):
    """The student's logits become the teacher's, size too: `CE(S(x), y) + weight * |c(S(x)) - c(T(x))|^2 / classes`.

    c(z) is z less its mean (`losses.centred_logit_distance`). On a batch that a run's multi-sample augmentation mixed,
    `weight * |c(S(m)) - c(t)|^2 / classes` is added, with t by `mixed_target`:

    - `asymmetric`: `lam * T(a) + (1 - lam) * T(b)`, the teacher's logits on the raw images, mixed as the images are
      (any number of sources). The teacher never sees a mixed image;
    - `symmetric`: `T(m)`: the student copies the teacher's function on more inputs (Beyer et al. 2022, "Knowledge
      distillation: A good teacher is patient and consistent", with a squared distance in place of their KL).

    No term asks a mixed image for the entropy of its labels. Without a mixing in the run, the raw images alone are
    matched (Ba and Caruana 2014, "Do deep nets really need to be deep?", with the label loss kept).

    Claim it controls for: distillation does not repair mixing. DIST compares correlations and is blind to the size of
    logits, which the maximum logit score reads; this loss is not. Without mixing it asks whether mixing adds anything.

    Args:
        weight: of the distance, on raw and on mixed images alike.
        mixed_target: what the student's logits on a mixed image are compared with.
    """

    weight: Annotated[float, Field(gt=0, le=1000)] = 0.3
    mixed_target: Literal["asymmetric", "symmetric"] = "asymmetric"

    needs_teacher: ClassVar[bool] = True
    family: ClassVar[str | None] = "distillation"

    @property
    def needs_mixing(self) -> bool:
        return self.mixed_target == "symmetric"

    @property
    def asks_on_mixed(self) -> bool:
        return self.mixed_target == "symmetric"

    def loss(self, student: Classifier, teacher: Teacher | None, batch: Batch) -> tuple[Terms, Terms]:
        from .losses import centred_logit_distance, weighted_logits

        teacher = needed(teacher)
        if batch.mixed is not None and self.mixed_target == "symmetric":
            on_raw, target = teacher.on_both(batch)
        else:
            on_raw = teacher.on_raw(batch)
        _, logits = student(batch.images)
        terms = {
            "label": torch.nn.functional.cross_entropy(logits, batch.labels),
            "distill": self.weight * centred_logit_distance(logits, on_raw),
        }
        if batch.mixed is not None:
            if self.mixed_target == "asymmetric":
                target = weighted_logits(on_raw, batch.mixed.sources, batch.mixed.weights)
            _, logits = student(batch.mixed.images)
            terms["mixed_distill"] = self.weight * centred_logit_distance(logits, target)
        return terms, {}
