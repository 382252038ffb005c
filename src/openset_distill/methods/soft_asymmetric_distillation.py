"""Asymmetric distillation with a soft switch between distilling and relabelling, beyond the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..core.registry import settings_class
from .asymmetric_distillation import Asymmetric
from .base import Terms

if TYPE_CHECKING:
    from torch import Tensor


@settings_class
class SoftAsymmetricDistillation(Asymmetric):
    """Each mixed sample is distilled as far as the teacher recognises its sources, and relabelled for the rest.

    The paper's switch is hard: the teacher's top class decides alone whether a sample is distilled or relabelled, so
    0.51 on a source and 0.99 count the same, 0.49 counts as nothing, and a single hard sample gets the whole relabel
    term. Here c_i, the teacher's softmax probability for m_i that falls on the distinct labels of its sources, shares
    sample i out (`losses.source_confidence`). Raw batch: as in asymmetric distillation. Mixed batch, mean over i:

    - `joint` as in the paper: `lam * DIST(S(m), T(a)) + (1 - lam) * DIST(S(m), T(b))`, all samples;
    - `easy`: `c_i * DIST(S(m_i), easy target)`, whose column term is the correlation weighted by c, times mean c;
    - `relabel`: `(1 - c_i) * (lam * CE(S(m_i), y_a) + (1 - lam) * CE(S(m_i), y_b))`.

    Both means run over the whole batch, so that the weights of a sample add up to one. Where every c_i is 0 or 1 this
    is `asymmetric_distillation` with its `easy` term times the share of easy samples and `relabel` times that of hard.

    Args:
        alpha: weight of the label loss on raw images.
        beta, gamma, tau: weights of the row and column terms of DIST, and its temperature.
        easy_target: `mixed` T(m), the answer that c_i vouches for; `raw_a` T(a); `raw_pair` T(a) and T(b), by shares.
        combine: on a mixed batch the mixed loss is added to the raw loss, or replaces it (half the cost).
    """

    easy_target: Literal["raw_a", "raw_pair", "mixed"] = "mixed"
    combine: Literal["replace", "add"] = "add"

    def mixed_loss(
        self, student: Tensor, on_raw: Tensor, on_mixed: Tensor, labels: Tensor, sources: Tensor, weights: Tensor
    ) -> tuple[Terms, Terms]:
        from .losses import dist, hard_samples, joint_mutual_information, mixed_cross_entropy, source_confidence

        confidence = source_confidence(on_mixed, labels, sources)
        answers = [on_raw[sources[:, j]] for j in range(sources.shape[1])]
        if self.easy_target == "raw_pair":
            easy = joint_mutual_information(student, answers, weights, mask=confidence, **self.relations)
        else:
            target = on_mixed if self.easy_target == "mixed" else answers[0]
            easy = dist(student, target, mask=confidence, **self.relations)
        terms = {
            "joint": joint_mutual_information(student, answers, weights, **self.relations),
            "easy": confidence.mean() * easy,
            "relabel": mixed_cross_entropy(student, labels[sources], (1 - confidence)[:, None] * weights),
        }
        hard = hard_samples(on_mixed, labels, sources)
        return terms, {"hard_share": hard.float().mean(), "confidence": confidence.mean()}
