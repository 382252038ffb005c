"""Asymmetric distillation (Jia et al. 2024): the student sees the mixed image, the teacher sees the raw ones."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypedDict

import lazy_loader as lazy
import pydantic
from pydantic import Field

from ..core.errors import SettingsError
from ..core.registry import settings_class
from .base import Batch, Method, Teacher, Terms, needed, total

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.classifier import Classifier

# Parsing the workflow reads the settings of every method: torch waits until a loss is computed.
if TYPE_CHECKING:
    import torch
else:
    torch = lazy.load("torch")

EasyTarget = Literal["raw_a", "raw_pair", "mixed", "enriched"]


class Relations(TypedDict):
    """The weights and the temperature of DIST, as `losses.dist` takes them."""

    beta: float
    gamma: float
    tau: float


@settings_class
class Asymmetric(Method):
    """What the paper's method and its relatives have in common: the raw batch, and whom a mixed sample learns from.

    A subclass has a setting `combine` and the terms of a mixed batch, `mixed_loss`.
    """

    alpha: Annotated[float, Field(ge=0, le=1000)] = 1.0
    beta: Annotated[float, Field(ge=0, le=1000)] = 1.0
    gamma: Annotated[float, Field(ge=0, le=1000)] = 1.0
    tau: Annotated[float, Field(ge=0.001, le=1000)] = 1.0
    teacher_input: Literal["raw", "mixed"] = "raw"
    joint: bool = True
    easy_target: EasyTarget = "raw_a"

    if TYPE_CHECKING:  # each subclass declares it, with a default of its own
        combine: Literal["replace", "add"]

    needs_teacher: ClassVar[bool] = True
    family: ClassVar[str | None] = "asymmetric"

    @pydantic.model_validator(mode="after")
    def _distils(self) -> Asymmetric:
        if self.beta == self.gamma == 0:
            raise ValueError("beta and gamma are both 0, so that nothing is distilled; set one of them above 0")
        if self.easy_target == "enriched" and self.teacher_input == "mixed":
            raise ValueError(
                "easy_target: enriched adds the teacher's features of the raw images, which teacher_input: mixed keeps "
                "from it; choose easy_target: mixed, or teacher_input: raw"
            )
        return self

    @property
    def needs_mixing(self) -> bool:
        return True

    @property
    def needs_linear_teacher(self) -> bool:
        return self.easy_target == "enriched"

    @property
    def relations(self) -> Relations:
        """The settings of `losses.dist`."""
        return {"beta": self.beta, "gamma": self.gamma, "tau": self.tau}

    def loss(self, student: Classifier, teacher: Teacher | None, batch: Batch) -> tuple[Terms, Terms]:
        if batch.mixed is None:
            return self.raw_loss(student, batch, needed(teacher).on_raw(batch)), {}
        teacher = needed(teacher)
        on_raw, on_mixed = teacher.on_both(batch)
        terms = self.raw_loss(student, batch, on_raw) if self.combine == "add" else {}
        _, logits = student(batch.mixed.images)
        mixed_terms, statistics = self.mixed_loss(
            logits,
            on_raw,
            on_mixed,
            batch.labels,
            batch.mixed.sources,
            batch.mixed.weights,
            head_bias=teacher.head_bias if self.needs_linear_teacher else None,
        )
        return terms | mixed_terms, statistics

    def raw_loss(self, student: Classifier, batch: Batch, teacher_logits: Tensor) -> Terms:
        """`alpha * CE(S(x), y) + DIST(S(x), T(x))`."""
        from .losses import dist

        _, logits = student(batch.images)
        return {
            "label": self.alpha * torch.nn.functional.cross_entropy(logits, batch.labels),
            "distill": dist(logits, teacher_logits, **self.relations),
        }

    @abstractmethod
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
        """The terms of a mixed batch, and what is worth watching, from logits alone.

        Args:
            student: S(m) `[batch, classes]`.
            on_raw, on_mixed: the teacher's logits on the raw and on the mixed images, `[batch, classes]`.
            labels: int64 `[batch]`, of the raw images.
            sources, weights: `[batch, sources]`, as in `augment.Mixed`.
            head_bias: `[classes]`, of the teacher's head, where `needs_linear_teacher`.
        """

    def joint_loss(
        self, student: Tensor, on_raw: Tensor, on_mixed: Tensor, sources: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """`joint`: `sum_j w_j * DIST(S(m), T(x_j))` over all samples, or nothing."""
        from .losses import joint_mutual_information

        if not self.joint:
            return {}
        by_source = self._by_source(on_raw, on_mixed, sources)
        return {"joint": joint_mutual_information(student, by_source, weights, **self.relations)}

    def easy_targets(
        self, on_raw: Tensor, on_mixed: Tensor, sources: Tensor, weights: Tensor, head_bias: Tensor | None
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Whose logits an easy sample learns from: (teacher logits `[batch, classes]`, weight `[batch]` or None)."""
        from .losses import enriched_logits

        if self.easy_target == "mixed":
            return [(on_mixed, None)]
        if self.easy_target == "enriched":
            if head_bias is None:
                raise SettingsError(
                    "easy_target: enriched needs a teacher with a linear head; choose another easy_target"
                )
            return [(enriched_logits(on_mixed, on_raw, sources, weights, head_bias), None)]
        by_source = self._by_source(on_raw, on_mixed, sources)
        if self.easy_target == "raw_a":
            return [(by_source[0], None)]
        return [(logits, weights[:, j]) for j, logits in enumerate(by_source)]

    def _by_source(self, on_raw: Tensor, on_mixed: Tensor, sources: Tensor) -> list[Tensor]:
        """What the teacher predicts for each source of a mixed image: on the raw image, or on the mixed one."""
        if self.teacher_input == "mixed":
            return [on_mixed] * sources.shape[1]
        return [on_raw[sources[:, j]] for j in range(sources.shape[1])]


@settings_class
class AsymmetricDistillation(Asymmetric):
    """The paper's method in every reading of its words; each choice is a switch, so a row of the ablation is a setting.

    Raw batch: `alpha * CE(S(x), y) + DIST(S(x), T(x))`.
    Mixed batch, m = mix(a, b) with mixing weights lam and 1 - lam:

    - `joint`: `lam * DIST(S(m), T(a)) + (1 - lam) * DIST(S(m), T(b))` over all samples;
    - distillation of the easy samples, `DIST(S(m), easy target)`;
    - `relabel`: hard samples, for which the teacher's predicted class on m is neither label, are not distilled but
      relabelled. `relabel_target: cross_entropy` gives them `lam * CE(S(m), y_a) + (1 - lam) * CE(S(m), y_b)`; `dist`
      puts the smoothed two-hot in the place of the teacher's distribution, and one DIST runs over easy and hard samples
      together. Without `relabel` every sample counts as easy.

    Claim it stands for: the teacher on *raw* images repairs what mixing does to open-set recognition. Its control is
    `teacher_input: mixed` (is it the asymmetry?), beside `distillation` without mixing (is it mixing at all?).

    Args:
        alpha: weight of the label loss on raw images (paper: 1.0 for ResNet-18, 0.95 for MobileNetV2).
        beta, gamma, tau: weights of the row and column terms of DIST, and its temperature.
        teacher_input: `raw` is the asymmetry; `mixed` shows the teacher m too, as plain distillation does.
        joint: whether there is the joint term.
        easy_target: `raw_a` T(a) without lam, `raw_pair` T(a) and T(b) with their mixing weights, `mixed` T(m),
            `enriched` the teacher's head on feature(m) + lam * feature(a) + (1 - lam) * feature(b); the head must be
            linear, and which samples are hard is still decided by T(m).
        relabel: whether hard samples are relabelled.
        relabel_target: how: `cross_entropy` or `dist`.
        relabel_mean: of the cross entropies: over the `hard` samples, so that a single one gets the whole term, or over
            the `batch`, so that every sample of a mixed batch has the same weight.
        smoothing: of the two-hot target of hard samples.
        combine: on a mixed batch the mixed loss replaces the raw loss, or is added to it.
        mixed_label_weight: weight of a label loss on the easy samples of a mixed batch. The paper has none (0).
        raw_pass: also run the student on the raw images of a mixed batch and throw the logits away, as the released
            code does: it costs time and moves the running statistics of batch normalisation, nothing else.

    Presets: `as_released` is what the authors' code computes; the others are readings of the paper's words, none proven
    to be the paper's method (docs/method.md says what speaks for each). `as_described` is an older name of
    `as_described_ce`.
    """

    relabel: bool = True
    relabel_target: Literal["cross_entropy", "dist"] = "cross_entropy"
    relabel_mean: Literal["hard", "batch"] = "hard"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    combine: Literal["replace", "add"] = "replace"
    mixed_label_weight: Annotated[float, Field(ge=0, le=1000)] = 0.0
    raw_pass: bool = False

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "as_released": {"smoothing": 0.0, "easy_target": "raw_a", "combine": "replace"},
        "as_described_ce": {"smoothing": 0.75, "easy_target": "mixed", "combine": "add"},
        "as_described_ce_unsmoothed": {"smoothing": 0.0, "easy_target": "mixed", "combine": "add"},
        "as_described_dist": {
            "smoothing": 0.75,
            "easy_target": "mixed",
            "combine": "add",
            "relabel_target": "dist",
        },
        "as_described_enriched": {
            "smoothing": 0.75,
            "easy_target": "enriched",
            "combine": "add",
            "relabel_target": "dist",
        },
        "as_described": {"smoothing": 0.75, "easy_target": "mixed", "combine": "add"},
    }

    @pydantic.model_validator(mode="after")
    def _relabels_in_one_way(self) -> AsymmetricDistillation:
        if not self.relabel and (self.relabel_target, self.relabel_mean) != ("cross_entropy", "hard"):
            raise ValueError(
                "relabel: false relabels no sample, so relabel_target and relabel_mean have nothing to say; leave them "
                "out, or start from the preset as_described_ce in place of as_described_dist"
            )
        if self.relabel_target == "dist" and self.relabel_mean == "batch":
            raise ValueError(
                "relabel_mean: batch divides cross entropies, and relabel_target: dist has none; leave one of them out"
            )
        if self.raw_pass and self.combine == "add":
            raise ValueError(
                "raw_pass: true repeats the raw pass that combine: add makes anyway; leave it out, or choose "
                "combine: replace"
            )
        return self

    def loss(self, student: Classifier, teacher: Teacher | None, batch: Batch) -> tuple[Terms, Terms]:
        if self.raw_pass and batch.mixed is not None:
            with torch.no_grad():
                student(batch.images)
        return super().loss(student, teacher, batch)

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
        from .losses import dist, dist_to_target, hard_samples, mixed_cross_entropy, smoothed_labels

        hard = hard_samples(on_mixed, labels, sources)
        easy = ~hard if self.relabel else torch.ones_like(hard)
        easy_targets = self.easy_targets(on_raw, on_mixed, sources, weights, head_bias)
        targets = labels[sources]

        terms: Terms = self.joint_loss(student, on_raw, on_mixed, sources, weights)
        if self.relabel_target == "dist":
            relabelled = smoothed_labels(targets, weights, student.shape[1], smoothing=self.smoothing)
            terms["mixed_distill"] = total(
                dist_to_target(
                    student,
                    torch.where(hard[:, None], relabelled, (logits / self.tau).softmax(dim=1)),
                    weight=weight,
                    **self.relations,
                )
                for logits, weight in easy_targets
            )
        else:
            terms["easy"] = total(
                dist(student, logits, weight=weight, mask=easy, **self.relations) for logits, weight in easy_targets
            )
            if self.relabel:
                relabel = mixed_cross_entropy(student, targets, weights, smoothing=self.smoothing, mask=hard)
                terms["relabel"] = relabel * hard.to(relabel.dtype).mean() if self.relabel_mean == "batch" else relabel
        if self.mixed_label_weight:
            terms["mixed_label"] = self.mixed_label_weight * mixed_cross_entropy(student, targets, weights, mask=easy)
        return terms, {"hard_share": hard.float().mean()}
