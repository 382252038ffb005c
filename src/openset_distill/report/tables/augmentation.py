"""Single-sample and multiple-sample augmentation against the baseline: the two sides, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from .. import tidy
from ..context import Context, score_words
from .common import METRIC_TITLES, SPREAD, Content, comparison_words, effect, interval, probability, spread, top_of
from .formats import Block, Cell

METRICS = ("accuracy", "auroc", "oscr")
ACTIVATIONS = {"maximum_logit": "Maximum logit", "feature_norm": "Feature norm"}
COMPARED = {**{metric: METRIC_TITLES[metric] for metric in METRICS}, "maximum_logit": "Maximum logit"}


def make(tables: Mapping[str, pd.DataFrame], context: Context) -> Content:
    """A row for the baseline and for each run with SSA or MSA; `tables` needs `runs` and `features`."""
    runs = tables["runs"]
    labels, families = tidy.labels(runs), tidy.families(runs)
    picked = tidy.pick(context, runs)
    tidy.require_runs("table 'augmentation'", picked.baseline, "the baseline")
    baseline = picked.baseline[0]
    sections = {
        family: [run for run in labels if families[run] == family and run != baseline] for family in ("ssa", "msa")
    }
    rows = [baseline, *sections["ssa"], *sections["msa"]]
    tidy.require_runs("table 'augmentation'", rows[1:], "a run with single-sample or multiple-sample augmentation")
    values = {metric: tidy.pair_values(runs, metric, score=context.score).reindex(columns=rows) for metric in METRICS}
    values |= {name: _of_knowns(tables["features"], name).reindex(columns=rows) for name in ACTIVATIONS}

    differences = {
        (run, name): tidy.paired(values[name], run, baseline) for name in values for run in rows if run != baseline
    }
    values = {name: tidy.of_class_sets(table) for name, table in values.items()}
    best = {metric: top_of(values[metric].mean()) for metric in METRICS}
    means: list[Sequence[Cell] | str] = [_means(baseline, labels, values, best)]
    changes: list[Sequence[Cell] | str] = []
    for family, members in sections.items():
        if members:
            means.append(tidy.FAMILIES[family])
            changes.append(tidy.FAMILIES[family])
        for run in members:
            means.append(_means(run, labels, values, best))
            cells = [Cell(labels[run])]
            for name in COMPARED:
                found = differences[run, name]
                texts = (interval(found.difference, found.low, found.high), effect(found.effect_size))
                cells += [Cell(text) for text in (*texts, probability(found.p_value))]
            changes.append(cells)
    counts = [difference.n for difference in differences.values()]
    first_note = (
        f"{SPREAD}; accuracy, AUROC and OSCR in percent, score: {score_words(context.score)}. "
        "Maximum logit and feature norm: means over known test images. Bold: the best row."
    )
    second_note = f"Accuracy, AUROC and OSCR in points. {comparison_words(counts)} p is not corrected for their number."
    blocks = [
        Block(
            header=["Run", *(METRIC_TITLES[metric] for metric in METRICS), *ACTIVATIONS.values()],
            rows=means,
            spans=[("", 1 + len(METRICS)), ("Known images", len(ACTIVATIONS))],
            note=" ".join(filter(None, (first_note, picked.note("baseline")))),
        ),
        Block(
            header=["Run", *["Difference", "d_z", "p"] * len(COMPARED)],
            rows=changes,
            spans=[("", 1), *((title, 3) for title in COMPARED.values())],
            heading=f"Difference to {labels[baseline]}",
            note=second_note,
        ),
    ]
    data = pd.DataFrame(
        [
            {
                "run": run,
                "label": labels[run],
                "family": families[run],
                "quantity": name,
                "unit": "percent" if name in METRICS else "",
                "n": int(values[name][run].count()),
                "mean": values[name][run].mean(),
                "std": values[name][run].std(ddof=1),
                "baseline": baseline,
                **_numbers(differences.get((run, name))),
            }
            for run in rows
            for name in values
        ]
    )
    return Content(blocks, data, counts=[int(n) for n in data["n"]])


def _of_knowns(features: pd.DataFrame, name: str) -> pd.DataFrame:
    """The mean over known test images: a row for each (class set, split, seed), a column for each run."""
    means = features[(features["group"] == "known") & (features["quantity"] == f"{name}_mean")]
    return means.pivot(index=tidy.UNIT, columns="run", values="value").sort_index(level=["split", "seed"])


def _means(run: str, labels: Mapping[str, str], values: Mapping[str, pd.DataFrame], best: Mapping) -> list[Cell]:
    cells = [Cell(labels[run])]
    for name, table in values.items():
        cells.append(Cell(spread(table[run].mean(), table[run].std(ddof=1)), run in best.get(name, ())))
    return cells


def _numbers(found) -> dict[str, float]:
    """The columns of a comparison; the baseline has none."""
    if found is None:
        return {}
    return {
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "effect_size": found.effect_size,
        "p_value": found.p_value,
        "pairs": found.n,
    }
