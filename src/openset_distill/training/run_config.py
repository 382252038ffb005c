"""The resolved settings of one training: the same class where the experiment makes them and where the job reads them.

On the way between the two they are JSON, on a command line and in `config.json` beside the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from ..core.errors import OpenSetError, SettingsError
from ..core.files import AGAIN, read_json
from ..core.settings import Strict, validated
from ..methods import METHODS

# The largest values are far beyond what was ever published: whoever meets one has slipped, and should not wait for a
# day to learn it.
Epochs = Annotated[int, Field(ge=1, le=10_000)]
BatchSize = Annotated[int, Field(ge=2, le=65_536)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what NumPy's and scikit-learn's generators take
SplitNumber = Annotated[int, Field(ge=0, le=999_999)]
Precision = Literal["auto", "float32", "bfloat16"]
# a name and every setting that belongs to it: what a registry's `resolve` gives
Resolved = dict[str, Any]


class _Config(Strict):
    """Settings that travel as JSON."""

    def plain(self) -> dict[str, Any]:
        """Plain data: what is written, hashed and compared."""
        return self.model_dump(mode="json")

    @classmethod
    def parse(cls, text: str):
        """From JSON text, or from the path of a JSON file.

        Raises:
            SettingsError: not JSON, or not exactly these settings.
        """
        try:
            value = json.loads(text) if text.lstrip().startswith("{") else read_json(text)
        except ValueError as error:
            raise SettingsError(f"--job is not valid JSON: {error}") from error
        if not isinstance(value, dict) or set(value) != set(cls.model_fields):
            raise SettingsError(f"--job must hold exactly the keys {', '.join(sorted(cls.model_fields))}")
        parsed = validated(cls, value, source="--job is not what `openset config` prints")
        optimization = value.get("optimization")
        if isinstance(optimization, dict) and "epochs" not in optimization:  # a default is for configurations
            raise SettingsError("--job: optimization has no epochs; it is not what `openset config` prints")
        return parsed


class OptimizationSettings(Strict):
    """How a network is trained: SGD, the paper's defaults.

    `learning_rate` is per 128 images of a batch; `milestones` are fractions of the epochs at which the step schedule
    multiplies the rate by `decay`; `select` is the epoch whose weights are kept.
    """

    epochs: Epochs = 200
    batch_size: BatchSize = 32
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
    schedule: Literal["step", "cosine", "linear", "constant"] = "step"
    milestones: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], Field(max_length=100)] = (0.3, 0.6, 0.8)
    decay: Annotated[float, Field(gt=0, le=1)] = 0.2
    warmup_epochs: Annotated[int, Field(ge=0, le=10_000)] = 1
    precision: Precision = "auto"
    select: Literal["last", "best_validation_accuracy"] = "last"
    checkpoint_minutes: Annotated[float, Field(gt=0, le=10_080)] = 5.0  # a week
    # `reduce-overhead`: with CUDA graphs on a GPU
    compile: bool | Literal["reduce-overhead"] = False


class Augmentation(_Config):
    """What is done to images: `single` to each, in order; `multi` mixes them, until this fraction of the training."""

    single: tuple[Resolved, ...]
    multi: Resolved | None
    multi_until: Annotated[float, Field(gt=0, le=1)] = 1.0


class Normalization(_Config):
    """Mean and standard deviation of each channel, of pixels from 0 to 1."""

    mean: Annotated[tuple[Annotated[float, Field(ge=-1000, le=1000)], ...], Field(min_length=1)]
    std: Annotated[tuple[Annotated[float, Field(gt=0, le=1000)], ...], Field(min_length=1)]


class OptimizationOfImages(Strict):
    """The part of the optimization that decides which images a training sees, and in which precision."""

    batch_size: BatchSize
    epochs: Epochs
    precision: Precision


class ImagesSeen(_Config):
    """Which images a training sees, in which order and precision: what cached teacher logits belong to."""

    augment: Augmentation
    normalization: Normalization
    optimization: OptimizationOfImages
    seed: Seed
    split: SplitNumber

    def images_seen(self) -> ImagesSeen:
        return self


class RunConfig(_Config):
    """All that decides the weights of one training; names and labels that are only printed are left out."""

    experiment: str
    split: SplitNumber
    seed: Seed
    run: str
    backbone: Resolved
    method: Resolved
    augment: Augmentation
    optimization: OptimizationSettings
    normalization: Normalization

    @classmethod
    def read(cls, path: str | os.PathLike) -> RunConfig:
        """What a training stored with its weights.

        Raises:
            OpenSetError: the file is missing, damaged, or holds something else.
        """
        try:
            return validated(cls, read_json(path), source=str(path))
        except SettingsError as error:
            raise OpenSetError(f"{error}; {AGAIN}") from error

    def images_seen(self) -> ImagesSeen:
        """The images that a teacher is shown: equal for runs that share its cached logits.

        A method that does not ask for logits on mixed images shares the raw ones with runs that mix nothing: a batch's
        raw images do not depend on whether it is mixed afterwards.
        """
        augment = self.augment
        if not METHODS.build(self.method).asks_on_mixed:
            augment = augment.model_copy(update={"multi": None, "multi_until": 1.0})
        optimization = OptimizationOfImages(
            **{name: getattr(self.optimization, name) for name in OptimizationOfImages.model_fields}
        )
        return ImagesSeen(
            augment=augment,
            normalization=self.normalization,
            optimization=optimization,
            seed=self.seed,
            split=self.split,
        )

    @property
    def caches_features(self) -> bool:
        """Whether the head is trained on features that are computed once for each image (`caches_features`)."""
        return caches_features(self.backbone, self.method, self.augment)

    @property
    def head(self) -> str:
        """The kind of head that the method trains."""
        return METHODS[self.method["name"]].head


def fingerprint(value: Any) -> str:
    """Twelve hexadecimal digits of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def caches_features(backbone: Mapping[str, Any], method: Mapping[str, Any], augment: Augmentation) -> bool:
    """Whether a run trains its head on features that are computed once for each image.

    It does where the backbone is frozen and only the head is asked at each step: images that are mixed, or shown to a
    teacher too, are new at every step and pass through the frozen backbone each time.
    """
    return bool(backbone.get("freeze")) and augment.multi is None and not METHODS[method["name"]].needs_teacher


def check_frozen(backbone: Mapping[str, Any], method: Mapping[str, Any], augment: Augmentation) -> None:
    """Whether the augmentation of a run with a frozen backbone can be had from features that are computed once.

    Raises:
        SettingsError: it cannot.
    """
    if not backbone.get("freeze"):
        return
    views = backbone["views"]
    if not caches_features(backbone, method, augment):
        if views:
            raise SettingsError(
                "backbone.views: with mixed images or a teacher the frozen backbone runs at every step and no "
                "features are stored; leave views out, or augment.multi and the teacher"
            )
    elif augment.single and not views:
        raise SettingsError(
            "augment.single: features of a frozen backbone are computed once for each image; set backbone.views to the "
            "number of augmented versions (for example 4), or augment.single to []"
        )
    elif views and not augment.single:
        raise SettingsError(
            "backbone.views: without an augmentation all versions of an image are the same; add one to "
            "augment.single, or leave views out"
        )
