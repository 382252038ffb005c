"""The teacher of a student: networks that run now, or their cached logits.

All students with the same seed, split, augmentation, batch size and epochs see the same images (`Batches`), so their
teacher needs to look at each only once: `cache_logits` stores its logits, and `CachedTeacher` reads them back.
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
from ..core.files import remove_stale_temporaries
from ..core.signals import GracefulShutdown, Interrupted, restores_handlers
from ..methods import Batch
from ..models.checkpoint import load_classifier, load_tensors, save_tensors
from ..models.classifier import Classifier, channels_last
from .batches import Batches
from .distributed import GatheringDataParallel, ProcessGroup


class TeacherEnsemble(nn.Module):
    """One or several frozen classifiers; the logits of an ensemble are the mean of its members' logits.

    `forward`: images -> logits `[batch, classes]`, in evaluation mode and without a graph.
    """

    def __init__(self, members: Sequence[Classifier | GatheringDataParallel]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> TeacherEnsemble:
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
            head = (member.network if isinstance(member, GatheringDataParallel) else member).head
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
        raise TrainingError(
            f"batch {batch.step} is not mixed, but the teacher's logits for its mixed images are requested"
        )
    return batch.mixed.images


def load_teachers(
    paths: Sequence[Path],
    classes: tuple[str, ...],
    device: torch.device,
    *,
    precision: str = "float32",
    processes: ProcessGroup | None = None,
) -> TeacherEnsemble:
    """The teacher of a run, an ensemble if several files of weights are named.

    Args:
        precision: `optimization.precision` of the run.
        processes: the processes that share the batches, if there are several.

    Raises:
        CheckpointError: missing or damaged file, or a network that was trained on other classes.
    """
    members = [load_classifier(path, classes=classes)[0] for path in paths]
    for member in members:
        member.precision = autocast_dtype(precision, device)
    networks = TeacherEnsemble(
        members if processes is None else [GatheringDataParallel(member, processes) for member in members]
    )
    return channels_last(networks, device)


class CachedTeacher:
    """Cached logits of teachers, by step.

    File: logits `raw` `[steps, batch, classes]` and `mixed` `[mixed steps, batch, classes]`, and `row` int64 `[steps]`,
    the row of `mixed` that belongs to a step (-1: not mixed); where the teachers' heads are linear, their mean
    bias `head_bias` `[classes]`.

    Args:
        wanted: the `setup.cache_key` of the run, which must be that of the cache.

    Raises:
        CheckpointError: the file is missing, damaged, or was made of other images or teachers.
    """

    def __init__(self, path: Path, wanted: Mapping[str, Any], device: torch.device):
        tensors, metadata = load_tensors(path)
        again = "delete it and cache the teacher logits again"
        try:
            # files of version 0.1 call the key "views"
            stored = json.loads(metadata.get("cache_key") or metadata.get("views", "{}"))
            differing = [key for key, value in wanted.items() if stored.get(key) != value]
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} does not state which teacher logits it holds ({error}); {again}") from error
        if differing:
            raise CheckpointError(
                f"the teacher logits in {path} belong to other settings, images or teachers than this run's "
                f"({', '.join(differing)}); {again}, or leave out --teacher-logits to run the teacher"
            )
        try:
            raw, mixed, self.row = _checked(tensors, wanted)
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged ({error}); {again}") from error
        if len(raw) == 0 or len(raw) % wanted["optimization"]["epochs"]:
            raise CheckpointError(f"{path} has {len(raw)} steps, which is not a whole number of epochs; {again}")
        self.raw, self.mixed = raw.to(device), mixed.to(device)
        bias = tensors.get("head_bias")
        if bias is not None and (bias.shape != (len(wanted["classes"]),) or not bias.isfinite().all()):
            raise CheckpointError(f"{path} is damaged (head_bias does not fit its classes); {again}")
        self.head_bias = None if bias is None else bias.to(device)

    def on_raw(self, batch: Batch) -> Tensor:
        return self.raw[batch.step]

    def on_mixed(self, batch: Batch) -> Tensor:
        row = self.row[batch.step]
        if row < 0:
            raise ValueError(f"batch {batch.step} is not mixed; call on_raw if batch.mixed is None")
        return self.mixed[row]

    def on_both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.on_raw(batch), self.on_mixed(batch)


@restores_handlers
def cache_logits(
    path: Path,
    networks: TeacherEnsemble,
    batches: Batches,
    key: Mapping[str, Any],
    *,
    minutes: float = 5.0,
    report: Callable[[str], None] = print,
) -> None:
    """Writes the logits of `networks` on the batches of all epochs to `path`.

    An interrupted call leaves its state next to `path`; the next call resumes it, to the same bits.

    Args:
        key: the `setup.cache_key` of the batches.
        minutes: time between two saved states.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; the logits so far are saved.
    """
    device, steps = batches.labels.device, key["optimization"]["epochs"] * batches.steps_per_epoch
    state, metadata = path.with_name(f"{path.stem}.state.safetensors"), {"cache_key": json.dumps(key, sort_keys=True)}
    raw, mixed, row = _continued(state, metadata, device, report)
    stop, saved = GracefulShutdown(), time.monotonic()

    def save(where: Path) -> None:
        tensors = {"raw": torch.stack(raw), "mixed": torch.stack(mixed) if mixed else raw[0].new_empty(0)}
        bias = {} if networks.head_bias is None else {"head_bias": networks.head_bias}
        save_tensors(where, {**tensors, **bias, "row": torch.tensor(row)}, metadata)

    for step in tqdm(range(len(row), steps), total=steps, initial=len(row), unit="step", disable=None):
        batch = batches[step]
        on_raw, on_mixed = (networks.on_raw(batch), None) if batch.mixed is None else networks.on_both(batch)
        raw.append(on_raw)
        row.append(-1 if on_mixed is None else len(mixed))
        if on_mixed is not None:
            mixed.append(on_mixed)
        if stop.requested or time.monotonic() - saved > 60 * minutes:
            save(state)
            saved = time.monotonic()
        if stop.requested:
            raise Interrupted(f"stopped by a signal at step {step + 1} of {steps}; run again to resume", stop.number)
    save(path)
    state.unlink(missing_ok=True)
    remove_stale_temporaries(state)


def _continued(
    state: Path, metadata: Mapping[str, str], device: torch.device, report: Callable[[str], None]
) -> tuple[list[Tensor], list[Tensor], list[int]]:
    """What an interrupted call with the same cache key left; nothing if there is none."""
    if state.exists():
        try:
            tensors, found = load_tensors(state)
        except CheckpointError as error:
            report(f"{error}; caching teacher logits starts over")
        else:
            if found == metadata:
                try:
                    raw, mixed, row = _checked(tensors, json.loads(metadata["cache_key"]))
                except ValueError as error:
                    report(f"{state} is damaged ({error}); caching teacher logits starts over")
                    return [], [], []
                report(f"resuming at step {len(row)}")
                return list(raw.to(device)), list(mixed.to(device)), row
            report(f"{state} was saved for other settings, images or teachers; caching starts over")
    return [], [], []


def _checked(tensors: Mapping[str, Tensor], key: Mapping[str, Any]) -> tuple[Tensor, Tensor, list[int]]:
    """The tensors `raw`, `mixed` and the list `row` of a cache, on the CPU.

    Raises:
        ValueError: one is missing, of another shape or type than `key` makes it, or not finite.
    """
    shape = (key["optimization"]["batch_size"], len(key["classes"]))
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
