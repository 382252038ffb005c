"""Asymmetric distillation (Jia et al. 2024): the student sees the mixed image, the teacher sees the raw ones."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import lazy_loader as lazy
from pydantic import Field

from ..core.registry import settings_class
from .base import Batch, Method, Teacher, Terms

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.classifier import Classifier

# Parsing the workflow reads the settings of every method: torch waits until a loss is computed.
torch = lazy.load("torch")


@settings_class
class Asymmetric(Method):
    """What the paper's method and its relatives have in common: the raw batch, and which losses a mixed batch has.

    A subclass has a setting `combine` and the terms of a mixed batch, `mixed_loss`.
    """

    alpha: Annotated[float, Field(ge=0)] = 1.0
    beta: Annotated[float, Field(ge=0)] = 1.0
    gamma: Annotated[float, Field(ge=0)] = 1.0
    tau: Annotated[float, Field(gt=0)] = 1.0

    needs_teacher: ClassVar[bool] = True
    family: ClassVar[str | None] = "asymmetric"

    @property
    def relations(self) -> dict[str, float]:
        """The settings of `losses.dist`."""
        return {"beta": self.beta, "gamma": self.gamma, "tau": self.tau}

    def loss(self, student: Classifier, teacher: Teacher | None, batch: Batch) -> tuple[Terms, Terms]:
        if batch.mixed is None:
            return self.raw_loss(student, batch, teacher.on_raw(batch)), {}
        on_raw, on_mixed = teacher.on_both(batch)
        terms = self.raw_loss(student, batch, on_raw) if self.combine == "add" else {}
        _, logits = student(batch.mixed.images)
        mixed_terms, statistics = self.mixed_loss(
            logits, on_raw, on_mixed, batch.labels, batch.mixed.sources, batch.mixed.weights
        )
        return terms | mixed_terms, statistics

    def raw_loss(self, student: Classifier, batch: Batch, answer: Tensor) -> Terms:
        """`alpha * CE(S(x), y) + DIST(S(x), T(x))`."""
        from .losses import dist

        _, logits = student(batch.images)
        return {
            "label": self.alpha * torch.nn.functional.cross_entropy(logits, batch.labels),
            "distill": dist(logits, answer, **self.relations),
        }

    @abstractmethod
    def mixed_loss(
        self, student: Tensor, on_raw: Tensor, on_mixed: Tensor, labels: Tensor, sources: Tensor, weights: Tensor
    ) -> tuple[Terms, Terms]:
        """The terms of a mixed batch, and what is worth watching, from logits alone.

        Args:
            student: S(m) `[batch, classes]`.
            on_raw, on_mixed: the teacher's logits on the raw and on the mixed images, `[batch, classes]`.
            labels: int64 `[batch]`, of the raw images.
            sources, weights: `[batch, sources]`, as in `augment.Mixed`.
        """


@settings_class
class AsymmetricDistillation(Asymmetric):
    """The paper's method; every choice is a switch, so each row of the ablation is a setting.

    Raw batch: `alpha * CE(S(x), y) + DIST(S(x), T(x))`.
    Mixed batch, m = mix(a, b) with shares lam and 1 - lam:

    - `joint`: `lam * DIST(S(m), T(a)) + (1 - lam) * DIST(S(m), T(b))` over all samples;
    - distillation of the easy samples, `DIST(S(m), easy target)`;
    - `relabel`: hard samples, on which the teacher's top class for m is neither label, leave the distillation above and
      get `lam * CE(S(m), y_a) + (1 - lam) * CE(S(m), y_b)` instead. Without it every sample counts as easy.

    Args:
        alpha: weight of the label loss on raw images (paper: 1.0 for ResNet-18, 0.95 for MobileNetV2).
        beta, gamma, tau: weights of the row and column terms of DIST, and its temperature.
        teacher_input: `raw` is the asymmetry; `mixed` shows the teacher m too, as plain distillation does.
        smoothing: of the two-hot target of hard samples.
        easy_target: `raw_a` T(a) without lam, `raw_pair` T(a) and T(b) with their shares, `mixed` T(m).
        combine: on a mixed batch the mixed loss replaces the raw loss, or is added to it.
        mixed_label_weight: weight of a label loss on the easy samples of a mixed batch. The paper has none (0).
        raw_pass: also run the student on the raw images of a mixed batch and throw the answer away, as the released
            code does: it costs time and moves the running statistics of batch normalisation, nothing else.

    Presets: `as_released` is what the authors' code computes, `as_described` what the paper's words say.
    """

    teacher_input: Literal["raw", "mixed"] = "raw"
    joint: bool = True
    relabel: bool = True
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    easy_target: Literal["raw_a", "raw_pair", "mixed"] = "raw_a"
    combine: Literal["replace", "add"] = "replace"
    mixed_label_weight: Annotated[float, Field(ge=0)] = 0.0
    raw_pass: bool = False

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "as_released": {"smoothing": 0.0, "easy_target": "raw_a", "combine": "replace"},
        "as_described": {"smoothing": 0.75, "easy_target": "mixed", "combine": "add"},
    }

    def loss(self, student: Classifier, teacher: Teacher | None, batch: Batch) -> tuple[Terms, Terms]:
        if self.raw_pass and self.combine == "replace" and batch.mixed is not None:
            with torch.no_grad():
                student(batch.images)
        return super().loss(student, teacher, batch)

    def mixed_loss(
        self, student: Tensor, on_raw: Tensor, on_mixed: Tensor, labels: Tensor, sources: Tensor, weights: Tensor
    ) -> tuple[Terms, Terms]:
        from .losses import dist, hard_samples, joint_mutual_information, mixed_cross_entropy

        hard = hard_samples(on_mixed, labels, sources)
        easy = ~hard if self.relabel else torch.ones_like(hard)
        if self.teacher_input == "raw":
            answers = [on_raw[sources[:, j]] for j in range(sources.shape[1])]
        else:
            answers = [on_mixed] * sources.shape[1]

        terms: Terms = {}
        if self.joint:
            terms["joint"] = joint_mutual_information(student, answers, weights, **self.relations)
        if self.easy_target == "raw_pair":
            terms["easy"] = joint_mutual_information(student, answers, weights, mask=easy, **self.relations)
        else:
            target = on_mixed if self.easy_target == "mixed" else answers[0]
            terms["easy"] = dist(student, target, mask=easy, **self.relations)
        targets = labels[sources]
        if self.relabel:
            terms["relabel"] = mixed_cross_entropy(student, targets, weights, smoothing=self.smoothing, mask=hard)
        if self.mixed_label_weight:
            terms["mixed_label"] = self.mixed_label_weight * mixed_cross_entropy(student, targets, weights, mask=easy)
        return terms, {"hard_share": hard.float().mean()}
