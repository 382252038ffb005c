"""Distillation and labelling losses: pure functions of tensors, each with its paper and equation.

Shapes: logits are `[batch, classes]`, class labels int64 `[batch]`, mixing weights float `[batch]` or
`[batch, sources]`. Every loss is a scalar tensor. Symbols: S student, T teacher, m the mixed image of a and b.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import total

# added to the product of the norms in a correlation, as in the code of DIST and of asymmetric distillation
EPSILON = 1e-8


def correlation(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Pearson correlation of centred values along `dim`: `sum(a * b) / (|a| * |b| + 1e-8)`.

    The epsilon is added to the product of the norms; it does not bound each norm from below. That decides what becomes
    of a class that is absent from a batch: its column is almost constant, the product of its norms is far below the
    epsilon, and so it has no part in the gradient. With a bound on each norm such columns would count like any other:
    with 20 classes in batches of 32 and a confident teacher the gradient of DIST would be another one.
    """
    norms = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
    return (a * b).sum(dim=dim) / (norms + EPSILON)


def dist(
    student: Tensor,
    teacher: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    tau: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """DIST: the student keeps the teacher's *relations* between classes and between samples.

    `beta * (1 - mean row-wise correlation) + gamma * (1 - mean column-wise correlation)` of the softened outputs,
    times tau squared (Huang et al. 2022, "Knowledge distillation from a stronger teacher", eq. 9 to 11).

    Args:
        student, teacher: logits `[batch, classes]` in the same class order. No gradient reaches the teacher.
        beta, gamma, tau, weight, mask: see `dist_to_target`.
    """
    target = (teacher.detach() / tau).softmax(dim=1)
    return dist_to_target(student, target, beta=beta, gamma=gamma, tau=tau, weight=weight, mask=mask)


def dist_to_target(
    student: Tensor,
    target: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    tau: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """DIST with a distribution in place of the teacher's logits, such as a relabelled sample has.

    Args:
        student: logits `[batch, classes]`, softened by `tau`.
        target: probabilities `[batch, classes]`, taken as they are. No gradient reaches them.
        beta, gamma: weights of the row term (between classes) and the column term (between samples).
        weight: `[batch]`, how much each sample counts. The rows are weighted one by one; a column runs over the whole
            batch, so it takes the mean weight. With one weight for the whole batch this is exactly weight * DIST.
        mask: bool `[batch]`, which samples take part: the same as DIST of `student[mask]`, without the host
            synchronisation that a selection of unknown length costs on a GPU. Numbers in [0, 1] are parts: the mean
            over rows and the correlations of columns are weighted by them.

    No sample at all gives 0. A single sample has no relation between samples: its column term is 0.
    """
    p, q = (student / tau).softmax(dim=1), target.detach()
    part = p.new_ones(len(p)) if mask is None else mask.to(p.dtype)
    count = part.sum()
    share = part / count.clamp(min=EPSILON)
    rows = 1 - correlation(p - p.mean(dim=1, keepdim=True), q - q.mean(dim=1, keepdim=True), dim=1)
    centred_p = (p - share @ p) * part.sqrt()[:, None]
    centred_q = (q - share @ q) * part.sqrt()[:, None]
    columns = (1 - correlation(centred_p, centred_q, dim=0)).mean() * (part.count_nonzero() > 1)
    if weight is not None:
        rows, columns = weight * rows, (share @ weight) * columns
    return (beta * (share @ rows) + gamma * columns) * tau**2


def centred_logit_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of centred logits: `mean over samples of |c(S) - c(T)|^2 / classes`, c(z) = z minus its mean.

    Softmax does not see the mean of the logits, so it is taken out; what is left keeps the *size* of the logits, to
    which correlations (DIST) are blind. Half of it is what `kl_distillation` becomes at a high temperature (Kim et al.
    2021, "Comparing Kullback-Leibler divergence and mean squared error loss in knowledge distillation").

    Args:
        student, teacher: logits `[batch, classes]`. No gradient reaches the teacher.
    """
    difference = student - teacher.detach()
    return (difference - difference.mean(dim=1, keepdim=True)).square().mean()


def kl_distillation(student: Tensor, teacher: Tensor, *, tau: float = 4.0) -> Tensor:
    """`tau^2 * KL(softmax(T / tau) || softmax(S / tau))` (Hinton et al. 2015, section 2)."""
    log_p = F.log_softmax(student / tau, dim=1)
    log_q = F.log_softmax(teacher.detach() / tau, dim=1)
    return F.kl_div(log_p, log_q, log_target=True, reduction="batchmean") * tau**2


def decoupled_distillation(
    student: Tensor, teacher: Tensor, target: Tensor, *, alpha: float = 1.0, beta: float = 8.0, tau: float = 4.0
) -> Tensor:
    """Decoupled distillation: `alpha * TCKD + beta * NCKD` (Zhao et al. 2022, eq. 7), times tau squared.

    TCKD compares the two-way distribution (target class, all others); NCKD the distribution among the others.

    Args:
        target: int64 `[batch]`, the class that is split off.
    """
    student, teacher = student / tau, teacher.detach() / tau
    is_target = F.one_hot(target, student.shape[1]).bool()

    def two_way(logits: Tensor) -> Tensor:
        log_p = logits.log_softmax(dim=1)
        others = log_p.masked_fill(is_target, float("-inf")).logsumexp(dim=1)
        return torch.stack([log_p.gather(1, target[:, None]).squeeze(1), others], dim=1)

    # positions of the other classes: a selection by mask would make a GPU's host wait for its length
    position = torch.arange(student.shape[1] - 1, device=target.device)
    position = position + (position >= target[:, None])

    def others(logits: Tensor) -> Tensor:
        return logits.gather(1, position).log_softmax(dim=1)

    tckd = F.kl_div(two_way(student), two_way(teacher), log_target=True, reduction="batchmean")
    nckd = F.kl_div(others(student), others(teacher), log_target=True, reduction="batchmean")
    return (alpha * tckd + beta * nckd) * tau**2


def joint_mutual_information(
    student_mixed: Tensor,
    teacher_raw: Sequence[Tensor],
    weights: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    tau: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Joint (cross) mutual information loss of asymmetric distillation.

    `lam * DIST(S(m), T(a)) + (1 - lam) * DIST(S(m), T(b))` (Jia et al. 2024), here for any number of sources:
    the sum over sources j of `weights[:, j] * DIST(S(m), T(x_j))`.

    Args:
        student_mixed: S(m) `[batch, classes]`.
        teacher_raw: for each source j, the teacher's logits on its raw image, `[batch, classes]`.
        weights: `[batch, sources]`, the mixing weights; rows sum to one.
        beta, gamma, tau, mask: see `dist_to_target`.
    """
    return total(
        dist(student_mixed, answer, beta=beta, gamma=gamma, tau=tau, weight=weights[:, j], mask=mask)
        for j, answer in enumerate(teacher_raw)
    )


def hard_samples(teacher_mixed: Tensor, labels: Tensor, sources: Tensor) -> Tensor:
    """Which mixed samples are hard: the teacher's top class on the mix is the class of none of its sources.

    Returns:
        bool `[batch]` (Jia et al. 2024, selective relabel).
    """
    return (teacher_mixed.argmax(dim=1, keepdim=True) != labels[sources]).all(dim=1)


def main_label(targets: Tensor, weights: Tensor) -> Tensor:
    """The label with the largest share: int64 `[batch]` of targets and weights `[batch, sources]`."""
    return targets.gather(1, weights.argmax(dim=1, keepdim=True)).squeeze(1)


def next_of_class(labels: Tensor) -> Tensor:
    """For each sample the next one of its class in the batch, counted round; itself if it is alone: int64 `[batch]`."""
    own = torch.arange(len(labels), device=labels.device)
    steps = (own[None, :] - own[:, None] - 1) % len(labels)
    return steps.masked_fill(labels[None, :] != labels[:, None], len(labels)).argmin(dim=1)


def source_confidence(teacher_mixed: Tensor, labels: Tensor, sources: Tensor) -> Tensor:
    """How much of a mixed sample the teacher recognises: its softmax probability on the distinct labels of the sources.

    Returns:
        float `[batch]` in [0, 1], without a graph: the soft counterpart of `hard_samples`, of this project.
    """
    probability = teacher_mixed.detach().softmax(dim=1)
    is_source = torch.zeros_like(probability, dtype=torch.bool).scatter_(1, labels[sources], True)
    return (probability * is_source).sum(dim=1).clamp(max=1)


def smoothed_labels(targets: Tensor, weights: Tensor, classes: int, *, smoothing: float = 0.0) -> Tensor:
    """`(1 - smoothing) * sum_j weights_j * onehot(y_j) + smoothing / classes`: probabilities `[batch, classes]`.

    The smoothed two-hot target of a mixed image, for any number of sources.

    Args:
        targets: int64 `[batch, sources]`.
        weights: `[batch, sources]`, rows sum to one.
    """
    hot = weights.new_zeros(len(weights), classes).scatter_add(1, targets, weights)
    return (1 - smoothing) * hot + smoothing / classes


def weighted_logits(logits: Tensor, sources: Tensor, weights: Tensor) -> Tensor:
    """`sum_j weights[:, j] * logits[sources[:, j]]`: the logits of raw images, mixed as the images are.

    Args:
        logits: `[batch, classes]`.
        sources, weights: `[batch, sources]`, as in `augment.Mixed`.
    """
    return total(weights[:, j, None] * logits[sources[:, j]] for j in range(sources.shape[1]))


def enriched_logits(
    teacher_mixed: Tensor, teacher_raw: Tensor, sources: Tensor, weights: Tensor, bias: Tensor
) -> Tensor:
    """The teacher's head on the mixed image's feature enriched by those of its sources, `f(m) + sum_j w_j * f(x_j)`.

    A linear head turns the sum of features into a sum of logits: `T(m) + sum_j w_j * T(x_j) - bias`, since each of the
    two summands brings the bias once. So cached teacher logits hold all that is needed.

    Args:
        teacher_mixed, teacher_raw: logits `[batch, classes]` on the mixed and on the raw images.
        sources, weights: `[batch, sources]`, as in `augment.Mixed`; rows of weights sum to one.
        bias: `[classes]`, of the teacher's linear head.
    """
    return teacher_mixed + weighted_logits(teacher_raw, sources, weights) - bias


def mixed_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor, *, smoothing: float = 0.0, mask: Tensor | None = None
) -> Tensor:
    """Cross entropy with the several labels of a mixed image, `sum_j weights_j * CE(S(m), y_j)`, mean over the batch.

    With `smoothing` s the target is the smoothed two-hot `(1 - s) * sum_j weights_j * onehot(y_j) + s / classes`.

    Args:
        logits: `[batch, classes]`.
        targets: int64 `[batch, sources]`.
        weights: `[batch, sources]`, rows sum to one.
        mask: bool `[batch]`, which samples take part; none at all gives 0.
    """
    log_p = logits.log_softmax(dim=1)
    loss = -(weights * log_p.gather(1, targets)).sum(dim=1)
    if smoothing:
        loss = (1 - smoothing) * loss - smoothing * log_p.mean(dim=1)
    if mask is None:
        return loss.mean()
    return (loss * mask).sum() / mask.sum().clamp(min=1)
