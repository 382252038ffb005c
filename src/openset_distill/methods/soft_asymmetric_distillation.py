"""Asymmetric distillation with a soft switch between distilling and relabelling, beyond the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..core.registry import settings_class
from .asymmetric_distillation import Asymmetric, EasyTarget
from .base import Terms, total

if TYPE_CHECKING:
    from torch import Tensor


@settings_class
class SoftAsymmetricDistillation(Asymmetric):
    """Each mixed sample is distilled as far as the teacher recognises its sources, and relabelled for the rest.

    The paper's switch is hard: the teacher's predicted class decides alone whether a sample is distilled or relabelled,
    so 0.51 on a source and 0.99 count the same, 0.49 counts as nothing, and a single hard sample gets the whole relabel
    term. Here c_i, the teacher's softmax probability for m_i that falls on the distinct labels of its sources, divides
    sample i between the two (`losses.source_confidence`). Raw batch: as in asymmetric distillation. Mixed batch:

    - `joint` as in the paper: `lam * DIST(S(m), T(a)) + (1 - lam) * DIST(S(m), T(b))`, all samples;
    - `relabel_target: cross_entropy`, means over the whole batch, so that the weights of a sample add up to one:
      `easy`, `c_i * DIST(S(m_i), easy target)`, whose column term is the correlation weighted by c, times mean c; and
      `relabel`, `(1 - c_i) * (lam * CE(S(m_i), y_a) + (1 - lam) * CE(S(m_i), y_b))`;
    - `relabel_target: dist`, the preset `soft_dist`: one `DIST(S(m), q)` with the soft target
      `q_i = c_i * softmax(easy target) + (1 - c_i) * two-hot_i`. A mixed image gives the student no cross entropy at
      all: mixing says in which direction logits go, the raw images alone say how large they are.

    Where every c_i is 0 or 1 the first form is `asymmetric_distillation` with its `easy` term times the part of easy
    samples and `relabel` times that of hard ones (`relabel_mean: batch`), and the second is its
    `relabel_target: dist` without smoothing.

    Claim they stand for: what the hard switch and the cross entropy of hard samples cost. Of this project.

    Args:
        alpha: weight of the label loss on raw images.
        beta, gamma, tau: weights of the row and column terms of DIST, and its temperature.
        teacher_input, joint: as in asymmetric distillation.
        easy_target: `mixed` T(m), the logits that c_i vouches for; the others as in asymmetric distillation.
        relabel_target: `cross_entropy` or `dist`, see above.
        combine: on a mixed batch the mixed loss is added to the raw loss, or replaces it (half the cost).
    """

    easy_target: EasyTarget = "mixed"
    relabel_target: Literal["cross_entropy", "dist"] = "cross_entropy"
    combine: Literal["replace", "add"] = "add"

    presets: ClassVar[dict[str, dict[str, Any]]] = {"soft_dist": {"relabel_target": "dist"}}

    def mixed_loss(
        self,
        student: Tensor,
        on_raw: Tensor,
        on_mixed: Tensor,
        labels: Tensor,
        sources: Tensor,
        weights: Tensor,
        *,
        head_bias: Tensor | None = None,
    ) -> tuple[Terms, Terms]:
        from .losses import (
            dist,
            dist_to_target,
            hard_samples,
            mixed_cross_entropy,
            smoothed_labels,
            source_confidence,
        )

        confidence = source_confidence(on_mixed, labels, sources)
        easy_targets = self.easy_targets(on_raw, on_mixed, sources, weights, head_bias)
        targets = labels[sources]

        terms: Terms = self.joint_loss(student, on_raw, on_mixed, sources, weights)
        if self.relabel_target == "dist":
            part, two_hot = confidence[:, None], smoothed_labels(targets, weights, student.shape[1])
            terms["mixed_distill"] = total(
                dist_to_target(
                    student,
                    part * (logits / self.tau).softmax(dim=1) + (1 - part) * two_hot,
                    weight=weight,
                    **self.relations,
                )
                for logits, weight in easy_targets
            )
        else:
            easy = total(
                dist(student, logits, weight=weight, mask=confidence, **self.relations)
                for logits, weight in easy_targets
            )
            terms["easy"] = confidence.mean() * easy
            terms["relabel"] = mixed_cross_entropy(student, targets, (1 - confidence)[:, None] * weights)
        hard = hard_samples(on_mixed, labels, sources)
        return terms, {"hard_share": hard.float().mean(), "confidence": confidence.mean()}
