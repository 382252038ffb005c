"""Encoders made by timm, with the stem that small images need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import CheckpointError, SettingsError, nearest

if TYPE_CHECKING:
    from . import Timm


class Encoder(nn.Module):
    """A timm model without its classifier. Settings: see `openset_distill.models.Timm`."""

    def __init__(self, settings: Timm, channels: int):
        super().__init__()
        if not timm.is_model(settings.model):
            raise SettingsError(f"timm has no model {settings.model!r}; {nearest(settings.model, timm.list_models())}")
        overlay = {"file": settings.weights} if settings.weights else None
        try:
            self.body = timm.create_model(
                settings.model,
                pretrained=settings.pretrained,
                pretrained_cfg_overlay=overlay,
                in_chans=channels,
                num_classes=0,
                global_pool="",
            )
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"pretrained weights of {settings.model} could not be had ({error}); on a machine without internet "
                "download them elsewhere and name the safetensors file in the backbone's setting `weights`"
            ) from error
        if settings.stem == "cifar":
            self._use_cifar_stem(settings.model)
        self.side = 1 if settings.pool == "average" else 2
        self.num_features = self.body.num_features * self.side**2

    def _use_cifar_stem(self, name: str) -> None:
        if hasattr(self.body, "conv1") and hasattr(self.body, "maxpool"):
            old = self.body.conv1
            if not isinstance(old, nn.Conv2d):
                raise SettingsError(f"the stem of {name} is not one convolution; set `stem: imagenet` for it")
            self.body.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, 1, 1, bias=False)
            nn.init.kaiming_normal_(self.body.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.body.maxpool = nn.Identity()
        elif isinstance(getattr(self.body, "conv_stem", None), nn.Conv2d):
            self.body.conv_stem.stride = (1, 1)
        else:
            raise SettingsError(f"no CIFAR stem is known for {name}; set `stem: imagenet` for it")

    def forward(self, images: Tensor) -> Tensor:
        maps = self.body(images)
        if maps.ndim != 4:
            raise SettingsError(
                f"{type(self.body).__name__} gives no feature map of shape [batch, channels, height, width]; "
                "choose a convolutional model"
            )
        return F.adaptive_avg_pool2d(maps, self.side).flatten(1)
