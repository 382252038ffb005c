"""Weights and training state as safetensors files, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..core.errors import CheckpointError, SettingsError, nearest
from ..core.files import AGAIN, atomic_write, unreadable
from . import build_classifier
from .classifier import Classifier, channels_last
from .heads import HEADS

# the one key of a file's own metadata
METADATA = "openset-distill"
# settings of a backbone that say where its training began and which part of it was trained
_AS_TRAINED = {"pretrained": False, "weights": None, "freeze": False, "views": 0}


@dataclass(frozen=True)
class NetworkSpec:
    """What a file of weights says about its network: enough to rebuild it and to refuse it where it does not fit."""

    backbone: dict[str, Any]
    classes: tuple[str, ...]
    channels: int
    image_size: int
    head: str = "linear"

    def metadata(self) -> dict[str, str]:
        return {
            "backbone": json.dumps(self.backbone, sort_keys=True),
            "classes": json.dumps(self.classes),
            "channels": str(self.channels),
            "image_size": str(self.image_size),
            "head": self.head,
        }


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors and text metadata; the file appears only when it is complete.

    The same contents are the same bytes, so metadata go under one key: the format orders several at random.

    Raises:
        OpenSetError: the folder cannot be written or the disk is full.
    """
    # not save_file: it writes through a hidden file of its own, which a killed process would leave behind
    contents = _packed(tensors, metadata)
    with atomic_write(path) as partial:
        partial.write_bytes(contents)


def _packed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(contiguous, metadata={METADATA: json.dumps(dict(metadata), sort_keys=True)})


def load_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file.

    Raises:
        CheckpointError: the file is missing, truncated or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            metadata = stream.metadata() or {}
        if METADATA in metadata:
            metadata = json.loads(metadata[METADATA])
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("its metadata are no text")
        return tensors, metadata
    except OSError as error:
        if error.errno is None and not isinstance(error, FileNotFoundError):  # safetensors' own words
            raise CheckpointError(f"checkpoint {path} is damaged ({error}); {AGAIN}") from error
        raise CheckpointError(
            f"checkpoint {unreadable(path, error, 'run the training that makes it first')}"
        ) from error
    except (SafetensorError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged ({error}); {AGAIN}") from error


def save_classifier(path: Path | str, model: Classifier, described: NetworkSpec) -> None:
    """Writes a classifier's weights with the description that rebuilds it."""
    save_tensors(path, model.state_dict(), described.metadata())


def weights_digest(model: Classifier, described: NetworkSpec) -> str:
    """The SHA-256 of the file that `save_classifier` writes of the same network."""
    return hashlib.sha256(_packed(model.state_dict(), described.metadata())).hexdigest()


def load_classifier(path: Path | str, *, classes: tuple[str, ...] | None = None) -> tuple[Classifier, NetworkSpec]:
    """A classifier in evaluation mode, on the CPU.

    Args:
        classes: the class names, in label order, that the caller works with.

    Raises:
        CheckpointError: missing or damaged file, or a network that was trained on other classes.
    """
    tensors, metadata = load_tensors(path)
    try:
        described = NetworkSpec(
            backbone=json.loads(metadata["backbone"]),
            classes=tuple(json.loads(metadata["classes"])),
            channels=int(metadata["channels"]),
            image_size=int(metadata["image_size"]),
            head=metadata.get("head", "linear"),  # files of version 0.1.0 name none
        )
        if not isinstance(described.backbone, dict) or not all(isinstance(name, str) for name in described.classes):
            raise ValueError("its backbone and classes are not what they should be")
        if described.channels not in (1, 3) or not 1 <= described.image_size <= 65_536:
            raise ValueError(f"images of {described.channels} channels and {described.image_size} pixels")
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"checkpoint {path} does not describe its network ({error}); "
            "it was not written by this project, train it again"
        ) from error
    if described.head not in HEADS:
        raise CheckpointError(f"checkpoint {path} has a head of an unknown kind; {nearest(described.head, HEADS)}")
    if classes is not None and described.classes != classes:
        raise CheckpointError(
            f"checkpoint {path} was trained on other classes than this split: "
            f"{_difference(described.classes, classes)}; use the teacher of the same split"
        )
    # the weights are in the file: nothing is initialised from, or downloaded for, the published model again
    backbone = described.backbone | {key: off for key, off in _AS_TRAINED.items() if key in described.backbone}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"checkpoint {path} is damaged ({name} is not finite); {AGAIN}")
    try:
        model = build_classifier(
            backbone, classes=len(described.classes), channels=described.channels, head=described.head
        )
    except SettingsError as error:
        raise CheckpointError(f"checkpoint {path} describes a network that cannot be made: {error}") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"checkpoint {path} does not fit the network that it describes ({reason}); {AGAIN}"
        ) from error
    return channels_last(model).eval(), described


def _difference(found: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    if set(found) == set(wanted):
        return "the same classes in another order"
    extra, lacking = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
    return f"it knows {', '.join(extra[:5]) or 'no other class'} and lacks {', '.join(lacking[:5]) or 'none'}"
