"""Feature discrimination in numbers: magnitude, scatter, rank and neural collapse of the features of test images.

Every measure reads float features `[n, d]` in blocks of rows and computes in float64, so beside the features themselves
memory holds a few matrices `[d, d]` whatever n is. A measure that is not defined (a single class, features that are all
equal) is NaN. Classes count equally, however many test images each has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 8192  # rows that are float64 at a time


def blocks(features: np.ndarray, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The features of some rows, float64 `[at most BLOCK, d]` at a time, and their place among the rows."""
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        yield part, features[rows[part]].astype(np.float64)


def mean_of(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Their mean, float64 `[d]`."""
    return sum((block.sum(axis=0) for _, block in blocks(features, rows)), np.zeros(features.shape[1])) / len(rows)


def covariance(features: np.ndarray, rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Their covariance about `mean`, float64 `[d, d]`, divided by their number."""
    total = np.zeros((len(mean), len(mean)))
    for _, block in blocks(features, rows):
        block -= mean
        total += block.T @ block
    return total / len(rows)


def effective_rank(covariance: np.ndarray) -> float:
    """How many directions centred features really use, from their covariance `[d, d]`.

    The exponential of the entropy of the singular values of the centred features, divided by their sum: Roy and
    Vetterli 2007, "The effective rank: a measure of effective dimensionality". From 1 to d; C - 1 for a simplex of C
    points.
    """
    variance = np.linalg.eigvalsh(covariance)
    # below this an eigenvalue is rounding, and its root would count
    variance = variance[variance > variance[-1] * len(variance) * np.finfo(np.float64).eps]
    if variance.size == 0:
        return float("nan")
    share = np.sqrt(variance) / np.sqrt(variance).sum()
    return float(np.exp(-(share * np.log(share)).sum()))


@dataclass(frozen=True)
class Classes:
    """The classes that have images: their labels int `[C]`, means `[C, d]`, and covariance within them `[d, d]`."""

    labels: np.ndarray
    means: np.ndarray
    within: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray) -> Classes:
        """From features `[n, d]` and labels int `[n]`; images with a negative label belong to no class."""
        present, own, counts = np.unique(labels[labels >= 0], return_inverse=True, return_counts=True)
        rows = np.flatnonzero(labels >= 0)
        order = np.argsort(own, kind="stable")
        members = np.split(rows[order], np.cumsum(counts)[:-1])
        means = np.stack([mean_of(features, part) for part in members])
        weight = 1 / np.sqrt(counts * len(counts))
        within = np.zeros((means.shape[1], means.shape[1]))
        for part, block in blocks(features, rows):
            block = (block - means[own[part]]) * weight[own[part], None]
            within += block.T @ block
        return cls(present, means, within)

    @property
    def centred(self) -> np.ndarray:
        """The class means without their own mean, `[C, d]`."""
        return self.means - self.means.mean(axis=0)


def scatter(classes: Classes) -> dict[str, float]:
    """Traces of the covariance within and between classes, and the first over the second.

    Fisher 1936, "The use of multiple measurements in taxonomic problems".
    """
    within, between = np.trace(classes.within), np.square(classes.centred).sum(axis=1).mean()
    return {"within_scatter": within, "between_scatter": between, "scatter_ratio": within / between}


def neural_collapse(classes: Classes, head: np.ndarray | None = None) -> dict[str, float]:
    """How near the classes are to neural collapse: every measure is 0 at a simplex of points, and grows away from it.

    Papyan, Han and Donoho 2020, "Prevalence of neural collapse during the terminal phase of deep learning training",
    who measure training images; of test images the variability is larger.

    Args:
        head: weight of a linear head, `[all classes, d]`.

    Returns:
        nc1: tr(within pinv(between)) / C, variability within classes relative to that between them;
        nc2_equinorm: coefficient of variation of the norms of the centred class means;
        nc2_equiangular: standard deviation of the cosines between them;
        nc2_maximal_angle: mean distance of these cosines from -1 / (C - 1);
        nc3 (with a head): squared distance between head and centred class means, each divided by its Frobenius norm.
    """
    centred = classes.centred
    count = len(centred)
    if count < 2:
        return dict.fromkeys(("nc1", "nc2_equinorm", "nc2_equiangular", "nc2_maximal_angle"), np.nan)
    # between = centred.T @ centred / C, so its pseudo-inverse has the same directions and C / value ** 2
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    values, directions = values[: count - 1], directions[: count - 1]
    real = values > values.max(initial=0.0) * max(centred.shape) * np.finfo(np.float64).eps
    values, directions = values[real], directions[real]
    spread = np.einsum("kd,de,ke->k", directions, classes.within, directions, optimize=True)
    norms = np.linalg.norm(centred, axis=1)
    cosines = (centred / norms[:, None]) @ (centred / norms[:, None]).T
    cosines = cosines[~np.eye(count, dtype=bool)]
    found = {
        "nc1": (spread / values**2).sum() if values.size else np.nan,
        "nc2_equinorm": norms.std() / norms.mean(),
        "nc2_equiangular": cosines.std(),
        "nc2_maximal_angle": np.abs(cosines + 1 / (count - 1)).mean(),
    }
    if head is not None:
        own = head[classes.labels].astype(np.float64)
        found["nc3"] = np.square(own / np.linalg.norm(own) - centred / np.linalg.norm(centred)).sum()
    return found


def nearest_mean(features: np.ndarray, labels: np.ndarray, predicted: np.ndarray, classes: Classes) -> dict[str, float]:
    """What the distances of known images to the class means say.

    Args:
        labels: int `[n]`, negative where unknown.
        predicted: int `[n]`, the class of the largest logit.

    Returns:
        nc4: share of known images whose nearest class mean is not the predicted class, 0 at neural collapse (Papyan et
            al. 2020);
        silhouette: mean of (b - a) / max(a, b), a being the distance to the mean of the own class and b to the nearest
            other one. This is the simplified silhouette (Hruschka, de Castro and Campello 2004, "Evolutionary
            algorithms for clustering gene-expression data"): exact for all images, where Rousseeuw's needs the
            distances of all pairs of images.
    """
    rows = np.flatnonzero(labels >= 0)
    own = np.searchsorted(classes.labels, labels[rows])
    squared_norms = np.square(classes.means).sum(axis=1)
    nearest, a, b = np.empty(len(rows), dtype=int), np.empty(len(rows)), np.empty(len(rows))
    for part, block in blocks(features, rows):
        squared = np.square(block).sum(axis=1)[:, None] - 2 * block @ classes.means.T + squared_norms
        distance = np.sqrt(squared.clip(min=0))
        nearest[part] = classes.labels[distance.argmin(axis=1)]
        a[part] = distance[np.arange(len(block)), own[part]]
        distance[np.arange(len(block)), own[part]] = np.inf
        b[part] = distance.min(axis=1)
    return {
        "nc4": float(np.mean(nearest != predicted[rows])),
        "silhouette": float(np.mean((b - a) / np.maximum(a, b))),
    }


def magnitude(features: np.ndarray, logits: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """Mean and median of feature norm and maximum logit of some rows: the paper's feature discrimination."""
    norm = np.concatenate([np.linalg.norm(block, axis=1) for _, block in blocks(features, rows)])
    largest = logits[rows].max(axis=1).astype(np.float64)
    return {
        "feature_norm_mean": norm.mean(),
        "feature_norm_median": np.median(norm),
        "maximum_logit_mean": largest.mean(),
        "maximum_logit_median": np.median(largest),
    }


def linear_hsic(first: np.ndarray, second: np.ndarray, rows: np.ndarray) -> float:
    """Dependence of two networks' features of the same images, `[n, d1]` and `[n, d2]`, with linear kernels.

    The unbiased estimate of Song et al. 2012, "Feature selection via dependence maximization", times n (n - 3), for
    more than three images. Its sums over pairs of images are written with products of features, so it costs n d1 d2
    and not n squared.
    """
    count = len(rows)
    if count <= 3:
        return float("nan")
    first_mean, second_mean = mean_of(first, rows), mean_of(second, rows)
    cross = np.zeros((first.shape[1], second.shape[1]))
    diagonals, first_trace, second_trace = 0.0, 0.0, 0.0
    for part, one in blocks(first, rows):
        one -= first_mean
        # the product of a matrix with itself costs half
        other = one if second is first else second[rows[part]] - second_mean
        cross += one.T @ other
        one_diagonal, other_diagonal = np.square(one).sum(axis=1), np.square(other).sum(axis=1)
        diagonals += one_diagonal @ other_diagonal
        first_trace += one_diagonal.sum()
        second_trace += other_diagonal.sum()
    # centring makes every row of a kernel matrix sum to zero, so its sums without the diagonal need the diagonal alone
    pairs = np.square(cross).sum() - count / (count - 2) * diagonals
    return float(pairs + first_trace * second_trace / ((count - 1) * (count - 2)))


class Reference:
    """A network's features, with which those of others are compared by linear CKA.

    CKA is `linear_hsic` of two networks over the geometric mean of each with itself: 1 for features that differ by a
    rotation and a factor, about 0 for unrelated ones. Kornblith et al. 2019, "Similarity of neural network
    representations revisited"; debiased as in Nguyen, Raghu and Kornblith 2021, "Do wide and deep networks learn the
    same things?", because the plain form is high for any features where images are fewer than a few times d.

    Args:
        features: `[n, d]`.
        groups: name -> rows, int, over which a value is wanted.
    """

    def __init__(self, features: np.ndarray, groups: Mapping[str, np.ndarray]):
        self.features, self.groups = features, groups
        self.own = {name: linear_hsic(features, features, rows) for name, rows in groups.items()}

    def cka(self, features: np.ndarray) -> dict[str, float]:
        """The debiased linear CKA with other features of the same images, by group; negative values are noise."""
        found = {}
        for name, rows in self.groups.items():
            shared, own = linear_hsic(self.features, features, rows), linear_hsic(features, features, rows)
            found[name] = shared / np.sqrt(self.own[name] * own) if self.own[name] * own > 0 else float("nan")
        return found


def groups(labels: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of known, unknown and all test images."""
    return {
        "known": np.flatnonzero(labels >= 0),
        "unknown": np.flatnonzero(labels < 0),
        "all": np.arange(len(labels)),
    }


def measure(
    outputs: Mapping[str, np.ndarray], head: np.ndarray | None = None, reference: Reference | None = None
) -> Iterator[dict[str, Any]]:
    """All measures of one run, in long form.

    Args:
        outputs: features, logits and labels as `evaluation` describes them.
        head: weight of the network's linear head, `[classes, d]`, for nc3.
        reference: the teacher's features of the same images.

    Yields:
        rows with quantity, group (known, unknown or all) and value: the names that the functions above return, and
        `effective_rank` and `cka_teacher`.
    """
    features, logits, labels = outputs["features"], outputs["logits"], outputs["labels"]
    rows = groups(labels)
    # a division by zero is a measure that is not defined
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {group: magnitude(features, logits, rows[group]) for group in ("known", "unknown")}
        for group in found:
            about = covariance(features, rows[group], mean_of(features, rows[group]))
            found[group]["effective_rank"] = effective_rank(about)
        classes = Classes.of(features, labels)
        found["known"] |= scatter(classes) | neural_collapse(classes, head)
        found["known"] |= nearest_mean(features, labels, logits.argmax(axis=1), classes)
    if reference is not None:
        for group, value in reference.cka(features).items():
            found.setdefault(group, {})["cka_teacher"] = value
    for group, values in found.items():
        for quantity, value in values.items():
            yield {"quantity": quantity, "group": group, "value": value if np.isfinite(value) else np.nan}
