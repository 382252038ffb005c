"""Tables from tidy tables: each as CSV (numbers), Markdown and LaTeX. Adding one = a function and an entry in `TABLES`.

This file is read while a workflow is parsed, so pandas is loaded on first use.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import lazy_loader as lazy
import numpy as np

from .errors import DataError, SettingsError, nearest
from .figures import Context, Needs, needs_families, tidy
from .files import written_whole

pd = lazy.load("pandas")

METRIC_TITLES = {
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "aupr_known": "AUPR known",
    "aupr_unknown": "AUPR unknown",
    "fpr95": "FPR95",
    "oscr": "OSCR",
    "openauc": "OpenAUC",
}
EXPERIMENT = " Experiment {experiment} on {dataset}, {scale}{count}. {scale_note}"
LOWER_IS_BETTER = frozenset({"fpr95"})
DASH = "\N{EN DASH}"
PUBLISHED_COLUMNS = ("dataset", "method", "backbone", "protocol", "metric", "value", "source", "confidence")
# CIFAR+10 and CIFAR+50 are CIFAR-10 with unknowns of CIFAR-100: the literature names them by their protocol
BENCHMARK_OF_PROTOCOL = {"cifar_plus_10": "cifar+10", "cifar_plus_50": "cifar+50"}
# confidence of a published number: the mark in the table, and what it means
CONFIDENCE = {
    "primary": ("", "taken from the authors' own paper or repository"),
    "secondary": ("\N{DAGGER}", "copied from another publication, not checked against the original"),
    "stale": ("\N{DOUBLE DAGGER}", "known to be outdated: later reruns give other values"),
}


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and whether it is the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Block:
    """A grid of cells under one header. A row is a list of cells, or a string that heads the rows after it."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell] | str]
    text_columns: int = 1  # how many of the first columns are text; the others are numbers
    spans: Sequence[tuple[str, int]] = ()  # a line above the header: (title, number of columns), covering them all
    heading: str = ""
    note: str = ""  # printed below


@dataclass(frozen=True)
class Table:
    """A table ready to be written: what it prints, and its numbers in `data`."""

    name: str
    caption: str
    blocks: Sequence[Block]
    data: pd.DataFrame


Build = Callable[[Mapping[str, "pd.DataFrame"], Context, "pd.DataFrame | None"], Table]


@dataclass(frozen=True)
class TableSpec:
    """One table: from which tidy tables it is made, and which runs must be configured for it."""

    name: str
    tables: tuple[str, ...]
    title: str
    caption: str  # may name {experiment}, {title}, {dataset}, {scale} and {scale_note}
    needs: Needs
    make: Build
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
        return self.make(tables, context, published)

    def caption_for(self, context: Context, count: str = "") -> str:
        """The caption with the experiment's own words; `count` states how many values are behind a mean."""
        count = f" ({count})" if count else ""
        words = context.words()
        return f"{self.caption.format(**words)}{EXPERIMENT.format(**words, count=count)}".strip()


def table_spec(name: str) -> TableSpec:
    """The table called `name`.

    Raises:
        SettingsError: there is none.
    """
    if name not in TABLES:
        raise SettingsError(f"there is no table {name!r}; {nearest(name, TABLES)}")
    return TABLES[name]


def read_published(path: str | os.PathLike) -> pd.DataFrame:
    """Published numbers: columns as in `PUBLISHED_COLUMNS`, values in percent, an empty value = not known.

    Raises:
        DataError: the file is missing or damaged, or a row has a value without source or with an unknown confidence.
    """
    remedy = "mend the file by hand: it is part of the repository, not made by the workflow"
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise DataError(
            f"the published numbers are missing at {path}; restore that file from the repository"
        ) from error
    except (OSError, ValueError) as error:  # pandas' own parser errors are ValueErrors
        raise DataError(f"cannot read the published numbers at {path} ({error}); {remedy}") from error
    missing = [column for column in PUBLISHED_COLUMNS if column not in table.columns]
    if missing:
        raise DataError(f"the published numbers at {path} lack the column {', '.join(missing)}; {remedy}")
    for line, row in enumerate(table.to_dict("records"), start=2):
        where = f"the published numbers at {path}, line {line}:"
        if row["confidence"] not in CONFIDENCE:
            raise DataError(f"{where} confidence {row['confidence']!r}; {nearest(row['confidence'], CONFIDENCE)}")
        if row["metric"] not in METRIC_TITLES:
            raise DataError(f"{where} metric {row['metric']!r}; {nearest(row['metric'], METRIC_TITLES)}")
        if not row["source"].strip():
            raise DataError(f"{where} no source; a published number without a source cannot be printed")
        if row["value"].strip() and not _is_percent(row["value"]):
            raise DataError(f"{where} value {row['value']!r} is not a number from 0 to 100; {remedy}")
    table["value"] = pd.to_numeric(table["value"], errors="coerce")
    return table


def _is_percent(text: str) -> bool:
    try:
        return 0 <= float(text) <= 100
    except ValueError:
        return False


def save(table: Table, csv: str | os.PathLike, markdown: str | os.PathLike, latex: str | os.PathLike) -> None:
    """Writes the three faces of a table; the same table gives the same bytes."""
    with written_whole(csv) as partial:
        table.data.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
    for path, text in ((markdown, to_markdown(table)), (latex, to_latex(table))):
        with written_whole(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")


def to_markdown(table: Table) -> str:
    """The table as GitHub-flavoured Markdown."""
    parts = [markdown_escape(table.caption)]
    for block in table.blocks:
        if block.heading:
            parts.append(f"**{markdown_escape(block.heading)}**")
        if block.rows:
            parts.append("\n".join(_markdown_grid(block)))
        if block.note:
            parts.append(markdown_escape(block.note))
    return "\n\n".join(parts) + "\n"


def _markdown_grid(block: Block) -> list[str]:
    titles = [title for title, width in block.spans for _ in range(width)]
    header = list(block.header)
    if titles:
        header = [f"{title} {name}".strip() for title, name in zip(titles, header, strict=True)]
    lines = [_markdown_row(markdown_escape(name) for name in header)]
    aligned = [":---" if i < block.text_columns else "---:" for i in range(len(header))]
    lines.append(_markdown_row(aligned))
    for row in block.rows:
        if isinstance(row, str):
            lines.append(_markdown_row([f"*{markdown_escape(row)}*"] + [""] * (len(header) - 1)))
            continue
        cells = [markdown_escape(cell.text) for cell in row]
        lines.append(_markdown_row(f"**{text}**" if cell.best else text for cell, text in zip(row, cells, strict=True)))
    return lines


def _markdown_row(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def markdown_escape(text: str) -> str:
    """`text` with everything that Markdown would read as markup made plain, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MINUS SIGN}": r"$-$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{GREEK SMALL LETTER LAMDA}": r"$\lambda$",
    "\N{UPWARDS ARROW}": r"$\uparrow$",
    "\N{DOWNWARDS ARROW}": r"$\downarrow$",
    "\N{DAGGER}": r"$\dagger$",
    "\N{DOUBLE DAGGER}": r"$\ddagger$",
    "\N{EN DASH}": "--",
    "\N{NO-BREAK SPACE}": "~",
}


def latex_escape(text: str) -> str:
    """`text` with everything that LaTeX would read as a command made plain."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def to_latex(table: Table) -> str:
    """The table as LaTeX: needs the packages booktabs and graphicx (it is shrunk only where the page is narrower)."""
    lines = [
        r"% needs \usepackage{booktabs} and \usepackage{graphicx}",
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{latex_escape(table.caption)}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9-]', '-', table.name)}}}",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
    ]
    for position, block in enumerate(table.blocks):
        if position:
            lines.append(r"\par\medskip")
        if block.heading:
            lines += [rf"{latex_escape(block.heading)}", r"\par\smallskip"]
        if block.rows:
            lines += _latex_tabular(block)
        if block.note:
            note = latex_escape(block.note)
            lines += [r"\par\smallskip", rf"\begin{{minipage}}{{\linewidth}}\footnotesize {note}\end{{minipage}}"]
    lines.append(r"\end{table*}")
    return "\n".join(lines) + "\n"


def _latex_tabular(block: Block) -> list[str]:
    columns = len(block.header)
    alignment = "l" * block.text_columns + "r" * (columns - block.text_columns)
    lines = [
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{@{{}}{alignment}@{{}}}}",
        r"\toprule",
    ]
    if block.spans:
        lines.append(
            " & ".join(
                rf"\multicolumn{{{width}}}{{{'c' if title else 'l'}}}{{{latex_escape(title)}}}"
                for title, width in block.spans
            )
            + r" \\"
        )
        start = 1
        for title, width in block.spans:
            if title:
                lines.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
            start += width
    lines += [" & ".join(latex_escape(name) for name in block.header) + r" \\", r"\midrule"]
    for position, row in enumerate(block.rows):
        if isinstance(row, str):
            if position:
                lines.append(r"\addlinespace")
            lines.append(rf"\multicolumn{{{columns}}}{{@{{}}l}}{{\emph{{{latex_escape(row)}}}}} \\")
            continue
        cells = [rf"\textbf{{{latex_escape(cell.text)}}}" if cell.best else latex_escape(cell.text) for cell in row]
        lines.append(" & ".join(cells) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}}"]


def _benchmark(tables: Mapping[str, pd.DataFrame], context: Context, published: pd.DataFrame | None) -> Table:
    summary = tables["summary"]
    runs = tidy.in_family_order(summary)
    labels, families = tidy.labels(summary), tidy.families(summary)
    columns = _benchmark_columns(summary)
    rows = pd.concat(
        [
            tidy.metric_rows(summary, metric, group=group).assign(column=title)
            for title, (metric, group) in columns.items()
        ],
        ignore_index=True,
    )
    tidy.require_runs("table 'benchmark'", list(rows["run"]), "a run with accuracy or a metric of the maximum logit")
    by_place = rows.set_index(["run", "column"])
    # the teacher is a larger network: the best of the students is what the comparison is about
    students = [run for run in runs if families[run] != "teacher"]
    best = {
        title: _best(by_place, [(run, title) for run in students], metric) for title, (metric, _) in columns.items()
    }
    body: list[Sequence[Cell] | str] = []
    differences = [title for title in ("Accuracy", "AUROC") if title in columns]
    for family, title in tidy.FAMILIES.items():
        members = [run for run in runs if families[run] == family]
        if members:
            body.append(title)
        for run in members:
            cells = [Cell(labels[run])]
            cells += [_mean_cell(by_place, (run, column), best[column]) for column in columns]
            cells += [_difference_cell(by_place, (run, column)) for column in differences]
            body.append(cells)
    baseline = str(rows["baseline"].iloc[0])
    header = [("", "Run"), *(_split_title(title, metric) for title, (metric, _) in columns.items())]
    header += [("Difference in", title if title == "AUROC" else title.lower()) for title in differences]
    note = (
        f"Mean \N{PLUS-MINUS SIGN} standard deviation in percent, score: maximum logit, all test images. "
        f"Differences in points to {labels.get(baseline, baseline)} over the same splits and seeds, "
        f"{tidy.interval_words(rows['n'])}. Bold: the best student."
    )
    data = rows.assign(
        block="measured", best=[(r, c) in best[c] for r, c in zip(rows["run"], rows["column"], strict=True)]
    )
    for name in ("mean", "std", "difference", "difference_low", "difference_high"):
        data[f"{name}_percent"] = 100 * data[name]
    data["order"] = data["run"].map({run: position for position, run in enumerate(runs)})
    data = data.sort_values("order", kind="stable")
    names = ["block", "run", "label", "family", "group", "metric", "n", "mean_percent", "std_percent", "best"]
    names += ["baseline", "difference_percent", "difference_low_percent", "difference_high_percent"]
    literature, chosen = _published_block(summary, published, context)
    spec = TABLES["benchmark"]
    return Table(
        name=f"{context.experiment}-benchmark",
        caption=spec.caption_for(context, _pairs(rows["n"])),
        blocks=[
            Block([name for _, name in header], body, spans=_spans(title for title, _ in header), note=note),
            literature,
        ],
        data=pd.concat([data[names], chosen], ignore_index=True),
    )


def _benchmark_columns(summary: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Title -> (metric, group): all unknowns together, then AUROC for each of several groups of unknowns."""
    columns = {title: (metric, "all") for metric, title in METRIC_TITLES.items()}
    groups = [group for group in summary["group"].unique() if group not in ("all", "known", "unknown", "")]
    if len(groups) > 1:
        columns |= {f"AUROC {group}": ("auroc", group) for group in groups}
    return {
        title: place
        for title, place in columns.items()
        if not tidy.metric_rows(summary, place[0], group=place[1]).empty
    }


def _published_block(summary: pd.DataFrame, published: pd.DataFrame, context: Context) -> tuple[Block, pd.DataFrame]:
    """Numbers from the literature for the same dataset, with what a reader needs to judge each of them."""
    name = BENCHMARK_OF_PROTOCOL.get(summary["protocol"].iloc[0], summary["dataset"].iloc[0])
    rows = published[published["dataset"] == name]
    if rows.empty:
        heading = f"Published numbers: none are recorded for {context.dataset_title}."
        return Block((), (), heading=heading), pd.DataFrame()
    header = ["Method", "Backbone", "Protocol", "Metric", "Source", "Confidence", "Value"]
    body, marks = [], {}
    for row in rows.to_dict("records"):
        mark, meaning = CONFIDENCE[row["confidence"]]
        if mark:
            marks[mark] = f"{mark} {row['confidence']}: {meaning}."
        value = DASH if np.isnan(row["value"]) else f"{row['value']:.1f}{mark}"
        texts = (row["method"], row["backbone"], row["protocol"], METRIC_TITLES[row["metric"]])
        body.append([Cell(text) for text in (*texts, row["source"], row["confidence"], value)])
    data = rows.rename(columns={"method": "label", "value": "mean_percent", "dataset": "published_dataset"})
    data = data[
        ["label", "metric", "mean_percent", "published_dataset", "backbone", "protocol", "source", "confidence"]
    ]
    notes = [
        "Published numbers are printed as their sources give them, in percent; they compare only within one protocol "
        f"and backbone. {DASH}: no value is recorded.",
        *marks.values(),
    ]
    heading = f"Published numbers for {context.dataset_title}"
    block = Block(header, body, text_columns=6, heading=heading, note=" ".join(notes))
    return block, data.assign(block="published")


def _ablation(tables: Mapping[str, pd.DataFrame], context: Context, _published: pd.DataFrame | None) -> Table:
    runs = tables["runs"]
    picked = tidy.pick(context, runs)
    rows = list(picked.ablation)
    tidy.require_runs("table 'ablation'", rows[1:], "two runs of the ablation")
    labels = tidy.labels(runs)
    metrics = ("accuracy", "auroc", "oscr")
    statistics, counts = {}, []
    for metric in metrics:
        values = tidy.pair_values(runs, metric).reindex(columns=rows)
        compared = tidy.paired_differences(values, rows[0], rows)
        statistics[metric] = compared.assign(mean=values.mean(), std=values.std(ddof=1), n=values.count())
        counts += list(values.count())
    best = {metric: _top(statistics[metric]["mean"]) for metric in metrics}
    body = []
    for run in rows:
        cells = [Cell(labels[run])]
        for metric in metrics:
            row = statistics[metric].loc[run]
            cells.append(Cell(_spread(row["mean"], row["std"]), run in best[metric]))
            cells.append(Cell(_interval(row["difference"], row["low"], row["high"])))
        body.append(cells)
    parts = []
    for metric in metrics:
        part = statistics[metric].rename(
            columns={name: f"{name}_percent" for name in ("mean", "std", "difference", "low", "high")}
        )
        part.insert(0, "run", part.index)
        part.insert(1, "label", [labels[run] for run in rows])
        part.insert(2, "metric", metric)
        parts.append(part.assign(best=[run in best[metric] for run in rows]))
    names = ["run", "label", "metric", "n", "mean_percent", "std_percent", "best"]
    names += ["difference_percent", "low_percent", "high_percent", "pairs"]
    note = (
        f"Mean \N{PLUS-MINUS SIGN} standard deviation in percent, score: maximum logit. Differences in points to "
        f"{labels[rows[0]]} over the same splits and seeds, {tidy.interval_words(statistics['auroc']['pairs'])}. "
        "Bold: the best row."
    )
    return Table(
        name=f"{context.experiment}-ablation",
        caption=TABLES["ablation"].caption_for(context, _pairs(counts)),
        blocks=[
            Block(
                header=["Run", *["Mean", "Difference"] * len(metrics)],
                rows=body,
                spans=[("", 1), *((METRIC_TITLES[metric], 2) for metric in metrics)],
                note=" ".join(filter(None, (note, picked.note("ablation")))),
            )
        ],
        data=pd.concat(parts, ignore_index=True)[names],
    )


def _scores(tables: Mapping[str, pd.DataFrame], context: Context, _published: pd.DataFrame | None) -> Table:
    summary = tables["summary"]
    picked = tidy.pick(context, summary)
    runs = picked.main(distillation=True) or tidy.in_family_order(summary)
    labels = tidy.labels(summary)
    metrics = ("auroc", "oscr", "fpr95")
    rows = summary[summary["metric"].isin(metrics) & (summary["group"] == "all") & summary["run"].isin(runs)]
    tidy.require_runs("table 'scores'", list(rows["run"]), "a run with AUROC, OSCR or FPR95")
    samplings = [name for name in ("full", "balanced") if name in set(rows["sampling"])]
    scores = [name for name in tidy.SCORE_TITLES if name in set(rows["score"])]
    scores += sorted(set(rows["score"]) - set(scores))
    by_place = rows.set_index(["run", "score", "metric", "sampling"])
    body: list[Sequence[Cell] | str] = []
    winners = set()
    for run in runs:
        body.append(labels[run])
        best = {}
        for metric in metrics:
            for sampling in samplings:
                keys = [(run, score, metric, sampling) for score in scores]
                best[metric, sampling] = _best(by_place, keys, metric)
                winners |= best[metric, sampling]
        for score in scores:
            cells = [Cell(tidy.SCORE_TITLES.get(score, score))]
            for metric, sampling in best:
                cells.append(_mean_cell(by_place, (run, score, metric, sampling), best[metric, sampling]))
            body.append(cells)
    data = rows[["run", "label", "family", "score", "metric", "sampling", "n"]].assign(
        mean_percent=100 * rows["mean"], std_percent=100 * rows["std"]
    )
    data["best"] = [
        key in winners for key in zip(rows["run"], rows["score"], rows["metric"], rows["sampling"], strict=True)
    ]
    data["order"] = data["run"].map({run: position for position, run in enumerate(runs)})
    data = data.sort_values("order", kind="stable").drop(columns="order")
    note = (
        "Mean \N{PLUS-MINUS SIGN} standard deviation in percent. Full: all test images. Balanced: as many unknowns as "
        "knowns, drawn anew for each split and seed. Bold: the best score of a run."
    )
    return Table(
        name=f"{context.experiment}-scores",
        caption=TABLES["scores"].caption_for(context, _pairs(rows["n"])),
        blocks=[
            Block(
                header=["Score", *samplings * len(metrics)],
                rows=body,
                spans=[("", 1), *((_with_arrow(METRIC_TITLES[m], m), len(samplings)) for m in metrics)],
                note=" ".join(filter(None, (note, picked.note(*tidy.STORY, "distillation")))),
            )
        ],
        data=data,
    )


def _with_arrow(title: str, metric: str) -> str:
    return f"{title} \N{DOWNWARDS ARROW}" if metric in LOWER_IS_BETTER else title


def _split_title(title: str, metric: str) -> tuple[str, str]:
    """What stands above and in the header of a column: related columns share the line above."""
    above, _, name = title.partition(" ")
    return (above, name) if name else ("", _with_arrow(title, metric))


def _spans(titles: Iterable[str]) -> list[tuple[str, int]]:
    """Neighbours of one title as (title, number of columns); columns without a title stay single."""
    spans: list[tuple[str, int]] = []
    for title in titles:
        if title and spans and spans[-1][0] == title:
            spans[-1] = (title, spans[-1][1] + 1)
        else:
            spans.append((title, 1))
    return spans


def _best(by_place: pd.DataFrame, keys: Sequence[tuple], metric: str) -> set[tuple]:
    """The keys whose mean is the best of a column; all of those that print the same number."""
    means = {key: round(100 * by_place.loc[key, "mean"], 1) for key in keys if key in by_place.index}
    means = {key: mean for key, mean in means.items() if np.isfinite(mean)}
    if len(means) < 2:
        return set()
    top = (min if metric in LOWER_IS_BETTER else max)(means.values())
    return {key for key, mean in means.items() if mean == top}


def _top(means: pd.Series) -> set[str]:
    rounded = means.round(1)
    return set(rounded.index[rounded == rounded.max()])


def _mean_cell(by_place: pd.DataFrame, key: tuple, best: set[tuple]) -> Cell:
    if key not in by_place.index:
        return Cell(DASH)
    row = by_place.loc[key]
    return Cell(_spread(100 * row["mean"], 100 * row["std"]), key in best)


def _difference_cell(by_place: pd.DataFrame, key: tuple) -> Cell:
    if key not in by_place.index:
        return Cell(DASH)
    row = by_place.loc[key]
    return Cell(_interval(*(100 * row[name] for name in ("difference", "difference_low", "difference_high"))))


def _spread(mean: float, std: float) -> str:
    if not np.isfinite(mean):
        return DASH
    return f"{mean:.1f} \N{PLUS-MINUS SIGN} {std:.1f}" if np.isfinite(std) else f"{mean:.1f}"


def _interval(difference: float, low: float, high: float) -> str:
    if not np.isfinite(difference):
        return DASH
    text = tidy.signed(difference)
    return f"{text} [{tidy.signed(low)}, {tidy.signed(high)}]" if np.isfinite(low) else text


def _pairs(counts: Sequence[float]) -> str:
    """How many values are behind a mean, as a range where the rows differ."""
    low, high = int(min(counts)), int(max(counts))
    return f"n = {low}" if low == high else f"n = {low} to {high}"


_ANY_RUN = ("cross_entropy", "ssa", "msa", "distillation", "asymmetric", "ablation")

TABLES: dict[str, TableSpec] = {
    spec.name: spec
    for spec in (
        TableSpec(
            name="benchmark",
            tables=("summary",),
            title="Benchmark",
            caption="Closed-set accuracy and open-set performance of every run.",
            needs=needs_families(_ANY_RUN),
            make=_benchmark,
            published=True,
        ),
        TableSpec(
            name="ablation",
            tables=("runs",),
            title="Ablation of asymmetric distillation",
            caption="Ablation of asymmetric distillation, one switch a row.",
            needs=needs_families(("distillation",), ("ablation", "asymmetric")),
            make=_ablation,
        ),
        TableSpec(
            name="scores",
            tables=("summary",),
            title="Open-set scores",
            caption="Open-set scores of the main runs, on all test images and on balanced samples.",
            needs=needs_families(_ANY_RUN),
            make=_scores,
        ),
    )
}
