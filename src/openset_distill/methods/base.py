"""What a training objective is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from ..augment import Mixed
    from ..models.classifier import Classifier, Teacher

Terms = dict[str, "Tensor"]


@dataclass(frozen=True)
class Batch:
    """One training batch, on the device.

    Attributes:
        images: float `[batch, channels, height, width]`, after the single-sample augmentations, normalised.
        labels: int64 `[batch]`.
        mixed: the same images after a multi-sample augmentation, or None when this batch is not mixed.
    """

    images: Tensor
    labels: Tensor
    mixed: Mixed | None


class Method(Protocol):
    """A training objective. `needs_teacher` says whether `loss` is given one."""

    needs_teacher: ClassVar[bool]

    def loss(self, student: Classifier, teacher: Teacher | None, batch: Batch) -> tuple[Terms, Terms]:
        """(terms whose sum is the loss, statistics to record)."""
        ...
