"""Where a training stands, and how it survives the end of its process."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.errors import CheckpointError, TrainingError
from ..models.checkpoint import load_tensors, save_tensors
from ..models.classifier import Classifier
from .optimizer import SGD


@dataclass
class Progress:
    """Where a training stands: position, what the running epoch has summed up, and the finished epochs."""

    epoch: int = 0
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    best_accuracy: float = -1.0

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def check_finite(self) -> None:
        """Raises a TrainingError that names the loss terms that are not finite."""
        bad = [name.removeprefix("loss_") for name, total in self.sums.items() if not math.isfinite(total.item())]
        if bad:
            raise TrainingError(
                f"the loss is not finite in epoch {self.epoch + 1} (term {', '.join(bad)}); lower the learning rate, "
                "lengthen the warm-up or set precision: float32. The last good state is kept"
            )


def save(
    path: Path,
    job: dict[str, Any],
    student: Classifier,
    optimizer: SGD,
    best: dict[str, Tensor],
    progress: Progress,
) -> None:
    """Writes all that continues the training: weights, momentum, best weights so far, position, history."""
    tensors = {f"model/{name}": tensor for name, tensor in student.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    tensors |= {f"momentum/{index}": buffer for index, buffer in enumerate(optimizer.momentum_buffers)}
    tensors |= {f"sum/{name}": total for name, total in progress.sums.items()}
    position = {
        "epoch": progress.epoch,
        "step": progress.step,
        "counts": progress.counts,
        "history": progress.history,
        "best_accuracy": progress.best_accuracy,
    }
    save_tensors(path, tensors, {"job": json.dumps(job, sort_keys=True), "progress": json.dumps(position)})


def restore(
    path: Path,
    job: dict[str, Any],
    student: Classifier,
    optimizer: SGD,
    best: dict[str, Tensor],
    report: Callable[[str], None],
) -> Progress | None:
    """Puts a saved state back, or returns None when there is none that belongs to this job."""
    if not path.exists():
        return None
    try:
        tensors, metadata = load_tensors(path)
    except CheckpointError as error:
        report(f"{error}; training starts anew")
        return None
    if metadata.get("job") != json.dumps(job, sort_keys=True):
        report(f"{path} belongs to other settings; training starts anew")
        return None
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "momentum": {}, "sum": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups[group][rest] = tensor
    student.load_state_dict(groups["model"])
    best.update(groups["best"])
    optimizer.restore([groups["momentum"][str(index)] for index in range(len(groups["momentum"]))])
    device = next(student.parameters()).device
    sums = {name: tensor.to(device) for name, tensor in groups["sum"].items()}
    progress = Progress(sums=sums, **json.loads(metadata["progress"]))
    report(f"going on from epoch {progress.epoch + 1}, step {progress.step}")
    return progress
