"""What an experiment costs before it is started: its jobs, their time, memory and disk, as estimates.

A training's time is its arithmetic over a rate that was measured: images seen, times the operations that its network
needs for one, times the passes that its objective makes, over `RATES`. Its memory on a GPU is that of the tensors that
a step keeps. Networks are built without storage (device `meta`), so the largest costs no memory to ask about.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
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
# images for training and for testing, and classes, of datasets that are not prepared yet
IMAGES = {
    "digits": (901, 896, 10),
    "mnist": (60_000, 10_000, 10),
    "svhn": (73_257, 26_032, 10),
    "cifar10": (50_000, 10_000, 10),
    "cifar10_images": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "tinyimagenet": (100_000, 10_000, 200),
    "cub": (5_994, 5_794, 200),
    "aircraft": (6_667, 3_333, 100),
    "scars": (8_144, 8_041, 196),
    "imagenet": (1_281_167, 50_000, 1000),
    "textures": (0, 5_640, 47),
    "lsun_crop": (0, 10_000, 1),
    "lsun_resize": (0, 10_000, 1),
    "isun": (0, 8_925, 1),
    "places365": (0, 36_500, 1),
}


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
    settings, grid = experiment.settings, len(experiment.splits) * len(experiment.seeds)
    train, test, classes, unknown = _images(experiment)
    known = sum(_known(experiment, split, classes) for split in experiment.splits) / len(experiment.splits)
    train_images = train * known / classes
    validation = train_images * settings.data.validation_fraction
    train_images -= validation
    size, channels = experiment.image_size(), experiment.channels()

    def hours(operations: float, run: Run) -> float:
        return operations / (gflops or _network(run, size, channels).rate) / 1e9 / 3600

    def forward(run: Run) -> float:
        return _network(run, size, channels).operations

    # of training images, for detectors
    answered = min(settings.evaluation.detector_samples, train_images) if experiment.detectors else 0
    trained, largest, kept = {}, (0.0, ""), 0.0
    resident = train_images * size * size * channels
    for name, run in experiment.runs.items():
        steps, network = run.optimization.epochs, _network(run, size, channels)
        passes = _mean(run, {mixed: _passes(run, mixed) for mixed in (False, True)})
        config = experiment.run_config(name, experiment.splits[0], experiment.seeds[0])
        if config.caches_features:
            spent = max(1, run.backbone["views"]) * (train_images + validation) * network.operations
        else:
            frozen = 3 if run.backbone.get("freeze") else 1
            spent = steps * train_images * network.operations * passes["student"] / frozen
        spent = hours(spent + (test + answered + steps * validation) * network.operations, run)
        if not run.cached:
            spent += sum(
                hours(steps * train_images * passes["teacher"] * forward(teacher), teacher)
                for teacher in map(experiment.runs.__getitem__, run.teachers)
            )
        trained[name] = spent
        on_gpu = 12 * network.weights + run.optimization.batch_size * network.activations * max(1, passes["kept"])
        largest = max(largest, (on_gpu + (resident if resident <= RESIDENT_BYTES else 0), name))
        kept += 4 * network.weights + 4 * (test + answered + validation) * (network.features + known)
    recorded, recordings = 0.0, 0.0
    for name in experiment.teacher_logits_keys.values():
        run = experiment.runs[name]
        asked = 1 + _mixed_share(run) * METHODS.build(run.method).asks_on_mixed
        images = run.optimization.epochs * train_images * asked
        recorded += sum(
            hours(images * forward(teacher), teacher) for teacher in map(experiment.runs.__getitem__, run.teachers)
        )
        recordings += 4 * images * known
    of = settings.resources
    start = JOB_SECONDS / 3600
    samples = settings.analysis.mixing_samples * settings.analysis.lam_steps * len(settings.analysis.mixing)
    pairs = 3 * 3 * settings.analysis.attention_samples
    compared = [experiment.runs[name] for name in experiment.analyzed_runs]
    datasets = len({settings.data.dataset, *settings.data.others})
    fetched = {given for run in experiment.runs.values() if (given := _fetched(run))}
    teachers, students = experiment.teacher_runs, experiment.student_runs
    one_gpu = of.train_student.model_copy(update={"gpu": min(1, of.train_student.gpu)})
    made = experiment.tidy_tables
    scanned = sum(hours(samples * forward(run), run) for run in compared)
    explained = sum(hours(pairs * forward(run), run) for run in compared)
    jobs = [
        Jobs("downloads", datasets + len(fetched), of.download),
        Jobs("preparing", datasets, of.prepare),
        Jobs("splits", grid, of.light),
        Jobs("teachers", grid * len(teachers), of.train_teacher, grid * sum(map(trained.__getitem__, teachers))),
        Jobs("cached teacher logits", grid * len(experiment.teacher_logits_keys), one_gpu, grid * recorded),
        Jobs("students", grid * len(students), of.train_student, grid * sum(map(trained.__getitem__, students))),
        Jobs("evaluations", grid * len(experiment.runs), of.light),
        Jobs("mixing scans", grid * ("mixing" in made), of.analyze, grid * scanned),
        Jobs("feature geometry", grid, of.measure),
        Jobs("Grad-CAM", int("attention" in made or "pictures" in made), of.analyze, explained),
        Jobs("embeddings", len(experiment.compared_runs) * ("embedding" in made), of.light),
        Jobs("tables and figures", 1 + len(experiment.figures) + len(experiment.tables), of.light),
    ]
    jobs = [Jobs(one.kind, one.count, one.asks, one.hours + one.count * start) for one in jobs if one.count]
    archives = [
        archive for name in (settings.data.dataset, *settings.data.others) for archive in catalog.datasets()[name].files
    ]
    streamed = settings.data.dataset == "imagenet"
    disk = {
        "archives": sum(archive.size or 0 for archive in archives),
        "prepared images": 0 if streamed else (train + test) * size * size * channels,
        "cached teacher logits": grid * recordings,
        "weights and outputs": grid * kept,
    }
    unknown += [f"the size of {archive.file} is not known" for archive in archives if archive.size is None]
    name = max(trained, key=trained.__getitem__)
    kind = of.train_teacher if name in teachers else of.train_student
    return Cost(
        tuple(jobs),
        round(train_images),
        grid * train_images * sum(run.optimization.epochs for run in experiment.runs.values()),
        (name, trained[name] + start, kind),
        largest,
        disk,
        tuple(unknown),
    )


def _images(experiment: Experiment) -> tuple[int, int, int, list[str]]:
    """Training images of the known dataset, test images of all, classes of the known one; and what is not known."""
    train, test, classes, unknown = 0, 0, 0, []
    for name in (experiment.settings.data.dataset, *experiment.settings.data.others):
        try:
            manifest = read_json(f"{experiment.prepared(name)}/manifest.json")
            found = (manifest["counts"]["train"], manifest["counts"]["test"], len(manifest["classes"]))
        except (OpenSetError, OSError, KeyError, TypeError):
            found = IMAGES.get(name)
        if found is None and name == experiment.settings.data.dataset:
            raise OpenSetError(
                f"how many images {name} has is known when they are prepared; run `snakemake --cores all "
                f"{experiment.prepared(name)}/manifest.json` with this configuration first"
                if name == USERS_OWN
                else f"the number of images of {name} is not known; prepare it first"
            )
        if found is None:
            unknown.append(
                f"the number of images of {name} is not known before it is prepared, and counts as none here"
            )
            continue
        test += found[1]
        if name == experiment.settings.data.dataset:
            train, classes = found[0], found[2]
    return train, test, classes, unknown


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


def _mean(run: Run, passes: Mapping[bool, Mapping[str, float]]) -> dict[str, float]:
    share = _mixed_share(run)
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
