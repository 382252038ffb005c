"""The list of tidy tables is the only place that knows them: what a new one takes is an entry."""

import re
from pathlib import Path

import pytest
import synthetic_tables
from commands import REPOSITORY

from openset_distill.config.cost import cost
from openset_distill.config.experiment import load
from openset_distill.core.errors import DataError
from openset_distill.report.aggregate import Collector, write_rows
from openset_distill.report.tidy import read_tidy
from openset_distill.report.tidy_tables import TIDY_TABLES, TidyTable

RUNS = {name: {"label": name.upper(), "family": "msa"} for name in ("a", "b")}
LAYOUT = {"splits": [0, 1], "seeds": [0], "runs": RUNS, "embedded": ["b"]}
SHARPNESS = {"text": ("run", "label", "family"), "numbers": ("split", "seed", "sharpness")}


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"source": "{run}/sharpness.csv"}, ["a0", "b0", "a1", "b1"]),
        ({"source": "{run}/sharpness.csv", "first": True}, ["a0", "b0"]),
        ({"source": "{run}/sharpness.csv", "first": True, "compared": True}, ["b0"]),
        ({"source": "sharpness.csv"}, ["b0", "a0", "b1", "a1"]),
    ],
)
def test_a_new_table_is_gathered_and_read_by_its_entry(settings, rows, monkeypatch, tmp_path):
    monkeypatch.setitem(TIDY_TABLES, "sharpness", TidyTable(**SHARPNESS, **settings))
    for split in (0, 1):
        folder = tmp_path / f"split{split}" / "seed0"
        for run in RUNS:
            (folder / run).mkdir(parents=True)
            write_rows(folder / run / "sharpness.csv", [{"sharpness": split + 0.5}])
        write_rows(folder / "sharpness.csv", [{"run": run, "sharpness": split + 0.5} for run in ("b", "a")])
    path = tmp_path / "tidy.csv"
    write_rows(path, Collector(tmp_path, LAYOUT).rows_of(TIDY_TABLES["sharpness"]))
    table = read_tidy("sharpness", path, {0: "x", 1: "y"})
    assert [f"{row.run}{row.split:g}" for row in table.itertuples()] == rows
    assert set(table["label"]) == {row[0].upper() for row in rows}
    assert (table["sharpness"] == table["split"] + 0.5).all()
    write_rows(path, [{"run": "a", "label": "A", "family": "msa", "split": 0, "seed": 0}])
    with pytest.raises(DataError, match="lacks the column sharpness"):
        read_tidy("sharpness", path)


def test_a_column_of_the_release_before_is_read_under_its_new_name(tmp_path):
    made = synthetic_tables.make(splits=1, runs=("ce", "cutmix"))["attention"]
    made.rename(columns={"predicted": "says"}).to_csv(tmp_path / "attention.csv", index=False)
    table = read_tidy("attention", tmp_path / "attention.csv")
    assert list(table["predicted"]) == list(made["predicted"])
    assert "says" not in table.columns


def test_workflow_and_tools_take_the_tables_from_the_list():
    tables = "|".join(TIDY_TABLES.keys() - {"runs"})
    for path in (*Path(REPOSITORY, "rules").glob("*.smk"), *Path(REPOSITORY, "tools").glob("*.py")):
        assert not re.search(rf"tidy/({tables})\.csv", path.read_text()), path
    assert all(table.source or name == "summary" for name, table in TIDY_TABLES.items())


def test_an_analysis_that_no_figure_shows_is_not_made():
    every = load({}, stands_alone=False)
    assert every.tidy_tables == tuple(TIDY_TABLES)
    few = load({"show": {"figures": ["ablation", "attention"]}}, stands_alone=False)
    assert [name for name in every.tidy_tables if name not in few.tidy_tables] == ["mixing", "embedding"]
    assert few.layout()["tables"] == list(few.tidy_tables)
    kinds = {job.kind: job.count for job in cost(few).jobs}
    assert {"Grad-CAM", "feature geometry"} < set(kinds)
    assert not {"mixing scans", "embeddings"} & set(kinds)


def test_a_figure_of_a_new_quantity_takes_five_files():
    (row,) = re.findall(r"^\| a figure of a new quantity \|(.*?)\|", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.M)
    places = re.findall("`([^`]+)`", row)
    assert len(places) == 5
    for place in places:
        assert (REPOSITORY / place).exists() or (REPOSITORY / "src" / "openset_distill" / place).exists(), place
