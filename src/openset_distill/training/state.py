"""Where a training stands, and how it survives the end of its process."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
from torch import Tensor, nn

from ..core.errors import CheckpointError, TrainingError
from ..models.checkpoint import load_tensors, save_tensors
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

    def check_finite(self, state: Path) -> None:
        """Raises a TrainingError that names the loss terms that are not finite.

        Args:
            state: where the last good state is, if one was saved.
        """
        bad = [name.removeprefix("loss_") for name, total in self.sums.items() if not math.isfinite(total.item())]
        if bad:
            kept = f". The last good state is kept in {state}" if state.exists() else ""
            raise TrainingError(
                f"the loss is not finite in epoch {self.epoch + 1} (term {', '.join(bad)}); lower the learning rate, "
                f"lengthen the warm-up or set precision: float32{kept}"
            )


# part of what a state is matched by: raised whenever a state of before cannot be continued
FORMAT = 2
# what a state is matched by, in words for a message
DIFFERENCES = {
    "settings": "other settings",
    "split": "another split",
    "classes": "other classes",
    "images": "other prepared images",
    "teacher": "another teacher",
    "precision": "another precision",
    "weights": "other weights to start from",
    "features": "other features of a frozen backbone",
}


class _Position(pydantic.BaseModel):
    """The part of `Progress` that is no tensor, as a state holds it."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    epoch: pydantic.NonNegativeInt
    step: pydantic.NonNegativeInt
    counts: dict[str, pydantic.PositiveInt]
    history: list[dict[str, int | float]]
    best_accuracy: float


def save(
    path: Path,
    identity: Mapping[str, Any],
    student: nn.Module,
    optimizer: SGD,
    best: dict[str, Tensor],
    progress: Progress,
) -> None:
    """Writes all that continues the training: weights, momentum, best weights so far, position, history.

    Args:
        identity: what the training is computed from, as plain data with the keys of `DIFFERENCES`.
    """
    tensors = {f"model/{name}": tensor for name, tensor in student.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    tensors |= {f"momentum/{index}": buffer for index, buffer in enumerate(optimizer.momentum_buffers)}
    tensors |= {f"sum/{name}": total for name, total in progress.sums.items()}
    position = _Position(
        epoch=progress.epoch,
        step=progress.step,
        counts=progress.counts,
        history=progress.history,
        best_accuracy=progress.best_accuracy,
    )
    metadata = {
        "format": str(FORMAT),
        "identity": json.dumps(dict(identity), sort_keys=True),
        "progress": position.model_dump_json(),
    }
    save_tensors(path, tensors, metadata)


def restore(
    path: Path,
    identity: Mapping[str, Any],
    student: nn.Module,
    optimizer: SGD,
    best: dict[str, Tensor],
    report: Callable[[str], None],
) -> Progress | None:
    """Puts a saved state back, or returns None when there is none that belongs to this training.

    A state belongs to a training when all that the training is computed from is the same: settings, split, classes,
    prepared images, teacher and precision. Any other state, one of another version and a damaged one are left aside,
    which `report` says in one line.

    Raises:
        CheckpointError: the same settings mean another precision here: on other hardware hours of training would
            silently begin anew, or change their precision midway.
    """
    if not path.exists():
        return None
    try:
        tensors, metadata = load_tensors(path)
    except CheckpointError as error:
        report(f"{error}; training starts over")
        return None
    if metadata.get("format") != str(FORMAT):
        report(f"{path} was saved by another version; training starts over")
        return None
    wanted = json.loads(json.dumps(dict(identity)))
    try:
        found = json.loads(metadata["identity"])
        differing = [words for key, words in DIFFERENCES.items() if found.get(key) != wanted.get(key)]
        if differing == [DIFFERENCES["precision"]]:
            raise CheckpointError(
                f"{path} was computed in {found.get('precision')}, and `precision: auto` is {wanted.get('precision')} "
                "on this machine; resume on the same type of hardware, or delete the state to start over"
            )
        if differing:
            report(f"{path} was saved by a training with {', '.join(differing)}; training starts over")
            return None
        progress, groups = _checked(tensors, metadata, student, optimizer)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        report(f"{path} is damaged ({' '.join(str(error).split())}); training starts over")
        return None
    student.load_state_dict(groups["model"])
    best.update(groups["best"])
    optimizer.restore([groups["momentum"][str(index)] for index in range(len(groups["momentum"]))])
    report(f"resuming from epoch {progress.epoch + 1}, step {progress.step}")
    return progress


def _checked(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], student: nn.Module, optimizer: SGD
) -> tuple[Progress, dict[str, dict[str, Tensor]]]:
    """The parts of a state, by group, once all of them fit: nothing is put back from a state that is damaged.

    Raises:
        ValueError: a part is missing, too much, of another shape or type, or not finite.
    """
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "momentum": {}, "sum": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        if group not in groups:
            raise ValueError(f"it holds {name!r}, which no state has")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")
        groups[group][rest] = tensor
    position = _Position.model_validate_json(metadata["progress"])
    model = student.state_dict()
    momentum = {str(index): parameter for index, parameter in enumerate(optimizer.parameters)}
    for group, expected, needed in (("model", model, True), ("best", model, False), ("momentum", momentum, False)):
        found = groups[group]
        if (needed or found) and _shapes(found) != _shapes(expected):
            raise ValueError(f"its {group} does not fit the network")
    if groups["sum"].keys() != position.counts.keys() or any(total.ndim for total in groups["sum"].values()):
        raise ValueError("its sums and counts do not fit each other")
    device = next(student.parameters()).device
    # in the order in which they were first met, which the file of tensors does not keep
    sums = {name: groups["sum"][name].to(device) for name in position.counts}
    return Progress(sums=sums, **position.model_dump()), groups


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
