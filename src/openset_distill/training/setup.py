"""One run's files turned into what training and analysis work with, and back into files."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.device import autocast_dtype, derive_seed, generator, precision_name, seed_layers
from ..core.errors import CheckpointError, DataError
from ..core.files import AGAIN, atomic_write, read_npz, read_record, sha256
from ..core.names import UNKNOWN_LABEL
from ..datasets.index import StreamedImages
from ..datasets.loader import ImageLoader, Normalize
from ..datasets.prepared import Images, PreparedDataset, open_prepared
from ..evaluation.detectors import TrainingOutputs, balanced_choice
from ..evaluation.evaluate import save_outputs
from ..methods import METHODS
from ..models import build_classifier
from ..models.checkpoint import NetworkSpec, weights_digest
from ..models.classifier import Classifier, channels_last
from ..models.inference import predict
from .batches import Batches
from .distributed import ProcessGroup
from .run_config import ImagesSeen, RunConfig


@dataclass(frozen=True)
class SplitData:
    """A split with the prepared images behind it.

    `parts[0]` is the known dataset's test part, `parts[j]` that of the j-th other dataset; labels are int64.
    `images` are the identities of these datasets (`PreparedDataset.identity`), in the same order.
    """

    train_images: Images | StreamedImages
    parts: tuple[Images | StreamedImages, ...]
    arrays: dict[str, np.ndarray]
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    images: tuple[str, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """What a result of these data is matched by: hash of the split's arrays, classes, and hashes of the images."""
        split = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            split.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + np.ascontiguousarray(array).tobytes())
        return {"split": split.hexdigest(), "classes": list(self.classes), "images": list(self.images)}

    @property
    def train_label(self) -> np.ndarray:
        return self.arrays["train_label"]

    @property
    def channels(self) -> int:
        return self.train_images.shape[-1]

    @property
    def image_size(self) -> int:
        return self.train_images.shape[0]

    def training(self, device: torch.device) -> ImageLoader:
        return ImageLoader(self.train_images, self.arrays["train_index"], device)

    def validation(self, device: torch.device) -> tuple[ImageLoader, Tensor]:
        loader = ImageLoader(self.train_images, self.arrays["validation_index"], device)
        return loader, torch.from_numpy(self.arrays["validation_label"])

    def test(self, device: torch.device) -> list[ImageLoader]:
        """The test images, a loader for each dataset; together they follow the order of `arrays["test_*"]`."""
        source, index = self.arrays["test_source"], self.arrays["test_index"]
        boundaries = np.flatnonzero(np.diff(source)) + 1
        loaders = []
        for rows in np.split(np.arange(len(source)), boundaries):
            loaders.append(ImageLoader(self.parts[source[rows[0]]], index[rows], device))
        return loaders

    def known_test(self, samples: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """At most `samples` known test images, drawn: uint8 `[n, channels, height, width]`, and labels int64 `[n]`."""
        labels = torch.from_numpy(self.arrays["test_label"])
        known = torch.nonzero(labels >= 0).flatten()
        chosen = known[torch.randperm(len(known), generator=generator(seed, "images"))[:samples]]
        # all from the known dataset; only these images are read
        loader = ImageLoader(self.parts[0], self.arrays["test_index"][chosen.numpy()], device)
        return loader.batch(torch.arange(len(chosen))), labels[chosen]

    def normalize(self, config: RunConfig | ImagesSeen, device: torch.device) -> Normalize:
        return Normalize(**config.normalization.plain(), channels=self.channels, device=device)


def open_split(prepared: Path, others: Sequence[Path], split: Path, description: Path) -> SplitData:
    """Opens a split and its prepared datasets.

    Raises:
        DataError: a file is missing or damaged, or the split was made from other prepared data.
        OpenSetError: the description is damaged.
    """
    known, unknown = open_prepared(prepared), [open_prepared(other) for other in others]
    arrays = read_npz(split, "the images of a split")
    described = read_record(description, {"known": list, "known_ids": list, "groups": list, "sources": list})
    parts = (known.test, *(dataset.test for dataset in unknown))
    if len(parts) != len(described["sources"]):
        raise DataError(
            f"split {split} draws on {', '.join(map(str, described['sources']))}, {len(parts)} prepared datasets were "
            f"given; {AGAIN}"
        )
    try:
        check_split(arrays, described, known, parts)
    except ValueError as error:
        raise DataError(f"split {split} does not fit the prepared images of {prepared}: {error}; {AGAIN}") from error
    images = tuple(dataset.identity for dataset in (known, *unknown))
    return SplitData(known.train, parts, arrays, tuple(described["known"]), tuple(described["groups"]), images)


SPLIT_ARRAYS = ("train_index", "train_label", "validation_index", "validation_label", "test_index", "test_label")
SPLIT_ARRAYS += ("test_source", "test_group")


def check_split(
    arrays: Mapping[str, np.ndarray],
    described: Mapping[str, Any],
    known: PreparedDataset,
    parts: Sequence[Images | StreamedImages],
) -> None:
    """Whether a split is one of these images: its indices, labels and groups, and the classes of its description.

    Raises:
        ValueError: says what does not fit.
    """
    for name in SPLIT_ARRAYS:
        if name not in arrays or arrays[name].dtype.kind != "i" or arrays[name].ndim != 1:
            raise ValueError(f"it has no list of whole numbers {name}")
    names = described["known"]
    if not all(isinstance(text, str) for text in (*names, *described["groups"], *described["sources"])):
        raise ValueError("the classes, groups and sources of its description are not all text")
    ids = described["known_ids"]
    if not all(isinstance(one, int) and 0 <= one < len(known.classes) for one in ids) or len(set(ids)) != len(ids):
        raise ValueError("its known classes are no different classes of these images")
    if names != [known.classes[one] for one in ids]:
        raise ValueError("its known classes have other names in these images")
    # the place of each class of the dataset among the known ones, or -1
    place = np.full(len(known.classes), UNKNOWN_LABEL)
    place[ids] = np.arange(len(ids))
    for part, images in (("train", known.train), ("validation", known.train)):
        index, labels = arrays[f"{part}_index"], arrays[f"{part}_label"]
        _check_indices(f"{part}_index", index, len(images))
        if len(labels) != len(index) or not np.array_equal(place[images.labels[index]], labels):
            raise ValueError(f"{part}_label is not what the images' own labels say")
        if (labels < 0).any():
            raise ValueError(f"{part}_index has images of unknown classes")
    if len(arrays["train_index"]) == 0:
        raise ValueError("it has no training images")
    if np.intersect1d(arrays["train_index"], arrays["validation_index"]).size:
        raise ValueError("training and validation share images")
    index, labels = arrays["test_index"], arrays["test_label"]
    source, group = arrays["test_source"], arrays["test_group"]
    if not len(index) == len(labels) == len(source) == len(group):
        raise ValueError("the test images' indices, labels, sources and groups differ in number")
    if len(index) == 0 or source.min() < 0 or source.max() >= len(parts):
        raise ValueError(f"test_source names other datasets than the {len(parts)} given")
    if group.min() < 0 or group.max() >= len(described["groups"]) or not np.array_equal(group == 0, labels >= 0):
        raise ValueError("test_group and test_label do not name the same images known")
    for number, images in enumerate(parts):
        of_part = source == number
        _check_indices(f"test_index of {described['sources'][number]}", index[of_part], len(images))
        expected = place[images.labels[index[of_part]]] if number == 0 else UNKNOWN_LABEL
        if not (labels[of_part] == expected).all():
            raise ValueError("test_label is not what the images' own labels say")


def _check_indices(name: str, index: np.ndarray, count: int) -> None:
    if len(index) and (index.min() < 0 or index.max() >= count):
        raise ValueError(f"{name} runs from {index.min()} to {index.max()}, and there are {count} images")
    if len(np.unique(index)) != len(index):
        raise ValueError(f"{name} names an image twice")


def make_student(config: RunConfig, data: SplitData, device: torch.device) -> Classifier:
    """A new network; runs of one seed and split that share backbone and head start from the same weights."""
    seed_layers(device, config.seed, config.split, "weights")
    model = build_classifier(config.backbone, classes=len(data.classes), channels=data.channels, head=config.head)
    return channels_last(model, device)


def describe(config: RunConfig, data: SplitData) -> NetworkSpec:
    """The network of a run, as its file of weights stores it."""
    return NetworkSpec(config.backbone, data.classes, data.channels, data.image_size, config.head)


def make_batches(
    config: RunConfig | ImagesSeen, data: SplitData, device: torch.device, processes: ProcessGroup | None = None
) -> Batches:
    """The training batches of a run, from the training images of its split.

    Args:
        processes: the processes that share the training, if there are several.
    """
    labels = torch.from_numpy(data.train_label).to(device)
    return Batches(config, data.training(device), labels, data.normalize(config, device), processes)


def identity(data: SplitData, teachers: Sequence[Path], logits: Path | None = None) -> dict[str, Any]:
    """What a training is computed from besides its settings, as hashes: a saved state is continued only where all of it
    is the same.

    Args:
        teachers: weights of the teachers, none without distillation.
        logits: the cached teacher logits that the run reads, if it reads any.

    Raises:
        CheckpointError: a file cannot be read.
    """
    # states of trainings that were stopped hold the key "recording"
    teacher = {"weights": [_hash(path) for path in teachers], "recording": _hash(logits) if logits else None}
    return {**data.identity, "teacher": teacher}


def cache_key(
    config: RunConfig | ImagesSeen, data: SplitData, teachers: Sequence[Path], device: torch.device
) -> dict[str, Any]:
    """All that decides the teacher logits of a run: what their cache must agree with.

    Raises:
        CheckpointError: a file cannot be read.
    """
    of_data = data.identity
    return {
        **config.images_seen().plain(),
        "split_sha256": of_data["split"],
        "classes": of_data["classes"],
        "images": of_data["images"],
        "teachers_sha256": [_hash(path) for path in teachers],
        "precision": precision_name(autocast_dtype(config.optimization.precision, device)),
    }


def with_precision(config: RunConfig, device: torch.device) -> RunConfig:
    """The settings with what `precision: auto` means on a device in its place: it differs from node to node, and
    everything that is stored with a result says what it was.
    """
    precision = precision_name(autocast_dtype(config.optimization.precision, device))
    optimization = config.optimization.model_copy(update={"precision": precision})
    return config.model_copy(update={"optimization": optimization})


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {error.strerror or error}; run the training that makes it first"
        ) from error


def check_teachers(config: RunConfig, teachers: Sequence[Path]) -> None:
    """Raises a CheckpointError if a teacher is needed and none is given, or the other way round."""
    needed = METHODS[config.method["name"]].needs_teacher
    if needed and not teachers:
        raise CheckpointError(f"run {config.run!r} distils but was given no teacher; give its weights with --teacher")
    if not needed and teachers:
        raise CheckpointError(f"run {config.run!r} does not distil; leave out --teacher")


def save_test_outputs(path: Path, model: Classifier, data: SplitData, config: RunConfig, device: torch.device) -> None:
    """Features and logits of every test image of the split, known and unknown, and of its validation images."""
    normalize = data.normalize(config, device)
    outputs = [predict(model, loader, normalize) for loader in data.test(device)]
    loader, labels = data.validation(device)
    validation = None
    if len(loader):
        features, logits = predict(model, loader, normalize)
        validation = features.numpy(), logits.numpy(), labels.numpy()
    save_outputs(
        path,
        features=torch.cat([features for features, _ in outputs]).numpy(),
        logits=torch.cat([logits for _, logits in outputs]).numpy(),
        labels=data.arrays["test_label"],
        group=data.arrays["test_group"],
        group_names=data.groups,
        validation=validation,
        weights=weights_digest(model, describe(config, data)),
        closed=len(data.groups) == 1,
    )


def save_training_outputs(
    path: Path,
    model: Classifier,
    data: SplitData,
    config: RunConfig,
    device: torch.device,
    *,
    samples: int,
) -> None:
    """Features and logits of at most `samples` training images of the split, without augmentation, and the head.

    The file names the digest of the weights, by which these are known to be outputs of one network.
    """
    generator = np.random.default_rng(derive_seed(config.seed, config.split, "detectors"))
    chosen = balanced_choice(data.train_label, samples, generator)
    loader = ImageLoader(data.train_images, data.arrays["train_index"][chosen], device)
    features, logits = predict(model, loader, data.normalize(config, device))
    weight, bias = torch.zeros(0, features.shape[1]), torch.zeros(0)
    if isinstance(model.head, nn.Linear):
        weight = model.head.weight.detach().float().cpu()
        bias = torch.zeros(len(weight)) if model.head.bias is None else model.head.bias.detach().float().cpu()
    TrainingOutputs(
        features=features.numpy(),
        logits=logits.numpy(),
        labels=data.train_label[chosen],
        head_weight=weight.numpy(),
        head_bias=bias.numpy(),
        weights=weights_digest(model, describe(config, data)),
    ).save(path)


def write_history(path: Path, history: Sequence[dict[str, float]]) -> None:
    """One row per epoch; the columns are those of every row, empty where a row has none.

    Their order is fixed: position, loss and its terms by name, the method's statistics by name, validation. It does not
    depend on which of them the first batch had.
    """
    first, last = ("epoch", "learning_rate", "train_loss"), ("validation_accuracy",)

    def place(name: str) -> tuple[int, str]:
        if name in first:
            return first.index(name), ""
        return len(first) + (2 if name in last else 0 if name.startswith("loss_") else 1), name

    columns = sorted({name for row in history for name in row}, key=place)
    with atomic_write(path) as partial, open(partial, "w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
