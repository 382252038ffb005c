"""Figures, drawn from tidy tables alone. Adding one = a module with `draw` and an entry in `FIGURES`.

This file is read while a workflow is parsed: it imports neither matplotlib nor pandas.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...core.errors import DataError, SettingsError, nearest
from .. import tidy
from ..context import Context, Needs, RunRoles, needs_families, read_context

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "Context", "FigureSpec", "Needs", "RunRoles", "figure_spec", "needs_families", "read_context"]


@dataclass(frozen=True)
class FigureSpec:
    """One figure: where it is drawn, from which tidy tables, and which runs must be configured for it."""

    name: str
    module: str  # imported only when the figure is drawn
    tables: tuple[str, ...]
    title: str
    caption: str  # may name {experiment}, {title}, {dataset}, {scale}, {score} and {setting}
    needs: Needs
    beside: tuple[str, ...] = ()  # tables that are made together with it

    def draw(self, tables: Mapping[str, pandas.DataFrame], context: Context) -> tuple[Figure, pandas.DataFrame]:
        """Draws the figure; returns it with exactly the numbers that it shows.

        Raises:
            DataError: a table is missing, or holds no run that this figure can show.
        """
        for table in self.tables:
            if table not in tables:
                raise DataError(f"figure {self.name!r} reads the table {table!r}; add --table {table}=PATH")
        context = tidy.measured(context, (tables[table] for table in self.tables))
        shown = {name: tidy.printable_columns(table) for name, table in tables.items()}
        return importlib.import_module(self.module).draw(shown, context)

    def caption_for(self, context: Context) -> str:
        """The caption with the experiment's own words."""
        return " ".join(self.caption.format(**context.words()).split())


def figure_spec(name: str) -> FigureSpec:
    """The figure called `name`.

    Raises:
        SettingsError: there is none.
    """
    if name not in FIGURES:
        raise SettingsError(f"unknown figure {name!r}; {nearest(name, FIGURES)}")
    return FIGURES[name]


_EXPERIMENT = " Experiment {experiment} on {dataset}, {scale}. {setting}"
_TEACHER_FAMILIES = ("teacher", "distillation", "asymmetric", "ablation")
_ANY_RUN = ("cross_entropy", "ssa", "msa", "distillation", "asymmetric", "ablation")

FIGURES: dict[str, FigureSpec] = {
    spec.name: spec
    for spec in (
        FigureSpec(
            name="two_sides",
            module=f"{__name__}.two_sides",
            tables=("runs",),
            title="Two sides of data augmentation",
            caption="Closed-set accuracy against open-set performance (AUROC of the {score}), one point for "
            "each run; bars: standard error of the difference to cross entropy on the same class sets. Arrows lead "
            "from multiple-sample augmentation to asymmetric distillation. Dashed lines: cross entropy." + _EXPERIMENT,
            needs=needs_families(("cross_entropy",), ("msa",)),
            beside=("augmentation",),
        ),
        FigureSpec(
            name="feature_discrimination",
            module=f"{__name__}.feature_discrimination",
            tables=("activations", "runs"),
            title="Feature discrimination of knowns and unknowns",
            caption="Distributions of the maximum logit and of the feature norm of a sample of known and unknown test "
            "images, with its means, and the AUROC over all test images." + _EXPERIMENT,
            needs=needs_families(("cross_entropy",), ("msa",)),
        ),
        FigureSpec(
            name="mixing_response",
            module=f"{__name__}.mixing_response",
            tables=("mixing",),
            title="Response to mixed images",
            caption="Left: confidence of the teacher and share of hard samples (top class is neither source) against "
            "the mixing weight lambda. Middle and right: maximum logit and feature norm of the students." + _EXPERIMENT,
            needs=needs_families(_TEACHER_FAMILIES),
        ),
        FigureSpec(
            name="feature_space",
            module=f"{__name__}.feature_space",
            tables=("embedding",),
            title="Feature space",
            caption="t-SNE of the test features of one split and seed: knowns by class, behind them a sample of the "
            "unknowns in grey." + _EXPERIMENT,
            needs=needs_families(("cross_entropy",)),
        ),
        FigureSpec(
            name="feature_geometry",
            module=f"{__name__}.feature_geometry",
            tables=("features",),
            title="Feature geometry",
            caption="Magnitude and effective rank of knowns and unknowns, simplified silhouette, variability within "
            "classes relative to that between them (NC1, smaller is more collapsed), and debiased linear CKA with the "
            "teacher, on the features of test images." + _EXPERIMENT,
            needs=needs_families(_ANY_RUN),
        ),
        FigureSpec(
            name="attention",
            module=f"{__name__}.attention",
            tables=("attention", "pictures"),
            title="Attention in mixed images",
            caption="Grad-CAM of teacher and students on CutMix images of known test images, with the class that each "
            "network predicts and the share of its map that is on the pasted image b; below, over all pairs, the map's "
            "share on the source whose class is predicted, and that source's area." + _EXPERIMENT,
            needs=needs_families(("cross_entropy",)),
        ),
        FigureSpec(
            name="ablation",
            module=f"{__name__}.ablation",
            tables=("runs",),
            title="Ablation of asymmetric distillation",
            caption="Difference of AUROC ({score}) and accuracy to the first row over the same class sets, with t "
            "intervals where there are at least two." + _EXPERIMENT,
            needs=needs_families(("distillation",), ("ablation", "asymmetric")),
        ),
        FigureSpec(
            name="openset_curves",
            module=f"{__name__}.openset_curves",
            tables=("curves",),
            title="Open-set curves",
            caption="ROC and OSCR curves of the {score}: mean over class sets, bars of one standard "
            "deviation." + _EXPERIMENT,
            needs=needs_families(_ANY_RUN),
        ),
        FigureSpec(
            name="training_dynamics",
            module=f"{__name__}.training_dynamics",
            tables=("history",),
            title="Training dynamics",
            caption="Training loss, validation accuracy and the share of mixed samples that are hard (the top class of "
            "the teacher is neither source) against the epoch: mean over class sets, bars of one standard "
            "deviation." + _EXPERIMENT,
            needs=needs_families(_ANY_RUN),
        ),
    )
}
