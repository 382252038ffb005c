"""What a training objective is given and what it gives back."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, ClassVar, Protocol

from ..core.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from ..augment import Mixed
    from ..models.classifier import Classifier

Terms = dict[str, "Tensor"]


def total(terms: Iterable[Tensor]) -> Tensor:
    """The sum of at least one tensor."""
    return reduce(operator.add, terms)


@dataclass(frozen=True)
class Batch:
    """One training batch, on the device.

    Attributes:
        images: float `[batch, channels, height, width]`, after the single-sample augmentations, normalised.
        labels: int64 `[batch]`.
        mixed: the same images after a multi-sample augmentation, or None when this batch is not mixed.
        step: the training step, counted from 0 through all epochs.
    """

    images: Tensor
    labels: Tensor
    mixed: Mixed | None
    step: int

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and mixing weights `[batch, sources]` for methods that treat mixed images like any others."""
        if self.mixed is None:
            return self.images, self.labels[:, None], self.images.new_ones(len(self.labels), 1)
        return self.mixed.images, self.labels[self.mixed.sources], self.mixed.weights


class Teacher(Protocol):
    """The teacher of a student: logits `[batch, classes]`, without a graph, on the images of a batch."""

    def on_raw(self, batch: Batch) -> Tensor: ...

    def on_mixed(self, batch: Batch) -> Tensor: ...

    def on_both(self, batch: Batch) -> tuple[Tensor, Tensor]: ...

    @property
    def head_bias(self) -> Tensor | None:
        """The bias of its linear head `[classes]`: the members' mean in an ensemble, zero where a linear head has none.

        None for heads of another kind.
        """
        ...


def needed(teacher: Teacher | None) -> Teacher:
    """`teacher`, for a method whose `needs_teacher` says that there is one.

    Raises:
        SettingsError: there is none.
    """
    if teacher is None:
        raise SettingsError("this method distils but was given no teacher; give it one, or choose cross_entropy")
    return teacher


class Method(ABC):
    """A training objective.

    Attributes:
        needs_teacher: whether `loss` is given one.
        family: of a run that names none; None is msa where its images are mixed and cross_entropy where not.
        head: what its classifier has on top of the encoder, a name of `models.heads.HEADS`.
        needs_mixing: whether the settings make no sense in a run whose batches are never mixed.
        needs_linear_teacher: whether `loss` reads `Teacher.head_bias`.
        asks_on_mixed: whether `loss` asks its teacher for logits on mixed images.
    """

    needs_teacher: ClassVar[bool] = False
    family: ClassVar[str | None] = None
    head: ClassVar[str] = "linear"

    @property
    def needs_mixing(self) -> bool:
        return False

    @property
    def needs_linear_teacher(self) -> bool:
        return False

    @property
    def asks_on_mixed(self) -> bool:
        return True

    @abstractmethod
    def loss(self, student: Classifier, teacher: Teacher | None, batch: Batch) -> tuple[Terms, Terms]:
        """(terms whose sum is the loss, statistics to record)."""
