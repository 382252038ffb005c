"""Distillation and labelling losses: pure functions of tensors, each with its paper and equation.

Shapes: logits are `[batch, classes]`, class labels int64 `[batch]`, mixing weights float `[batch]` or
`[batch, sources]`. Every loss is a scalar tensor. Symbols: S student, T teacher, m the mixed image of a and b.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-8


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
        weight: `[batch]`, how much each sample counts. The rows are weighted one by one; a column runs over the whole
            batch, so it takes the mean weight. With one weight for the whole batch this is exactly weight * DIST.
        mask: bool `[batch]`, which samples take part: the same as DIST of `student[mask]`, without the host
            synchronisation that a selection of unknown length costs on a GPU. Numbers in [0, 1] are parts: the mean
            over rows and the correlations of columns are weighted by them.

    No sample at all gives 0. A single sample has no relation between samples: its column term is 0.
    """
    p, q = (student / tau).softmax(dim=1), (teacher.detach() / tau).softmax(dim=1)
    part = p.new_ones(len(p)) if mask is None else mask.to(p.dtype)
    count = part.sum()
    share = part / count.clamp(min=EPSILON)
    rows = 1 - F.cosine_similarity(p - p.mean(dim=1, keepdim=True), q - q.mean(dim=1, keepdim=True), dim=1, eps=EPSILON)
    centred_p = (p - share @ p) * part.sqrt()[:, None]
    centred_q = (q - share @ q) * part.sqrt()[:, None]
    columns = (1 - F.cosine_similarity(centred_p, centred_q, dim=0, eps=EPSILON)).mean() * (part.count_nonzero() > 1)
    if weight is not None:
        rows, columns = weight * rows, (share @ weight) * columns
    return (beta * (share @ rows) + gamma * columns) * tau**2


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
        weights: `[batch, sources]`, the shares of the sources; rows sum to one.
        beta, gamma, tau, mask: see `dist`.
    """
    return sum(
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
