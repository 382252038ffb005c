"""Classifiers that others published, loaded from their own files."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.errors import CheckpointError
from .classifier import Classifier, channels_last
from .vgg import VGG32


def load_vgg32(path: str | os.PathLike, *, classes: int) -> Classifier:
    """A VGG32 classifier of Vaze et al. 2022, on the CPU in evaluation mode; RGB images.

    Args:
        path: PyTorch state dict (.pth) with the layers of `VGG32` and `fc`, which has no bias; each name may begin
            with `module.`, as several GPUs leave it.

    Raises:
        CheckpointError: the file is missing, damaged, holds more than tensors, or does not fit the network: layers
            that lack, that nobody asked for, or of another shape, the number of classes included.
    """
    tensors = {_layer(name): tensor for name, tensor in _state(path).items()}
    model = Classifier(VGG32(channels=3), classes, bias=False)
    expected = model.state_dict()
    problems = [f"lacks {name}" for name in expected if name not in tensors]
    problems += [f"has {name}, which the network lacks" for name in tensors if name not in expected]
    problems += [
        f"has {name} of shape {tuple(tensors[name].shape)} where {tuple(expected[name].shape)} is expected"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"checkpoint {path} is no VGG32 of {classes} classes: it {'; '.join(problems[:3])}{more}; "
            "fetch the authors' file again"
        )
    model.load_state_dict(tensors)
    return channels_last(model).eval()


def _layer(name: str) -> str:
    """The name here of a tensor there: `module.conv1.weight` is `encoder.conv1.weight`, `fc.weight` `head.weight`."""
    name = name.removeprefix("module.")
    return f"head.{name.removeprefix('fc.')}" if name.startswith("fc.") else f"encoder.{name}"


def _state(path: str | os.PathLike) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path} is missing; download it first") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"checkpoint {path} is damaged, or more than weights ({type(error).__name__}: {reason}); fetch it again"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(f"checkpoint {path} is no mapping of names to tensors; fetch the authors' file again")
    return state
