"""Cross entropy, on raw or on mixed images, with optional label smoothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import lazy_loader as lazy
from pydantic import Field

from ..core.registry import settings_class
from .base import Batch, Method, Teacher, Terms

if TYPE_CHECKING:
    from ..models.classifier import Classifier

# Parsing the workflow reads the settings of every method: torch waits until a loss is computed.
torch = lazy.load("torch")


@settings_class
class CrossEntropy(Method):
    """`CE(S(x), y)`; on a mixed image the cross entropy with the labels of its sources, weighted by their shares."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def loss(self, student: Classifier, teacher: Teacher | None, batch: Batch) -> tuple[Terms, Terms]:
        from .losses import mixed_cross_entropy

        if batch.mixed is None:
            _, logits = student(batch.images)
            loss = torch.nn.functional.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
            return {"label": loss}, {}
        _, logits = student(batch.mixed.images)
        targets = batch.labels[batch.mixed.sources]
        return {"label": mixed_cross_entropy(logits, targets, batch.mixed.weights, smoothing=self.label_smoothing)}, {}
