"""What an experiment costs before it is started: its jobs, their time, memory and disk, as estimates.

A training's time is its arithmetic over a rate that was measured: images seen, times the operations that its network
needs for one, times the passes that its objective makes, over `RATES`. Its memory on a GPU is that of the tensors that
a step keeps. Networks are built without storage (device `meta`), so the largest costs no memory to ask about.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..augment import MULTI_SAMPLE
from ..core.errors import OpenSetError
from ..core.files import read_json
from ..datasets import catalog
from ..datasets.loader import RESIDENT_BYTES
from ..datasets.protocols import REFERENCE
from ..methods import METHODS, Batch
from ..models import BACKBONES, Timm, build_classifier
from .experiment import Experiment, Run
from .settings import USERS_OWN, JobResources

# GFLOP/s of one core of the machine of docs/benchmarks.md (AMD EPYC, bfloat16), of the whole training step: cross
# entropy of `small_64` in docs/benchmarks/training_small.json and of `mobilenet_v2_32` in training.json. Networks of
# depthwise convolutions are bound by memory. tests/config/test_cost.py compares them with these files.
RATES = {"dense": 158.0, "depthwise": 20.0}
# a core's seconds of any job: start-up, most of a small one (docs/benchmarks/workflow.json: 183 jobs, two cores)
JOB_SECONDS = 1.6


@dataclass(frozen=True)
class Jobs:
    """Jobs of one kind: how many, what each asks a scheduler for, and their time on one core together, in hours."""

    kind: str
    count: int
    asks: JobResources
    hours: float = 0.0


@dataclass(frozen=True)
class Cost:
    """An experiment's estimate.

    Attributes:
        jobs: by kind, in the workflow's order.
        train_images: of one split, without those for validation.
        images_seen: by all trainings together.
        longest: the longest training, its hours on one core, and what it asks for.
        gpu_bytes: of a training step and its images, at most over the runs, and the name of that run.
        disk: what is kept, in bytes, by what it is.
        unknown: what could not be estimated, a sentence each.
    """

    jobs: tuple[Jobs, ...]
    train_images: int
    images_seen: float
    longest: tuple[str, float, JobResources]
    gpu_bytes: tuple[float, str]
    disk: Mapping[str, float]
    unknown: tuple[str, ...]

    @property
    def hours(self) -> float:
        """Of all jobs on one core."""
        return sum(jobs.hours for jobs in self.jobs)


def cost(experiment: Experiment, gflops: float | None = None) -> Cost:
    """The estimate of an experiment.

    Args:
        gflops: GFLOP/s of a job on the user's hardware, instead of those of one core in `RATES`.

    Raises:
        OpenSetError: nobody knows how many images there will be before a user's own images are prepared.
        SettingsError: a network cannot be built.
    """
    estimate = _Estimate(experiment, gflops)
    hours = {name: estimate.training(name) for name in experiment.runs}
    longest = max(hours, key=hours.__getitem__)
    resources = experiment.settings.resources
    asks = resources.train_teacher if longest in experiment.teacher_runs else resources.train_student
    disk, unknown = estimate.disk()
    epochs = sum(run.optimization.epochs for run in experiment.runs.values())
    return Cost(
        tuple(estimate.jobs(hours)),
        round(estimate.train),
        estimate.grid * estimate.train * epochs,
        (longest, hours[longest] + JOB_SECONDS / 3600, asks),
        max((estimate.gpu_bytes(name), name) for name in experiment.runs),
        disk,
        (*estimate.images.unknown, *unknown),
    )


class _Estimate:
    """The parts of an experiment's estimate, of one split and seed where nothing else is said."""

    def __init__(self, experiment: Experiment, gflops: float | None):
        self.experiment, self.gflops = experiment, gflops
        self.settings, self.runs = experiment.settings, experiment.runs
        self.grid = len(experiment.splits) * len(experiment.seeds)
        self.images = _count_images(experiment)
        classes = self.images.classes
        self.known = sum(_known(experiment, split, classes) for split in experiment.splits) / len(experiment.splits)
        of_known = self.images.train * self.known / classes
        self.validation = of_known * self.settings.data.validation_fraction
        self.train = of_known - self.validation
        # training images that are run through each network once more, for detectors
        samples = self.settings.evaluation.detector_samples
        self.for_detectors = min(samples, self.train) if experiment.detectors else 0
        self.size, self.channels = experiment.image_size(), experiment.channels()

    def network(self, run: Run) -> _Network:
        return _network(run, self.size, self.channels)

    def hours(self, images: float, run: Run) -> float:
        """Of one core, for so many passes of an image through the network of `run`."""
        network = self.network(run)
        return images * network.operations / (self.gflops or network.rate) / 1e9 / 3600

    def teachers(self, images: float, run: Run) -> float:
        """Hours for so many passes of an image through each teacher of `run`."""
        return sum(self.hours(images, self.runs[name]) for name in run.teachers)

    def training(self, name: str) -> float:
        """Hours of one training with its test."""
        run, epochs = self.runs[name], self.runs[name].optimization.epochs
        passes = _mean_passes(run)
        config = self.experiment.run_config(name, self.experiment.splits[0], self.experiment.seeds[0])
        if config.caches_features:
            images = max(1, run.backbone["views"]) * (self.train + self.validation)
        else:
            frozen = 3 if run.backbone.get("freeze") else 1
            images = epochs * self.train * passes["student"] / frozen
        hours = self.hours(images + self.images.test + self.for_detectors + epochs * self.validation, run)
        if not run.cached:
            hours += self.teachers(epochs * self.train * passes["teacher"], run)
        return hours

    def gpu_bytes(self, name: str) -> float:
        """Of a step's tensors, and of the images where they are kept on the GPU."""
        run, network = self.runs[name], self.network(self.runs[name])
        images = self.train * self.size * self.size * self.channels
        kept = run.optimization.batch_size * network.activations * max(1, _mean_passes(run)["kept"])
        return 12 * network.weights + kept + (images if images <= RESIDENT_BYTES else 0)

    def asked(self, run: Run) -> float:
        """Images for which the teacher logits of `run` are cached."""
        each = 1 + _mixed_share(run) * METHODS.build(run.method).asks_on_mixed
        return run.optimization.epochs * self.train * each

    def jobs(self, training_hours: Mapping[str, float]) -> list[Jobs]:
        """All jobs of the experiment, by kind, without kinds that it has none of."""
        experiment, settings, of = self.experiment, self.settings, self.settings.resources
        analysis, grid = settings.analysis, self.grid
        datasets = len({settings.data.dataset, *settings.data.others})
        fetched = {given for run in self.runs.values() if (given := _fetched(run))}
        cached = [self.runs[name] for name in experiment.teacher_logits_keys.values()]
        compared = [self.runs[name] for name in experiment.analyzed_runs]
        scanned = analysis.mixing_samples * analysis.lam_steps * len(analysis.mixing)
        pairs = 3 * 3 * analysis.attention_samples
        one_gpu = of.train_student.model_copy(update={"gpu": min(1, of.train_student.gpu)})

        made = experiment.tidy_tables
        gradcam = "attention" in made or "pictures" in made

        def trainings(kind: str, runs: Sequence[str], asks: JobResources) -> Jobs:
            return Jobs(kind, grid * len(runs), asks, grid * sum(training_hours[name] for name in runs))

        jobs = [
            Jobs("downloads", datasets + len(fetched), of.download),
            Jobs("preparing", datasets, of.prepare),
            Jobs("splits", grid, of.small),
            trainings("teachers", experiment.teacher_runs, of.train_teacher),
            Jobs(
                "cached teacher logits",
                grid * len(cached),
                one_gpu,
                grid * sum(self.teachers(self.asked(run), run) for run in cached),
            ),
            trainings("students", experiment.student_runs, of.train_student),
            Jobs("evaluations", grid * len(self.runs), of.small),
            Jobs(
                "mixing scans",
                grid * ("mixing" in made),
                of.inference,
                grid * sum(self.hours(scanned, run) for run in compared),
            ),
            Jobs("feature geometry", grid, of.feature_geometry),
            Jobs("Grad-CAM", int(gradcam), of.inference, sum(self.hours(pairs, run) for run in compared)),
            Jobs("embeddings", len(experiment.compared_runs) * ("embedding" in made), of.small),
            Jobs("tables and figures", 1 + len(experiment.figures) + len(experiment.tables), of.small),
        ]
        start = JOB_SECONDS / 3600
        return [Jobs(one.kind, one.count, one.asks, one.hours + one.count * start) for one in jobs if one.count]

    def disk(self) -> tuple[dict[str, float], list[str]]:
        """Bytes that are kept, by what they are; and what is not known."""
        data = self.settings.data
        archives = [file for name in (data.dataset, *data.others) for file in catalog.datasets()[name].files]
        prepared = (self.images.train + self.images.test) * self.size * self.size * self.channels
        cached = [self.runs[name] for name in self.experiment.teacher_logits_keys.values()]
        outputs = self.images.test + self.for_detectors + self.validation
        networks = [self.network(run) for run in self.runs.values()]
        disk = {
            "archives": sum(archive.size or 0 for archive in archives),
            "prepared images": 0 if data.dataset == "imagenet" else prepared,  # which is streamed
            "cached teacher logits": self.grid * sum(4 * self.asked(run) * self.known for run in cached),
            "weights and outputs": self.grid
            * sum(4 * network.weights + 4 * outputs * (network.features + self.known) for network in networks),
        }
        return disk, [f"the size of {archive.file} is not known" for archive in archives if archive.size is None]


@dataclass(frozen=True)
class _Images:
    """Training images of the known dataset, test images of all, classes of the known one; and what is not known."""

    train: int
    test: int
    classes: int
    unknown: tuple[str, ...]


def _count_images(experiment: Experiment) -> _Images:
    data = experiment.settings.data
    own = _counts(experiment, data.dataset)
    if own is None:
        raise OpenSetError(
            f"how many images {data.dataset} has is known when they are prepared; run `snakemake --cores all "
            f"{experiment.prepared(data.dataset)}/manifest.json` with this configuration first"
            if data.dataset == USERS_OWN
            else f"the number of images of {data.dataset} is not known; prepare it first"
        )
    others = {name: _counts(experiment, name) for name in data.others}
    unknown = tuple(
        f"the number of images of {name} is not known before it is prepared, and counts as none here"
        for name, counts in others.items()
        if counts is None
    )
    return _Images(own.train, own.test + sum(of.test for of in others.values() if of), own.classes, unknown)


def _counts(experiment: Experiment, name: str) -> catalog.Counts | None:
    """The counts of a dataset as it is prepared here, or else as the catalog has them."""
    try:
        manifest = read_json(f"{experiment.prepared(name)}/manifest.json")
        counts = manifest["counts"]
        return catalog.Counts(train=counts["train"], test=counts["test"], classes=len(manifest["classes"]))
    except (OpenSetError, OSError, KeyError, TypeError, ValueError):
        return catalog.datasets()[name].counts


def _known(experiment: Experiment, split: int, classes: int) -> int:
    """The number of known classes of a split."""
    protocol = experiment.protocol
    known = protocol.get("known")
    if known is not None:
        return known if isinstance(known, int) else len(known)
    published = read_json(REFERENCE / "protocols.json").get(protocol["name"])
    if published is not None:
        return len(published["known"][split])
    # of the fine-grained semantic shift benchmarks half the classes are known, of all others every one
    half = protocol["name"] in ("cub", "aircraft", "scars")
    return classes // 2 if half else classes


def _fetched(run: Run) -> str | None:
    """timm's name of the weights that are downloaded for a run."""
    backbone = BACKBONES.build(run.backbone)
    if not isinstance(backbone, Timm) or not backbone.pretrained or backbone.weights or backbone.package is not None:
        return None
    return backbone.model


@dataclass(frozen=True)
class _Network:
    """Of a network and one image: operations forward, bytes kept for the backward pass; its weights and features; the
    GFLOP/s of a core that trains it."""

    operations: float
    activations: float
    weights: int
    features: int
    rate: float


_NETWORKS: dict[str, _Network] = {}


def _network(run: Run, size: int, channels: int) -> _Network:
    key = f"{run.backbone} {METHODS[run.method['name']].head} {run.optimization.precision} {size} {channels}"
    if key not in _NETWORKS:
        _NETWORKS[key] = _measured(run, size, channels)
    return _NETWORKS[key]


def _measured(run: Run, size: int, channels: int) -> _Network:
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    backbone = {key: value for key, value in run.backbone.items() if key != "weights"}
    if "pretrained" in backbone:
        backbone |= {"pretrained": False, "freeze": False, "views": 0}
    with torch.device("meta"):
        network = build_classifier(backbone, classes=10, channels=channels, head=METHODS[run.method["name"]].head)
        images = torch.zeros(2, channels, size, size)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.numel()
        return tensor

    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = network.train().encoder(images)
        network.head(features)
    elements = sum(count for storage, count in kept.items() if storage not in weights)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network.eval().encoder(images)
    grouped = any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in network.modules())
    return _Network(
        operations=counter.get_total_flops() / len(images),
        # a step computes in bfloat16 where the hardware does
        activations=elements / len(images) * (4 if run.optimization.precision == "float32" else 2),
        weights=sum(parameter.numel() for parameter in network.parameters()),
        features=features.shape[1],
        rate=RATES["depthwise" if grouped else "dense"],
    )


def _mixed_share(run: Run) -> float:
    """The share of steps whose batch is mixed."""
    return run.multi["probability"] * run.multi_until if run.multi else 0.0


def _mean_passes(run: Run) -> dict[str, float]:
    """`_passes` over mixed and other steps: the mean of what is computed, the most of what is kept."""
    share = _mixed_share(run)
    passes = {mixed: _passes(run, mixed) for mixed in (False, True)}
    mean = {key: (1 - share) * passes[False][key] + share * passes[True][key] for key in ("student", "teacher")}
    return mean | {"kept": max(passes[mixed]["kept"] for mixed in (False, share > 0))}


_PASSES: dict[tuple[str, str], Mapping[str, float]] = {}


def _passes(run: Run, mixed: bool) -> Mapping[str, float]:
    """What the objective asks of its networks for one image: passes of the student (with its backward pass 3, without
    1) and of its teacher, and images whose activations are kept. It is asked for a tiny network's loss and watched."""
    mixed = mixed and run.multi is not None
    key = (repr(run.method), repr(run.multi) if mixed else "")
    if key not in _PASSES:
        _PASSES[key] = _watched(run, mixed=mixed)
    return _PASSES[key]


def _watched(run: Run, *, mixed: bool) -> Mapping[str, float]:
    import torch

    from ..training.teachers import TeacherEnsemble

    counts: dict[str, float] = defaultdict(float)

    def tiny(name: str, head: str) -> Any:
        backbone = {"name": "small_resnet", "widths": [4]}
        network = build_classifier(backbone, classes=4, channels=3, head=head)

        def count(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            graph = torch.is_grad_enabled() and name == "student"
            counts[name] += len(inputs[0]) * (3 if graph else 1)
            counts["kept"] += len(inputs[0]) * graph

        network.encoder.register_forward_pre_hook(count)
        return network

    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(8, 3, 16, 16, generator=generator), torch.arange(8) % 4
    multi = MULTI_SAMPLE.build(run.multi)(images, generator) if mixed and run.multi else None
    objective = METHODS.build(run.method)
    teacher = TeacherEnsemble([tiny("teacher", "linear")]) if objective.needs_teacher else None
    objective.loss(tiny("student", objective.head).train(), teacher, Batch(images, labels, multi, 0))
    return {key: counts[key] / len(images) for key in ("student", "teacher", "kept")}
