"""A trained network with all that turns it into answers about images: a class, or none of these.

    from openset_distill import OpenSetClassifier

    model = OpenSetClassifier.load("models/birds")
    model.predict(["a.jpg", "b.png"])  # array(['robin', 'unknown'])

scikit-learn's conventions hold where they fit: `classes_`, `predict`, `predict_proba`, `decision_function`,
`score_samples`. One model may be used by several threads at once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..core.device import exact_float32, has_gpu
from ..core.errors import CheckpointError, DataError, OpenSetError, SettingsError, nearest
from ..core.files import atomic_write, sha256
from ..datasets.loader import Normalize
from ..evaluation import thresholds
from ..evaluation.evaluate import ALL, KNOWN
from ..evaluation.scores import SCORES
from ..evaluation.scores import score as score_images
from ..evaluation.thresholds import OperatingPoint
from ..models.checkpoint import NetworkSpec, load_classifier, save_classifier
from ..models.classifier import Classifier, channels_last
from .card import model_card
from .description import (
    CARD,
    DESCRIPTION,
    UNKNOWN,
    WEIGHTS,
    Architecture,
    ModelDescription,
    Preprocessing,
    read_description,
)
from .images import Decoded, Failure, Source, decoded_batches, find_images, sources_of
from .own_outputs import OwnOutputs


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one image.

    Attributes:
        name: of the image: its path, or its position where it has none.
        rejected: whether the image is none of the known classes: its score is below the threshold.
        score: larger = more known.
        threshold: of the operating point.
        top: the most probable known classes with their softmax probabilities, best first.
    """

    name: str
    rejected: bool
    score: float
    threshold: float
    top: tuple[tuple[str, float], ...]

    @property
    def predicted(self) -> str:
        """The most probable known class, rejected or not."""
        return self.top[0][0]

    @property
    def verdict(self) -> str:
        """The predicted class, or `unknown`."""
        return UNKNOWN if self.rejected else self.predicted


@dataclass(frozen=True)
class Outputs:
    """What the network gives for some images.

    `names`; `features` float32 `[n, d]`; `logits` float32 `[n, classes]`; `decoded`: the images themselves.
    """

    names: tuple[str, ...]
    features: np.ndarray
    logits: np.ndarray
    decoded: tuple[Decoded, ...]


class OpenSetClassifier:
    """A network, its preprocessing, its score and its thresholds.

    Args:
        network: in evaluation mode.
        description: what `model.json` holds; `weights_sha256` is filled in by `save`.
        device: where the network computes; None is a GPU if there is one. On a GPU, TF32 is off in this process from
            then on: the thresholds are those of float32.

    Raises:
        OpenSetError: without `device`, if this process was given a GPU that torch cannot use.
    """

    def __init__(self, network: Classifier, description: ModelDescription, device: str | torch.device | None = None):
        if device is None:
            device = "cuda" if has_gpu() else "cpu"
        self.device = torch.device(device)
        if self.device.type == "cuda":
            exact_float32()
        self.network = channels_last(network, self.device).eval()
        self.description = description
        preprocessing = description.preprocessing
        self.normalize = Normalize(preprocessing.mean, preprocessing.std, preprocessing.channels, self.device)

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str | torch.device | None = None) -> OpenSetClassifier:
        """Opens a model folder.

        Raises:
            CheckpointError: it is no model folder, it is damaged, of a newer schema, or its weights are those of
                another model.
        """
        folder = Path(folder)
        description = read_description(folder)
        weights = folder / WEIGHTS
        try:
            network, described = load_classifier(weights, classes=description.classes)
        except CheckpointError as error:
            # a model is no file of the workflow, whose commands make theirs again
            problem = str(error).rpartition("; ")[0] or str(error)
            raise CheckpointError(f"{problem}; restore the file, or make the model again") from error
        preprocessing = description.preprocessing
        agrees = described.channels == preprocessing.channels and described.head == description.architecture.head
        if not agrees or sha256(weights) != description.weights_sha256:
            raise CheckpointError(
                f"{weights} is not the file that {folder / DESCRIPTION} belongs to, so its thresholds do not hold for "
                "it; restore the weights, or make the model again"
            )
        return cls(network, description, device)

    @classmethod
    def assemble(
        cls, network: Classifier, described: NetworkSpec, *, mean: Sequence[float], std: Sequence[float], **more: Any
    ) -> OpenSetClassifier:
        """A model from a trained network.

        Args:
            described: as for `save_classifier`.
            mean, std: of the normalisation that the network was trained with.
            more: further fields of `ModelDescription`.
        """
        description = ModelDescription(
            library_version=__version__,
            architecture=Architecture(backbone=described.backbone, head=described.head),
            preprocessing=Preprocessing(
                image_size=described.image_size,
                channels=3 if described.channels == 3 else 1,
                mean=tuple(mean),
                std=tuple(std),
            ),
            classes=described.classes,
            weights_sha256="",
            **more,
        )
        return cls(network, description)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the model folder; a folder that holds a model already gets this one.

        Raises:
            OpenSetError: the folder holds something else, cannot be written, or the disk is full; nothing is left
                half-written.
        """
        folder = Path(folder)
        if folder.exists() and not (folder / DESCRIPTION).is_file() and (not folder.is_dir() or any(folder.iterdir())):
            raise OpenSetError(f"{folder} exists and is not a model; choose another folder, or delete it first")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
        except OSError as error:
            raise OpenSetError(
                f"cannot write {folder}: {error.strerror}; choose a folder that you may write to, with free space"
            ) from error
        try:
            self._write(partial)
            if (folder / DESCRIPTION).is_file():
                # the description goes first and comes last: a folder that has one is complete
                (folder / DESCRIPTION).unlink()
                for name in (WEIGHTS, CARD, DESCRIPTION):
                    (partial / name).replace(folder / name)
            else:
                umask = os.umask(0)
                os.umask(umask)
                partial.chmod(0o777 & ~umask)  # mkdtemp makes private folders
                partial.replace(folder)
        except OSError as error:
            raise OpenSetError(f"cannot write {folder}: {error.strerror}; choose another folder") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        description = self.description
        described = NetworkSpec(
            backbone=description.architecture.backbone,
            classes=description.classes,
            channels=description.preprocessing.channels,
            image_size=description.preprocessing.image_size,
            head=description.architecture.head,
        )
        save_classifier(folder / WEIGHTS, self.network, described)
        self.description = description.model_copy(update={"weights_sha256": sha256(folder / WEIGHTS)})
        self.save_description(folder)

    def save_description(self, folder: str | os.PathLike) -> None:
        """Writes the card and the description alone, as after a calibration."""
        folder = Path(folder)
        text = model_card(self.description)
        with atomic_write(folder / CARD) as partial:
            partial.write_text(text, encoding="utf-8")
        self.description.write(folder)

    # ------------------------------------------------------------------------------------- the network's outputs

    @property
    def classes_(self) -> np.ndarray:
        """Names of the known classes, in the order of the logits, `[classes]`."""
        return np.array(self.description.classes)

    def stream(
        self, sources: Iterable[Source], *, failed: list[Failure] | None = None, thumbnails: int = 0
    ) -> Iterator[Outputs]:
        """The network's outputs for any number of images, in order; the next ones are decoded meanwhile.

        Args:
            sources: the images; what they need in memory does not grow with their number.
            failed: where images that cannot be read are noted; without it the first one is raised.
            thumbnails: longest side of the small pictures that `Decoded` keeps; 0 for none.

        Raises:
            DataError: an image cannot be read, and `failed` is not given.
        """
        preprocessing = self.description.preprocessing
        for batch in decoded_batches(sources, preprocessing, failed=failed, thumbnails=thumbnails):
            features, logits = self.forward(np.stack([decoded.pixels for decoded in batch]))
            yield Outputs(tuple(decoded.name for decoded in batch), features, logits, tuple(batch))

    @torch.inference_mode()
    def forward(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features float32 `[n, d]` and logits float32 `[n, classes]` of uint8 `[n, size, size, channels]`."""
        images = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
        features, logits = self.network(self.normalize(images))
        return features.float().cpu().numpy(), logits.float().cpu().numpy()

    def outputs(self, images: Any) -> tuple[np.ndarray, np.ndarray]:
        """Features float32 `[n, d]` and logits float32 `[n, classes]`. Arguments and errors as in `predict`."""
        parts = list(self.stream(sources_of(images)))
        if not parts:
            raise DataError("there is no image to predict; give at least one")
        return np.concatenate([part.features for part in parts]), np.concatenate([part.logits for part in parts])

    def labelled_outputs(self, known: str | os.PathLike, unknown: str | os.PathLike | None = None) -> OwnOutputs:
        """The outputs for images whose classes their folders tell, ready to be judged (`judgement.judge`).

        Args:
            known: a folder or archive with a folder for each class.
            unknown: images of anything else; the folders in it are groups of unknowns.

        Raises:
            DataError: an image cannot be read, lies in no class folder, or in one that the model lacks.
        """
        names: list[str] = []
        labels: list[int] = []
        groups: list[str] = []
        parts: list[Outputs] = []
        rank = {name: label for label, name in enumerate(self.description.classes)}
        for place in (known, unknown):
            if place is None:
                continue
            for outputs in self.stream(find_images([place])):
                # the images themselves are not kept: memory must not grow with their size
                parts.append(replace(outputs, decoded=()))
                for decoded in outputs.decoded:
                    if place is known and decoded.folder not in rank:
                        where = (
                            f"in {decoded.folder!r}, which is no class of the model" if decoded.folder else "in none"
                        )
                        raise DataError(
                            f"{decoded.name} is {where}; images of known classes lie in folders with the names of the "
                            f"classes ({', '.join(map(repr, self.description.classes[:5]))}...)"
                        )
                    names.append(decoded.name)
                    labels.append(rank[decoded.folder] if place is known else -1)
                    groups.append(KNOWN if place is known else unknown_group(decoded.folder))
        logits = np.concatenate([part.logits for part in parts])
        return OwnOutputs(
            classes=self.description.classes,
            labels=np.array(labels, dtype=np.int64),
            predicted=logits.argmax(axis=1),
            logits=logits,
            features=np.concatenate([part.features for part in parts]),
            scores=None,
            group=np.array(groups, dtype=object),
            files=tuple(names),
        )

    # --------------------------------------------------------------------------------------------------- answers

    def predict(self, images: Any, *, accept: float | None = None, false_accept: float | None = None) -> np.ndarray:
        """The class of each image, or `unknown`, str `[n]`.

        Args:
            images: one image or several: paths, PIL images, NumPy arrays (`[height, width]`,
                `[height, width, channels]` or a batch of these; uint8, or floats from 0 to 1) or torch tensors
                (`[channels, height, width]` or a batch). Images of another size are resized as in training.
            accept: another operating point than the default: the one that accepts this fraction of the knowns.
            false_accept: likewise, the one that accepts this fraction of the unknowns.

        Raises:
            DataError: an image cannot be read, or has a wrong number of channels.
            SettingsError: the model was not calibrated for this operating point.
        """
        point = self.operating_point(accept=accept, false_accept=false_accept)
        return np.array([prediction.verdict for prediction in self._predictions(sources_of(images), point, 1)])

    def predictions(
        self, images: Any, *, accept: float | None = None, false_accept: float | None = None, top: int = 3
    ) -> list[Prediction]:
        """The prediction for each image, with score, threshold and the `top` most probable classes."""
        point = self.operating_point(accept=accept, false_accept=false_accept)
        return list(self._predictions(sources_of(images), point, top))

    def _predictions(self, sources: Iterable[Source], point: OperatingPoint, top: int) -> Iterator[Prediction]:
        for outputs in self.stream(sources):
            yield from self.judge(outputs, point, top)

    def judge(self, outputs: Outputs, point: OperatingPoint, top: int = 3) -> list[Prediction]:
        """What the network's outputs mean at an operating point."""
        values = score_images(self.description.score, outputs.features, outputs.logits)
        likely = probabilities(outputs.logits)
        best = np.argsort(-likely, axis=1, kind="stable")[:, :top]
        names = self.description.classes
        return [
            Prediction(
                name=name,
                rejected=not values[i] >= point.threshold,  # also a score that is no number
                score=float(values[i]),
                threshold=point.threshold,
                top=tuple((names[label], float(likely[i, label])) for label in best[i]),
            )
            for i, name in enumerate(outputs.names)
        ]

    def predict_proba(self, images: Any) -> np.ndarray:
        """Softmax probabilities of the known classes, float64 `[n, classes]`; they know no `none of these`."""
        return probabilities(self.outputs(images)[1])

    def scores(self, images: Any, score: str | None = None) -> np.ndarray:
        """How much each image looks like one of the known classes, larger = more known, float64 `[n]`.

        Args:
            score: a name from `evaluation.scores.SCORES`; the model's own by default.
        """
        return score_images(score or self.description.score, *self.outputs(images))

    def score_samples(self, images: Any) -> np.ndarray:
        """The model's own score, as scikit-learn's detectors call it."""
        return self.scores(images)

    def decision_function(self, images: Any) -> np.ndarray:
        """Score less the default threshold, float64 `[n]`: negative = unknown."""
        return self.scores(images) - self.operating_point().threshold

    # -------------------------------------------------------------------------------------------------- thresholds

    def operating_point(
        self, *, accept: float | None = None, false_accept: float | None = None, score: str | None = None
    ) -> OperatingPoint:
        """The operating point asked for; the default one if nothing is.

        Raises:
            SettingsError: the model was not calibrated for it.
        """
        if accept is not None and false_accept is not None:
            raise SettingsError("one threshold has one target; give accept or false_accept, not both")
        score = score or self.description.score
        points = self.description.operating_points.get(score, ())
        if accept is not None:
            target, level = "acceptance", accept
        elif false_accept is not None:
            target, level = "false_acceptance", false_accept
        else:
            if points:
                return points[0]
            raise SettingsError(
                f"the model has no threshold for score {score!r}, so it cannot predict unknown; "
                "calibrate it with `openset calibrate MODEL --known FOLDER`"
            )
        found = thresholds.find(points, target, level)
        if found is None:
            option = f"--accept {level:g}" if target == "acceptance" else f"--unknown FOLDER --false-accept {level:g}"
            there = ", ".join(point.name for point in points) or "none"
            raise SettingsError(
                f"the model was not calibrated for {option.split()[-2]} {level:g} (thresholds of score {score!r}: "
                f"{there}); run `openset calibrate MODEL --known FOLDER {option}`"
            )
        return found

    def calibrate(
        self,
        known: Any,
        unknown: Any = None,
        *,
        accept: Sequence[float] = (thresholds.DEFAULT_ACCEPTANCE,),
        false_accept: Sequence[float] = (),
        source: str = "images given to calibrate",
    ) -> tuple[OperatingPoint, ...]:
        """Sets thresholds from images that the network was not trained on, for every score.

        Thresholds for other targets are kept, after the new ones; the first one is the default from now on.

        Args:
            known: images of known classes, as in `predict`.
            unknown: images of anything else, if there are any.
            accept: wanted rates of accepted knowns.
            false_accept: wanted rates of accepted unknowns; they need `unknown`.
            source: where the images come from, for the description.

        Returns:
            the new operating points of the model's score; `OperatingPoint.warning` says whether the images suffice.

        Raises:
            DataError: there is no image, or one cannot be read.
            SettingsError: a rate is out of range, or there are no unknowns to count.
        """
        of_known = self.outputs(known)
        of_unknown = None if unknown is None else self.outputs(unknown)
        return self.calibrate_outputs(of_known, of_unknown, accept=accept, false_accept=false_accept, source=source)

    def calibrate_outputs(
        self,
        known: tuple[np.ndarray, np.ndarray],
        unknown: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        accept: Sequence[float] = (thresholds.DEFAULT_ACCEPTANCE,),
        false_accept: Sequence[float] = (),
        source: str,
    ) -> tuple[OperatingPoint, ...]:
        """`calibrate` from features `[n, d]` and logits `[n, classes]` that the network gave."""
        points = thresholds.operating_points(known, unknown, accept=accept, false_accept=false_accept, source=source)
        kept = self.description.operating_points
        merged = {
            score: (*new, *(old for old in kept.get(score, ()) if not thresholds.find(new, old.target, old.level)))
            for score, new in points.items()
        }
        self.description = self.description.model_copy(update={"operating_points": merged})
        return points[self.description.score]

    def with_score(self, score: str) -> OpenSetClassifier:
        """The same network judged by another score.

        Raises:
            SettingsError: there is no score of that name.
        """
        if score not in SCORES:
            raise SettingsError(f"unknown score {score!r}; {nearest(score, SCORES)}")
        return OpenSetClassifier(self.network, self.description.model_copy(update={"score": score}), self.device)


def unknown_group(folder: str) -> str:
    """What a folder of unknown images is called as a group: other than the knowns, and than all unknowns together."""
    return f"{folder}_" if folder in (KNOWN, ALL) else folder or UNKNOWN


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the classes, float64 `[n, classes]`."""
    logits = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
