"""The training batches of a run by step: which images, how they are augmented and mixed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..augment import MULTI_SAMPLE, SINGLE_SAMPLE
from ..core.device import generator
from ..core.errors import TrainingError
from ..datasets.loader import Shown
from ..methods import Batch
from .distributed import ProcessGroup
from .run_config import ImagesSeen, RunConfig


class Batches:
    """`batches[step]` is the batch of that step, counted from 0 through all epochs; images that do not fill the
    last batch of an epoch sit it out.

    A batch depends on its step and on seed, split, augmentation and batch size alone, not on what was asked for
    before: training resumes anywhere, and students that share these settings see the same images, so that they can
    share one file of cached teacher logits.

    Args:
        config: the run's resolved settings, or what they say of its images.
        labels: int64 `[n]` on the device, of the images in `images`.
        processes: the processes that each make every batch, if there are several: of images that are decoded or
            fetched as they are read, each reads its own rows and is sent those of the others.

    Raises:
        TrainingError: there are fewer images than one batch holds, or mixing would end before the first step.
    """

    def __init__(
        self,
        config: RunConfig | ImagesSeen,
        images: Shown,
        labels: Tensor,
        normalize: Callable[[Tensor], Tensor],
        processes: ProcessGroup | None = None,
    ):
        self.images, self.labels, self.normalize = images, labels, normalize
        self.processes = processes if images.reads_ahead and images.resident is None else None
        self.key = (config.seed, config.split)
        self.single = [SINGLE_SAMPLE.build(one) for one in config.augment.single]
        self.multi = MULTI_SAMPLE.build(config.augment.multi) if config.augment.multi else None
        self.size = config.optimization.batch_size
        self.steps_per_epoch = len(images) // self.size
        self.mixed_steps = round(config.augment.multi_until * config.optimization.epochs * self.steps_per_epoch)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        if self.steps_per_epoch == 0:
            raise TrainingError(f"{len(images)} training images do not fill one batch of {self.size}; lower batch_size")
        if self.mixed_steps == 0:
            raise TrainingError(
                f"augment.multi_until: {config.augment.multi_until} of this training is less than one step, so no "
                "batch would be mixed; raise it, or leave augment.multi out"
            )

    def __getitem__(self, step: int) -> Batch:
        indices = self._indices(step)
        draws = generator(*self.key, "augment", step)
        pixels = self._read(indices, self._indices(step + 1))
        for augmentation in self.single:
            pixels = augmentation(pixels, draws)
        images = self.normalize(pixels)
        labels = self.labels[indices.to(self.labels.device, non_blocking=True)]
        mixed = None
        if (
            self.multi is not None
            and torch.rand((), generator=draws).item() < self.multi.probability
            and step < self.mixed_steps
        ):
            mixed = self.multi(images, draws)
        return Batch(images, labels, mixed, step)

    def _read(self, indices: Tensor, next_indices: Tensor) -> Tensor:
        """The pixels of a batch. Augmentation needs all of them: its draws are for the batch as a whole."""
        if self.processes is None:
            return self.images.batch(indices, next_indices=next_indices)
        own = self.images.batch(self.processes.share(indices), next_indices=self.processes.share(next_indices))
        # without a copy as channels last, in which they are stored
        return self.processes.gather(own.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _indices(self, step: int) -> Tensor:
        """The indices of a batch's images; the order of its epoch goes to the device once, not batch by batch."""
        epoch, of_epoch = divmod(step, self.steps_per_epoch)
        if epoch != self._order[0]:
            order = torch.randperm(len(self.images), generator=generator(*self.key, "order", epoch))
            self._order = (epoch, self.images.place(order))
        return self._order[1][of_epoch * self.size : (of_epoch + 1) * self.size]
