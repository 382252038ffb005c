"""The training loop: one page that reads from top to bottom."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .augment import MULTI_SAMPLE, SINGLE_SAMPLE
from .device import autocast_dtype, derive_seed, generator
from .errors import TrainingError
from .feed import Feed, Normalize
from .inference import accuracy
from .methods import METHODS, Batch
from .models.classifier import Classifier, Teacher
from .optimizer import SGD
from .training_state import Progress, restore, save


class Interrupted(TrainingError):
    """The job was asked to stop; its state is saved and the same command goes on from there."""


def learning_rate(settings: dict[str, Any], step: int, steps_per_epoch: int) -> float:
    """The rate of one step: `learning_rate * batch / 128`, linear warm-up, then the schedule."""
    peak = settings["learning_rate"] * settings["batch_size"] / 128
    total, warmup = settings["epochs"] * steps_per_epoch, settings["warmup_epochs"] * steps_per_epoch
    if step < warmup:
        return peak * (step + 1) / warmup
    if settings["schedule"] == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
    if settings["schedule"] == "step":
        return peak * settings["decay"] ** sum(step >= fraction * total for fraction in settings["milestones"])
    return peak


def train(
    job: dict[str, Any],
    student: Classifier,
    teacher: Teacher | None,
    images: Feed,
    labels: Tensor,
    validation: tuple[Feed, Tensor],
    normalize: Normalize,
    *,
    state_path: Path,
    report: Callable[[str], None] = print,
) -> list[dict[str, float]]:
    """Trains `student` in place and returns one row an epoch.

    Args:
        job: resolved settings (`Experiment.training_job`).
        labels: int64 `[n]` on the device, of the training images.
        state_path: where the state is kept while training runs. A state of the same job is continued, bit for bit as
            if there had been no interruption; the caller removes the file once the results are written.

    Raises:
        TrainingError: a loss term is not finite, there are fewer images than one batch holds, or the epoch is to be
            selected on validation images and there are none.
        Interrupted: SIGTERM or SIGUSR1 came; the state has been saved.
    """
    settings, key, device = job["optimization"], (job["seed"], job["split"]), images.device
    method = METHODS.build(job["method"])
    single = [SINGLE_SAMPLE.build(one) for one in job["augment"]["single"]]
    multi = MULTI_SAMPLE.build(job["augment"]["multi"]) if job["augment"]["multi"] else None
    dtype = autocast_dtype(settings["precision"], device)
    batch_size, epochs = settings["batch_size"], settings["epochs"]
    steps = len(images) // batch_size
    if steps == 0:
        raise TrainingError(f"{len(images)} training images do not fill one batch of {batch_size}; lower batch_size")
    if settings["select"] == "best_validation_accuracy" and len(validation[0]) == 0:
        raise TrainingError("select: best_validation_accuracy needs validation images; set validation_fraction above 0")
    optimizer = SGD(
        (parameter for parameter in student.parameters() if parameter.requires_grad),
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
        nesterov=settings["nesterov"],
    )
    best: dict[str, Tensor] = {}
    progress = restore(state_path, job, student, optimizer, best, report) or Progress()
    stop = StopRequest()
    started = saved = reported = time.monotonic()
    first = progress.epoch * steps + progress.step
    bar = tqdm(total=epochs * steps, initial=first, desc=job["run"], unit="step", disable=None)

    while progress.epoch < epochs:
        student.train()
        order = torch.randperm(len(images), generator=generator(*key, "order", progress.epoch))
        while progress.step < steps:
            number = progress.epoch * steps + progress.step
            draws = generator(*key, "augment", number)
            torch.manual_seed(derive_seed(*key, "dropout", number))

            chosen = order[progress.step * batch_size : (progress.step + 1) * batch_size]
            pixels = images.batch(chosen)
            for augmentation in single:
                pixels = augmentation(pixels, draws)
            inputs = normalize(pixels)
            mix = multi is not None and torch.rand((), generator=draws).item() < multi.probability
            batch = Batch(inputs, labels[chosen.to(device)], multi(inputs, draws) if mix else None)

            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                terms, statistics = method.loss(student, teacher, batch)
                loss = sum(terms.values())
            loss.backward()
            optimizer.step(learning_rate(settings, number, steps))

            progress.add({"train_loss": loss, **{f"loss_{name}": term for name, term in terms.items()}, **statistics})
            progress.step += 1
            bar.update()
            due = time.monotonic() - saved > 60 * settings["checkpoint_minutes"]
            if due or stop.requested:
                progress.check_finite()
                save(state_path, job, student, optimizer, best, progress)
                saved = time.monotonic()
            if stop.requested:
                raise Interrupted(f"stopped by a signal in epoch {progress.epoch + 1}; run again to go on from there")

        progress.check_finite()
        last_step = (progress.epoch + 1) * steps - 1
        row = {name: (progress.sums[name] / progress.counts[name]).item() for name in progress.sums}
        row = {"epoch": progress.epoch + 1, "learning_rate": learning_rate(settings, last_step, steps), **row}
        if len(validation[0]):
            row["validation_accuracy"] = accuracy(student, *validation, normalize, dtype)
        progress.history.append(row)
        if settings["select"] == "best_validation_accuracy" and row["validation_accuracy"] > progress.best_accuracy:
            progress.best_accuracy = row["validation_accuracy"]
            best = {name: tensor.clone() for name, tensor in student.state_dict().items()}
        progress.epoch, progress.step, progress.sums, progress.counts = progress.epoch + 1, 0, {}, {}
        bar.set_postfix(epoch=progress.epoch, loss=f"{row['train_loss']:.3f}")
        if bar.disable and (time.monotonic() - reported > 30 or progress.epoch in (1, epochs)):
            reported = time.monotonic()
            seconds_per_step = (reported - started) / (progress.epoch * steps - first)
            report(plain_line(row, epochs, seconds_per_step * steps))

    bar.close()
    stop.release()
    if settings["select"] == "best_validation_accuracy":
        student.load_state_dict(best)
    return progress.history


def plain_line(row: dict[str, float], epochs: int, seconds_per_epoch: float) -> str:
    """One line of a log, for where there is no terminal to draw a bar on."""
    validation = f", validation accuracy {row['validation_accuracy']:.3f}" if "validation_accuracy" in row else ""
    remaining = seconds_per_epoch * (epochs - row["epoch"])
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.4f}{validation}, "
        f"{seconds_per_epoch:.1f} s an epoch, about {remaining:.0f} s to go"
    )


class StopRequest:
    """Notices SIGTERM and SIGUSR1, which schedulers send before they end a job."""

    def __init__(self) -> None:
        self.requested = False
        self._before = {number: signal.signal(number, self._notice) for number in (signal.SIGTERM, signal.SIGUSR1)}

    def _notice(self, number: int, frame: Any) -> None:
        self.requested = True

    def release(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
