"""Post-hoc detectors: open-set scores that are fitted to the training images of a finished network.

They are those of the library pytorch-ood, run on what the network said: `features [n, d]` and `logits [n, classes]`.
The convention is that of `scores`: **larger = more known**, so the library's outlier scores are negated.

A new detector is a settings class with `fit`, and one line in `DETECTORS`. Nothing here draws at random. Left out are
detectors that need gradients with respect to the image (ODIN): their scores cannot be had from stored outputs.

The workflow reads this registry while it is parsed, so torch and pytorch-ood are imported where they are used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from ..core.errors import DataError, SettingsError
from ..core.files import atomic_write
from ..core.registry import Registry, settings_class
from .evaluate import WEIGHTS, check_weights, read_arrays
from .scores import BLOCK

if TYPE_CHECKING:
    from torch import Tensor

ARRAYS = {"features": 2, "logits": 2, "labels": 1, "head_weight": 2, "head_bias": 1}

# features [n, d], logits [n, classes] -> [n], larger = less known, as pytorch-ood has it
OutlierScore = Callable[["Tensor", "Tensor"], "Tensor"]


@dataclass(frozen=True)
class TrainingOutputs:
    """A network's outputs for known training images without augmentation, and its head.

    Attributes:
        features: float32 `[n, d]`.
        logits: float32 `[n, classes]`.
        labels: int64 `[n]`, of the known classes.
        head_weight: float32 `[classes, d]`; without rows where the head is not one linear layer.
        head_bias: float32 `[classes]`, zeros where the head has none.
        weights: SHA-256 of the network's file of weights; empty where it is not known.
    """

    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    head_weight: np.ndarray
    head_bias: np.ndarray
    weights: str = ""

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features, logits and labels."""
        import torch

        return torch.from_numpy(self.features), torch.from_numpy(self.logits), torch.from_numpy(self.labels)

    def head(self, detector: str) -> tuple[Tensor, Tensor]:
        """Weight `[classes, d]` and bias `[classes]` of the head.

        Raises:
            SettingsError: the head is not one linear layer.
        """
        import torch

        if not len(self.head_weight):
            raise SettingsError(
                f"detector {detector!r} computes with the weights of a linear head, which this network does not have; "
                "leave it out of evaluation.detectors"
            )
        return torch.from_numpy(self.head_weight), torch.from_numpy(self.head_bias)

    def save(self, path: str | os.PathLike) -> None:
        """Writes an uncompressed `.npz`, whole or not at all.

        Raises:
            OpenSetError: the folder cannot be written.
        """
        with atomic_write(path) as partial, open(partial, "wb") as stream:
            arrays: dict[str, Any] = {name: getattr(self, name) for name in ARRAYS}
            if self.weights:
                arrays[WEIGHTS] = np.array(self.weights)
            np.savez(stream, **arrays)


def load_training_outputs(path: str | os.PathLike, outputs: str | os.PathLike | None = None) -> TrainingOutputs:
    """Reads and checks what `TrainingOutputs.save` wrote.

    Args:
        outputs: file of the outputs of test images, which must come from the same network.

    Raises:
        DataError: the file is missing, damaged, or its arrays do not fit together or are not finite, or `outputs` are
            those of another network.
    """
    path = Path(path)
    arrays = read_arrays(path, ARRAYS, what="the outputs on training images", optional=[WEIGHTS])
    weights = str(arrays.pop(WEIGHTS, ""))
    again = "delete it and make it again from the run's weights"
    for name, dimensions in ARRAYS.items():
        if arrays[name].ndim != dimensions:
            raise DataError(f"{path}: {name} has shape {list(arrays[name].shape)}; {again}")
        if not np.isfinite(arrays[name]).all():
            raise DataError(f"{path}: {name} is not finite; train the run again with a lower learning rate")
    n, classes = arrays["logits"].shape
    labels, head = arrays["labels"], arrays["head_weight"]
    fits = len(arrays["features"]) == len(labels) == n > 0 and labels.min() >= 0 and labels.max() < classes
    if not fits or len(head) != len(arrays["head_bias"]) or (len(head) and head.shape[0] != classes):
        raise DataError(f"{path}: its arrays do not fit together; {again}")
    if outputs is not None:
        check_weights(outputs, weights, path)
    return TrainingOutputs(**arrays, weights=weights)


def balanced_choice(labels: np.ndarray, samples: int, generator: np.random.Generator) -> np.ndarray:
    """Positions of at most `samples` images, ascending, as many of each class as there are.

    Args:
        labels: int `[n]`.
    """
    order = generator.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    _, first, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.arange(len(labels)) - np.repeat(first, counts)  # the first of every class come first, then the second
    return np.sort(by_class[np.argsort(turn, kind="stable")[:samples]])


@settings_class
class OpenMax:
    """Probability of an unknown class, from Weibull tails of the distances to the classes' mean logits.

    Args:
        tailsize: images of each class, those farthest from its mean, to which its tail is fitted.
        alpha: how many of the largest logits are revised, at most all.
        euclid_weight: weight of the Euclidean distance; the cosine distance has the rest.

    Source: Bendale and Boult, "Towards open set deep networks", CVPR 2016. As in pytorch-ood the means are taken over
    all training images of a class, the paper's over those that are classified correctly.
    """

    tailsize: Annotated[int, Field(ge=3, le=1_000_000)] = 20
    alpha: Annotated[int, Field(ge=1, le=100_000)] = 10
    euclid_weight: Annotated[float, Field(ge=0, le=1)] = 1.0

    def fit(self, training: TrainingOutputs) -> OutlierScore:
        import pytorch_ood.detector
        import torch

        counts = np.bincount(training.labels, minlength=training.logits.shape[1])
        if counts.min() < self.tailsize:
            raise SettingsError(
                f"detector 'openmax' fits a Weibull tail to {self.tailsize} images of each class, and class "
                f"{counts.argmin()} has {counts.min()} training images; set a smaller tailsize (at least 3), more "
                "evaluation.detector_samples, or leave openmax out of evaluation.detectors"
            )
        detector = pytorch_ood.detector.OpenMax(None, self.tailsize, self.alpha, self.euclid_weight)
        _, logits, labels = training.tensors()
        detector.fit_logits(logits, labels)
        # the library measures distances to those classes alone that it finds predicted in a batch, and an image's score
        # would depend on its company: one more row for each class makes it measure all
        every_class = torch.eye(logits.shape[1])
        return lambda features, logits: detector.predict_logits(torch.cat([logits, every_class]))[: len(logits)]


@settings_class
class ViM:
    """Energy less a virtual logit, the length of the features outside of the training images' principal subspace.

    Args:
        components: dimensions of the principal subspace. Without it the paper's 1000 for more than 1500 features and
            512 for fewer, but at most half of the features.

    Source: Wang et al., "ViM: out-of-distribution with virtual-logit matching", CVPR 2022.
    """

    components: Annotated[int, Field(ge=1, le=100_000)] | None = None

    needs_linear_head: ClassVar[bool] = True

    def fit(self, training: TrainingOutputs) -> OutlierScore:
        import pytorch_ood.detector

        weight, bias = training.head("vim")
        d = training.features.shape[1]
        components = self.components or min(1000 if d > 1500 else 512, d // 2)
        if not 0 < components < d:
            raise SettingsError(
                f"detector 'vim' cannot take a principal subspace of {components} from {d} features; "
                f"set components below {d}, or leave vim out of evaluation.detectors"
            )
        detector = pytorch_ood.detector.ViM(None, components, weight, bias)
        features, _, labels = training.tensors()
        detector.fit_features(features, labels)
        return lambda features, logits: detector.predict_features(features)


@settings_class
class KNN:
    """Distance to the k-th nearest training image, on features of length 1.

    Args:
        k: which neighbour; the paper takes 50 for CIFAR-10, 200 for CIFAR-100 and 1000 for ImageNet.

    Source: Sun et al., "Out-of-distribution detection with deep nearest neighbors", ICML 2022.
    """

    k: Annotated[int, Field(ge=1, le=1_000_000)] = 50

    def fit(self, training: TrainingOutputs) -> OutlierScore:
        import pytorch_ood.detector

        if len(training.labels) < self.k:
            raise SettingsError(
                f"detector 'knn' looks for neighbour {self.k} among {len(training.labels)} training images; "
                "set a smaller k, or more evaluation.detector_samples"
            )
        detector = pytorch_ood.detector.KNN(None, self.k)
        # the library asks for all cores of the machine; a job has those that it was given
        detector.knn.set_params(n_jobs=1)
        features, _, labels = training.tensors()
        detector.fit_features(features, labels)
        return lambda features, logits: detector.predict_features(features)


@settings_class
class Mahalanobis:
    """Mahalanobis distance of the features to the nearest class mean, with one covariance for all classes.

    Source: Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial attacks",
    NeurIPS 2018, on the last features alone and without changing the image.
    """

    def fit(self, training: TrainingOutputs) -> OutlierScore:
        import pytorch_ood.detector

        _check_every_class("mahalanobis", training)
        detector = pytorch_ood.detector.Mahalanobis(None)
        features, _, labels = training.tensors()
        detector.fit_features(features, labels)
        return lambda features, logits: detector.predict_features(features)


@settings_class
class ReAct:
    """Energy of the logits that the head gives to features clipped from above.

    Args:
        percentile: share of the training images' activations below the clip.

    Source: Sun, Guo and Li, "ReAct: out-of-distribution detection with rectified activations", NeurIPS 2021.
    """

    percentile: Annotated[float, Field(gt=0, le=1)] = 0.9

    needs_linear_head: ClassVar[bool] = True

    def fit(self, training: TrainingOutputs) -> OutlierScore:
        import pytorch_ood.detector
        from torch.nn.functional import linear

        weight, bias = training.head("react")
        no_backbone: Any = None  # features are given, so that none is called
        detector = pytorch_ood.detector.ReAct(
            no_backbone, lambda features: linear(features, weight, bias), percentile=self.percentile
        )
        features, _, labels = training.tensors()
        detector.fit_feature_maps(features, labels)
        return lambda features, logits: detector.predict_feature_maps(features)


def _check_every_class(detector: str, training: TrainingOutputs) -> None:
    missing = np.flatnonzero(np.bincount(training.labels, minlength=training.logits.shape[1]) == 0)
    if missing.size:
        raise SettingsError(
            f"detector {detector!r} needs training images of every class, and class {missing[0]} has none; "
            "take more evaluation.detector_samples"
        )


DETECTORS = Registry(
    "detector",
    {"openmax": OpenMax, "vim": ViM, "knn": KNN, "mahalanobis": Mahalanobis, "react": ReAct},
)


def applicable(specifications: Iterable[Mapping[str, Any]], training: TrainingOutputs) -> list[Mapping[str, Any]]:
    """Those of the detectors that a network can serve: some compute with a linear head, which not every one has."""
    linear = len(training.head_weight) > 0
    return [one for one in specifications if linear or not getattr(DETECTORS[one["name"]], "needs_linear_head", False)]


def detect(
    specifications: Iterable[str | Mapping[str, Any]],
    training: TrainingOutputs,
    features: np.ndarray,
    logits: np.ndarray,
) -> dict[str, np.ndarray]:
    """Scores of images by every detector.

    Each image is scored by itself, in blocks, so that memory does not grow with their number.

    Args:
        specifications: detectors by name, or as mappings with `name` and settings.
        training: of the same network.
        features: float32 `[n, d]`.
        logits: float32 `[n, classes]`.

    Returns:
        name -> float64 `[n]`, larger = more known.

    Raises:
        SettingsError: unknown detector or setting, or one that these training images or this head cannot serve.
        DataError: the network's features or classes differ, or a detector gives scores that are not finite.
    """
    import torch

    if (features.shape[1], logits.shape[1]) != (training.features.shape[1], training.logits.shape[1]):
        raise DataError(
            f"the test images have {features.shape[1]} features and {logits.shape[1]} logits, the training images "
            f"{training.features.shape[1]} and {training.logits.shape[1]}; make the outputs of this run again"
        )
    detected = {}
    for specification in specifications:
        name = specification if isinstance(specification, str) else specification["name"]
        outlierness = DETECTORS.build(specification).fit(training)
        blocks = [slice(start, start + BLOCK) for start in range(0, max(len(logits), 1), BLOCK)]
        scores = [
            -outlierness(torch.from_numpy(features[block]), torch.from_numpy(logits[block])).double().numpy()
            for block in blocks
        ]
        detected[name] = np.concatenate(scores)
        wrong = int(np.count_nonzero(~np.isfinite(detected[name])))
        if wrong:
            raise DataError(
                f"detector {name!r} gives {wrong} of {len(logits)} images a score that is not finite; "
                "leave it out of evaluation.detectors for this experiment"
            )
    return detected
