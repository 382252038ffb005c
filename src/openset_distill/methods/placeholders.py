"""Placeholders for the unknown: mixed images stand for new classes (Zhou et al. 2021)."""

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
class Placeholders(Method):
    """PROSER: a classifier's extra logit, the placeholder, comes second on known images and first on mixed ones.

    Raw images: `CE(S(x), y) + beta * CE(S(x) without y, placeholder)`; images mixed from different classes:
    `gamma * CE(S(m), placeholder)`, where S has one logit more than there are classes. "Learning placeholders for
    open-set recognition", Zhou et al. 2021. The paper mixes within the network and fine-tunes a trained classifier;
    here the images are mixed, by the run's multi-sample augmentation, and training starts anew. Score: energy is their
    probability of the placeholder in other units; the maximum logit is taken above the placeholder.

    Args:
        beta: weight of the placeholder's second place.
        gamma: weight of the mixed images.
    """

    beta: Annotated[float, Field(ge=0, le=1000)] = 1.0
    gamma: Annotated[float, Field(ge=0, le=1000)] = 1.0

    family: ClassVar[str | None] = "baseline"
    head: ClassVar[str] = "placeholders"

    @property
    def needs_mixing(self) -> bool:
        return True

    def loss(self, student: Classifier, teacher: Teacher | None, batch: Batch) -> tuple[Terms, Terms]:
        cross_entropy = torch.nn.functional.cross_entropy
        _, logits, placeholder = student(batch.images)
        extended = torch.cat([logits, placeholder], dim=1)
        unknown = torch.full_like(batch.labels, logits.shape[1])
        others = extended.scatter(1, batch.labels[:, None], float("-inf"))
        terms = {
            "label": cross_entropy(extended, batch.labels),
            "second": self.beta * cross_entropy(others, unknown),
        }
        if batch.mixed is not None:
            _, logits, placeholder = student(batch.mixed.images)
            targets = batch.labels[batch.mixed.sources]
            differ = (targets != targets[:, :1]).any(dim=1)
            each = cross_entropy(torch.cat([logits, placeholder], dim=1), unknown, reduction="none")
            terms["mixed"] = self.gamma * (each * differ).sum() / differ.sum().clamp(min=1)
        return terms, {}
