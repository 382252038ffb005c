"""Whom a student learns from: networks that answer now, or a recording of what they answered.

All students with the same seed, split, augmentation, batch size and epochs see the same images (`Batches`), so their
teacher needs to look at each only once: `record` writes its answers down, and `Recording` reads them back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..core.device import autocast_dtype, precision_name
from ..core.errors import CheckpointError, TrainingError
from ..core.files import remove_leftovers
from ..core.signals import Interrupted, StopRequest
from ..methods import Batch
from ..models.checkpoint import load_classifier, load_tensors, save_tensors
from ..models.classifier import Classifier, channels_last
from .batches import Batches
from .distributed import Sharded, World


class Networks(nn.Module):
    """One or several frozen classifiers; the answer of an ensemble is the mean of its members' logits.

    `forward`: images -> logits `[batch, classes]`, in evaluation mode and without a graph.
    """

    def __init__(self, members: Sequence[Classifier | Sharded]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Networks:
        return super().train(False)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images)[1] for member in self.members]).mean(dim=0)

    def on_raw(self, batch: Batch) -> Tensor:
        return self(batch.images)

    def on_mixed(self, batch: Batch) -> Tensor:
        return self(mixed_images(batch))

    def on_both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        # one pass for both: a network in evaluation mode has no batch statistics, so the company changes nothing
        on_raw, on_mixed = self(torch.cat([batch.images, mixed_images(batch)])).chunk(2)
        return on_raw, on_mixed

    @property
    def head_bias(self) -> Tensor | None:
        biases = []
        for member in self.members:
            head = (member.network if isinstance(member, Sharded) else member).head
            if not isinstance(head, nn.Linear):
                return None
            biases.append(head.weight.new_zeros(head.out_features) if head.bias is None else head.bias)
        return torch.stack(biases).mean(dim=0)


def mixed_images(batch: Batch) -> Tensor:
    """The mixed images of a batch that is mixed.

    Raises:
        TrainingError: it is not.
    """
    if batch.mixed is None:
        raise TrainingError(f"batch {batch.number} is not mixed, and the teacher is asked for its mixed images")
    return batch.mixed.images


def load_networks(
    paths: Sequence[Path],
    classes: tuple[str, ...],
    device: torch.device,
    *,
    precision: str = "float32",
    world: World | None = None,
) -> Networks:
    """The teacher of a run, an ensemble if several files of weights are named.

    Args:
        precision: `optimization.precision` of the run.
        world: the processes that share the batches, if there are several.

    Raises:
        CheckpointError: missing or damaged file, or a network that was trained on other classes.
    """
    members = [load_classifier(path, classes=classes)[0] for path in paths]
    for member in members:
        member.precision = autocast_dtype(precision, device)
    networks = Networks(members if world is None else [Sharded(member, world) for member in members])
    return channels_last(networks, device)


class Recording:
    """The recorded answers of teachers, by step.

    File: logits `raw` `[steps, batch, classes]` and `mixed` `[mixed steps, batch, classes]`, and `row` int64 `[steps]`,
    the row of `mixed` that belongs to a step (-1: not mixed); where the teachers' heads are linear, their mean
    bias `head_bias` `[classes]`.

    Args:
        wanted: what the run sees (`runs.views`), which must be what was recorded.

    Raises:
        CheckpointError: the file is missing, damaged, or was made of other images or teachers.
    """

    def __init__(self, path: Path, wanted: Mapping[str, Any], device: torch.device):
        tensors, metadata = load_tensors(path)
        again = "delete it and record the teacher's answers again"
        try:
            recorded = json.loads(metadata.get("views", "{}"))
            differing = [key for key, value in wanted.items() if recorded.get(key) != value]
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"recording {path} does not say what was recorded ({error}); {again}") from error
        if differing:
            raise CheckpointError(
                f"recording {path} was made for other settings, images or teachers than this run's "
                f"({', '.join(differing)}); {again}, or leave out --answers to ask the teacher itself"
            )
        try:
            raw, mixed, self.row = _checked(tensors, wanted)
        except ValueError as error:
            raise CheckpointError(f"recording {path} is damaged ({error}); {again}") from error
        if len(raw) == 0 or len(raw) % wanted["optimization"]["epochs"]:
            raise CheckpointError(f"recording {path} has {len(raw)} steps, which is no whole number of epochs; {again}")
        self.raw, self.mixed = raw.to(device), mixed.to(device)
        bias = tensors.get("head_bias")
        if bias is not None and (bias.shape != (len(wanted["classes"]),) or not bias.isfinite().all()):
            raise CheckpointError(f"recording {path} is damaged (head_bias does not fit its classes); {again}")
        self.head_bias = None if bias is None else bias.to(device)

    def on_raw(self, batch: Batch) -> Tensor:
        return self.raw[batch.number]

    def on_mixed(self, batch: Batch) -> Tensor:
        row = self.row[batch.number]
        if row < 0:
            raise ValueError(f"batch {batch.number} is not mixed; ask for on_raw where batch.mixed is None")
        return self.mixed[row]

    def on_both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.on_raw(batch), self.on_mixed(batch)


def record(
    path: Path,
    networks: Networks,
    batches: Batches,
    described: Mapping[str, Any],
    *,
    minutes: float = 5.0,
    report: Callable[[str], None] = print,
) -> None:
    """Writes what `networks` answer to the batches of all epochs to `path`.

    An interrupted recording lies beside `path` and is continued by the next call, to the same bits.

    Args:
        described: what is recorded (`runs.views`).
        minutes: time between two saved states.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; what was recorded is saved.
    """
    device, steps = batches.labels.device, described["optimization"]["epochs"] * batches.an_epoch
    state, metadata = path.with_name(f"{path.stem}.state.safetensors"), {"views": json.dumps(described, sort_keys=True)}
    raw, mixed, row = _continued(state, metadata, device, report)
    stop, saved = StopRequest(), time.monotonic()

    def save(where: Path) -> None:
        tensors = {"raw": torch.stack(raw), "mixed": torch.stack(mixed) if mixed else raw[0].new_empty(0)}
        bias = {} if networks.head_bias is None else {"head_bias": networks.head_bias}
        save_tensors(where, {**tensors, **bias, "row": torch.tensor(row)}, metadata)

    for number in tqdm(range(len(row), steps), total=steps, initial=len(row), unit="step", disable=None):
        batch = batches[number]
        on_raw, on_mixed = (networks.on_raw(batch), None) if batch.mixed is None else networks.on_both(batch)
        raw.append(on_raw)
        row.append(-1 if on_mixed is None else len(mixed))
        if on_mixed is not None:
            mixed.append(on_mixed)
        if stop.requested or time.monotonic() - saved > 60 * minutes:
            save(state)
            saved = time.monotonic()
        if stop.requested:
            raise Interrupted(
                f"stopped by a signal at step {number + 1} of {steps}; run again to go on from there", stop.number
            )
    save(path)
    stop.release()
    state.unlink(missing_ok=True)
    remove_leftovers(state)


def _continued(
    state: Path, metadata: Mapping[str, str], device: torch.device, report: Callable[[str], None]
) -> tuple[list[Tensor], list[Tensor], list[int]]:
    """What an interrupted recording of the same views left; nothing if there is none."""
    if state.exists():
        try:
            tensors, found = load_tensors(state)
        except CheckpointError as error:
            report(f"{error}; recording starts anew")
        else:
            if found == metadata:
                try:
                    raw, mixed, row = _checked(tensors, json.loads(metadata["views"]))
                except ValueError as error:
                    report(f"{state} is damaged ({error}); recording starts anew")
                    return [], [], []
                report(f"going on from step {len(row)}")
                return list(raw.to(device)), list(mixed.to(device)), row
            report(f"{state} was saved for other settings, images or teachers; recording starts anew")
    return [], [], []


def _checked(tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> tuple[Tensor, Tensor, list[int]]:
    """The tensors `raw`, `mixed` and the list `row` of a recording, on the CPU.

    Raises:
        ValueError: one is missing, of another shape or type than `described` makes it, or not finite.
    """
    shape = (described["optimization"]["batch_size"], len(described["classes"]))
    for name, kind in (("raw", torch.float32), ("mixed", torch.float32), ("row", torch.int64)):
        if name not in tensors or tensors[name].dtype != kind:
            raise ValueError(f"it has no {name} of type {precision_name(kind)}")
    raw, mixed, row = tensors["raw"], tensors["mixed"], tensors["row"]
    for name, logits in (("raw", raw), ("mixed", mixed)):
        if logits.shape[1:] != shape and not (name == "mixed" and logits.shape == (0,)):
            raise ValueError(f"{name} has the shape {list(logits.shape)}, which is not that of these batches")
        if not logits.isfinite().all():
            raise ValueError(f"{name} is not finite")
    expected = torch.full_like(row, -1)
    is_mixed = row >= 0
    expected[is_mixed] = torch.arange(int(is_mixed.sum()))
    if row.shape != (len(raw),) or int(is_mixed.sum()) != len(mixed) or not torch.equal(row, expected):
        raise ValueError("its rows do not fit its logits")
    return raw, mixed, row.tolist()
