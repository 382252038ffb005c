"""Figures: files, the numbers in them, and whether a reader can read them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic_tables
from matplotlib.text import Text
from PIL import Image
from scipy import stats

from openset_distill.core.errors import DataError, OpenSetError, SettingsError
from openset_distill.report import tidy
from openset_distill.report.context import counted
from openset_distill.report.figures import FIGURES, figure_spec, read_context, style
from openset_distill.report.tidy_tables import TIDY_TABLES

SCRIPT = Path(__file__).resolve().parents[2] / "workflow_scripts" / "figure.py"
# the full experiment, the smallest one, and one whose labels and legends need more room than there is
SCENARIOS = {
    "full": {"splits": 5},
    "one": {"splits": 1},
    "long": {"splits": 2, "seeds": 2},
}
LONG = " with a label that is rather long"


def read(folder: Path, tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return tidy.read_tables(synthetic_tables.write(folder, tables), tables)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(tables, figure, data) by scenario and figure, each drawn once for all the tests."""
    made = {}

    def draw(scenario: str, name: str):
        settings = SCENARIOS[scenario]
        if scenario not in made:
            tables = synthetic_tables.make(**settings)
            if scenario == "long":
                tables = {
                    key: table.assign(label=table["label"] + LONG) if "label" in table else table
                    for key, table in tables.items()
                }
            made[scenario] = read(tmp_path_factory.mktemp(scenario), tables)
        if (scenario, name) not in made:
            context = read_context(synthetic_tables.context(**settings))
            made[scenario, name] = FIGURES[name].draw(made[scenario], context)
        return made[scenario], *made[scenario, name]

    return draw


def texts(figure) -> list[Text]:
    """Every text that is really drawn: ticks outside the axes and empty labels are not."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            slack = 1e-9 * max(abs(low), abs(high), 1)
            shown = axes.axison and axis.get_visible()
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                hidden.add(tick.label2)
                if not shown or not low - slack <= tick.get_loc() <= high + slack or not tick.label1.get_visible():
                    hidden.add(tick.label1)
    found = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible())
    return [text for text in found if text.get_text().strip() and text not in hidden]


def footer(figure) -> str:
    return figure.texts[1].get_text()


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", FIGURES)
def test_every_text_can_be_read(drawn, scenario, name):
    _, figure, _ = drawn(scenario, name)
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    assert len(boxes) > 5
    for text in texts(figure):
        assert text.get_fontsize() >= 7, f"{text.get_text()!r} is smaller than 7 points"
    width, height = figure.bbox.size
    for label, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, f"{label!r} is cut off"
    for (one, first), (other, second) in combinations(boxes, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        down = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert across <= 0.5 or down <= 0.5, f"{one!r} and {other!r} overlap"


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_what_it_shows(drawn, name):
    _, figure, _ = drawn("full", name)
    words = footer(figure).replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")
    # what is drawn, not what was configured: some figures show one split
    shown = 1 if name in ("feature_space", "attention") else 5
    assert f"(digits), protocol mnist, {counted(shown, 'split')} \N{MULTIPLICATION SIGN} 1 seed." in words
    assert "scikit-learn digits, not the paper's Tiny-ImageNet." in words
    assert figure.texts[0].get_text() == FIGURES[name].title
    assert figure.get_size_inches()[0] == style.DOUBLE_COLUMN


@pytest.mark.parametrize("name", FIGURES)
def test_the_files_hold_what_is_drawn_and_nothing_of_the_day(drawn, name, tmp_path):
    tables, figure, data = drawn("full", name)
    style.save(figure, data, tmp_path / "a.pdf", tmp_path / "a.png", tmp_path / "a.csv")
    again, same = FIGURES[name].draw(tables, read_context(synthetic_tables.context()))
    style.save(again, same, tmp_path / "b.pdf", tmp_path / "b.png", tmp_path / "b.csv")
    for kind in ("pdf", "png", "csv"):
        first, second = ((tmp_path / f"{stem}.{kind}").read_bytes() for stem in "ab")
        assert first == second, f"the {kind} changes from one drawing to the next"
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert b"CreationDate" not in pdf
    assert b"Matplotlib" not in pdf
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf, "fonts must be embedded as TrueType"
    with Image.open(tmp_path / "a.png") as picture:
        assert set(picture.info) == {"dpi"}
        assert round(picture.info["dpi"][0]) == 200
        assert picture.width == 1380
        assert np.asarray(picture.convert("L")).min() < 60, "the picture is empty"
    written = pd.read_csv(tmp_path / "a.csv", dtype={"class": str})
    assert list(written.columns) == list(data.columns)
    assert len(written) == len(data) > 0
    pd.testing.assert_frame_equal(written, data, check_dtype=False, rtol=1e-5)


def by_split(runs: pd.DataFrame, run: str, metric: str) -> pd.Series:
    rows = runs[(runs["run"] == run) & (runs["metric"] == metric)]
    if metric == "auroc":
        rows = rows[(rows["score"] == "maximum_logit") & (rows["group"] == "all") & (rows["sampling"] == "full")]
    return 100 * rows.set_index("split")["value"]


def test_two_sides_shows_means_and_standard_errors_of_differences(drawn):
    tables, figure, data = drawn("full", "two_sides")
    runs = tables["runs"]
    assert list(data["run"])[:2] == ["teacher", "ce"]
    assert len(data) == len(synthetic_tables.RUNS)
    one = data.set_index("run").loc["cutmix"]
    for metric in ("accuracy", "auroc"):
        of_run, of_baseline = by_split(runs, "cutmix", metric), by_split(runs, "ce", metric)
        assert len(of_run) == one["n"] == 5
        assert one[f"{metric}_percent"] == pytest.approx(of_run.mean())
        assert one[f"{metric}_error_percent"] == pytest.approx((of_run - of_baseline).sem())
        assert np.isnan(data.set_index("run").loc["ce", f"{metric}_error_percent"])
    assert "standard error of the difference to" in footer(figure).replace("\n", " ")


def test_twins_and_seeds_count_once(tmp_path):
    """Three splits, two of them with the same classes, and two seeds: two class sets, in every figure that averages."""
    tables = read(tmp_path, synthetic_tables.make(splits=3, seeds=2, twins=(0, 1)))
    context = read_context(synthetic_tables.context(splits=3, seeds=2))
    averaging = [name for name in FIGURES if name not in ("attention", "feature_space")]
    drawn = {name: FIGURES[name].draw(tables, context) for name in averaging}
    for name, (figure, data) in drawn.items():
        words = footer(figure).replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")
        assert "2 class sets (splits 0 and 1 have the same classes)" in words, name
        for column in {"n", "pairs"} & set(data):
            assert (data[column] == 2).all(), name
    line = drawn["openset_curves"][1].query("run == 'ce' and curve == 'roc' and x_percent == 50").iloc[0]
    own = tables["curves"].query("run == 'ce' and curve == 'roc' and x == 0.5").groupby("class_set")["y"].mean()
    assert line[["y_percent", "y_std_percent"]].tolist() == pytest.approx([100 * own.mean(), 100 * own.std()])
    bars = drawn["feature_discrimination"][1].query("run == 'ce' and quantity == 'feature_norm' and group == 'known'")
    norms = tables["activations"].query("run == 'ce' and known == 1").groupby("class_set")["feature_norm"].mean()
    assert bars["mean"].unique() == pytest.approx(norms.mean())
    assert ((bars["bin_high"] - bars["bin_low"]) * bars["density"]).sum() == pytest.approx(1)
    point = drawn["two_sides"][1].set_index("run").loc["cutmix"]
    wide = tables["runs"].query("metric == 'accuracy'").pivot(index=tidy.UNIT, columns="run", values="value") * 100
    gain = (wide["cutmix"] - wide["ce"]).groupby("class_set").mean()
    assert point["accuracy_error_percent"] == pytest.approx(gain.sem())


def test_another_score_can_be_the_headline(drawn):
    tables, _, usual = drawn("full", "two_sides")
    context = read_context(synthetic_tables.context(score="msp"))
    figure, data = FIGURES["two_sides"].draw(tables, context)
    assert figure.axes[0].get_ylabel() == "AUROC of the maximum softmax probability (%)"
    assert data["auroc_percent"].mean() == pytest.approx(usual["auroc_percent"].mean() - 2.1, abs=0.2)
    figure, _ = FIGURES["ablation"].draw(tables, context)
    assert figure.axes[0].get_title(loc="left") == "AUROC of the maximum softmax probability"
    assert "AUROC of the maximum softmax probability" in FIGURES["two_sides"].caption_for(context)


def test_two_sides_without_a_baseline_shows_standard_errors_of_means(tmp_path):
    runs = synthetic_tables.make(splits=3, runs=("mixup", "cutmix"))["runs"]
    figure, data = FIGURES["two_sides"].draw(
        read(tmp_path, {"runs": runs}), read_context(synthetic_tables.context(splits=3, highlight={}))
    )
    errors = data.set_index("run")["auroc_error_percent"]
    assert errors["cutmix"] == pytest.approx(by_split(runs, "cutmix", "auroc").sem())
    assert "standard error of the mean" in footer(figure).replace("\n", " ")


def test_two_sides_draws_the_points_of_its_data(drawn):
    _, figure, data = drawn("full", "two_sides")
    (axes,) = figure.axes
    points = {
        (round(float(line.get_xdata()[0]), 6), round(float(line.get_ydata()[0]), 6))
        for line in axes.lines
        if line.get_linestyle() == "None"
    }
    expected = {(round(row.accuracy_percent, 6), round(row.auroc_percent, 6)) for row in data.itertuples()}
    assert points == expected
    assert {text.get_text() for text in axes.texts} >= set(data["label"])
    # one arrow from CutMix to each run of asymmetric distillation
    assert sum(getattr(text, "arrow_patch", None) is not None for text in axes.texts) == 2


def test_feature_discrimination_is_normalised_and_states_the_auroc_of_all_test_images(drawn):
    tables, figure, data = drawn("full", "feature_discrimination")
    for _, bars in data.groupby(["run", "quantity", "group"]):
        assert ((bars["bin_high"] - bars["bin_low"]) * bars["density"]).sum() == pytest.approx(1)
    runs = tables["runs"].query("metric == 'auroc' and group == 'all' and sampling == 'full'")
    for (run, quantity), bars in data.groupby(["run", "quantity"]):
        own = runs[(runs["run"] == run) & (runs["score"] == quantity)]
        of_table = 100 * own.groupby("class_set")["value"].mean().mean()
        assert bars["auroc_percent"].unique() == pytest.approx(of_table)
        assert any(text.get_text() == f"AUROC {of_table:.1f}" for axes in figure.axes for text in axes.texts)


def test_feature_discrimination_prints_no_auroc_of_a_score_that_was_not_evaluated(drawn):
    tables, _, _ = drawn("full", "feature_discrimination")
    runs = tables["runs"].query("score != 'feature_norm'")
    figure, data = FIGURES["feature_discrimination"].draw(
        {**tables, "runs": runs}, read_context(synthetic_tables.context())
    )
    assert data.query("quantity == 'feature_norm'")["auroc_percent"].isna().all()
    assert sum(text.get_text().startswith("AUROC") for axes in figure.axes for text in axes.texts) == 4


def test_ablation_compares_pairs_with_the_first_row(drawn):
    tables, _, data = drawn("full", "ablation")
    runs = tables["runs"]
    accuracy = runs[runs["metric"] == "accuracy"].pivot(index="split", columns="run", values="value")
    one = data[(data["metric"] == "accuracy") & (data["run"] == "ad_as_described")].iloc[0]
    gains = 100 * (accuracy["ad_as_described"] - accuracy["kd_mixed"])
    assert one["difference_percent"] == pytest.approx(gains.mean())
    interval = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert (one["low_percent"], one["high_percent"]) == pytest.approx(tuple(interval))
    first = data[data["run"] == "kd_mixed"]
    assert first["difference_percent"].isna().all(), "the reference has no difference to itself"


def test_ablation_without_enough_pairs_has_no_interval(drawn):
    _, figure, data = drawn("one", "ablation")
    assert data["low_percent"].isna().all()
    assert data["difference_percent"].notna().sum() == 10
    assert "without intervals" in footer(figure)


def test_ablation_shows_a_run_that_shares_no_pair(tmp_path):
    tables = synthetic_tables.make(splits=2)
    runs = tables["runs"]
    keep = ~((runs["run"] == "ad_no_joint") | ((runs["run"] == "kd_mixed") & (runs["split"] == 1)))
    lonely = runs[(runs["run"] == "ad_no_joint") & (runs["split"] == 1)]
    read_back = read(tmp_path, {"runs": pd.concat([runs[keep], lonely])})
    figure, data = FIGURES["ablation"].draw(read_back, read_context(synthetic_tables.context()))
    assert data.loc[data["run"] == "ad_no_joint", "difference_percent"].isna().all()
    assert [text.get_text() for text in figure.axes[0].texts].count("no common pair") == 1


@pytest.mark.parametrize(
    ("name", "table", "place", "column", "shown", "factor"),
    [
        ("mixing_response", "mixing", {"run": "cutmix", "mixing": "mixup", "lam": 0.5}, "maximum_logit", "mean", 1),
        ("mixing_response", "mixing", {"run": "teacher", "mixing": "cutmix", "lam": 0.2}, "hard_share", "mean", 100),
        ("openset_curves", "curves", {"run": "ce", "curve": "oscr", "x": 0.25}, "y", "y_percent", 100),
        ("training_dynamics", "history", {"run": "ce", "epoch": 60}, "validation_accuracy", "mean", 100),
    ],
)
def test_lines_are_means_over_splits(drawn, name, table, place, column, shown, factor):
    tables, _, data = drawn("full", name)
    rows = tables[table]
    for key, value in place.items():
        rows = rows[np.isclose(rows[key], value)] if isinstance(value, float) else rows[rows[key] == value]
    if table == "mixing":
        rows = rows[rows["quantity"] == column].rename(columns={"value": column})
    unit = {"x": "x_percent"}
    lines = data[data["quantity"].str.startswith(column)] if "quantity" in data else data
    for key, value in place.items():
        if isinstance(value, str):
            lines = lines[lines[key] == value]
        else:
            lines = lines[np.isclose(lines[unit.get(key, key)], value * (100 if key == "x" else 1))]
    assert len(lines) == 1
    assert len(rows) == 5
    assert lines[shown].iloc[0] == pytest.approx(factor * rows[column].mean())


def test_feature_space_shows_every_known_of_the_first_split(drawn):
    tables, figure, data = drawn("full", "feature_space")
    table = tables["embedding"]
    assert set(data["run"]) == {"ce", "cutmix", "ad_as_released", "ad_as_described"}
    of_knowns = tidy.known_images(data)
    assert of_knowns.sum() == (table["run"].isin(set(data["run"])) & tidy.known_images(table)).sum()
    drawn_points = sum(len(collection.get_offsets()) for axes in figure.axes for collection in axes.collections)
    assert drawn_points == len(data)


def test_attention_shows_shares_of_pairs_and_of_all(drawn):
    tables, figure, data = drawn("full", "attention")
    mixed = tables["attention"][(tables["attention"]["run"] == "cutmix") & (tables["attention"]["view"] == "mixed")]
    everything = data[(data["run"] == "cutmix") & (data["pair"] == "all")].iloc[0]
    named = mixed[mixed["predicted"] != "neither"]
    assert everything["pairs"] == len(mixed) == 40
    assert 0 < len(named) < 40
    assert everything["named_percent"] == pytest.approx(100 * len(named) / 40)
    own = [row.on_b if row.predicted == "b" else 1 - row.on_b for row in named.itertuples()]
    area = [row.area_b if row.predicted == "b" else 1 - row.area_b for row in named.itertuples()]
    assert everything["on_named_percent"] == pytest.approx(100 * np.mean(own))
    assert everything["area_named_percent"] == pytest.approx(100 * np.mean(area))
    one = mixed[mixed["pair"] == 1].iloc[0]
    words = [text.get_text() for text in texts(figure)]
    source = one["predicted"] if one["predicted"] == "neither" else f"class {one['predicted']}"
    assert f"{source}\nb: {100 * one['on_b']:.0f} %" in words
    assert f"b: {100 * one['area_b']:.0f} %" in words
    assert "Predicts a or b, of 40 pairs" in words
    assert "sewing m\N{HORIZONTAL ELLIPSIS}" in words
    assert "African \N{HORIZONTAL ELLIPSIS}" in words


def test_attention_with_a_map_of_zeros_and_a_damaged_picture(tmp_path):
    tables = synthetic_tables.make(splits=1, runs=("ce", "cutmix"))
    attention, pictures = tables["attention"], tables["pictures"]
    attention.loc[attention["view"] == "mixed", "on_b"] = np.nan
    context = read_context(synthetic_tables.context(highlight={}))
    figure, data = FIGURES["attention"].draw(read(tmp_path, {"attention": attention, "pictures": pictures}), context)
    assert sum(text.get_text().endswith("b: none") for text in texts(figure)) == 2 * 4
    assert data["on_b_percent"].isna().all()
    assert "teacher" not in set(data["run"])
    pictures.loc[3, "picture"] = "iVBORw0KGgo="
    with pytest.raises(DataError, match=r"cannot be read .* make them again with the rule aggregate"):
        FIGURES["attention"].draw(read(tmp_path, {"attention": attention, "pictures": pictures}), context)


@pytest.mark.parametrize(("count", "entry"), [(20, "class 19 of many"), (60, "known, 60 classes by colour and marker")])
def test_feature_space_with_many_classes(tmp_path, count, entry):
    classes = tuple(f"class {i} of many" for i in range(count))
    table = synthetic_tables.make(runs=("ce", "cutmix"), splits=1, classes=classes)["embedding"]
    figure, _ = FIGURES["feature_space"].draw(
        read(tmp_path, {"embedding": table}), read_context(synthetic_tables.context())
    )
    assert entry in [text.get_text() for text in figure.legends[0].get_texts()]


def test_feature_geometry_shows_means_of_knowns_and_unknowns(drawn):
    tables, figure, data = drawn("full", "feature_geometry")
    table = tables["features"]
    chosen = (table["run"] == "cutmix") & (table["quantity"] == "feature_norm_mean") & (table["group"] == "unknown")
    one = data[(data["run"] == "cutmix") & (data["quantity"] == "feature_norm_mean") & (data["group"] == "unknown")]
    assert one["mean"].item() == pytest.approx(table.loc[chosen, "value"].mean())
    assert one["std"].item() == pytest.approx(table.loc[chosen, "value"].std())
    assert one["n"].item() == 5
    assert "teacher" not in set(data.loc[data["quantity"] == "cka_teacher", "run"])
    points = {float(line.get_xdata()[0]) for axes in figure.axes for line in axes.lines if len(line.get_xdata()) == 1}
    assert points == set(data["mean"])


def test_feature_geometry_without_a_teacher_has_no_panel_for_it(tmp_path):
    table = synthetic_tables.make(splits=1, runs=("ce", "cutmix"))["features"]
    table = table[table["quantity"] != "cka_teacher"]
    table.loc[table["quantity"] == "nc1", "value"] = np.nan
    figure, data = FIGURES["feature_geometry"].draw(
        read(tmp_path, {"features": table}), read_context(synthetic_tables.context(highlight={}))
    )
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles == ["Feature norm", "Maximum logit", "Effective rank", "Silhouette"]
    assert not {"cka_teacher", "nc1"} & set(data["quantity"])


def test_training_dynamics_says_what_hard_means(drawn):
    tables, figure, data = drawn("full", "training_dynamics")
    table = tables["history"]
    rows = table[(table["run"] == "ad_as_released") & (table["epoch"] == 60)]
    shown = data[(data["run"] == "ad_as_released") & (data["epoch"] == 60)].set_index("quantity")["mean"]
    assert shown["hard_share_percent"] == pytest.approx(100 * rows["hard_share"].mean())
    assert set(data.loc[data["quantity"] == "hard_share_percent", "run"]) == {"ad_as_released", "ad_as_described"}
    assert "is neither source of the mixed image" in footer(figure).replace("\n", " ")


def test_training_dynamics_leaves_out_a_panel_without_numbers(tmp_path):
    table = synthetic_tables.make(splits=1, runs=("ce", "cutmix"))["history"]
    figure, data = FIGURES["training_dynamics"].draw(
        read(tmp_path, {"history": table}), read_context(synthetic_tables.context(highlight={}))
    )
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Training loss", "Validation accuracy (%)"]
    assert set(data["quantity"]) == {"train_loss", "validation_accuracy_percent"}


def test_training_dynamics_draws_the_runs_that_it_is_given(tmp_path):
    table = synthetic_tables.make(splits=1)["history"]
    wanted = ["mixup", "ce", "ad_no_joint", "ad_as_released", "ad_as_described", "kd"]
    highlight = synthetic_tables.HIGHLIGHT | {"dynamics": [*wanted, "resizemix"]}
    figure, data = FIGURES["training_dynamics"].draw(
        read(tmp_path, {"history": table}), read_context(synthetic_tables.context(splits=1, highlight=highlight))
    )
    assert list(dict.fromkeys(data["run"])) == wanted
    assert "Not in the table: resizemix." in footer(figure).replace("\n", " ")


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "ablation"])
def test_a_figure_gets_by_without_the_optional_runs(tmp_path, name):
    """No highlight: the parts go to the families. A highlighted run that is not there is named in the footer."""
    tables = read(tmp_path, synthetic_tables.make(splits=1, runs=("ce", "mixup")))
    _, data = FIGURES[name].draw(tables, read_context(synthetic_tables.context(splits=1, highlight={})))
    assert {"ce", "mixup"} <= set(data["run"])
    figure, data = FIGURES[name].draw(tables, read_context(synthetic_tables.context(splits=1)))
    absent = "Not in the table: cutmix, ad_as_released, ad_as_described"
    assert absent in footer(figure).replace("\n", " "), "the runs of this figure, not those of the ablation"
    assert "ad_no_joint" not in footer(figure)
    assert "ce" in set(data["run"])


def test_an_ablation_of_one_run_is_an_error(tmp_path):
    tables = read(tmp_path, synthetic_tables.make(splits=1, runs=("ce", "mixup")))
    with pytest.raises(DataError, match=r"'ablation' has nothing to show: it needs two runs of the ablation"):
        FIGURES["ablation"].draw(tables, read_context(synthetic_tables.context()))


def test_the_configured_runs_are_checked_before_any_job():
    families = synthetic_tables.families()
    assert all(spec.needs(families) == [] for spec in FIGURES.values())
    missing = FIGURES["two_sides"].needs({"ce": "cross_entropy"})
    assert missing == ["a run of the family 'msa'"]
    assert FIGURES["ablation"].needs({"ce": "cross_entropy"}) == [
        "a run of the family 'distillation'",
        "a run of the family 'ablation' or 'asymmetric'",
    ]


def test_captions_name_the_experiment():
    context = read_context(synthetic_tables.context(splits=1, seeds=3))
    for spec in FIGURES.values():
        caption = spec.caption_for(context).replace("\N{NO-BREAK SPACE}", " ")
        assert (
            "Experiment digits on scikit-learn digits, protocol mnist, 1 split \N{MULTIPLICATION SIGN} 3 seeds."
            in caption
        )
        assert "{" not in caption


def test_the_registry_is_light_and_true():
    code = (
        "import sys; import openset_distill.report.figures, openset_distill.report.tables; "
        "heavy = {'matplotlib', 'seaborn', 'pandas.core', 'torch', 'sklearn', 'scipy'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"reading the registries imports {done.stderr}"
    for name, spec in FIGURES.items():
        assert spec.name == name
        assert set(spec.tables) <= set(TIDY_TABLES)
    with pytest.raises(SettingsError, match=r"unknown figure 'two_side'; did you mean 'two_sides'\?"):
        figure_spec("two_side")
    with pytest.raises(DataError, match="reads the table 'runs'"):
        FIGURES["two_sides"].draw({}, read_context(synthetic_tables.context()))


BROKEN = {
    "": "is empty",
    "split,seed\n": "lacks the column run, label",
    "HEADER\n": "has no rows",
    'HEADER\n"a,b\n': "is damaged",
    "HEADER\nce,CE,cross_entropy,0,0,roc,0,many\n": "holds 'many' in line 2, column 'y', which must be a number",
    "HEADER\nce,CE,cross_entropy,0,0,roc,0,1\nce,CE,cross_entropy,0,0,roc,0,71\n": "holds 71 in line 3, column 'y'",
    "HEADER\nce,CE,cross_entropy,0,,roc,0,1\n": "has no number in line 2, column 'seed'",
    "HEADER\nce,CE,cross_entropy,0,0,roc,0,1": "is cut off: its last line has no end",
    "HEADER\n" + 2 * "ce,CE,cross_entropy,0,0,roc,0,1\n": "has a row twice, the second time in line 3",
    "HEADER\nce,CE,cross_entropie,0,0,roc,0,1\n": "has the family 'cross_entropie'; did you mean 'cross_entropy'",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_table_is_one_clear_error(tmp_path, text):
    path = tmp_path / "curves.csv"
    path.write_text(text.replace("HEADER", "run,label,family,split,seed,curve,x,y"))
    with pytest.raises(DataError) as caught:
        tidy.read_tidy("curves", path)
    assert BROKEN[text] in str(caught.value)
    assert str(path) in str(caught.value)
    if "family" not in BROKEN[text]:
        assert "make it again with the rule aggregate" in str(caught.value)


def test_a_table_that_is_not_the_one_whose_checksum_was_recorded_is_refused(tmp_path):
    path = synthetic_tables.write(tmp_path, {"runs": synthetic_tables.make(splits=1, runs=("ce",))["runs"]})["runs"]
    tidy.write_checksums(tmp_path, ["runs.csv"])
    read = tidy.read_tidy("runs", path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"\n", b"\r\n"))  # as git writes it on another system
    assert tidy.read_tidy("runs", path).equals(read)
    for changed in (whole[: whole.rindex(b"\n", 0, -1) + 1], whole.replace(b",full,", b",balanced,", 1)):
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"rows are missing or changed.* rule aggregate: .*if the change is meant"):
            tidy.read_tidy("runs", path)
    (tmp_path / tidy.CHECKSUMS).write_text("hello")
    with pytest.raises(DataError, match="SHA256SUMS is no list of checksums"):
        tidy.read_tidy("runs", path)
    (tmp_path / tidy.CHECKSUMS).unlink()  # folders of before have none
    tidy.read_tidy("runs", path)


@pytest.mark.parametrize("keep", [0.5, 0.7, 0.95])
def test_a_table_that_lost_its_end_is_refused(tmp_path, keep):
    paths = synthetic_tables.write(tmp_path, {"runs": synthetic_tables.make(splits=2, runs=("ce", "cutmix"))["runs"]})
    context = read_context(synthetic_tables.context(splits=2, class_sets={0: "a", 1: "b"}))
    tidy.read_tables(paths, ["runs"], context)
    lines = paths["runs"].read_text().splitlines(keepends=True)
    paths["runs"].write_text("".join(lines[: int(keep * len(lines))]))
    with pytest.raises(
        DataError, match=r"table runs .* is not complete: it lacks rows of (the run '(ce|cutmix)' for split 1|split 1;)"
    ):
        tidy.read_tables(paths, ["runs"], context)


def test_class_sets_come_from_the_table_the_experiment_or_the_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(SCRIPT.parents[1])
    tables = synthetic_tables.make(splits=3, runs=("ce",))
    tables["runs"]["protocol"] = "cifar10"
    paths = synthetic_tables.write(tmp_path, tables)
    published = tidy.read_tidy("runs", paths["runs"])
    by_split = published.groupby("split")["class_set"].unique().map(list).tolist()
    assert by_split[0] == by_split[1] != by_split[2], "a table from before the column: the protocol says it"
    assert tidy.read_tidy("curves", paths["curves"])["class_set"].nunique() == 3
    context = read_context(synthetic_tables.context(splits=3, class_sets={"0": "a", "1": "b", "2": "a"}))
    curves = tidy.read_tables(paths, ["curves"], context)["curves"]
    assert curves.groupby("split")["class_set"].first().tolist() == ["a", "b", "a"]
    with pytest.raises(DataError, match="holds split 2, which the experiment does not have"):
        tidy.read_tidy("curves", paths["curves"], {0: "a", 1: "b"})


def test_a_missing_table_names_the_rule_that_makes_it(tmp_path):
    with pytest.raises(DataError, match=r"is missing at .*curves\.csv; make it with the rule aggregate: snakemake -- "):
        tidy.read_tidy("curves", tmp_path / "curves.csv")
    with pytest.raises(DataError, match="cannot read the table curves"):
        tidy.read_tidy("curves", tmp_path)
    with pytest.raises(SettingsError, match="no tidy table 'curve'; did you mean 'curves'"):
        tidy.read_tidy("curve", tmp_path)


def test_text_stays_text(tmp_path):
    """Class 0 and a class called nan are names, not numbers."""
    table = synthetic_tables.make(splits=1, runs=("ce",), classes=("0", "nan", "NA"))["embedding"]
    assert set(read(tmp_path, {"embedding": table})["embedding"]["class"]) == {"0", "nan", "NA", "unknown"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": 3}, "the figure context has no field 'split'; did you mean 'splits'"),
        ({"splits": "many"}, "the figure context: splits: "),
        ({"seeds": 0}, "the figure context: seeds: "),
        ({"highlight": {"baselin": "ce"}}, "highlight in the figure context has no field 'baselin'"),
        ({"highlight": {"ablation": "ce"}}, "the figure context: highlight.ablation: "),
    ],
)
def test_a_wrong_context_is_one_clear_error(change, message):
    with pytest.raises(SettingsError) as caught:
        read_context(synthetic_tables.context(**change))
    assert str(caught.value).startswith(message)


def test_a_context_comes_as_text_or_file(tmp_path):
    plain = synthetic_tables.context()
    path = tmp_path / "context.json"
    path.write_text(json.dumps(plain))
    assert read_context(json.dumps(plain)) == read_context(str(path)) == read_context(plain)
    for source, message in [
        ("{no", "is not valid JSON"),
        ('{"experiment": "digits"}', "lacks title, dataset_title, protocol, splits, seeds"),
        (str(tmp_path / "other.json"), "is missing"),
    ]:
        with pytest.raises(OpenSetError, match=message):
            read_context(source)
    path.write_text("[1]")
    with pytest.raises(SettingsError, match="must be a JSON object"):
        read_context(str(path))


def command(folder: Path, stem: str, name: str, tables: dict[str, Path], environment: dict[str, str]):
    parts = [part for table, path in tables.items() for part in ("--table", f"{table}={path}")]
    parts += [part for kind in ("pdf", "png", "csv") for part in (f"--{kind}", str(folder / f"{stem}.{kind}"))]
    parts += ["--context", json.dumps(synthetic_tables.context())]
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--name", name, *parts],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_the_command_draws_the_same_bytes_whatever_the_users_settings(tmp_path):
    tables = {"runs": synthetic_tables.make(splits=2)["runs"]}
    paths = synthetic_tables.write(tmp_path / "tidy", tables)
    (tmp_path / "matplotlibrc").write_text("font.size: 20\naxes.grid: False\nbackend: pdf\n")
    plain = command(tmp_path, "plain", "two_sides", paths, {"PYTHONHASHSEED": "1"})
    odd = {"PYTHONHASHSEED": "2", "MATPLOTLIBRC": str(tmp_path), "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "0"}
    other = command(tmp_path, "other", "two_sides", paths, odd)
    assert plain.returncode == 0, plain.stderr
    assert other.returncode == 0, other.stderr
    for kind in ("pdf", "png", "csv"):
        assert (tmp_path / f"plain.{kind}").read_bytes() == (tmp_path / f"other.{kind}").read_bytes()


def test_the_command_ends_with_a_message_and_no_file(tmp_path):
    broken = tmp_path / "runs.csv"
    broken.write_text("")
    done = command(tmp_path, "out", "two_sides", {"runs": broken}, {})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(f"error: the table runs at {broken} is empty; make it again with the rule aggregate")
    assert not list(tmp_path.glob("out*"))
    done = command(tmp_path, "out", "two_sides", {}, {})
    assert done.returncode == 2
    assert "add --table runs=PATH" in done.stderr


def test_a_label_in_a_crowd_keeps_its_place_from_one_drawing_to_the_next():
    """Twenty points within a tenth of the axes: no label on another, each near its point."""
    generator = np.random.default_rng(3)
    points = [tuple(point) for point in 0.45 + 0.1 * generator.random((20, 2))]
    names = [f"run number {i}" for i in range(20)]
    placed = []
    for _ in range(2):
        figure = style.new_figure(6.9, 4.5)
        axes = figure.subplots()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        style.place_labels(axes, points, names, colors=["black"] * 20)
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        placed.append([text.get_position() for text in axes.texts])
    assert placed[0] == placed[1]


def test_bars_end_where_a_quantity_ends():
    axes = style.new_figure(3, 3).subplots()
    table = pd.DataFrame({"x": [0, 0], "y": [1.0, 60.0], tidy.CLASS_SET: ["a", "b"]})
    look = style.looks(["ce"], {"ce": "cross_entropy"})["ce"]
    style.mean_line(axes, table, "x", "y", look, "CE", limits=(0, 100))
    (bars,) = axes.collections
    assert [tuple(point) for point in bars.get_segments()[0]] == [(0, 0), (0, pytest.approx(30.5 + 59 / 2**0.5))]


def test_feature_space_draws_no_more_unknowns_than_knowns_and_behind_them(drawn):
    _, figure, data = drawn("full", "feature_space")
    counts = data.assign(known=tidy.known_images(data)).groupby(["run", "known"]).size().unstack()
    assert (counts[False] <= counts[True]).all()
    assert counts[False].min() > 0
    for axes in figure.axes:
        behind, *knowns = sorted(axes.collections, key=lambda points: points.get_zorder())
        assert knowns
        assert behind.get_zorder() < min(points.get_zorder() for points in knowns)
        assert len(behind.get_offsets()) == counts[False].iloc[0]
    assert "t-SNE" in footer(figure)


def test_classes_of_imagenet_have_words():
    named = tidy.printable_columns(pd.DataFrame({"class": ["n02279972", "frog", "n00000000"]}))
    assert list(named["class"]) == ["monarch", "frog", "n00000000"]
