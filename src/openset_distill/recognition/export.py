"""A model as one ONNX file: normalisation, network, softmax and score inside, thresholds and classes as metadata.

Input `images`: uint8 `[batch, size, size, channels]`, as a decoded image is; the batch may have any size. Outputs:
`score [batch]`, larger = more known; `probabilities [batch, classes]`; `logits [batch, classes]`. Metadata, as text:
`classes` and `operating_points` (JSON), `score`, `threshold` (of the default operating point), `preprocessing` (JSON).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import OpenSetError, SettingsError
from ..core.files import atomic_write
from .model import OpenSetClassifier

PACKAGES = ("onnx", "onnxscript")
OPSET = 20

# as in `evaluation.scores`: features [batch, d], logits [batch, classes] -> [batch]
_SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "maximum_logit": lambda features, logits: logits.amax(dim=1),
    "msp": lambda features, logits: F.softmax(logits, dim=1).amax(dim=1),
    "energy": lambda features, logits: torch.logsumexp(logits, dim=1),
    "negative_entropy": lambda features, logits: (F.softmax(logits, dim=1) * F.log_softmax(logits, dim=1)).sum(dim=1),
    "feature_norm": lambda features, logits: features.square().sum(dim=1).sqrt(),
    "gradnorm": lambda features, logits: (
        (F.softmax(logits, dim=1) - 1 / logits.shape[1]).abs().sum(dim=1) * features.abs().sum(dim=1)
    ),
}


class _Whole(nn.Module):
    """From pixels to scores."""

    def __init__(self, model: OpenSetClassifier):
        super().__init__()
        self.network = model.network
        self.score = _SCORES[model.description.score]
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", model.normalize.mean[:, None, None])
        self.register_buffer("std", model.normalize.std[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, logits = self.network((images.permute(0, 3, 1, 2).float() - self.mean) / self.std)
        return self.score(features, logits), F.softmax(logits, dim=1), logits


def export_onnx(model: OpenSetClassifier, path: str | os.PathLike) -> Path:
    """Writes the model as an ONNX file, whole or not at all.

    Raises:
        OpenSetError: packages are missing, the file cannot be written, or the network has an operation that ONNX lacks.
    """
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise OpenSetError(
            f"exporting needs the packages {' and '.join(absent)}, which are not installed; "
            "install the extra: pip install 'openset-distill[export]'"
        )
    description = model.description
    if description.score not in _SCORES:
        raise SettingsError(f"score {description.score!r} has no form in ONNX; choose {', '.join(_SCORES)}")
    preprocessing = description.preprocessing
    size = preprocessing.image_size
    whole = _Whole(model).cpu().eval()
    # two images: a dimension of one would be taken for one that is always so
    example = torch.zeros(2, size, size, preprocessing.channels, dtype=torch.uint8)
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                whole,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["score", "probabilities", "logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
            proto = program.model_proto
    except Exception as error:  # the exporter raises many kinds, with pages of text
        reason = str(error).strip().partition("\n")[0][:200]
        raise OpenSetError(
            f"the network cannot be written as ONNX ({type(error).__name__}: {reason}); choose another backbone"
        ) from error
    finally:
        model.network.to(model.device)
    points = description.operating_points.get(description.score, ())
    metadata = {
        "classes": json.dumps(description.classes),
        "score": description.score,
        "operating_points": json.dumps([{"name": one.name, "threshold": one.threshold} for one in points]),
        "preprocessing": preprocessing.model_dump_json(),
        "library_version": description.library_version,
        "weights_sha256": description.weights_sha256,
    }
    if points:
        metadata["threshold"] = repr(points[0].threshold)
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    path = Path(path)
    with atomic_write(path) as partial:
        partial.write_bytes(proto.SerializeToString())
    return path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress and its warnings about PyTorch's own code."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
