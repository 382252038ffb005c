"""Tidy tables: reading them with care, and the selections that figures and tables share."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

# The registries of figures and tables are read while a workflow is parsed, which should not wait for pandas.
from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np

from ..core.errors import DataError, SettingsError, nearest
from ..core.files import atomic_write, unreadable
from ..core.text import printable, spreadsheet_cell
from ..datasets.protocols import PROTOCOLS, Published
from ..datasets.protocols import class_sets as protocol_class_sets
from ..datasets.wordnet import class_words
from ..evaluation import statistics
from . import summary
from .context import Context
from .tidy_tables import TIDY_TABLES

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = lazy.load("pandas")

# Families of runs in the order in which tables and legends list them: the method under study comes last.
FAMILIES = {
    "teacher": "Teacher",
    "cross_entropy": "Cross entropy",
    "baseline": "Other open-set methods",
    "ssa": "Single-sample augmentation (SSA)",
    "msa": "Multiple-sample augmentation (MSA)",
    "distillation": "Distillation",
    "ablation": "Ablation of asymmetric distillation",
    "asymmetric": "Asymmetric distillation (AD)",
}

# the few that stand for a run at a glance, with their names
MAIN_METRICS = {"accuracy": "accuracy", "auroc": "AUROC", "fpr95": "FPR95", "oscr": "OSCR"}


RULE = "aggregate"  # of the workflow, the one that writes the tidy tables
# next to the tidy tables: the SHA-256 of each, as `sha256sum` writes and checks them; folders of before have none
CHECKSUMS = "SHA256SUMS"


CLASS_SET = "class_set"
UNIT = list(summary.UNIT)  # what one trained network of each run is of


def read_tidy(name: str, path: str | os.PathLike, class_sets: Mapping[int, str] | None = None) -> pd.DataFrame:
    """Reads the tidy table `name` and checks that it is what it claims to be.

    Text columns come as `str` (empty, never NaN), all others as float64, with NaN for an empty field. A table with
    splits has the column `class_set`, which tells splits with the same classes: the file's own, or that of
    `class_sets` (split -> class set), or what the protocol named in the table says; else every split has its own.

    Raises:
        SettingsError: there is no tidy table of this name.
        DataError: the file is missing, empty, cut off or damaged, has a row twice, or is not the one whose checksum
            was recorded; the message names the command that makes it again.
    """
    if name not in TIDY_TABLES:
        raise SettingsError(f"there is no tidy table {name!r}; {nearest(name, TIDY_TABLES)}")
    schema = TIDY_TABLES[name]
    remedy = f"make it again with the rule {RULE}: snakemake --forcerun {RULE} -- {path}"
    try:
        content = Path(path).read_bytes()
        table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise DataError(
            f"the table {name} is missing at {path}; make it with the rule {RULE}: snakemake -- {path}"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read the table {name} at {path}: {error.strerror or error}") from error
    except pd.errors.EmptyDataError as error:
        raise DataError(f"the table {name} at {path} is empty; {remedy}") from error
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"the table {name} at {path} is damaged ({str(error).strip()}); {remedy}") from error
    table = table.rename(columns=schema.renamed)
    missing = [column for column in schema.columns if column not in table.columns]
    if missing:
        raise DataError(f"the table {name} at {path} lacks the column {', '.join(missing)}; {remedy}")
    if table.empty:
        raise DataError(f"the table {name} at {path} has no rows; {remedy}")
    if not content.endswith((b"\r", b"\n")):
        raise DataError(f"the table {name} at {path} is cut off: its last line has no end; {remedy}")
    for column in table.columns:
        if column not in (*schema.text, CLASS_SET):
            table[column] = _numbers(table[column], f"the table {name} at {path}", remedy)
    for column in schema.numbers + schema.fractions:
        lost = table[column].isna() | ~np.isfinite(table[column])
        if lost.any() and not (name in ("runs", "summary") and column in schema.fractions):
            raise DataError(f"the table {name} at {path} has no number in {_place(lost, column)}; {remedy}")
    for column in schema.fractions:
        outside = (table[column] < 0) | (table[column] > 1)
        if outside.any():
            raise DataError(
                f"the table {name} at {path} holds {table[column][outside].iloc[0]:g} in {_place(outside, column)}, "
                f"which must be a fraction between 0 and 1; {remedy}"
            )
    for family in table["family"].unique() if "family" in schema.text else ():
        if family not in FAMILIES:
            raise DataError(f"the table {name} at {path} has the family {family!r}; {nearest(family, FAMILIES)}")
    if schema.keys:
        again = table.duplicated(["run", "split", "seed", *schema.keys])
        if again.any():
            raise DataError(
                f"the table {name} at {path} has a row twice, the second time in line "
                f"{int(again.to_numpy().argmax()) + 2}; {remedy}"
            )
    _check_recorded(name, path, content, remedy)
    if "split" in schema.numbers and CLASS_SET not in table.columns:
        table[CLASS_SET] = _class_sets(table, class_sets, f"the table {name} at {path}")
    return table


def printable_columns(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with its free text, labels and names of classes, as it can be drawn (`core.text.printable`).

    A class that is named by its WordNet identifier gets its words (`datasets.wordnet`).
    """
    if "class" in table.columns:
        table = table.assign(**{"class": table["class"].map(class_words)})
    free = [column for column in ("label", "class") if column in table.columns]
    return table.assign(**{column: table[column].map(printable) for column in free})


def spreadsheet_columns(data: pd.DataFrame) -> pd.DataFrame:
    """`data` with its text as `spreadsheet_cell` writes it: the file may be opened in a spreadsheet."""
    text = [name for name in data.columns if data[name].dtype == object]
    return data.assign(
        **{
            name: data[name].map(lambda cell: spreadsheet_cell(cell) if isinstance(cell, str) else cell)
            for name in text
        }
    )


def known_images(embedding: pd.DataFrame) -> pd.Series:
    """Which rows of `embedding` are of a known class: a class may itself be called "unknown".

    Tables from before there was the column `known` have no such class.
    """
    return embedding["known"] == 1 if "known" in embedding.columns else embedding["class"] != "unknown"


def write_checksums(folder: Path, names: Iterable[str]) -> None:
    """Records the checksums of files in `folder` in its list `CHECKSUMS`."""
    lines = [f"{_checksum((folder / name).read_bytes())}  {name}\n" for name in names]
    with atomic_write(folder / CHECKSUMS) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def _checksum(content: bytes) -> str:
    # git may have checked the file out with another system's line ends
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def _check_recorded(name: str, path: str | os.PathLike, content: bytes, remedy: str) -> None:
    """Raises a DataError where another checksum was recorded: rows were lost at a line's end, or a value changed."""
    listed = Path(path).with_name(CHECKSUMS)
    try:
        lines = listed.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(unreadable(listed, error)) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{listed} is no list of checksums; {remedy}") from error
    recorded = {}
    for line in lines:
        found = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if found is None:
            raise DataError(f"{listed} is no list of checksums; {remedy}")
        recorded[found[2]] = found[1]
    if recorded.get(Path(path).name, _checksum(content)) != _checksum(content):
        raise DataError(
            f"the table {name} at {path} is not the one that was made, rows are missing or changed: its checksum is "
            f"not that in {listed}; {remedy} (or, if the change is meant, remove its line there)"
        )


def _class_sets(table: pd.DataFrame, class_sets: Mapping[int, str] | None, where: str) -> pd.Series:
    splits = [int(split) for split in table["split"].unique()]
    if class_sets:
        foreign = sorted(set(splits) - set(class_sets))
        if foreign:
            raise DataError(
                f"{where} holds split {foreign[0]}, which the experiment does not have; draw it with the configuration "
                "of its own experiment"
            )
        names = dict(class_sets)
    else:
        named = table["protocol"].iloc[0] if "protocol" in table else ""
        if named in set(PROTOCOLS) and PROTOCOLS[named] is Published:
            names = protocol_class_sets(named, splits, dataset=table["dataset"].iloc[0])
        else:
            names = {split: f"split {split}" for split in splits}
    return table["split"].map(names)


def read_tables(
    paths: Mapping[str, str | os.PathLike], wanted: Iterable[str], context: Context | None = None
) -> dict[str, pd.DataFrame]:
    """The tidy tables of the names `wanted`, from their paths; others are not opened.

    Args:
        context: of the experiment whose tables these are. It says which splits have the same classes, and its tables
            must be complete: every run has every split and seed.

    Raises:
        SettingsError: a name is not that of a tidy table, or a wanted one has no path.
        DataError: as `read_tidy`, or a table is not complete.
    """
    for name in paths:
        if name not in TIDY_TABLES:
            raise SettingsError(f"there is no tidy table {name!r}; {nearest(name, TIDY_TABLES)}")
    missing = [name for name in wanted if name not in paths]
    if missing:
        raise SettingsError(f"the tidy table {missing[0]!r} is needed; add --table {missing[0]}=PATH")
    tables = {name: read_tidy(name, paths[name], context.class_sets if context else None) for name in wanted}
    if context:
        for name, table in tables.items():
            if {"run", CLASS_SET} <= set(table.columns):
                _check_complete(name, table, paths[name], context)
    return tables


def _check_complete(name: str, table: pd.DataFrame, path: str | os.PathLike, context: Context) -> None:
    """Every run has the same rows for every split and seed of the experiment: a file that lost its end has not."""
    lost = f"the table {name} at {path} is not complete: it lacks rows of"
    remedy = f"make it again with the rule {RULE}: snakemake --forcerun {RULE} -- {path}"
    counts = table.groupby(["run", "split", "seed"], sort=False).size().unstack("run").fillna(0)
    if not TIDY_TABLES[name].keys:  # single images, whose number need not be the same everywhere
        counts = counts > 0
    lacking = counts.ne(counts.max()).stack()
    if lacking.any():
        split, seed, run = lacking.index[lacking.to_numpy().argmax()]
        raise DataError(f"{lost} the run {run!r} for split {split:g} and seed {seed:g}; {remedy}")
    if TIDY_TABLES[name].first or not context.class_sets:
        return
    absent = sorted(set(context.class_sets) - set(table["split"]))
    if absent or table["seed"].nunique() < context.seeds:
        what = f"split {absent[0]}" if absent else f"{context.seeds - table['seed'].nunique()} of {context.seeds} seeds"
        raise DataError(f"{lost} {what}; {remedy}")


def _numbers(column: pd.Series, where: str, remedy: str) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    wrong = numbers.isna() & ~column.str.strip().str.lower().isin(("", "nan"))
    if wrong.any():
        place = _place(wrong, str(column.name))
        raise DataError(f"{where} holds {column[wrong].iloc[0]!r} in {place}, which must be a number; {remedy}")
    return numbers


def _place(wrong: pd.Series, column: str) -> str:
    # line 1 of the file is the header
    return f"line {int(wrong.to_numpy().argmax()) + 2}, column {column!r}"


STORY = ("baseline", "msa", "asymmetric")


@dataclasses.dataclass(frozen=True)
class ResolvedRoles:
    """The runs of a table by the part they play, and what was asked for but is not in the table."""

    baseline: tuple[str, ...]
    msa: tuple[str, ...]
    distillation: tuple[str, ...]
    asymmetric: tuple[str, ...]
    ablation: tuple[str, ...]
    dynamics: tuple[str, ...]
    absent: Mapping[str, tuple[str, ...]]  # by part

    def main(self, *, distillation: bool = False, limit: int | None = None) -> list[str]:
        """Baseline, multiple-sample augmentation, (distillation,) asymmetric distillation: the story in one row."""
        runs = [*self.baseline, *self.msa, *(self.distillation if distillation else ()), *self.asymmetric]
        return list(dict.fromkeys(runs))[:limit]

    def note(self, *parts: str) -> str:
        """A sentence on the runs of these parts that were asked for and are not in the table; empty if all are."""
        runs = dict.fromkeys(run for part in parts for run in self.absent[part])
        return f"Not in the table: {', '.join(runs)}." if runs else ""


def pick(context: Context, table: pd.DataFrame) -> ResolvedRoles:
    """Finds the highlighted runs in `table`; a part that the context leaves open goes to the runs of its family."""
    known = families(table)
    highlight = context.highlight.filled(known)
    wanted: dict[str, tuple[str, ...]] = {}
    for field in dataclasses.fields(highlight):
        named = getattr(highlight, field.name)
        wanted[field.name] = tuple(filter(None, [named])) if isinstance(named, str) else named
    found = {part: tuple(run for run in runs if run in known) for part, runs in wanted.items()}
    absent = {part: tuple(run for run in runs if run not in known) for part, runs in wanted.items()}
    return ResolvedRoles(**found, absent=absent)


def labels(table: pd.DataFrame) -> dict[str, str]:
    """Run -> the text to print for it."""
    return dict(zip(table["run"], table["label"], strict=True))


def families(table: pd.DataFrame) -> dict[str, str]:
    """Run -> family."""
    return dict(zip(table["run"], table["family"], strict=True))


def in_family_order(table: pd.DataFrame) -> list[str]:
    """The runs of a table, grouped by family in the order of `FAMILIES`, each family in the table's own order."""
    family = families(table)
    rank = list(FAMILIES)
    return sorted(family, key=lambda run: rank.index(family[run]))


def metric_rows(
    table: pd.DataFrame,
    metric: str,
    *,
    score: str = "maximum_logit",
    group: str = "all",
    sampling: str = "full",
) -> pd.DataFrame:
    """The rows of `runs` or its summary with one metric. Accuracy has no score, and its group is the knowns."""
    rows = table[table["metric"] == metric]
    if metric == "accuracy":
        # the same knowns are in both samplings, so a second copy of the accuracy says nothing new
        rows = rows[rows["group"] == "known"]
        return rows[rows["sampling"].isin((sampling, ""))]
    chosen = (rows["score"] == score) & (rows["group"] == group) & (rows["sampling"] == sampling)
    return rows[chosen]


def pair_values(runs: pd.DataFrame, metric: str, **where: str) -> pd.DataFrame:
    """One metric in percent: a row for each (class set, split, seed), a column for each run; NaN where one is missing.

    `of_class_sets` makes of it what means and deviations are taken over.
    """
    rows = metric_rows(runs, metric, **where)
    wide = rows.pivot_table(index=UNIT, columns="run", values="value", sort=False) * 100
    return wide.sort_index(level=["split", "seed"])


def of_class_sets(values: pd.DataFrame | pd.Series) -> pd.DataFrame | pd.Series:
    """The mean of each class set over its replicates (twin splits and seeds), from rows of `pair_values`."""
    return values.groupby(level=CLASS_SET, sort=False).mean()


def mean_and_error(values: pd.DataFrame, reference: str | None = None) -> pd.DataFrame:
    """For each column of `pair_values`: mean, standard error over class sets, and number of class sets.

    The error is that of the difference to the column `reference` over the rows that both have, because class sets
    differ from one another much more than the runs on one of them do; without a reference it is that of the mean. It
    is NaN for the reference itself, and for a single class set.
    """
    measured = values if reference is None else values.drop(columns=reference).sub(values[reference], axis=0)
    measured, values = of_class_sets(measured), of_class_sets(values)
    error = measured.std(ddof=1) / np.sqrt(measured.count())
    return pd.DataFrame({"mean": values.mean(), "standard_error": error, "n": values.count()})


def paired(values: pd.DataFrame, run: str, reference: str) -> statistics.PairedDifference:
    """Two columns of `pair_values` compared over the class sets that both have."""
    own, other = (values[name].dropna().to_dict() for name in (run, reference))
    return statistics.paired_difference(own, other)


def paired_differences(values: pd.DataFrame, reference: str, runs: Iterable[str]) -> pd.DataFrame:
    """Mean difference to `reference` over the class sets that both runs have, with its t interval.

    The difference and interval of the reference itself are NaN.

    Returns:
        A row for each run with difference, low, high (NaN for a single class set) and pairs, the number of class sets.
    """
    rows = {}
    for run in runs:
        found = paired(values, run, reference)
        rows[run] = {"difference": found.difference, "low": found.low, "high": found.high, "pairs": found.n}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.loc[reference, ["difference", "low", "high"]] = np.nan
    return table


def measured(context: Context, tables: Iterable[pd.DataFrame]) -> Context:
    """The context with the splits, class sets and seeds that the tables hold, whatever was configured."""
    for table in tables:
        if CLASS_SET in table:
            class_sets = {int(split): name for split, name in zip(table["split"], table[CLASS_SET], strict=True)}
            found = {"splits": len(class_sets), "seeds": table["seed"].nunique(), "class_sets": class_sets}
            return dataclasses.replace(context, **found)
    return context


def interval_words(counts: Iterable[float]) -> str:
    """What a note says of the intervals of paired differences, given the number of class sets behind each."""
    if max(counts) < 2:
        return "without intervals, which need at least 2 of them"
    return f"with {100 * statistics.CONFIDENCE:.0f} % t intervals"


def decimal(percent: float) -> str:
    """A number with one decimal, the same one whichever way it was computed: sums of floats hide a half.

    >>> decimal(89.65), decimal(89.64999999999999)
    ('89.7', '89.7')
    """
    return f"{round(percent, 9):.1f}"


def signed(points: float) -> str:
    """A difference in percentage points with one decimal, its sign, and no negative zero.

    >>> signed(1.25), signed(-0.04), signed(-2.0)
    ('+1.2', '0.0', '−2.0')
    """
    rounded = round(round(points, 9), 1)
    return "0.0" if rounded == 0 else f"{rounded:+.1f}".replace("-", "\N{MINUS SIGN}")


def require_runs(name: str, runs: Sequence[str], wanted: str) -> None:
    """Raises a `DataError` if a figure or table is left without any run to show."""
    if not runs:
        raise DataError(
            f"{name} has nothing to show: it needs {wanted}, which its table does not hold; configure such runs, "
            "or name others in 'highlight'"
        )
