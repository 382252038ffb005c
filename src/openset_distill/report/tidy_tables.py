"""THE list of tidy tables: the workflow, the collector, DVC and the reader know them from here alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class TidyTable:
    """The columns of a tidy table, and the files that its rows come from.

    Attributes:
        text, numbers: columns that must be there and be filled.
        fractions: numbers in [0, 1].
        blanks: numbers that may be empty.
        source: the file below the folder of a split and seed that has the rows; `{run}` stands for each run. Empty for
            a table that is computed from another one.
        first: of the first split and seed alone.
        compared: of the runs that figures compare (`Experiment.compared_runs`), not of all.
        on_request: an analysis of its own makes it, which runs only for a figure or table that is shown.
        keys: besides run, split and seed, what tells the rows apart; empty where nothing does.
        renamed: names that columns had in the release before, which are read for one more.
    """

    text: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    fractions: tuple[str, ...] = ()
    blanks: tuple[str, ...] = ()
    source: str = ""
    first: bool = False
    compared: bool = False
    on_request: bool = False
    keys: tuple[str, ...] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.text + self.numbers + self.fractions + self.blanks


_RUN = ("run", "label", "family")
_METRIC = ("score", "group", "sampling", "metric")
_UNIT = ("split", "seed")
TIDY_TABLES = {
    "runs": TidyTable(
        text=("experiment", "dataset", "protocol", *_RUN, *_METRIC),
        numbers=_UNIT,
        fractions=("value",),
        blanks=("low", "high", "n_known", "n_unknown"),
        source="{run}/metrics.json",
        keys=_METRIC,
    ),
    "summary": TidyTable(
        text=("experiment", "dataset", "protocol", *_RUN, *_METRIC, "baseline"),
        numbers=("n",),
        fractions=("mean",),
        blanks=("std", "difference", "difference_low", "difference_high", "effect_size", "p_value"),
    ),
    "history": TidyTable(
        text=_RUN,
        numbers=(*_UNIT, "epoch"),
        blanks=("train_loss", "validation_accuracy", "learning_rate", "hard_share"),
        source="{run}/history.csv",
        keys=("epoch",),
    ),
    "curves": TidyTable(
        text=(*_RUN, "curve"),
        numbers=_UNIT,
        fractions=("x", "y"),
        source="{run}/curves.csv",
        keys=("curve", "x"),
    ),
    "activations": TidyTable(
        text=_RUN,
        numbers=(*_UNIT, "maximum_logit", "feature_norm"),
        fractions=("known",),
        source="{run}/activations.csv",
    ),
    "mixing": TidyTable(
        text=(*_RUN, "mixing", "quantity"),
        numbers=(*_UNIT, "value"),
        fractions=("lam",),
        source="mixing.csv",
        on_request=True,
        keys=("mixing", "quantity", "lam"),
    ),
    "networks": TidyTable(
        text=(*_RUN, "network"), numbers=("parameters",), source="{run}/weights.safetensors", first=True
    ),
    "features": TidyTable(
        text=(*_RUN, "quantity", "group"),
        numbers=_UNIT,
        blanks=("value",),
        source="features.csv",
        keys=("quantity", "group"),
    ),
    "attention": TidyTable(
        text=(*_RUN, "view", "predicted", "map"),
        renamed={"says": "predicted"},
        numbers=(*_UNIT, "pair"),
        blanks=("area_b", "on_b"),
        source="attention.csv",
        first=True,
        on_request=True,
    ),
    "pictures": TidyTable(
        text=("view", "class", "picture"),
        numbers=(*_UNIT, "pair"),
        source="pictures.csv",
        first=True,
        on_request=True,
    ),
    "embedding": TidyTable(
        text=(*_RUN, "class"),
        numbers=(*_UNIT, "x", "y"),
        source="{run}/embedding.csv",
        first=True,
        compared=True,
        on_request=True,
    ),
}
