"""Tables, made from tidy tables: each as CSV (numbers), Markdown and LaTeX.

Adding one = a module with `make` and an entry in `TABLES`. This file is read while a workflow is parsed: it does not
import pandas.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...core.errors import DataError, SettingsError, nearest
from ...datasets import catalog
from .. import tidy
from ..context import Context, needs_families
from .common import DASH, METRIC_TITLES, n_words
from .formats import Block, Cell, Table, latex_escape, markdown_escape, save, to_html, to_latex, to_markdown
from .published import read_published

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "DASH",
    "METRIC_TITLES",
    "TABLES",
    "Block",
    "Cell",
    "Configured",
    "Table",
    "TableSpec",
    "latex_escape",
    "markdown_escape",
    "read_published",
    "save",
    "table_spec",
    "to_html",
    "to_latex",
    "to_markdown",
]

EXPERIMENT = " Experiment {experiment} on {dataset}, {scale}{count}. {setting}"


@dataclass(frozen=True)
class Configured:
    """What an experiment's configuration says about the tables that it can fill.

    Attributes:
        families: run -> family.
        networks: run -> name of its network.
        groups: of unknown classes.
    """

    families: Mapping[str, str]
    networks: Mapping[str, str]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class TableSpec:
    """One table: from which tidy tables it is made, and what must be configured for it.

    `needs` gives what an experiment lacks, in words; nothing where it can fill the table.
    """

    name: str  # and its module here, imported only when the table is made
    tables: tuple[str, ...]
    title: str
    caption: str  # may name {experiment}, {title}, {dataset}, {scale}, {score} and {setting}
    needs: Callable[[Configured], list[str]]
    published: bool = False  # whether it prints published numbers too

    def build(
        self, tables: Mapping[str, pd.DataFrame], context: Context, published: pd.DataFrame | None = None
    ) -> Table:
        """Makes the table.

        Args:
            published: the rows of `read_published`, for a table that prints them.

        Raises:
            DataError: a tidy table is missing, or holds no run that this table can show.
        """
        for table in self.tables:
            if table not in tables:
                raise DataError(f"table {self.name!r} reads the table {table!r}; add --table {table}=PATH")
        if self.published and published is None:
            raise DataError(f"table {self.name!r} prints published numbers; add --published PATH")
        make = importlib.import_module(f"{__name__}.{self.name}").make
        context = tidy.measured(context, (tables[table] for table in self.tables))
        content = make(tables, context, published) if self.published else make(tables, context)
        caption = self.caption_for(context, n_words(content.counts))
        return Table(f"{context.experiment}-{self.name}", caption, content.blocks, content.data)

    def caption_for(self, context: Context, count: str = "") -> str:
        """The caption with the experiment's own words; `count` states how many class sets are behind a mean."""
        count = f" ({count})" if count else ""
        words = context.words()
        return f"{self.caption.format(**words)}{EXPERIMENT.format(**words, count=count)}".strip()


def table_spec(name: str) -> TableSpec:
    """The table called `name`.

    Raises:
        SettingsError: there is none.
    """
    if name not in TABLES:
        raise SettingsError(f"unknown table {name!r}; {nearest(name, TABLES)}")
    return TABLES[name]


_ANY_RUN = ("cross_entropy", "ssa", "msa", "distillation", "asymmetric", "ablation")


def _runs_of(*alternatives: tuple[str, ...]) -> Callable[[Configured], list[str]]:
    missing = needs_families(*alternatives)
    return lambda configured: missing(configured.families)


def _difficulties(configured: Configured) -> list[str]:
    there = {"easy", "hard"} <= set(configured.groups)
    return [] if there else ["unknown classes in groups 'easy' and 'hard', as the semantic shift benchmarks have them"]


def _students_of_two_networks(configured: Configured) -> list[str]:
    of_family: dict[str, set[str]] = {}
    for run, network in configured.networks.items():
        of_family.setdefault(configured.families[run], set()).add(network)
    teachers, distilled = of_family.pop("teacher", set()), of_family.get("asymmetric", set())
    missing = []
    if len(set().union(*of_family.values())) < 2:
        missing.append("students of at least two networks (`backbone` of a run)")
    if not distilled & (teachers | of_family.get("cross_entropy", set())):
        missing.append("a network with asymmetric distillation and with plain cross entropy")
    return missing


def _two_datasets(configured: Configured) -> list[str]:
    there = sum(group in catalog.datasets() for group in configured.groups) > 1
    return [] if there else ["unknown images of at least two other datasets (data.others, protocol all_known)"]


TABLES: dict[str, TableSpec] = {
    spec.name: spec
    for spec in (
        TableSpec(
            name="benchmark",
            tables=("runs",),
            title="Benchmark",
            caption="Closed-set accuracy and open-set performance of every run.",
            needs=_runs_of(_ANY_RUN),
            published=True,
        ),
        TableSpec(
            name="augmentation",
            tables=("runs", "features"),
            title="Two sides of data augmentation",
            caption="What single-sample (SSA) and multiple-sample augmentation (MSA) change: accuracy, open-set "
            "performance and feature discrimination.",
            needs=_runs_of(("cross_entropy",), ("ssa", "msa")),
        ),
        TableSpec(
            name="ablation",
            tables=("runs",),
            title="Ablation of asymmetric distillation",
            caption="Ablation of asymmetric distillation, one switch a row.",
            needs=_runs_of(("distillation",), ("ablation", "asymmetric")),
        ),
        TableSpec(
            name="significance",
            tables=("runs",),
            title="Paired comparisons",
            caption="Every run against the baseline, and asymmetric distillation against plain distillation.",
            needs=_runs_of(("cross_entropy",), ("ssa", "msa", "distillation", "asymmetric", "ablation")),
        ),
        TableSpec(
            name="scores",
            tables=("runs",),
            title="Open-set scores",
            caption="Open-set scores of the main runs, on all test images and on balanced samples.",
            needs=_runs_of(_ANY_RUN),
        ),
        TableSpec(
            name="semantic_shift",
            tables=("runs",),
            title="Semantic shift",
            caption="Open-set performance by the difficulty of the unknown classes.",
            needs=_difficulties,
        ),
        TableSpec(
            name="ood",
            tables=("runs",),
            title="Out-of-distribution detection",
            caption="Detection of the images of other datasets by the {score}.",
            needs=_two_datasets,
        ),
        TableSpec(
            name="architectures",
            tables=("runs", "networks"),
            title="Networks",
            caption="Networks without and with asymmetric distillation (AD).",
            needs=_students_of_two_networks,
        ),
    )
}
