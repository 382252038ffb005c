"""`model.json`: all that turns a file of weights into answers about images.

A model is one folder: `weights.safetensors`, `model.json` and `MODEL_CARD.md`. The description is written last, so a
folder that has one is complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from ..core.errors import CheckpointError, OpenSetError
from ..core.files import read_json, write_json
from ..evaluation.scores import SCORES
from ..evaluation.thresholds import OperatingPoint

WEIGHTS, DESCRIPTION, CARD = "weights.safetensors", "model.json", "MODEL_CARD.md"
SCHEMA_VERSION = 1
# what an image becomes that is none of the classes
UNKNOWN = "unknown"

Statistic = Annotated[tuple[float, ...], pydantic.Field(min_length=1, max_length=3)]


class _Part(pydantic.BaseModel):
    # a later version may add keys without a new schema; what is here is never changed in place
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")


class Architecture(_Part):
    """The network: backbone as the configuration writes it, with every default filled in, and the head's name."""

    backbone: dict[str, Any]
    head: str = "linear"


class Preprocessing(_Part):
    """From the file of an image to what the network is given.

    The shorter side is resized to `image_size` pixels and the central square kept (`datasets.decode`); then
    `(pixel / 255 - mean) / std` for each channel. One value of `mean` and `std` serves all channels.
    """

    image_size: Annotated[int, pydantic.Field(ge=1)]
    channels: Literal[1, 3]
    resize: Literal["shorter_side_then_central_square"] = "shorter_side_then_central_square"
    mean: Statistic
    std: Statistic


class ModelDescription(_Part):
    """The contents of `model.json`.

    Attributes:
        classes: names of the known classes, in the order of the logits.
        score: which of `evaluation.scores.SCORES` decides.
        operating_points: score -> thresholds with the calibration behind them; the first one is used unless another
            is asked for.
        weights_sha256: of the file of weights that all this belongs to.
        training_data: what the network was trained on: `dataset`, `images`, `images_per_class`, `fingerprint`
            (SHA-256 of the list of images), `split`...; empty where it is not known.
        metrics: test metrics with intervals, as `evaluation.evaluate` has them.
        provenance: code, software, hardware and time of the training.
        settings: resolved settings of the training.
    """

    schema_version: int = SCHEMA_VERSION
    library_version: str
    architecture: Architecture
    preprocessing: Preprocessing
    classes: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    score: str = "maximum_logit"
    operating_points: dict[str, tuple[OperatingPoint, ...]] = {}
    weights_sha256: str
    training_data: dict[str, Any] = {}
    metrics: tuple[dict[str, Any], ...] = ()
    provenance: dict[str, Any] = {}
    settings: dict[str, Any] = {}

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> ModelDescription:
        for name in (self.score, *self.operating_points):
            if name not in SCORES:
                raise ValueError(f"the score {name!r} is unknown here")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have one name")
        return self

    @property
    def pretrained(self) -> bool:
        """Whether the backbone began with weights that others trained, on images that may show the unknowns."""
        backbone = self.architecture.backbone
        return bool(backbone.get("pretrained") or backbone.get("weights"))

    def write(self, folder: Path) -> None:
        """Writes `folder/model.json`, whole or not at all."""
        write_json(folder / DESCRIPTION, self.model_dump(mode="json"))


def read_description(folder: Path) -> ModelDescription:
    """Reads and checks `folder/model.json`.

    Raises:
        CheckpointError: there is no model, its description is damaged or of a newer schema.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        what = "is no model folder" if folder.is_dir() else "is no folder"
        raise CheckpointError(
            f"{folder} {what}: it has no {DESCRIPTION}; make a model with `openset train`, or from a finished run "
            "with `openset package`"
        )
    try:
        plain = read_json(path)
    except OpenSetError as error:
        raise CheckpointError(f"{path} is damaged ({error.__cause__}); restore it, or make the model again") from error
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}; check the permissions of the folder"
        ) from error
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise CheckpointError(f"{path} does not describe a model of this project; give a folder written by `openset`")
    if version > SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} has schema {version}, and this version of openset-distill reads up to {SCHEMA_VERSION}; "
            "install the version that wrote it, or a later one"
        )
    try:
        return ModelDescription.model_validate(plain)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "contents"
        raise CheckpointError(
            f"{path} is damaged ({where}: {first['msg']}); restore it, or make the model again"
        ) from error
