"""Tables: the numbers, and whether Markdown and LaTeX hold what they should."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic_tables
from docutils.core import publish_parts
from markdown_it import MarkdownIt

from openset_distill.core.errors import DataError, SettingsError
from openset_distill.evaluation import evaluate as evaluation
from openset_distill.evaluation.statistics import paired_difference
from openset_distill.report import tables, tidy
from openset_distill.report.context import SCORE_TITLES
from openset_distill.report.figures import read_context
from openset_distill.report.overview import introduction
from openset_distill.report.tables import TABLES, Block, Cell, Configured, Table, read_published, table_spec
from openset_distill.report.tables.common import interval, spread
from openset_distill.report.tables.comparison import compare

SCRIPT = Path(__file__).resolve().parents[2] / "workflow_scripts" / "table.py"
MINUS, PLUS_MINUS, NO_BREAK = "\N{MINUS SIGN}", "\N{PLUS-MINUS SIGN}", "\N{NO-BREAK SPACE}"
PUBLISHED = """\
dataset,method,backbone,protocol,metric,value,source,confidence
tinyimagenet,First & Best,VGG32,ARPL/Vaze splits,auroc,83.0,README of a_b/c_d,primary
tinyimagenet,Second,as reported,2018-era,auroc,57.7,"a copy, with a comma",stale
tinyimagenet,Third,CNN-32,as reported,accuracy,80.9,some notes,secondary
tinyimagenet,The paper itself,ResNet-18,its own,auroc,,IJCAI 2024,primary
cifar+10,Fourth,VGG32,ARPL/Vaze splits,auroc,97.9,some notes,secondary
mnist,Fifth,VGG32,ARPL/Vaze splits,auroc,99.0,some notes,secondary
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("published") / "published.csv"
    path.write_text(PUBLISHED)
    return read_published(path)


@pytest.fixture(scope="module")
def tidy_tables(tmp_path_factory):
    """The tidy tables of an experiment, made once for each setting."""
    made = {}

    def make(dataset: str = "digits", protocol: str = "digits", **settings) -> dict[str, pd.DataFrame]:
        key = str((dataset, protocol, settings))
        if key not in made:
            plain = synthetic_tables.make(**settings)
            chosen = {name: plain[name].assign(dataset=dataset, protocol=protocol) for name in ("runs", "summary")}
            chosen |= {name: plain[name] for name in ("features", "networks")}
            paths = synthetic_tables.write(tmp_path_factory.mktemp("tidy"), chosen)
            made[key] = tidy.read_tables(paths, chosen)
        return made[key]

    return make


# what the tables that not every experiment can fill are made from
GROUPS = {"semantic_shift": ("easy", "medium", "hard"), "ood": ("svhn", "textures")}


def groups_of(name: str) -> dict[str, tuple[str, ...]]:
    return {"groups": GROUPS[name]} if name in GROUPS else {}


def build(name: str, tidy_tables: dict[str, pd.DataFrame], published: pd.DataFrame, **context) -> Table:
    return TABLES[name].build(tidy_tables, read_context(synthetic_tables.context(**context)), published)


def markdown_tables(text: str) -> list[list[list[str]]]:
    """The tables that a Markdown reader finds, as rows of plain text."""
    found, cell = [], None
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open"):
            cell = found[-1][-1]
        elif token.type in ("th_close", "td_close"):
            cell = None
        elif token.type == "inline" and cell is not None:
            cell.append("".join(child.content for child in token.children).replace(NO_BREAK, " "))
    return found


def test_benchmark_prints_the_summary(tidy_tables, published):
    source = tidy_tables()
    text = tables.to_markdown(build("benchmark", source, published))
    assert "OSCR is the same number as OpenAUC." in text
    (rows,) = markdown_tables(text)
    assert rows[0] == [
        *["Run", "Accuracy", "AUROC", "AUPR known", "AUPR unknown", "FPR95 \N{DOWNWARDS ARROW}", "OSCR"],
        *["Difference in accuracy", "Difference in AUROC"],
    ]
    assert all(len(row) == len(rows[0]) for row in rows)
    heads = [row[0] for row in rows[1:] if not any(row[1:])]
    assert heads == [title for family, title in tidy.FAMILIES.items() if family in set(source["summary"]["family"])]
    summary = source["summary"]
    own = summary[(summary["run"] == "cutmix") & summary["group"].isin(("all", "known"))]
    own = own[(own["sampling"] == "full") & own["score"].isin(("", "maximum_logit"))].set_index("metric")
    cutmix = next(row for row in rows if row[0] == "CutMix")
    for column, metric in ((1, "accuracy"), (2, "auroc"), (5, "fpr95"), (6, "oscr")):
        expected = f"{100 * own.loc[metric, 'mean']:.1f} {PLUS_MINUS} {100 * own.loc[metric, 'std']:.1f}"
        assert cutmix[column] == expected
    low = tidy.signed(100 * own.loc["auroc", "difference_low"])
    assert cutmix[8].startswith(tidy.signed(100 * own.loc["auroc", "difference"]) + f" [{low}, ")
    assert MINUS in cutmix[8], "CutMix costs AUROC here"
    baseline = next(row for row in rows if row[0] == "Cross entropy" and row[1])
    assert baseline[7:] == ["\N{EN DASH}"] * 2


def test_the_best_student_is_bold(tidy_tables, published):
    table = build("benchmark", tidy_tables(), published)
    data = table.data[table.data["block"] == "measured"]
    for metric, part in data.groupby("metric"):
        students = part[part["family"] != "teacher"].set_index("run")["mean_percent"].round(1)
        top = students.min() if metric == "fpr95" else students.max()
        assert set(part.loc[part["best"], "run"]) == set(students.index[students == top])
    bold = re.findall(r"\*\*([\d.]+)\s", tables.to_markdown(table))
    assert len(bold) == data["best"].sum()
    assert tables.to_latex(table).count(r"\textbf{") == data["best"].sum()


def test_a_caption_says_what_was_measured(tidy_tables, published):
    for name in TABLES:
        caption = build(name, tidy_tables(**groups_of(name)), published).caption.replace("\N{NO-BREAK SPACE}", " ")
        scale = "protocol mnist, 5 splits \N{MULTIPLICATION SIGN} 1 seed (n = 5 class sets)"
        assert f"Experiment digits on scikit-learn digits, {scale}." in caption
        assert "scikit-learn digits, not the paper's Tiny-ImageNet." in caption
        short = TABLES[name].caption_for(read_context(synthetic_tables.context()))
        assert "(n =" not in short
        assert short.startswith(TABLES[name].caption.format(score="maximum logit"))


def test_unequal_numbers_of_values_are_stated(tidy_tables, published):
    source = tidy_tables()["runs"]
    fewer = source[(source["run"] != "mixup") | (source["split"] < 3)]
    assert "(n = 3 to 5 class sets)" in build("benchmark", {"runs": fewer}, published).caption


def test_groups_of_unknowns_get_their_own_columns(tidy_tables, published):
    source = tidy_tables(splits=1, groups=("easy", "hard"))
    (rows,) = markdown_tables(tables.to_markdown(build("benchmark", source, published)))
    assert rows[0][7:9] == ["AUROC easy", "AUROC hard"]
    row = next(row for row in rows if row[0] == "CutMix")
    assert float(row[7]) > float(row[2]) > float(row[8])


def test_published_numbers_are_marked(tidy_tables, published):
    source = tidy_tables(dataset="tinyimagenet", protocol="tinyimagenet", splits=1)
    table = build("benchmark", source, published, dataset_title="Tiny-ImageNet")
    text = tables.to_markdown(table)
    assert "**Published numbers for Tiny-ImageNet**" in text
    _, rows = markdown_tables(text)
    assert rows[0] == ["Method", "Backbone", "Protocol", "Metric", "Source", "Confidence", "Value"]
    assert [row[0] for row in rows[1:]] == ["First & Best", "Second", "Third", "The paper itself"]
    assert [row[-1] for row in rows[1:]] == ["83.0", "57.7\N{DOUBLE DAGGER}", "80.9\N{DAGGER}", "\N{EN DASH}"]
    assert [row[-2] for row in rows[1:]] == ["primary", "stale", "secondary", "primary"]
    assert "\N{DOUBLE DAGGER} stale: known to be outdated" in text
    data = table.data[table.data["block"] == "published"].set_index("label")
    assert data.loc["First & Best", "mean_percent"] == 83.0
    assert data.loc["First & Best", "source"] == "README of a_b/c_d"
    assert pd.isna(data.loc["The paper itself", "mean_percent"]), "nobody invents a number"


@pytest.mark.parametrize(
    ("dataset", "protocol", "expected"),
    [
        ("cifar10", "cifar_plus_10", "Fourth"),
        # the digits use the class splits of MNIST, but they are not MNIST
        ("digits", "mnist", None),
        ("cifar10", "cifar10", None),
    ],
)
def test_published_numbers_are_those_of_the_same_benchmark(tidy_tables, published, dataset, protocol, expected):
    source = tidy_tables(dataset=dataset, protocol=protocol, splits=1, runs=("ce", "cutmix"))
    text = tables.to_markdown(build("benchmark", source, published))
    if expected:
        assert [row[0] for row in markdown_tables(text)[1][1:]] == [expected]
    else:
        assert len(markdown_tables(text)) == 1
        assert "**Published numbers: none are recorded for scikit-learn digits.**" in text


def test_published_numbers_of_the_same_images_in_another_form_are_printed(tidy_tables, published):
    """Of CIFAR-10 encoded again, with the name of both; of CIFAR+10 the benchmark is the protocol's."""
    numbers = pd.concat([published, published.tail(1).assign(dataset="cifar10", method="On CIFAR-10")])
    made = {"splits": 1, "runs": ("ce", "cutmix"), "dataset": "cifar10_images"}
    text = tables.to_markdown(build("benchmark", tidy_tables(protocol="cifar10", **made), numbers))
    assert "**Published numbers for CIFAR-10 (here: " in text
    assert [row[0] for row in markdown_tables(text)[1][1:]] == ["On CIFAR-10"]
    text = tables.to_markdown(build("benchmark", tidy_tables(protocol="cifar_plus_10", **made), numbers))
    assert "**Published numbers for CIFAR+10**" in text


def test_ablation_compares_with_its_first_row(tidy_tables, published):
    source = tidy_tables()
    table = build("ablation", source, published)
    (rows,) = markdown_tables(tables.to_markdown(table))
    assert [row[0] for row in rows[1:]] == [
        synthetic_tables.RUNS[run][0] for run in synthetic_tables.HIGHLIGHT["ablation"]
    ]
    assert rows[1][2::2] == ["\N{EN DASH}"] * 3
    runs = source["runs"]
    wide = runs[runs["metric"] == "accuracy"].pivot(index="split", columns="run", values="value")
    gain = 100 * (wide["ad_no_joint"] - wide["kd_mixed"]).mean()
    row = next(row for row in rows if row[0] == "AD without joint loss")
    assert row[2].startswith(tidy.signed(gain) + " [")
    own = table.data[(table.data["run"] == "ad_no_joint") & (table.data["metric"] == "accuracy")].iloc[0]
    assert own["difference_percent"] == pytest.approx(gain)
    assert own["pairs"] == 5


def test_scores_stand_side_by_side(tidy_tables, published):
    source = tidy_tables()
    table = build("scores", source, published)
    (rows,) = markdown_tables(tables.to_markdown(table))
    assert rows[0][:3] == ["Score", "AUROC full", "AUROC balanced"]
    assert len(rows[0]) == 7
    known = [title for score, title in SCORE_TITLES.items() if score in synthetic_tables.SCORES]
    assert [row[0] for row in rows[1:6]] == ["Cross entropy", *known]
    summary = source["summary"].set_index(["run", "score", "metric", "sampling", "group"])["mean"].sort_index()
    assert rows[2][2].split()[0] == f"{100 * summary['ce', 'maximum_logit', 'auroc', 'balanced', 'all']:.1f}"
    assert rows[5][5].split()[0] == f"{100 * summary['ce', 'feature_norm', 'fpr95', 'full', 'all']:.1f}"


def test_detectors_stand_beside_the_scores(tidy_tables, published):
    runs = tidy_tables()["runs"]
    knn = runs[runs["score"] == "msp"].assign(score="knn")
    (rows,) = markdown_tables(tables.to_markdown(build("scores", {"runs": pd.concat([knn, runs])}, published)))
    assert [row[0] for row in rows[2:7]][-2:] == ["Feature norm", "Nearest neighbours (KNN)"]


def test_scores_without_a_balanced_sample(tidy_tables, published):
    full = tidy_tables()["runs"]
    table = build("scores", {"runs": full[full["sampling"] == "full"]}, published)
    (rows,) = markdown_tables(tables.to_markdown(table))
    assert rows[0] == ["Score", "AUROC full", "OSCR full", "FPR95 \N{DOWNWARDS ARROW} full"]


@pytest.mark.parametrize("name", TABLES)
def test_one_split_has_neither_spread_nor_interval(tidy_tables, published, name):
    table = build(name, tidy_tables(splits=1, **groups_of(name)), published, splits=1)
    text = tables.to_markdown(table)
    grid = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    assert PLUS_MINUS not in grid
    assert "[" not in grid
    assert "nan" not in text.lower()
    if name not in ("scores", "semantic_shift", "ood"):
        assert "without intervals, which need at least 2" in text


def test_missing_runs_are_named(tidy_tables, published):
    source = tidy_tables(splits=1, runs=("ce", "mixup"))
    assert "Not in the table: cutmix, ad_as_released, ad_as_described, kd." in tables.to_markdown(
        build("scores", source, published)
    ).replace("\\", "")
    with pytest.raises(DataError, match="table 'ablation' has nothing to show: it needs two runs of the ablation"):
        build("ablation", source, published)
    (rows,) = markdown_tables(tables.to_markdown(build("benchmark", source, published)))
    assert [row[0] for row in rows if any(row[1:])] == ["Run", "Cross entropy", "Mixup"]


# --------------------------------------------------------------------------------- what tables compute


def test_augmentation_has_both_sides_and_what_lies_behind(tidy_tables, published):
    source = tidy_tables()
    table = build("augmentation", source, published)
    means, changes = markdown_tables(tables.to_markdown(table))
    assert means[0][4:] == ["Known images Maximum logit", "Known images Feature norm"]
    shown = [row[0] for row in means[1:] if any(row[1:])]
    assert shown == ["Cross entropy", "RandAugment", "Cutout", "AugMix", "Mixup", "CutMix"]
    assert [row[0] for row in changes[1:] if any(row[1:])] == shown[1:]
    of_cutmix = source["features"].query("run == 'cutmix' and group == 'known'")
    logit = of_cutmix.query("quantity == 'maximum_logit_mean'")["value"]
    cutmix = next(row for row in means if row[0] == "CutMix")
    assert cutmix[4] == f"{logit.mean():.1f} {PLUS_MINUS} {logit.std():.1f}"
    wide = source["runs"].query("metric == 'accuracy'").pivot(index=["split", "seed"], columns="run", values="value")
    expected = paired_difference((100 * wide["cutmix"]).to_dict(), (100 * wide["ce"]).to_dict())
    own = table.data[(table.data["run"] == "cutmix") & (table.data["quantity"] == "accuracy")].iloc[0]
    for name in ("difference", "low", "high", "effect_size", "p_value"):
        assert own[name] == pytest.approx(getattr(expected, name)), name
    change = next(row for row in changes if row[0] == "CutMix")
    low, high = tidy.signed(expected.low), tidy.signed(expected.high)
    assert change[1:4] == [
        f"{tidy.signed(expected.difference)} [{low}, {high}]",
        f"{expected.effect_size:+.2f}",
        "< 0.001" if expected.p_value < 0.001 else f"{expected.p_value:.3f}",
    ]


def test_significance_corrects_for_the_number_of_comparisons(tidy_tables, published):
    table = build("significance", tidy_tables(), published)
    data = table.data
    against_baseline = data[(data["reference"] == "ce") & (data["metric"] == "auroc")]
    assert set(against_baseline["run"]) == set(synthetic_tables.RUNS) - {"teacher", "ce"}
    against_distillation = data[(data["reference"] == "kd") & (data["metric"] == "auroc")]
    assert list(against_distillation["run"]) == synthetic_tables.HIGHLIGHT["asymmetric"]
    auroc = data[data["metric"] == "auroc"]
    assert len(auroc) == 14
    assert auroc["p_holm"].min() == pytest.approx(14 * auroc["p_value"].min())
    assert (auroc["p_holm"] >= auroc["p_value"]).all()
    text = tables.to_markdown(table)
    assert "two-sided paired t test" in text
    assert "the 14 comparisons of a metric" in text
    grids = markdown_tables(text)
    assert [title for title in ("**Accuracy**", "**AUROC**", "**OSCR**") if title in text] == re.findall(
        r"^\*\*.*\*\*$", text, flags=re.MULTILINE
    )
    assert len(grids) == 3
    for rows in grids:
        assert [row[0] for row in rows if not any(row[1:])] == ["Against Cross entropy", "Against Distillation"]
        assert all(row[-1] == "5" for row in rows[1:] if any(row[1:]))


@pytest.mark.parametrize("settings", [{"splits": 1}, {"splits": 1, "seeds": 3}, {"splits": 3, "twins": (0, 1, 2)}])
def test_one_class_set_has_no_interval_no_effect_size_and_no_p(tidy_tables, published, settings):
    table = build("significance", tidy_tables(**settings), published)
    assert table.data[["low_percent", "effect_size", "p_value", "p_holm"]].isna().all(axis=None)
    assert set(table.data["pairs"]) == {1}
    assert "(n = 1 class set)" in table.caption
    text = tables.to_markdown(table)
    assert "without intervals, which need at least 2 of them" in text
    assert "both need at least 2 class sets" in text


@pytest.mark.parametrize("name", TABLES)
def test_twins_and_seeds_count_once(tidy_tables, published, name):
    """A table of three splits, two of them with the same classes, and two seeds, is that of two class sets."""
    source = tidy_tables(splits=3, seeds=2, twins=(0, 1), **groups_of(name))
    table = build(name, source, published, splits=9, seeds=9)  # what was configured does not matter
    caption = table.caption.replace("\N{NO-BREAK SPACE}", " ")
    twins = "3 splits \N{MULTIPLICATION SIGN} 2 seeds: 2 class sets (splits 0 and 1 have the same classes)"
    assert f"{twins} (n = 2 class sets)" in caption
    values = source["runs"].query("metric == 'accuracy' and run == 'ad_as_described'")
    by_set = values.groupby("class_set")["value"].mean() * 100
    assert len(by_set) == 2
    data = table.data
    if "metric" in data and "mean_percent" in data and "run" in data:
        rows = data[(data["run"] == "ad_as_described") & (data["metric"] == "accuracy")]
        assert rows["mean_percent"].to_numpy() == pytest.approx(by_set.mean())
    counts = data[[column for column in ("n", "pairs") if column in data]].dropna()
    assert not counts.empty
    assert (counts == 2).all(axis=None)


def test_another_score_can_be_the_headline(tidy_tables, published):
    source = tidy_tables()
    table = build("benchmark", source, published, score="msp")
    own = source["runs"].query("run == 'ce' and metric == 'auroc' and score == 'msp' and sampling == 'full'")
    data = table.data.query("run == 'ce' and metric == 'auroc'")
    assert data["mean_percent"].to_numpy() == pytest.approx(100 * own.query("group == 'all'")["value"].mean())
    for name in ("benchmark", "augmentation", "ablation", "significance", "architectures"):
        text = tables.to_markdown(build(name, source, published, score="msp"))
        assert "score: maximum softmax probability" in text
        assert "score: maximum logit" not in text
    for name in ("semantic_shift", "ood"):
        made = build(name, tidy_tables(**groups_of(name)), published, score="feature_norm")
        assert "score: feature norm" in tables.to_markdown(made)
    assert "by the feature norm." in made.caption
    with pytest.raises(DataError, match="has no score 'mps'; did you mean 'msp'"):
        compare({"Digits": source["runs"]}, published, "mps")


def test_medium_and_hard_together_are_what_an_evaluation_of_both_gives(published):
    generator = np.random.default_rng(0)
    group = np.repeat([0, 1, 2, 3], [60, 20, 17, 41])
    logits = generator.integers(0, 9, size=(group.size, 4)).astype(np.float32)  # many ties
    logits[group == 0, 0] += 3
    outputs = {
        "features": logits,
        "logits": logits,
        "labels": np.where(group == 0, 0, -1),
        "group": group,
        "group_names": np.array(["known", "easy", "medium", "hard"]),
    }
    together = outputs | {"group": np.minimum(group, 2), "group_names": np.array(["known", "easy", "later"])}
    rows = evaluation.evaluate(outputs, bootstrap=0, seed=0)
    about = {
        "experiment": "x",
        "dataset": "cub",
        "protocol": "cub",
        "run": "ce",
        "label": "CE",
        "split": 0,
        "seed": 0,
        "class_set": "a",
    }
    runs = pd.DataFrame([{**about, "family": "cross_entropy", **row} for row in rows])
    data = build("semantic_shift", {"runs": runs}, published).data.set_index(["metric", "group"])["mean_percent"]
    for row in evaluation.evaluate(together, bootstrap=0, seed=0):
        if row["group"] == "later" and row["metric"] in ("auroc", "oscr"):
            assert data[row["metric"], "medium + hard"] == pytest.approx(100 * row["value"], abs=1e-9)
    assert data["auroc", "medium + hard"] != pytest.approx(
        (data["auroc", "medium"] + data["auroc", "hard"]) / 2, abs=1e-6
    )


def test_semantic_shift_of_two_difficulties(tidy_tables, published):
    (rows,) = markdown_tables(
        tables.to_markdown(build("semantic_shift", tidy_tables(splits=1, groups=("easy", "hard")), published))
    )
    assert rows[0] == [
        *["Run", "Accuracy", "AUROC Easy", "AUROC Hard", "AUROC All", "OSCR Easy", "OSCR Hard", "OSCR All"]
    ]
    with pytest.raises(DataError, match="its unknowns are in no groups 'easy' and 'hard'"):
        build("semantic_shift", tidy_tables(), published)


def test_out_of_distribution_detection_by_dataset(tidy_tables, published):
    source = tidy_tables(groups=GROUPS["ood"])
    table = build("ood", source, published)
    (rows,) = markdown_tables(tables.to_markdown(table))
    assert rows[0] == ["Run", "AUROC", "FPR95 \N{DOWNWARDS ARROW}", "AUPR known", "AUPR unknown"]
    assert [row[0] for row in rows if not any(row[1:])][1:] == [
        "Describable Textures (DTD r1.0.1)",
        "Mean over the datasets",
    ]
    data = table.data.set_index(["group", "run", "metric"])
    parts = [data.loc[group, "cutmix", "fpr95"]["mean_percent"] for group in GROUPS["ood"]]
    assert data.loc["mean", "cutmix", "fpr95"]["mean_percent"] == pytest.approx(sum(parts) / 2)
    part = data.loc["svhn"]["mean_percent"].unstack("metric")
    best = data.loc["svhn"]["best"].unstack("metric")
    assert best.loc[part["fpr95"].idxmin(), "fpr95"]
    assert best.loc[part["auroc"].idxmax(), "auroc"]
    with pytest.raises(DataError, match="its unknowns are in one group; name several datasets"):
        build("ood", tidy_tables(), published)


def test_networks_stand_without_and_with_asymmetric_distillation(tidy_tables, published):
    table = build("architectures", tidy_tables(), published)
    (rows,) = markdown_tables(tables.to_markdown(table))
    assert [row[:4] for row in rows[1:]] == [
        ["resnet50", "Teacher (ResNet-50)", "\N{EN DASH}", "23.5 M"],
        ["resnet18", "Cross entropy", "AD (as released)", "11.2 M"],
        ["mobilenet_v2", "\N{EN DASH}", "AD (as described)", "2.2 M"],
    ]
    wide = tidy_tables()["runs"].query("metric == 'accuracy'").pivot(index="split", columns="run", values="value")
    gain = 100 * (wide["ad_as_released"] - wide["ce"]).mean()
    assert rows[2][6].startswith(f"{tidy.signed(gain)} [")
    assert rows[3][6] == "\N{EN DASH}"
    source = tidy_tables()
    one = source | {"networks": source["networks"].assign(network=source["networks"]["run"])}
    with pytest.raises(DataError, match="needs a network without and with asymmetric distillation"):
        build("architectures", one, published)


# ------------------------------------------------------------------------------- several experiments


def test_experiments_stand_side_by_side_with_published_numbers(tidy_tables, published):
    first = tidy_tables(dataset="tinyimagenet", protocol="tinyimagenet")["runs"]
    few = ("teacher", "ce", "cutmix", "ad_no_joint")
    second = tidy_tables(dataset="cifar10", protocol="cifar_plus_10", splits=1, runs=few)["runs"]
    second = second.assign(label=second["label"] + " there")
    table = compare({"Tiny": first, "Plus": second}, published)
    text = tables.to_markdown(table)
    assert (
        "Tiny: protocol tinyimagenet, n = 5 class sets; Plus: protocol cifar_plus_10, n = 1 class set."
        in text.replace("\\", "")
    )
    accuracy, auroc, _oscr, literature = markdown_tables(text)
    assert accuracy[0] == auroc[0] == ["Run", "Tiny", "Plus"]
    rows = {row[0]: row for row in auroc if any(row[1:])}
    assert "AD without joint loss" not in rows
    assert rows["Mixup"][2] == "\N{EN DASH}"
    for column, runs in ((1, first), (2, second)):
        mean = tidy.metric_rows(runs, "auroc").query("run == 'cutmix'")["value"].mean()
        assert rows["CutMix"][column].split()[0] == f"{100 * mean:.1f}"
    data = table.data[(table.data["metric"] == "auroc") & (table.data["block"] == "measured")]
    for _, part in data.groupby("experiment"):
        students = part[part["family"] != "teacher"]
        assert set(part.loc[part["best"].astype(bool), "run"]) == {
            students.loc[students["mean_percent"].idxmax(), "run"]
        }
    assert [row[:2] for row in literature[1:]] == [
        *(["Tiny-ImageNet", name] for name in ("First & Best", "Second", "Third", "The paper itself")),
        ["CIFAR+10", "Fourth"],
    ]
    assert literature[2][-2:] == ["stale", "57.7\N{DOUBLE DAGGER}"]
    (*_, alone) = markdown_tables(tables.to_markdown(compare({"Plus": second}, published)))
    assert [row[0] for row in alone] == ["Method", "Fourth"]
    none = tables.to_markdown(compare({"Digits": tidy_tables(splits=1)["runs"]}, published))
    assert "Published numbers: none are recorded for " in none


def test_the_comparison_is_one_command(tmp_path):
    experiments = []
    for name, runs in (("a", ("ce", "cutmix")), ("b", ("ce",))):
        made = synthetic_tables.make(splits=1, runs=runs)["runs"]
        paths = synthetic_tables.write(tmp_path / name, {"runs": made})
        experiments += ["--runs", f"{name}={paths['runs']}"]
    (tmp_path / "published.csv").write_text(PUBLISHED)
    outputs = [part for kind in ("csv", "markdown", "latex") for part in (f"--{kind}", str(tmp_path / f"out.{kind}"))]
    command = [
        sys.executable,
        str(SCRIPT.parents[1] / "tools" / "compare.py"),
        "--published",
        str(tmp_path / "published.csv"),
    ]
    done = subprocess.run([*command, *outputs, *experiments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(pd.read_csv(tmp_path / "out.csv")["experiment"]) == {"a", "b"}
    assert (tmp_path / "out.latex").read_text().count(r"\toprule") == 3
    assert "| Run | a | b |" in (tmp_path / "out.markdown").read_text()
    twice = subprocess.run([*command, *outputs, *experiments[:2], *experiments[:2]], capture_output=True, text=True)
    assert twice.returncode == 2
    assert "names 'a' twice" in twice.stderr


AWKWARD = (
    r"50% of $a_b & c^d ~ #1 {x} \LaTeX <i> | *bold* `code` [link](x) " + f"{PLUS_MINUS} \N{GREEK SMALL LETTER LAMDA}"
)


def awkward() -> Table:
    block = Block(["Run", "Value_1"], [AWKWARD, [Cell(AWKWARD), Cell("1.0", best=True)]], heading=AWKWARD, note=AWKWARD)
    return Table("awkward_name%", AWKWARD, [block], pd.DataFrame({"run": ["a"]}))


def test_markdown_keeps_awkward_text_as_it_is():
    ((head, family, row),) = markdown_tables(tables.to_markdown(awkward()))
    assert head == ["Run", "Value_1"]
    assert row == [AWKWARD, "1.0"]
    assert family == [AWKWARD, ""]


def test_latex_escapes_awkward_text():
    text = tables.latex_escape(AWKWARD)
    assert text == (
        r"50\% of \$a\_b \& c\textasciicircum{}d \textasciitilde{} \#1 \{x\} \textbackslash{}LaTeX "
        r"\textless{}i\textgreater{} | *bold* `code` [link](x) $\pm$ $\lambda$"
    )


@pytest.mark.parametrize("name", TABLES)
def test_latex_is_well_formed(tidy_tables, published, name):
    source = tidy_tables(dataset="tinyimagenet", protocol="tinyimagenet", splits=1, **groups_of(name))
    lines = tables.to_latex(build(name, source, published)).splitlines()
    text = "\n".join(lines)
    assert text.count(r"\begin{") == text.count(r"\end{")
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count("\\" + rule) == text.count(r"\begin{tabular}") > 0
    columns = 0
    for line in lines:
        if match := re.match(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}", line):
            columns = len(match[1])
        elif line.endswith(r"\\"):
            spanned = sum(int(width) - 1 for width in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + spanned == columns, line


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tidy_tables, published, tmp_path):
    source = tidy_tables(dataset="tinyimagenet", protocol="tinyimagenet", groups=("easy", "medium", "hard"))
    made = [*(build(name, source, published) for name in TABLES), awkward()]
    body = "\n".join(tables.to_latex(table) for table in made)
    (tmp_path / "paper.tex").write_text(
        r"\documentclass[twocolumn]{article}\usepackage{booktabs}\usepackage{graphicx}\begin{document}"
        + f"\n{body}\n"
        + r"\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


@pytest.mark.parametrize("name", TABLES)
def test_the_same_table_gives_the_same_bytes(tidy_tables, published, name, tmp_path):
    for stem in "ab":
        paths = [tmp_path / f"{stem}.{kind}" for kind in ("csv", "md", "tex")]
        tables.save(build(name, tidy_tables(**groups_of(name)), published), *paths)
    for kind in ("csv", "md", "tex"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert (tmp_path / "a.md").read_text().endswith(".\n") or "recorded" in (tmp_path / "a.md").read_text()
    data = pd.read_csv(tmp_path / "a.csv")
    assert data[[column for column in data if column.endswith("mean_percent")]].stack().between(0, 100).all()


BROKEN = {
    "dataset,method\n": "lack the column backbone",
    "HEADER\ndigits,a,b,c,auroc,much,d,primary\n": "line 2: value 'much' is not a number from 0 to 100",
    "HEADER\ndigits,a,b,c,auroc,830,d,primary\n": "line 2: value '830' is not a number from 0 to 100",
    "HEADER\ndigits,a,b,c,auroc,83,,primary\n": "line 2: no source; a published number without a source",
    "HEADER\ndigits,a,b,c,aurok,83,d,primary\n": "line 2: metric 'aurok'; did you mean 'auroc'",
    "HEADER\ndigits,a,b,c,auroc,83,d,primry\n": "line 2: confidence 'primry'; did you mean 'primary'",
    "": "cannot read the published numbers",
}


@pytest.mark.parametrize("text", BROKEN)
def test_broken_published_numbers_are_one_clear_error(tmp_path, text):
    path = tmp_path / "published.csv"
    path.write_text(text.replace("HEADER", PUBLISHED.splitlines()[0]))
    with pytest.raises(DataError) as caught:
        read_published(path)
    assert BROKEN[text] in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_published_numbers_are_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="the published numbers are missing at "):
        read_published(tmp_path / "published.csv")


def test_what_a_table_needs(tidy_tables):
    context = read_context(synthetic_tables.context())
    with pytest.raises(DataError, match="prints published numbers; add --published PATH"):
        TABLES["benchmark"].build(tidy_tables(), context)
    with pytest.raises(DataError, match="reads the table 'runs'; add --table runs=PATH"):
        TABLES["ablation"].build({}, context)
    with pytest.raises(SettingsError, match="unknown table 'benchmarks'; did you mean 'benchmark'"):
        table_spec("benchmarks")
    alone = Configured({"ce": "cross_entropy"}, {"ce": "resnet18"}, ("unknown",))
    assert TABLES["ablation"].needs(alone)[0] == "a run of the family 'distillation'"
    families = synthetic_tables.families()
    networks = {run: "mobilenet_v2" if run == "kd" else "resnet18" for run in families}
    full = Configured(families, networks, ("easy", "hard", "svhn", "isun"))
    assert all(spec.name == name and spec.needs(full) == [] for name, spec in TABLES.items())
    plain = Configured(families, dict.fromkeys(families, "resnet18"), ("unknown", "svhn"))
    lacking = [name for name, spec in TABLES.items() if spec.needs(plain)]
    assert lacking == ["semantic_shift", "ood", "architectures"]
    apart = dict.fromkeys(families, "resnet18") | {run: "vgg32" for run in families if families[run] == "asymmetric"}
    missing = TABLES["architectures"].needs(Configured(families, apart, ("unknown",)))
    assert missing == ["a network with asymmetric distillation and with plain cross entropy"]


def command(folder: Path, name: str, *more: str) -> subprocess.CompletedProcess[str]:
    outputs = [part for kind in ("csv", "markdown", "latex") for part in (f"--{kind}", str(folder / f"out.{kind}"))]
    context = json.dumps(synthetic_tables.context(splits=1))
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--name", name, "--context", context, *outputs, *more],
        capture_output=True,
        text=True,
    )


def test_the_command_writes_three_files(tmp_path):
    source = synthetic_tables.make(splits=1, runs=("ce", "cutmix"))
    paths = synthetic_tables.write(tmp_path, {"runs": source["runs"]})
    (tmp_path / "published.csv").write_text(PUBLISHED)
    more = ("--table", f"runs={paths['runs']}", "--published", str(tmp_path / "published.csv"))
    done = command(tmp_path, "benchmark", *more)
    assert done.returncode == 0, done.stderr
    assert "CutMix" in (tmp_path / "out.markdown").read_text()
    assert r"\toprule" in (tmp_path / "out.latex").read_text()
    assert set(pd.read_csv(tmp_path / "out.csv")["run"]) == {"ce", "cutmix"}


def test_the_command_ends_with_a_message_and_no_file(tmp_path):
    done = command(tmp_path, "benchmark", "--table", f"runs={tmp_path / 'runs.csv'}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: the table runs is missing at ")
    assert not list(tmp_path.glob("out*"))
    done = command(tmp_path, "benchmark", "--table", "runs")
    assert done.returncode == 2
    assert "'runs' is not NAME=PATH" in done.stderr


def test_a_number_and_its_spread_stay_on_one_line():
    assert tables.markdown_escape(spread(91.4, 3.4)) == f"91.4{NO_BREAK}{PLUS_MINUS}{NO_BREAK}3.4"
    assert tables.latex_escape(spread(91.4, 3.4)) == r"91.4~$\pm$~3.4"
    assert " " not in tables.markdown_escape(interval(1.0, -0.5, 2.5))


def test_a_page_keeps_awkward_text_as_it_is():
    page = tables.to_html(awkward())
    cells = [html.unescape(cell) for cell in re.findall(r"<t[dh][^>]*>(?:<b>)?(.*?)(?:</b>)?</t[dh]>", page)]
    assert cells == ["Run", "Value_1", AWKWARD, AWKWARD, "1.0"]
    assert "<i>" not in page and "http" not in page, "it needs nothing else"


def test_a_report_opens_on_verdict_main_figure_and_main_numbers(tidy_tables, tmp_path):
    tidy_tables()["runs"].to_csv(tmp_path / "runs.csv", index=False)
    (tmp_path / "two_sides.png").write_bytes(bytes(30_000))
    text = introduction(str(tmp_path), str(tmp_path), read_context(synthetic_tables.context()))
    page = publish_parts(text, writer_name="html5", settings_overrides={"halt_level": 2})["body"]
    assert "<strong>The best asymmetric distillation (AD (as described)) has a higher mean than Cross entropy" in page
    assert "data:image/png;base64,AAAA" in page
    assert page.count("<tr>") == 1 + len(synthetic_tables.RUNS)
