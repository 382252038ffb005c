"""The training loop: one page that reads from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..core.device import autocast_dtype, precision_name, seed_layers
from ..core.errors import CheckpointError, TrainingError
from ..core.signals import GracefulShutdown, Interrupted, restores_handlers
from ..datasets.loader import Shown
from ..methods import METHODS, Teacher
from ..methods.base import needed, total
from ..models.classifier import Classifier
from ..models.inference import accuracy
from .batches import Batches
from .compilation import compiled
from .distributed import GatheringDataParallel, ProcessGroup, synchronize_batch_norm
from .features import HeadOnly
from .optimizer import SGD
from .run_config import RunConfig
from .schedule import learning_rate
from .state import Progress, restore, save

# a training that has gone on for longer than this since its last state saves its end as well
LAST_STATE_SECONDS = 60


@restores_handlers
def train(
    config: RunConfig,
    student: Classifier | HeadOnly,
    teacher: Teacher | None,
    batches: Batches,
    validation: tuple[Shown, Tensor],
    *,
    identity: Mapping[str, Any],
    state_path: Path,
    processes: ProcessGroup | None = None,
    report: Callable[[str], None] = print,
    on_epoch: Callable[[Mapping[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Trains `student` in place and returns one row an epoch.

    Args:
        config: the run's resolved settings.
        identity: what the training is computed from beside its settings (`setup.identity`).
        state_path: where the state is kept while training runs. A state of a training that is computed from the same is
            continued, bit for bit as if there had been no interruption; any other one is left aside, which `report`
            says. The caller removes the file once the results are written.
        processes: the processes that share this training; None is this one alone.
        on_epoch: is given each row when its epoch is done.

    Raises:
        CheckpointError: the method needs a teacher with a linear head, and this one has another; or the processes
            that share the training found different saved states.
        TrainingError: a loss term is not finite, or the epoch is to be selected on validation images and there are
            none.
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; the state has been saved.
    """
    settings, key, device = config.optimization, (config.seed, config.split), batches.labels.device
    if settings.select == "best_validation_accuracy" and len(validation[0]) == 0:
        raise TrainingError("select: best_validation_accuracy needs validation images; set validation_fraction above 0")
    method = METHODS.build(config.method)
    if method.needs_linear_teacher and needed(teacher).head_bias is None:
        raise CheckpointError(
            f"run {config.run!r} adds up features before the teacher's linear head (easy_target: enriched), and its "
            "teacher has no such head, or its logits were cached without one; choose another teacher or easy_target"
        )
    student.precision = autocast_dtype(settings.precision, device)
    epochs, steps = settings.epochs, batches.steps_per_epoch
    optimizer = SGD(
        (parameter for parameter in student.parameters() if parameter.requires_grad),
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
    )
    best: dict[str, Tensor] = {}
    identity = {**identity, "settings": config.plain(), "precision": precision_name(student.precision)}
    progress = restore(state_path, identity, student, optimizer, best, report) or Progress()
    if processes:
        processes.check_same(progress.epoch, progress.step)
    # called like the classifier that it wraps
    network: Any = (
        student if processes is None else GatheringDataParallel(synchronize_batch_norm(student, device), processes)
    )
    if settings.compile:
        mode = settings.compile if isinstance(settings.compile, str) else None
        network = compiled(network, batches[0].images, report, mode)
    stop = GracefulShutdown()
    started = saved = reported = time.monotonic()
    first = progress.epoch * steps + progress.step
    bar = tqdm(total=epochs * steps, initial=first, desc=config.run, unit="step", disable=None)

    while progress.epoch < epochs:
        student.train()
        while progress.step < steps:
            number = progress.epoch * steps + progress.step
            batch = batches[number]
            seed_layers(device, *key, "dropout", number, *([processes.rank] if processes else []))
            terms, statistics = method.loss(network, teacher, batch)
            loss = total(terms.values())
            loss.backward()
            if processes:
                processes.sum_gradients(optimizer.parameters)
            optimizer.step(learning_rate(settings, number, steps))

            progress.add({"train_loss": loss, **{f"loss_{name}": term for name, term in terms.items()}, **statistics})
            progress.step += 1
            bar.update()
            stopping, due = stop.requested, time.monotonic() - saved > 60 * settings.checkpoint_minutes
            if processes:
                stopping, due = processes.any(stopping, due)
            if due or stopping:
                progress.check_finite(state_path)
                if processes is None or processes.is_main:
                    save(state_path, identity, student, optimizer, best, progress)
                saved = time.monotonic()
            if stopping:
                bar.close()
                raise Interrupted(
                    f"stopped by a signal in epoch {progress.epoch + 1}; run again to resume", stop.number
                )

        progress.check_finite(state_path)
        last_step = (progress.epoch + 1) * steps - 1
        row = {name: (progress.sums[name] / progress.counts[name]).item() for name in progress.sums}
        row = {"epoch": progress.epoch + 1, "learning_rate": learning_rate(settings, last_step, steps), **row}
        if len(validation[0]):
            row["validation_accuracy"] = accuracy(student, *validation, batches.normalize)
        progress.history.append(row)
        if on_epoch:
            on_epoch(row)
        if settings.select == "best_validation_accuracy" and row["validation_accuracy"] > progress.best_accuracy:
            progress.best_accuracy = row["validation_accuracy"]
            best = {name: tensor.clone() for name, tensor in student.state_dict().items()}
        progress.epoch, progress.step, progress.sums, progress.counts = progress.epoch + 1, 0, {}, {}
        bar.set_postfix(epoch=progress.epoch, loss=f"{row['train_loss']:.3f}")
        if bar.disable and (time.monotonic() - reported > 30 or progress.epoch in (1, epochs)):
            reported = time.monotonic()
            # no step at all where the state that was continued is that of an epoch's last step
            seconds_per_step = (reported - started) / max(progress.epoch * steps - first, 1)
            report(plain_line(row, epochs, seconds_per_step * steps))

    bar.close()
    # the pass over the test images that follows may be cut short too
    if time.monotonic() - saved > LAST_STATE_SECONDS and (processes is None or processes.is_main):
        save(state_path, identity, student, optimizer, best, progress)
    student.precision = None  # what is trained in bfloat16 is tested in float32
    if settings.select == "best_validation_accuracy":
        student.load_state_dict(best)
    return progress.history


def plain_line(row: dict[str, float], epochs: int, seconds_per_epoch: float) -> str:
    """One line of a log, for where there is no terminal to draw a bar on."""
    validation = f", validation accuracy {row['validation_accuracy']:.3f}" if "validation_accuracy" in row else ""
    remaining = seconds_per_epoch * (epochs - row["epoch"])
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.4f}{validation}, "
        f"{seconds_per_epoch:.1f} s per epoch, about {remaining:.0f} s left"
    )
