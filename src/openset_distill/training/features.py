"""The head of a frozen backbone, trained on features that are computed once for each image.

The features of the training images, in each of the augmented views that the run asks for, and of the validation images
lie in a file next to the training's state and are read from there batch by batch: memory does not grow with the
dataset. A run that was stopped continues both where they were.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..augment import SINGLE_SAMPLE
from ..core.device import autocast_dtype, generator, precision_name
from ..core.errors import OpenSetError
from ..core.files import read_json, write_json
from ..core.signals import GracefulShutdown, Interrupted, restores_handlers
from ..datasets.loader import ImageLoader, Normalize
from ..methods import Batch
from ..models.classifier import Classifier, feature_count
from .batches import Batches
from .run_config import RunConfig, fingerprint

# images that pass through the backbone together; a feature depends on its chunk's rounding, so it is never another
CHUNK = 64
ARRAY, RECORD = "features.npy", "features.json"


class HeadOnly(nn.Module):
    """A classifier's head where its features are known: features `[batch, d]` -> (the same, logits)."""

    precision: torch.dtype | None = None

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.head = classifier.head

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        answer = self.head(features)
        return (features, answer) if isinstance(answer, Tensor) else (features, *answer)


class FeatureLoader:
    """Rows of an array of features by position, in place of the images of a `ImageLoader`.

    Args:
        features: float32 `[n, d]`, memory-mapped.
    """

    resident: Tensor | None = None
    reads_ahead: bool = False

    def __init__(self, features: np.ndarray, device: torch.device):
        self.features, self.device = features, device

    def __len__(self) -> int:
        return len(self.features)

    def place(self, indices: Tensor) -> Tensor:
        return indices

    def batch(self, indices: Tensor, next_indices: Tensor | None = None) -> Tensor:
        """Features float32 `[batch, d]`."""
        return torch.from_numpy(self.features[indices.numpy()]).to(self.device)


class FeatureBatches(Batches):
    """The batches of a run by number, with features in place of images; epoch e sees view e modulo their number.

    Args:
        views: float32 `[views, n, d]`, memory-mapped.
    """

    def __init__(self, config: RunConfig, views: np.ndarray, labels: Tensor):
        loaders = [FeatureLoader(view, labels.device) for view in views]
        super().__init__(config, loaders[0], labels, unchanged)
        self.loaders = loaders

    def __getitem__(self, number: int) -> Batch:
        indices = self._indices(number)
        features = self.loaders[number // self.steps_per_epoch % len(self.loaders)].batch(indices)
        return Batch(features, self.labels[indices.to(self.labels.device)], None, number)


def unchanged(features: Tensor) -> Tensor:
    """In place of `Normalize`: features are what the head is given."""
    return features


class FeatureStore:
    """The features of a run's training and validation images in a folder.

    Args:
        folder: for `features.npy`, float32 `[views * n + m, d]`, and `features.json`, which says of what and how many
            rows are complete.
        key: hash of everything that the features are computed from.
    """

    def __init__(self, folder: Path, key: str, report: Callable[[str], None]):
        self.folder, self.key, self.report = folder, key, report

    @restores_handlers
    def computed(
        self,
        passes: Sequence[tuple[ImageLoader, Callable[[Tensor, int], Tensor]]],
        model: Classifier,
        watch: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Features of all images of all passes, one after another: float32 `[rows, d]`, memory-mapped.

        Args:
            passes: images, and what becomes of a chunk of uint8 `[chunk, channels, height, width]` with its number
                before the backbone.
            watch: is told after each chunk how many features are done, and of how many; what it raises ends this.

        Raises:
            OpenSetError: the folder cannot be written, or the disk is full.
            Interrupted: a signal came; finished chunks are kept.
        """
        shape = (sum(len(loader) for loader, _ in passes), feature_count(model.encoder))
        array, done = self._opened(shape)
        if done == shape[0]:
            return array
        model.eval()
        stop, saved, first = GracefulShutdown(), time.monotonic(), 0
        bar = tqdm(total=shape[0], initial=done, desc="features", unit="image", disable=None)
        try:
            for loader, prepared in passes:
                if not len(loader):  # an empty tensor splits into one empty chunk
                    continue
                chunks = torch.arange(len(loader)).split(CHUNK)
                for number, indices in enumerate(chunks):
                    rows = slice(first + int(indices[0]), first + int(indices[-1]) + 1)
                    if rows.stop <= done:
                        continue
                    next_indices = chunks[number + 1] if number + 1 < len(chunks) else None
                    array[rows] = features_of(model, prepared(loader.batch(indices, next_indices=next_indices), number))
                    done = rows.stop
                    bar.update(len(indices))
                    if watch is not None:
                        watch(done, shape[0])
                    if stop.requested or time.monotonic() - saved > 30:
                        self._save(array, done)
                        saved = time.monotonic()
                    if stop.requested:
                        raise Interrupted(
                            f"stopped by a signal after {done} of {shape[0]} features; run again to resume",
                            stop.number,
                        )
                first += len(loader)
        finally:
            bar.close()
        self._save(array, done)
        return array

    def _opened(self, shape: tuple[int, int]) -> tuple[np.memmap, int]:
        """The array, and how many of its rows are complete."""
        path = self.folder / ARRAY
        try:
            record = read_json(self.folder / RECORD) if (self.folder / RECORD).exists() else {}
            if record.get("key") == self.key and path.exists():
                array = np.lib.format.open_memmap(path, mode="r+")
                if array.shape == shape and array.dtype == np.float32 and 0 < record["done"] <= shape[0]:
                    self.report(f"resuming with {record['done']} of {shape[0]} features")
                    return array, record["done"]
        except (OpenSetError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.report(f"{path} cannot be resumed ({' '.join(str(error).split())}); features are computed again")
        _remove(self.folder)
        needed = 4 * shape[0] * shape[1]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # a full disk must be an error here: writing to a hole of a mapped file would kill the process
            if shutil.disk_usage(self.folder).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            _fill(path)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise OpenSetError(
                f"cannot write {path}: {error.strerror or error}; the features of {shape[0]} images need "
                f"{needed / 1e6:.0f} MB: free some space, or use fewer views"
            ) from error
        return array, 0

    def _save(self, array: np.memmap, done: int) -> None:
        array.flush()
        write_json(self.folder / RECORD, {"key": self.key, "done": done})


def folder_of_process(folder: Path, rank: int) -> Path:
    """Where a process of a training in `folder` keeps its features; the first one keeps them in `folder` itself."""
    return folder / f".features{rank}" if rank else folder


def remove_features(folder: Path) -> None:
    """Removes the features of all processes of a training in `folder`, also of those that were killed."""
    _remove(folder)
    for of_process in folder.glob(".features[0-9]*"):
        shutil.rmtree(of_process, ignore_errors=True)


def _remove(folder: Path) -> None:
    for name in (ARRAY, RECORD):
        (folder / name).unlink(missing_ok=True)


def _fill(path: Path) -> None:
    """Gives every page of a file its place on the disk."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "rb+") as stream:
            os.posix_fallocate(stream.fileno(), 0, os.fstat(stream.fileno()).st_size)


@torch.inference_mode()
def features_of(model: Classifier, images: Tensor) -> np.ndarray:
    """Features float32 `[n, d]` of normalised images, in the model's precision."""
    with torch.autocast(images.device.type, dtype=model.precision, enabled=model.precision is not None):
        features = model.encoder(images)
    return features.float().cpu().numpy()


def cached_batches(
    config: RunConfig,
    model: Classifier,
    training: ImageLoader,
    labels: Tensor,
    validation: tuple[ImageLoader, Tensor],
    normalize: Normalize,
    *,
    identity: Mapping[str, Any],
    folder: Path,
    report: Callable[[str], None],
    watch: Callable[[int, int], None] | None = None,
) -> tuple[FeatureBatches, tuple[FeatureLoader, Tensor], FeatureStore]:
    """The batches and the validation images of a run with a frozen backbone, as features.

    Args:
        config: the run's resolved settings, with `caches_features`.
        labels: int64 `[n]` on the device, of the training images.
        identity: of the data (`setup.identity`).
        folder: where the features are kept until `remove_features`.
        watch: as for `FeatureStore.computed`.

    Raises: as `FeatureStore.computed`.
    """
    device, key = labels.device, (config.seed, config.split)
    views, single = config.backbone["views"], [SINGLE_SAMPLE.build(one) for one in config.augment.single]
    model.precision = autocast_dtype(config.optimization.precision, device)

    def plain(pixels: Tensor, _number: int) -> Tensor:
        return normalize(pixels)

    def augmented(view: int) -> Callable[[Tensor, int], Tensor]:
        def prepared(pixels: Tensor, number: int) -> Tensor:
            draws = generator(*key, "view", view, number)
            for augmentation in single:
                pixels = augmentation(pixels, draws)
            return normalize(pixels)

        return prepared

    passes = [(training, augmented(view)) for view in range(views)] or [(training, plain)]
    computed_from = {
        "data": dict(identity),
        "backbone": config.backbone,
        "weights": weights_hash(model.encoder),
        "normalization": config.normalization.plain(),
        "precision": precision_name(model.precision),
        # what rounds: a network's features on another device or by another version differ in their last bits
        "device": device.type,
        "torch": torch.__version__,
        "augment": [list(config.augment.single), *key] if views else None,
        "threads": torch.get_num_threads(),
    }
    store = FeatureStore(folder, fingerprint(computed_from), report)
    array = store.computed([*passes, (validation[0], plain)], model, watch)
    n = len(training)
    of_views = array[: len(passes) * n].reshape(len(passes), n, -1)
    of_validation = FeatureLoader(array[len(passes) * n :], device)
    return FeatureBatches(config, of_views, labels), (of_validation, validation[1]), store


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of a network's weights and buffers, by name and shape."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
