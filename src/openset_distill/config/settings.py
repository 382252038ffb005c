"""The keys of a configuration: strict, typed models; config/README.md explains each key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from pydantic import Field

from ..core.bounds import Distinct
from ..core.errors import SettingsError, nearest
from ..core.names import check_name, check_path
from ..core.settings import Strict
from ..core.text import check_line
from ..training.run_config import (
    OptimizationSettings,
    Seed,
    SplitNumber,
)


def _of_value(check: Callable[[str], str]) -> Callable[[str], str]:
    """`check` as pydantic calls it, which adds the key to a ValueError alone."""

    def checked(value: str) -> str:
        try:
            return check(value)
        except SettingsError as error:
            raise ValueError(str(error)) from error

    return checked


# what users write, by where it goes: a folder's name, a line that is only shown, a path (core.names, core.text)
Name = Annotated[str, pydantic.AfterValidator(_of_value(check_name))]
Line = Annotated[str, pydantic.AfterValidator(_of_value(check_line))]
PathText = Annotated[str, pydantic.AfterValidator(_of_value(check_path))]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Names = Annotated[tuple[Name, ...], Distinct]
Specification = str | dict[str, Any]
# the dataset of the catalog that has no files of its own
USERS_OWN = "image_folder"


# The largest values are far beyond what was ever published: whoever meets one has slipped, and should not wait for a
# day to learn it.
Threads = Annotated[int, Field(ge=1, le=4096)]
MemoryMb = Annotated[int, Field(ge=100, le=100_000_000)]  # 100 TB
RuntimeMin = Annotated[int, Field(ge=1, le=525_600)]  # a year
Gpus = Annotated[int, Field(ge=0, le=1024)]


class DataSettings(Strict):
    """Which images, and where they are.

    `images` is the folder or archive with the user's own images (dataset `image_folder`). By file name, `checksum`
    accepts an archive other than the catalog's, and `urls` fetches it from elsewhere.
    """

    dataset: str
    others: tuple[str, ...] = ()
    image_size: Annotated[int, Field(ge=4, le=2048)] | None = None
    images: PathText | None = None
    folder: PathText = "data"
    mirror: PathText | None = None
    checksum: dict[str, str] = Field(default_factory=dict)
    urls: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    validation_fraction: Fraction = 0.1
    # of pixels from 0 to 1, for each channel
    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.4914, 0.4822, 0.4465)
    std: tuple[Annotated[float, Field(ge=0.001, le=1)], ...] = (0.2023, 0.1994, 0.2010)


class ProtocolSettings(Strict):
    """Which classes are known: a published protocol's name, or `random` or `custom` with their settings.

    Without `splits` those of the protocol that have different classes.
    """

    name: Specification
    splits: Annotated[tuple[SplitNumber, ...], Field(min_length=1), Distinct] | None = None


class AugmentSettings(Strict):
    """`single`: augmentations of one image, in order; `added`: further ones, after those.

    `multi` is an augmentation that mixes images, or none, and `multi_until` the fraction of the training after which no
    batch is mixed any more.
    """

    single: tuple[Specification, ...] = ()
    added: tuple[Specification, ...] = ()
    multi: Specification | None = None
    multi_until: Annotated[float, Field(gt=0, le=1)] = 1.0


class RunSettings(Strict):
    """One trained network.

    `teacher` names the run, or the ensemble of runs, that it learns from. `teacher_logits` are `cached` once for
    all students that see the same images, or computed `online` in every training.
    """

    label: Line | None = None
    family: str | None = None
    backbone: Specification = "resnet18"
    method: Specification = "cross_entropy"
    augment: AugmentSettings = AugmentSettings()
    optimization: OptimizationSettings = OptimizationSettings()
    teacher: Name | Annotated[Names, Field(min_length=1, max_length=100)] = "teacher"
    teacher_logits: Literal["cached", "online"] = "cached"


class EvaluationSettings(Strict):
    """`scores` to compute, `sampling` of the unknowns, and the number of bootstrap resamples behind each interval.

    `headline` is the score, or the detector, by which figures and tables compare runs.

    `detectors` are scores that are fitted to training images, to at most `detector_samples` of them.
    """

    scores: Annotated[tuple[str, ...], Distinct] = ("maximum_logit", "msp", "energy", "feature_norm")
    headline: str = "maximum_logit"
    detectors: tuple[Specification, ...] = ()
    detector_samples: Annotated[int, Field(ge=1, le=100_000_000)] = 50_000
    sampling: Annotated[tuple[Literal["full", "balanced"], ...], Distinct] = ("full", "balanced")
    bootstrap: Annotated[int, Field(ge=0, le=100_000)] = 1000


class AnalysisSettings(Strict):
    """The feature study: which mixings are scanned, at how many values of lambda, on how many test images."""

    mixing: Annotated[tuple[str, ...], Distinct] = ("mixup", "cutmix")
    # as many passes of all compared networks over the samples
    lam_steps: Annotated[int, Field(ge=3, le=1001)] = 11
    mixing_samples: Annotated[int, Field(ge=2, le=1_000_000)] = 512
    # t-SNE of more takes days
    embedding_samples: Annotated[int, Field(ge=50, le=100_000)] = 1000
    activation_samples: Annotated[int, Field(ge=50, le=100_000_000)] = 2000
    attention_samples: Annotated[int, Field(ge=4, le=1_000_000)] = 200


LISTS_OF_RUNS = ("asymmetric", "ablation", "dynamics")


class ShowSettings(Strict):
    """Which runs the figures and tables set side by side, and which figures and tables are made.

    A part without a run goes to the runs of its family, if there are any. Without `figures` or `tables` all that the
    experiment can fill.
    """

    baseline: Name = "ce"
    msa: Name | None = None
    distillation: Name | None = None
    asymmetric: Names = ()
    ablation: Names = ()
    dynamics: Names = ()
    figures: Annotated[tuple[str, ...], Distinct] | None = None
    tables: Annotated[tuple[str, ...], Distinct] | None = None

    @pydantic.field_validator("msa", "distillation", mode="before")
    @classmethod
    def _open(cls, value: Any) -> Any:
        return None if value == "null" else value  # --config gives every value as text

    @pydantic.field_validator("ablation")
    @classmethod
    def _comparable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) == 1:
            raise ValueError("an ablation needs at least two rows; list the row to compare with first")
        return value


class JobResources(Strict):
    """What one job of a kind asks for: cores, memory, time limit, GPUs."""

    threads: Threads = 1
    memory_mb: MemoryMb = 2000
    runtime_min: RuntimeMin = 30
    gpu: Gpus = 0


class ResourceSettings(Strict):
    """Resources by kind of job; small jobs (evaluation, tables, figures) share `small`."""

    download: JobResources = JobResources()
    prepare: JobResources = JobResources()
    train_teacher: JobResources = JobResources()
    train_student: JobResources = JobResources()
    inference: JobResources = JobResources()
    feature_geometry: JobResources = JobResources()
    small: JobResources = JobResources(runtime_min=10)


class Settings(Strict):
    """The whole configuration of one experiment; config/README.md explains every key."""

    _held: ClassVar = {"defaults": RunSettings}

    experiment: Name
    title: Line
    scale_note: Annotated[str, pydantic.AfterValidator(_of_value(partial(check_line, longest=1000)))] = ""
    results: PathText = "results"
    redraw: PathText | None = None
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), Distinct] = (0,)
    data: DataSettings
    protocol: ProtocolSettings
    defaults: dict[str, Any] = Field(default_factory=dict)
    runs: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]
    only: Names = ()
    evaluation: EvaluationSettings = EvaluationSettings()
    analysis: AnalysisSettings = AnalysisSettings()
    show: ShowSettings = ShowSettings()
    resources: ResourceSettings = ResourceSettings()
    checkpoint_splits: Annotated[tuple[Annotated[int, Field(ge=0, le=4)], ...], Field(min_length=1), Distinct] = (
        0,
        1,
        2,
        3,
        4,
    )

    @pydantic.field_validator("runs", mode="before")
    @classmethod
    def _without_removed_runs(cls, value: Any) -> Any:
        # the text is from --config, which Snakemake has laid over a --configfile before `merge` could remove the run
        if not isinstance(value, Mapping):
            return value
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"the name of a run is text, and YAML reads {name} as something else; write '{name}'")
        return {name: run for name, run in value.items() if run != "null"}

    @pydantic.model_validator(mode="after")
    def _with_some_runs_only(self) -> Settings:
        if not self.only:
            return self
        for name in self.only:
            if name not in self.runs:
                raise ValueError(f"only: unknown run {name!r}; {nearest(name, self.runs)}")

        def kept(shown: Any) -> Any:
            if isinstance(shown, tuple):
                return tuple(name for name in shown if name in self.only)
            return shown if shown in self.only else None

        parts = {part: kept(getattr(self.show, part)) for part in ("msa", "distillation", *LISTS_OF_RUNS)}
        if len(parts["ablation"]) < 2:  # nothing to compare: left open
            parts["ablation"] = ()
        runs = {name: run for name, run in self.runs.items() if name in self.only}
        return self.model_copy(update={"runs": runs, "show": self.show.model_copy(update=parts)})
