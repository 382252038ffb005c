"""`openset train`: from a folder of images to a model, with the workflow's own experiment, preparation and training.

A request becomes an experiment (`configuration`), as a user of the workflow would write it, and its one run is made by
the library as the workflow's rules make it: prepared images, split, training, test outputs, model folder. The files in
between are in a hidden folder next to the model until it is complete; the same command continues them.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from filelock import FileLock, Timeout

from ..config.experiment import Experiment, load
from ..core.device import prepare_device
from ..core.errors import OpenSetError, SettingsError, nearest
from ..core.files import atomic_write, read_json, write_json
from ..core.provenance import Provenance
from ..core.text import printable
from ..datasets.loader import ImageLoader
from ..datasets.prepare import write_prepared
from ..datasets.prepared import MANIFEST, open_prepared
from ..datasets.protocols import ClassSplit, Datasets, class_split, describe, make_split
from ..datasets.readers import image_folder
from ..evaluation.evaluate import load_outputs
from ..evaluation.scores import score as score_images
from ..evaluation.thresholds import exact_interval, rate
from ..models import BACKBONES, EfficientNetLite0
from ..models.checkpoint import save_classifier
from ..models.inference import predict
from ..report.figures import FIGURES
from ..training.features import CHUNK
from ..training.run import Training
from ..training.run_config import RunConfig
from ..training.setup import (
    SplitData,
    identity,
    make_student,
    open_split,
    save_test_outputs,
    with_precision,
    write_history,
)
from ..training.setup import (
    describe as describe_weights,
)
from .description import DESCRIPTION
from .images import available_cores
from .model import OpenSetClassifier
from .own_images import OwnImages, read
from .package import package_run

# The one run of the experiment. Cross entropy needs no teacher; logit matching, a point better in accuracy and AUROC in
# docs/results, needs a larger network as its teacher.
RUN, SPLIT = "ce", 0
CALIBRATION_FRACTION = 0.2
# From this median side on images are taken for photographs, which networks trained on ImageNet recognise: enlarged, a
# few hundred 32x32 images a class of CIFAR-10 have 88 % accuracy.
PHOTOGRAPH = 32
# pixels that trained weights see: the largest first; fewer are tried only when time is short
SIZES = (160, 128, 96, 64)
# of the time that was asked for, what is planned with: estimates on a busy machine are a few percent off
PLANNED = 0.93
# seconds from which on a rate is believed more than the plan
TRUSTED = 5
# epochs beyond which a folder of images is only learned by heart
LONGEST = 400


@dataclass(frozen=True)
class Request:
    """What a user asks for; None is whatever suits the images.

    `minutes` is the time for the whole command, `backbone` a name or YAML as on the command line.
    """

    folder: Path
    out: Path
    unknown: Path | None = None
    backbone: str | None = None
    epochs: int | None = None
    minutes: float | None = None
    image_size: int | None = None
    seed: int = 0
    threads: int | None = None

    @property
    def work(self) -> Path:
        """The folder of what is not complete."""
        return self.out.parent / f".{self.out.name}.training"


# ------------------------------------------------------------------------------------------- the experiment


def choose_backbone(text: str | None, side: int) -> dict[str, Any]:
    """The backbone as an experiment file has it.

    Args:
        text: a registered name, a model of timm, or YAML; None chooses.
        side: median side of the images, in pixels.

    Raises:
        SettingsError: there is no such backbone.
    """
    if text is None:
        if side < PHOTOGRAPH or not has_packaged_weights():
            # as many groups, each of which halves the image, as leave some of it
            return {"name": "fast_cnn", "widths": [32, 128, 256] if side >= 16 else [32, 128]}
        text = "efficientnet_lite0"
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"--backbone {text!r} is neither a name nor YAML; {nearest(text, BACKBONES)}") from error
    if isinstance(given, str) and given in list(BACKBONES):
        given = {"name": given}
        if given["name"] == "efficientnet_lite0":
            given |= {"freeze": True, "input_size": SIZES[0]}
    elif isinstance(given, str):
        # of the hundreds of models that timm has: those are asked for with their weights, or they need YAML
        import timm

        if not timm.is_model(given):
            raise SettingsError(f"--backbone {given!r}: {nearest(given, [*BACKBONES, *timm.list_models()])}")
        given = {"name": "timm", "model": given, "stem": "imagenet", "pretrained": True, "freeze": True}
    if not isinstance(given, dict):
        raise SettingsError(f"--backbone {text!r} is neither a name nor a mapping of settings; try efficientnet_lite0")
    given = dict(given)
    if given.get("name") == "timm" and (given.get("pretrained") or given.get("weights")) and "mean" not in given:
        import timm

        published = timm.get_pretrained_cfg(str(given.get("model")))
        if published is not None:
            given |= {"mean": list(published.mean), "std": list(published.std)}
    BACKBONES.resolve(given)
    return given


def has_packaged_weights() -> bool:
    """Whether the extra `pretrained` is installed."""
    import importlib.util

    package = EfficientNetLite0.package
    return package is not None and importlib.util.find_spec(package) is not None


def configuration(request: Request, images: OwnImages, linked: Path, *, side: int) -> dict[str, Any]:
    """The experiment that a request comes to.

    Args:
        linked: the folder of links that the workflow reads.
        side: median side of the images, in pixels.

    Raises:
        SettingsError: the backbone, or a number, is not possible.
    """
    backbone = choose_backbone(request.backbone, side)
    frozen = bool(BACKBONES.resolve(backbone).get("freeze"))
    n = sum(len(files) for files in images.train.values())
    trained = n - sum(calibration_images(len(files)) for files in images.train.values())
    largest = backbone.get("input_size") or (224 if backbone["name"] == "timm" and frozen else 64)
    size = request.image_size or max(8, min(largest, side))
    if frozen:
        # only a head is trained, on features: an epoch takes no time, and few images need much weight decay (picked by
        # the cross entropy of calibration images, docs/recognition.md)
        epochs, recipe = clamp(50_000 / trained, 10, 200), {"learning_rate": 0.03, "weight_decay": 0.01}
    else:
        epochs, recipe = clamp(100_000 / trained, 10, 100), {"learning_rate": 0.2, "weight_decay": 5e-4}
    epochs = request.epochs or epochs
    augmented = not frozen or BACKBONES.resolve(backbone)["views"] > 0
    crop = [{"name": "random_crop", "padding": max(1, size // 8)}, {"name": "horizontal_flip"}]
    # large enough for steady statistics, small enough for some ten steps per epoch of a small folder
    batch = min(clamp(2 ** int(math.log2(max(trained / 8, 4))), 4, 64), trained)
    optimization = {
        "epochs": epochs,
        "batch_size": batch,
        **recipe,
        "schedule": "linear",
        "warmup_epochs": clamp(epochs / 5, 0, 2),
        "nesterov": True,
    }
    return {
        "experiment": re.sub(r"[^A-Za-z0-9_-]+", "_", request.out.name).strip("_-") or "own_images",
        "title": "Own images",
        "seeds": [request.seed],
        "data": {
            "dataset": "image_folder",
            "images": str(linked),
            "image_size": size,
            "validation_fraction": CALIBRATION_FRACTION,
        },
        "protocol": {"name": "all_known", "splits": [SPLIT]},
        "runs": {
            RUN: {
                "label": "CE",
                "backbone": backbone,
                "method": "cross_entropy",
                "augment": {"single": crop if augmented else []},
                "optimization": optimization,
            }
        },
        "show": {"baseline": RUN, "figures": []},
    }


def calibration_images(of: int) -> int:
    """How many of a class's images `make_split` keeps for calibration."""
    return min(max(1, round(CALIBRATION_FRACTION * of)), of - 1)


def clamp(value: float, low: int, high: int) -> int:
    """`value` as the nearest whole number from `low` to `high`."""
    return max(low, min(high, round(value)))


def configuration_text(request: Request) -> str:
    """The equivalent experiment file; the images that it names are linked in `MODEL.images`.

    Raises:
        OpenSetError: as `train_folder`.
    """
    images = read(request.folder, request.unknown, request.seed)
    linked = request.out.absolute().with_name(f"{request.out.name}.images")
    plain = configuration(request, images, linked, side=images.side())
    images.link(linked)
    experiment = load(plain, stands_alone=True)
    plain["show"]["figures"] = [name for name in FIGURES if not FIGURES[name].needs(experiment.configured.families)]
    lines = [
        f"# openset train {printable(str(request.folder))} as an experiment:",
        "#   snakemake --cores all paper_figures --configfile THIS_FILE",
        f"# Its images are links to yours, with the test part of seed {request.seed} drawn from each class."
        if images.drawn
        else "# Its images are links to yours.",
    ]
    if not images.unknown:
        lines.append("# The workflow compares knowns with unknowns: give some with --unknown, or set data.others.")
    return "\n".join(lines) + "\n\n" + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


# ------------------------------------------------------------------------------------------------- training


def train_folder(request: Request, report: Callable[[str], None] | None = None) -> str:
    """Trains a model on a folder of images, writes its folder, and returns a summary of one screen.

    Args:
        report: is given lines about the course of it; to standard error by default.

    Raises:
        DataError: the images cannot be read, or are too few.
        SettingsError: an option is not possible, or the time is not enough.
        OpenSetError: the model's folder holds something else or cannot be written.
        Interrupted: a signal came; the same request continues.
    """
    started = time.monotonic()
    report = report or (lambda line: print(line, file=sys.stderr, flush=True))
    _check_out(request.out)
    images = read(request.folder, request.unknown, request.seed)
    work = request.work.absolute()
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(work / "lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OpenSetError(
            f"another training is writing {request.out}; wait until it is done, or choose another --out"
        ) from error
    except OSError as error:
        raise OpenSetError(
            f"cannot write {work}: {error.strerror or error}; choose another --out, in a folder that you may write to, "
            "with free space"
        ) from error
    try:
        summary = _train(request, images, work, started, report)
    except BaseException:
        lock.release()
        if not any(path.name != "lock" for path in work.iterdir()):
            shutil.rmtree(work, ignore_errors=True)
        raise
    lock.release()
    shutil.rmtree(work, ignore_errors=True)
    return summary


def _check_out(out: Path) -> None:
    if out.is_dir() and not (out / DESCRIPTION).is_file() and any(out.iterdir()):
        raise OpenSetError(f"{out} exists and is not a model; choose another --out, or delete it first")
    if out.exists() and not out.is_dir():
        raise OpenSetError(f"{out} is a file; choose another --out, or delete it first")


def _train(request: Request, images: OwnImages, work: Path, started: float, report: Callable[[str], None]) -> str:
    side = images.side()
    plain = configuration(request, images, work / "images", side=side)
    load_checked(plain, images, work)
    report(_part_sizes(images, request))
    threads = request.threads or available_cores()
    device = prepare_device(threads)
    data = _prepared_split(plain, images, work, threads, report)
    provenance = Provenance([work / "split.npz", work / "prepared" / MANIFEST])
    asked, pace = {"configuration": plain, "minutes": request.minutes}, None
    if request.minutes is not None:

        def decide() -> dict[str, Any]:
            return _within_time(request, copy.deepcopy(plain), data, device, work, started, report)

        plain = _remembered_plan(work, asked, decide)
        pace = Pace(started + 60 * request.minutes, report)
    run = work / RUN
    training = Training(run / "state.safetensors", identity(data, []), report)
    history = None
    while history is None:
        config = load(plain, stands_alone=True).run_config(RUN, SPLIT, request.seed)
        report(_what_is_trained(config))
        student = make_student(config, data, device)
        if pace is not None:
            pace.begin(config, data)
        try:
            history = training.run(config, student, None, data, device, watch=pace)
        except TooSlow as slow:
            plain["runs"][RUN]["backbone"]["input_size"] = slow.size
            _remember_plan(work, asked, plain)
    save_test_outputs(run / "outputs.npz", student, data, config, device)
    write_history(run / "history.csv", history)
    stored = with_precision(config, device)
    write_json(run / "config.json", stored.plain())
    precision = stored.optimization.precision
    record = provenance.record(
        command=sys.argv, device=str(device), precision=precision, threads=threads, epochs=len(history)
    )
    write_json(run / "provenance.json", record)
    save_classifier(run / "weights.safetensors", student, describe_weights(config, data))
    per_class = {name: len(files) for name, files in images.train.items()}
    model = package_run(run, split=work / "split.json", training_data={"images_per_class": per_class})
    model.save(request.out)
    training.finish()
    return summary(model, request, data, run / "outputs.npz", time.monotonic() - started)


def load_checked(plain: dict[str, Any], images: OwnImages, work: Path) -> Experiment:
    """The experiment, once its images are linked; nothing is left of the links where it is refused."""
    images.link(work / "images")
    try:
        return load(plain, stands_alone=True)
    except OpenSetError:
        shutil.rmtree(work / "images", ignore_errors=True)
        raise


def _part_sizes(images: OwnImages, request: Request) -> str:
    n = sum(len(files) for files in images.train.values())
    calibrated = sum(calibration_images(len(files)) for files in images.train.values())
    tested = sum(len(files) for files in images.test.values())
    drawn = "drawn from each class by" if images.drawn else "the folder test; calibration images drawn by"
    unknown = f"; {len(images.unknown)} unknown" if images.unknown else ""
    left_out = f"; {images.left_out} outside class folders are ignored" if images.left_out else ""
    return (
        f"{len(images.train)} classes: {n - calibrated} images to train, {calibrated} to calibrate, {tested} to test "
        f"({drawn} seed {request.seed}){unknown}{left_out}"
    )


def _what_is_trained(config: RunConfig) -> str:
    backbone = config.backbone
    name = backbone["model"] if backbone["name"] == "timm" else backbone["name"]
    epochs = f"{config.optimization.epochs} epochs"
    if config.caches_features:
        pixels = f" at {backbone['input_size']} pixels" if backbone["input_size"] else ""
        return f"{name} with pretrained weights, frozen{pixels}: features once per image, then {epochs} of the head"
    return f"{name}, {epochs}" + (", from pretrained weights" if has_trained_weights(backbone) else ", from scratch")


def has_trained_weights(backbone: dict[str, Any]) -> bool:
    """Whether a resolved backbone begins with weights that were trained before."""
    return bool(backbone.get("pretrained") or backbone.get("weights"))


def _prepared_split(
    plain: dict[str, Any], images: OwnImages, work: Path, threads: int, report: Callable[[str], None]
) -> SplitData:
    """The images decoded and split, as the workflow's rules `prepare_dataset` and `make_split` do it."""
    prepared = work / "prepared"
    raw = image_folder(work / "images")
    write_prepared(
        raw,
        prepared,
        name="image_folder",
        size=plain["data"]["image_size"],
        channels=3,
        workers=threads,
    )
    known = open_prepared(prepared)
    for note in known.manifest["notes"]:
        if note.startswith("warning"):  # the others say what was linked here
            report(note)
    datasets = Datasets(known.name, known.classes, {}, known.manifest["test_only_classes"])
    if images.unknown:
        split = class_split("all_known", SPLIT, datasets)
    else:
        split = ClassSplit("all_known", SPLIT, known.name, datasets.trainable(), {}, "no unknown images were given")
    chosen = {"seed": plain["seeds"][0], "validation_fraction": CALIBRATION_FRACTION}
    arrays = make_split(
        split,
        train_labels=known.train.labels,
        test_labels=known.test.labels,
        other_test_labels={},
        classes=known.classes,
        **chosen,
    )
    with atomic_write(work / "split.npz") as partial, open(partial, "wb") as stream:
        named: dict[str, Any] = arrays
        np.savez_compressed(stream, **named)
    write_json(work / "split.json", describe(split, datasets, arrays, **chosen))
    return open_split(prepared, [], work / "split.npz", work / "split.json")


# ------------------------------------------------------------------------------------------------ time budget


def _remembered_plan(work: Path, asked: dict[str, Any], decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The plan of the training that is continued, or a new one: what time decided stays as it was decided."""
    path = work / "plan.json"
    if path.exists():
        try:
            remembered = read_json(path)
            if remembered["asked"] == json.loads(json.dumps(asked)):
                return remembered["planned"]
        except (OpenSetError, KeyError, TypeError):
            pass  # a plan costs seconds: it is made again
    planned = decide()
    _remember_plan(work, asked, planned)
    return planned


def _remember_plan(work: Path, asked: dict[str, Any], planned: dict[str, Any]) -> None:
    write_json(work / "plan.json", {"asked": asked, "planned": planned})


class TooSlow(Exception):
    """The features of a frozen network take longer than planned; with images of `size` pixels they would fit."""

    def __init__(self, size: int):
        self.size = size


class Pace:
    """Watches the features of a frozen network, on which such a training spends its time.

    A plan is made from a few images; a machine may turn slower afterwards. Then smaller images are seen from there on,
    if there is a size that fits into the time that is left; if not, the training takes the time that it needs.

    Args:
        deadline: of the whole command, as `time.monotonic()` counts.
    """

    def __init__(self, deadline: float, report: Callable[[str], None]):
        self.deadline, self.report = deadline, report
        self.told = False

    def begin(self, config: RunConfig, data: SplitData) -> None:
        """Begins with the features of a run, from wherever they are."""
        self.size: Any = config.backbone.get("input_size")
        self.later = len(data.arrays["validation_index"]) + len(data.arrays["test_index"])  # tested in the end
        self.first: tuple[float, int] | None = None

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = (now, done)
            return
        if now - self.first[0] < TRUSTED:
            return
        per_image = (now - self.first[0]) / (done - self.first[1])
        left = self.deadline - now
        if per_image * (of - done + self.later) <= left or self.told:
            return
        sizes = [size for size in SIZES if self.size in SIZES and size < self.size]
        for size in sizes:
            if per_image * (size / self.size) ** 2 * (of + self.later) <= PLANNED * left:
                self.report(f"the machine is slower than planned: images are processed at {size} pixels from now on")
                raise TooSlow(size)
        minutes = (per_image * (of - done + self.later) - left) / 60
        self.report(f"the machine is slower than planned: about {minutes:.1f} more minutes are needed")
        self.told = True


def _within_time(
    request: Request,
    plain: dict[str, Any],
    data: SplitData,
    device: torch.device,
    work: Path,
    started: float,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """The experiment with as many epochs, or as large images, as fit into the time that is left.

    Raises:
        SettingsError: the time is not enough for the least.
    """
    tested = len(data.arrays["test_index"])
    validation = len(data.arrays["validation_index"])

    minutes = request.minutes or 0.0  # this is called where they are given

    def left() -> float:
        return PLANNED * 60 * minutes - (time.monotonic() - started)

    def refuse(needed: float, remedy: str) -> SettingsError:
        spent = (time.monotonic() - started) / 60
        return SettingsError(
            f"--minutes {request.minutes:g} is not enough: about {needed / PLANNED / 60 + spent:.1f} are needed on "
            f"this machine; {remedy}"
        )

    run = plain["runs"][RUN]
    config = load(plain, stands_alone=True).run_config(RUN, SPLIT, request.seed)
    if config.caches_features:
        views = max(1, config.backbone["views"])
        given = config.backbone["input_size"]
        sizes = [size for size in SIZES if size <= given] if given in SIZES else [given]
        for size in sizes:
            if size is not None:
                run["backbone"]["input_size"] = size
            config = load(plain, stands_alone=True).run_config(RUN, SPLIT, request.seed)
            per_step, per_image, per_feature = measured(config, data, device, work)
            head = per_step * len(data.train_label) / config.optimization.batch_size * config.optimization.epochs
            features = per_feature * (views * len(data.train_label) + validation)
            needed = features + head + per_image * (validation + tested)
            if needed <= left():
                return plain
        raise refuse(needed, "give more, or take fewer images")
    if request.epochs is not None:
        raise SettingsError("--epochs and --minutes both set the length of training; give one of them")
    per_step, per_image, _ = measured(config, data, device, work)
    steps = len(data.train_label) // config.optimization.batch_size
    per_epoch = per_step * steps + per_image * validation
    rest = per_image * (validation + tested)
    epochs = int((left() - rest) / per_epoch)
    if epochs < 1:
        raise refuse(per_epoch + rest, "give more, or a smaller --image-size")
    run["optimization"]["epochs"] = min(epochs, LONGEST)
    run["optimization"]["warmup_epochs"] = clamp(epochs / 5, 0, 2)
    report(f"{run['optimization']['epochs']} epochs of about {per_epoch:.1f} s fit into {request.minutes:g} minutes")
    return plain


def measured(config: RunConfig, data: SplitData, device: torch.device, work: Path) -> tuple[float, float, float]:
    """Seconds of a training step, of testing an image, and of the features of an image where the run keeps them.

    A few steps of the very training, on some of its images, in a folder that is removed.
    """
    folder, size = work / "trial", config.optimization.batch_size
    seconds = {}
    student = make_student(config, data, device)
    for steps in (1, 9):
        n = min(len(data.train_label), steps * size)
        some = {"train_index": n, "train_label": n, "validation_index": 0, "validation_label": 0}
        arrays = {name: array[: some.get(name)] if name in some else array for name, array in data.arrays.items()}
        few = dataclasses.replace(data, arrays=arrays)
        brief = config.model_copy(
            update={"optimization": config.optimization.model_copy(update={"epochs": 1, "warmup_epochs": 0})}
        )
        begun = time.monotonic()
        Training(folder / "state.safetensors", {}, lambda line: None).run(brief, student, None, few, device)
        seconds[n // size] = time.monotonic() - begun
        shutil.rmtree(folder, ignore_errors=True)
    (few_steps, first), (many_steps, second) = min(seconds.items()), max(seconds.items())
    per_step = max(second - first, 0.02 * second) / max(many_steps - few_steps, 1) if len(seconds) > 1 else first
    loader = ImageLoader(data.train_images, data.arrays["train_index"][: 2 * CHUNK], device)
    begun = time.monotonic()
    predict(student, loader, data.normalize(config, device))
    per_image = (time.monotonic() - begun) / len(loader)
    if not config.caches_features:
        return per_step, per_image, 0.0
    # a trial of a run with features spends its time on those: the head's step is nothing next to them
    return 5e-4, per_image, per_step / size / max(1, config.backbone["views"])


# --------------------------------------------------------------------------------------------------- summary


def summary(model: OpenSetClassifier, request: Request, data: SplitData, outputs: Path, seconds: float) -> str:
    """What the model reaches on images that took no part in training and calibration, and what comes next."""
    arrays = load_outputs(outputs, closed=True)
    known = arrays["group"] == 0
    correct = int((arrays["logits"][known].argmax(axis=1) == arrays["labels"][known]).sum())
    n = int(known.sum())
    score = model.description.score
    point = model.operating_point()
    values = score_images(score, arrays["features"], arrays["logits"])
    lines = [
        f"{printable(str(request.out))} is complete after {_duration(seconds)}: {len(data.classes)} classes",
        f"  accuracy   {_percent(correct, n)} of {n} test images",
    ]
    for row in model.description.metrics:
        if row["metric"] == "auroc" and row["group"] == "all" and row["value"] is not None:
            interval = f" ({100 * row['low']:.1f} to {100 * row['high']:.1f})" if row["low"] is not None else ""
            lines.append(
                f"  AUROC      {100 * row['value']:.1f}{interval}, {n} known against {row['n_unknown']} unknown"
            )
    accepted = rate(values[known], point.threshold)
    lines += [
        f"  threshold  {point.threshold:.4g} of score {score}: {point.name}, of {point.known.images} to calibrate",
        f"  accepted   {_percent(accepted.accepted, n)} of the known test images",
    ]
    if not known.all():
        wrong = rate(values[~known], point.threshold)
        lines.append(f"             {_percent(wrong.accepted, wrong.images)} of {wrong.images} unknown images")
    lines.append("  in parentheses: 95 % intervals")
    if warning := point.warning():
        lines.append(f"  note: {warning}")
    if has_trained_weights(model.description.architecture.backbone):
        lines.append("  note: pretraining may have seen images like your unknown ones")
    out = shlex.quote(str(request.out))
    lines += ["next:", f"  openset predict {out} IMAGES..."]
    if point.warning():
        lines.append(f"  openset calibrate {out} --known FOLDER    (a threshold from more images)")
    return "\n".join(lines)


def _percent(count: int, of: int) -> str:
    low, high = exact_interval(count, of)
    return f"{100 * count / of:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
