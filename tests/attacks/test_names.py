"""Odd names and text through the whole chain: configuration, Snakemake's plan, figures and tables."""

from __future__ import annotations

import csv
import json
import shlex
import tempfile
from pathlib import Path

import pytest
import synthetic_tables
from checkout import checkout, snakemake, write_configuration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from openset_distill.config.experiment import load
from openset_distill.core.errors import SettingsError
from openset_distill.core.text import check_line, printable
from openset_distill.report import tidy
from openset_distill.report.context import read_context
from openset_distill.report.figures import figure_spec
from openset_distill.report.tables import save as save_table
from openset_distill.report.tables import table_spec

pytestmark = pytest.mark.attacks
ODD = (
    "{seed}", "{", "}}", "{run} {0}", "A$B_$C", "$", "$$x", "\\frac", "C:\\x", "a'b", 'a"b', "`id`", "$(id)",
    "; rm -rf x", "50 %", "%s", "#1", "=1+1", "+ relabel", "- x", "@a", "a|b", "*b*", "_c_", "[x]", "<b>&amp;", "~",
    "^", "a--b", "nan", "NA", "null", "None", "1", "1e5", "true", "unknown", "日本", "עברית", "العربية", "👩‍🔬", "é",
    "e\u0301", "_hidden",
)  # fmt: skip
TEXT = st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12))
MANY = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
FEW = settings(MANY, max_examples=12)


@pytest.mark.usefixtures("in_repository")
@MANY
@given(label=TEXT, title=TEXT, known=st.lists(TEXT, min_size=2, max_size=4, unique=True))
def test_text_goes_through_the_configuration_as_it_is(label, title, known):
    changes = {
        "title": title,
        "runs": {"ce": {"label": label}},
        "protocol": {"name": {"name": "custom", "known": known}, "splits": [0]},
    }
    try:
        shown = check_line(label), check_line(title)
        experiment = load(changes, stands_alone=False)
    except SettingsError as error:
        assert "\n" not in str(error).replace("\n       ", " ")  # noqa: PT017 (a refusal is one of two right endings)
        return
    assert (experiment.runs["ce"].label, experiment.context().title) == (shown[0] or "ce", shown[1])
    assert json.loads(json.dumps(experiment.layout()))["runs"]["ce"]["label"] == (shown[0] or "ce")
    assert experiment.protocol["known"] == known


@FEW
@given(label=TEXT, title=TEXT, name=TEXT)
def test_figures_and_tables_show_text_as_it_is(label, title, name):
    plain = synthetic_tables.make(splits=2, classes=(name if name != "6" else "x", "6", "4", "9", "1", "7"))
    tables = {key: plain[key] for key in ("runs", "summary", "embedding")}
    for table in tables.values():
        table.loc[table["run"] == "cutmix", "label"] = label
    with tempfile.TemporaryDirectory() as written:
        folder = Path(written)
        read = tidy.read_tables(synthetic_tables.write(folder, tables), tables)
        context = read_context(synthetic_tables.context(splits=2, title=title))
        from openset_distill.report.figures.style import save as save_figure

        for figure_name in ("two_sides", "feature_space"):
            figure, data = figure_spec(figure_name).draw(read, context)
            save_figure(figure, data, folder / "a.pdf", folder / "a.png", folder / f"{figure_name}.csv")
            assert printable(label) in set(data["label"])
        published = pytest.importorskip("pandas").DataFrame(columns=["dataset", "method", "backbone", "protocol"])
        published = published.assign(metric=[], value=[], source=[], confidence=[])
        table = table_spec("benchmark").build(read, context, published)
        save_table(table, folder / "t.csv", folder / "t.md", folder / "t.tex")
        with open(folder / "t.csv", newline="", encoding="utf-8") as stream:
            assert printable(label).strip() in {
                row["label"].removeprefix("'").strip() if row["label"] != label else label.strip()
                for row in map(_printed, csv.DictReader(stream))
            }
        cells = [
            "".join(part.content for part in token.children)
            for token in MarkdownIt().enable("table").parse((folder / "t.md").read_text(encoding="utf-8"))
            if token.type == "inline"
        ]
        assert " ".join(printable(label).split()) in cells, cells[:20]


def _printed(row: dict[str, str]) -> dict[str, str]:
    return {key: printable(value) for key, value in row.items()}


def test_snakemake_plans_with_every_odd_text(tmp_path):
    """The commands that Snakemake would run hold the text to the letter."""
    folder = checkout(tmp_path / "a $c 'd'")
    text = " ".join(ODD)
    configuration = {
        "extends": "config/config.yaml",
        "title": text[:150],
        "scale_note": text,
        "results": "res's $x %s",
        "runs": {"c++": {"label": text[:60]}, "none": {"label": "{wildcards.run}"}, "split0": {"label": "$HOME"}},
        "protocol": {"name": {"name": "custom", "known": list(ODD)}, "splits": [0]},
    }
    file = write_configuration(folder, configuration)
    plan = snakemake(folder, "--dry-run", "--printshellcmds", "--cores", 1, "--configfile", file, "--", "two_sides")
    output = plan.stdout + plan.stderr
    assert plan.returncode == 0, output[-3000:]
    words = [
        shlex.split(line.partition("Shell command: ")[2]) for line in output.splitlines() if "Shell command: " in line
    ]
    protocols = [line[line.index("--protocol") + 1] for line in words if "--protocol" in line]
    assert protocols
    assert all(json.loads(one)["known"] == list(ODD) for one in protocols)
    contexts = [line[line.index("--context") + 1] for line in words if "--context" in line]
    assert contexts
    assert all(json.loads(one)["title"] == check_line(text[:150]) for one in contexts)
    layout = next(json.loads(line[line.index("--layout") + 1]) for line in words if "--layout" in line)
    assert layout["runs"]["none"]["label"] == "{wildcards.run}"
    assert layout["runs"]["c++"]["label"] == check_line(text[:60])
