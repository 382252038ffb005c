"""The training batches of a run by number: which images, augmented how, mixed with whom."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..augment import MULTI_SAMPLE, SINGLE_SAMPLE
from ..core.device import generator
from ..core.errors import TrainingError
from ..datasets.loader import Shown
from ..methods import Batch
from .distributed import World
from .run_config import ImagesSeen, RunConfig


class Batches:
    """`batches[number]` is the batch of step `number`, counted from 0 through all epochs; images that do not fill the
    last batch of an epoch sit it out.

    A batch depends on its number and on seed, split, augmentation and batch size alone, not on what was asked for
    before: training resumes anywhere, and students that share these settings see the same images, so that one
    recording of their teacher's answers serves them all.

    Args:
        config: the run's resolved settings, or what they say of its images.
        labels: int64 `[n]` on the device, of the images in `images`.
        world: the processes that each make every batch, if there are several: of images that are decoded or fetched as
            they are read, each reads its own rows and is sent those of the others.

    Raises:
        TrainingError: there are fewer images than one batch holds, or mixing would end before the first step.
    """

    def __init__(
        self,
        config: RunConfig | ImagesSeen,
        images: Shown,
        labels: Tensor,
        normalize: Callable[[Tensor], Tensor],
        world: World | None = None,
    ):
        self.images, self.labels, self.normalize = images, labels, normalize
        self.world = world if images.reads_ahead and images.resident is None else None
        self.key = (config.seed, config.split)
        self.single = [SINGLE_SAMPLE.build(one) for one in config.augment.single]
        self.multi = MULTI_SAMPLE.build(config.augment.multi) if config.augment.multi else None
        self.size = config.optimization.batch_size
        self.an_epoch = len(images) // self.size
        self.mixed_steps = round(config.augment.multi_until * config.optimization.epochs * self.an_epoch)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        if self.an_epoch == 0:
            raise TrainingError(f"{len(images)} training images do not fill one batch of {self.size}; lower batch_size")
        if self.mixed_steps == 0:
            raise TrainingError(
                f"augment.multi_until: {config.augment.multi_until} of this training is less than one step, so no "
                "batch would be mixed; raise it, or leave augment.multi out"
            )

    def __getitem__(self, number: int) -> Batch:
        chosen = self._chosen(number)
        draws = generator(*self.key, "augment", number)
        pixels = self._read(chosen, self._chosen(number + 1))
        for augmentation in self.single:
            pixels = augmentation(pixels, draws)
        images = self.normalize(pixels)
        labels = self.labels[chosen.to(self.labels.device, non_blocking=True)]
        mixed = None
        if (
            self.multi is not None
            and torch.rand((), generator=draws).item() < self.multi.probability
            and number < self.mixed_steps
        ):
            mixed = self.multi(images, draws)
        return Batch(images, labels, mixed, number)

    def _read(self, chosen: Tensor, following: Tensor) -> Tensor:
        """The pixels of a batch. Augmentation needs all of them: its draws are for the batch as a whole."""
        if self.world is None:
            return self.images.batch(chosen, following=following)
        own = self.images.batch(self.world.share(chosen), following=self.world.share(following))
        # without a copy as channels last, in which they are stored
        return self.world.gather(own.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _chosen(self, number: int) -> Tensor:
        """The positions of a batch's images; the order of its epoch goes to the device once, not batch by batch."""
        epoch, step = divmod(number, self.an_epoch)
        if epoch != self._order[0]:
            order = torch.randperm(len(self.images), generator=generator(*self.key, "order", epoch))
            self._order = (epoch, self.images.place(order))
        return self._order[1][step * self.size : (step + 1) * self.size]
