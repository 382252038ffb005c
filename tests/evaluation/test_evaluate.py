"""Evaluation of one run: rows, samplings, intervals, curves, and files that are whole or refused by name."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import numpy as np
import pytest

from openset_distill.core.errors import DataError, OpenSetError, SettingsError
from openset_distill.evaluation import evaluate as evaluation
from openset_distill.evaluation import metrics, scores

KEYS = ["score", "group", "sampling", "metric", "value", "low", "high", "n_known", "n_unknown"]


def outputs(n_known=60, unknown=(25, 35), classes=4, seed=0):
    """A made-up classifier: knowns have one high logit, unknowns a lower one."""
    generator = np.random.default_rng(seed)
    n = n_known + sum(unknown)
    group = np.repeat(np.arange(len(unknown) + 1), [n_known, *unknown]).astype(np.int16)
    labels = np.where(group == 0, generator.integers(0, classes, n), -1)
    logits = generator.normal(size=(n, classes)).astype(np.float32)
    logits[np.arange(n), labels] += np.where(group == 0, 3, 1)
    names = ["known", "unknown"] if len(unknown) == 1 else ["known", *(f"level {i}" for i in range(len(unknown)))]
    order = generator.permutation(n)
    return {
        "features": generator.normal(size=(n, 8)).astype(np.float32)[order],
        "logits": logits[order],
        "labels": labels[order],
        "group": group[order],
        "group_names": np.array(names),
    }


def find(rows, **keys):
    (row,) = [row for row in rows if all(row[key] == value for key, value in keys.items())]
    return row


def same(rows, others):
    return all(
        a[key] == b[key] or (isinstance(a[key], float) and math.isnan(a[key]) and math.isnan(b[key]))
        for a, b in zip(rows, others, strict=True)
        for key in KEYS
    )


def test_rows_cover_every_score_group_sampling_and_metric_once():
    rows = evaluation.evaluate(
        outputs(), scores=("maximum_logit", "msp"), sampling=("full", "balanced"), bootstrap=20, seed=0
    )
    assert all(list(row) == KEYS for row in rows)
    accuracy, *rest = rows
    assert [accuracy[key] for key in ("score", "group", "sampling", "metric", "n_known", "n_unknown")] == [
        "",
        "known",
        "full",
        "accuracy",
        60,
        0,
    ]
    expected = {
        (score, group, sampling, metric)
        for score in ("maximum_logit", "msp")
        for group in ("all", "level 0", "level 1")
        for sampling in ("full", "balanced")
        for metric in ("auroc", "aupr_known", "aupr_unknown", "fpr95", "oscr", "openauc")
    }
    found = [(row["score"], row["group"], row["sampling"], row["metric"]) for row in rest]
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert all(type(row["value"]) is float and type(row["n_unknown"]) is int for row in rows)
    assert all(0 <= row["low"] <= row["high"] <= 1 for row in rows)


def test_one_group_of_unknowns_is_reported_as_all_only():
    rows = evaluation.evaluate(outputs(unknown=(30,)), bootstrap=0, seed=0)
    assert {row["group"] for row in rows} == {"known", "all"}


def test_values_are_the_metrics_of_the_chosen_images():
    given = outputs()
    rows = evaluation.evaluate(given, scores=("feature_norm",), bootstrap=50, seed=0)
    known = given["group"] == 0
    correct = given["logits"][known].argmax(axis=1) == given["labels"][known]
    norm = scores.feature_norm(given["features"])
    assert find(rows, metric="accuracy")["value"] == correct.mean()
    for group, chosen in (("all", given["group"] > 0), ("level 1", given["group"] == 2)):
        row = find(rows, group=group, metric="auroc")
        assert row["value"] == metrics.auroc(norm[known], norm[chosen])
        assert (row["n_known"], row["n_unknown"]) == (60, chosen.sum())
        assert row["low"] < row["value"] < row["high"]
        assert find(rows, group=group, metric="oscr")["value"] == metrics.oscr(norm[known], norm[chosen], correct)


def test_balanced_takes_as_many_unknowns_as_knowns_with_and_without_replacement():
    given = outputs(n_known=40, unknown=(15, 100))
    rows = evaluation.evaluate(given, sampling=("balanced",), bootstrap=0, seed=0)
    assert {row["n_unknown"] for row in rows if row["score"]} == {40}
    full = evaluation.evaluate(given, sampling=("full",), bootstrap=0, seed=0)
    # 40 draws from 100 without replacement differ from the whole; the mean over many draws is the whole
    for group in ("all", "level 0", "level 1"):
        draws = [
            find(
                evaluation.evaluate(given, sampling=("balanced",), bootstrap=0, seed=seed), group=group, metric="auroc"
            )["value"]
            for seed in range(60)
        ]
        assert len(set(draws)) > 1
        assert np.mean(draws) == pytest.approx(find(full, group=group, metric="auroc")["value"], abs=0.02)


def test_repeated_unknowns_do_not_pretend_to_be_more_images():
    # twelve unknowns drawn a hundred times: were the draws taken for independent images, the interval would cover the
    # true AUROC, Phi(1 / sqrt(2)), in far fewer than 95 of 100 cases
    truth, covered, runs = 0.76025, 0, 150
    given = outputs(n_known=100, unknown=(12,))
    known = given["group"] == 0
    for seed in range(runs):
        position = np.random.default_rng(seed).normal(size=112) + known
        given["features"] = np.exp(position)[:, None]
        rows = evaluation.evaluate(
            given, scores=("feature_norm",), sampling=("balanced",), bootstrap=200, seed=1000 + seed
        )
        row = find(rows, metric="auroc")
        covered += row["low"] <= truth <= row["high"]
    assert 0.87 * runs <= covered < runs


def test_balanced_with_exactly_enough_unknowns_is_the_full_set():
    given = outputs(n_known=30, unknown=(30,))
    rows = evaluation.evaluate(given, sampling=("full", "balanced"), bootstrap=0, seed=5)
    for metric in metrics.METRICS:
        full, balanced = (find(rows, metric=metric, sampling=name)["value"] for name in ("full", "balanced"))
        assert balanced == pytest.approx(full, abs=1e-12)


def test_rows_are_seeded_and_do_not_depend_on_what_else_is_asked_for():
    given = outputs()
    both = evaluation.evaluate(given, scores=("msp", "energy"), sampling=("full", "balanced"), bootstrap=30, seed=3)
    again = evaluation.evaluate(given, scores=("msp", "energy"), sampling=("full", "balanced"), bootstrap=30, seed=3)
    assert same(both, again)
    alone = evaluation.evaluate(given, scores=("energy",), sampling=("balanced",), bootstrap=30, seed=3)
    matching = [row for row in both if row["score"] in ("", "energy") and row["sampling"] != "full"]
    assert same(matching, alone[1:])
    other = evaluation.evaluate(given, scores=("energy",), sampling=("balanced",), bootstrap=30, seed=4)
    assert not same(alone, other)


def test_no_interval_without_resamples_or_with_a_single_image():
    for given, resamples in ((outputs(), 0), (outputs(unknown=(1,)), 20), (outputs(n_known=1), 20)):
        rows = evaluation.evaluate(given, sampling=("full", "balanced"), bootstrap=resamples, seed=0)
        assert all(math.isnan(row["low"]) and math.isnan(row["high"]) for row in rows if row["score"])
        assert all(math.isfinite(row["value"]) for row in rows)


def test_no_score_leaves_accuracy():
    (row,) = evaluation.evaluate(outputs(), scores=(), bootstrap=5, seed=0)
    assert row["metric"] == "accuracy"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scores": ("mps",)}, "unknown score 'mps'; did you mean 'msp'"),
        ({"sampling": ("balance",)}, "unknown sampling 'balance'; did you mean 'balanced'"),
        ({"bootstrap": -1}, "bootstrap is -1"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        evaluation.evaluate(outputs(), seed=0, **settings)


def test_headline_takes_the_full_set_of_all_unknowns():
    rows = evaluation.evaluate(
        outputs(), scores=("msp", "maximum_logit"), sampling=("balanced", "full"), bootstrap=0, seed=0
    )
    numbers = evaluation.headline(rows)
    assert list(numbers) == ["accuracy", "auroc", "aupr_known", "aupr_unknown", "fpr95", "oscr", "openauc"]
    assert numbers["accuracy"] == find(rows, metric="accuracy")["value"]
    wanted = find(rows, score="maximum_logit", group="all", sampling="full", metric="fpr95")["value"]
    assert numbers["fpr95"] == wanted
    assert evaluation.headline(rows, "msp")["auroc"] != numbers["auroc"]


@pytest.mark.parametrize(
    "settings",
    [{"scores": ("msp",)}, {"scores": ("maximum_logit",), "sampling": ("balanced",)}],
)
def test_headline_says_what_is_absent(settings):
    rows = evaluation.evaluate(outputs(), bootstrap=0, seed=0, **settings)
    with pytest.raises(SettingsError, match=r"no auroc, .* of score 'maximum_logit' with sampling 'full'"):
        evaluation.headline(rows)


def test_curves_have_the_grid_and_the_area():
    given = outputs(n_known=800, unknown=(500, 400))
    drawn = evaluation.curves(given, "energy", points=501)
    rows = evaluation.evaluate(given, scores=("energy",), bootstrap=0, seed=0)
    for name, metric in (("roc", "auroc"), ("oscr", "oscr")):
        x, y = drawn[name]
        np.testing.assert_array_equal(x, np.linspace(0, 1, 501))
        assert np.trapezoid(y, x) == pytest.approx(find(rows, group="all", metric=metric)["value"], abs=2e-3)
        assert (np.diff(y) >= 0).all()
    assert drawn["roc"][1][-1] == 1.0
    assert drawn["oscr"][1][-1] == find(rows, metric="accuracy")["value"]
    assert len(evaluation.curves(given)["roc"][0]) == 201


def test_curves_need_two_points():
    with pytest.raises(SettingsError, match="1 points; at least 2"):
        evaluation.curves(outputs(), points=1)


def test_save_and_load_round_trip(tmp_path):
    given = outputs()
    path = tmp_path / "run" / "outputs.npz"
    # wider inputs are stored in the file's own types
    wide = {**given, "logits": given["logits"].astype(np.float64), "group_names": given["group_names"].tolist()}
    evaluation.save_outputs(path, **wide)
    loaded = evaluation.load_outputs(path)
    assert {name: array.dtype.kind + str(array.dtype.itemsize) for name, array in loaded.items()} == {
        "features": "f4",
        "logits": "f4",
        "labels": "i8",
        "group": "i2",
        "group_names": f"U{4 * 7}",
    }
    for name, array in given.items():
        np.testing.assert_array_equal(loaded[name], array)
    assert [entry.name for entry in path.parent.iterdir()] == ["outputs.npz"]


def test_the_same_outputs_are_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        evaluation.save_outputs(tmp_path / name, **outputs())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_refused_outputs_leave_the_old_file(tmp_path):
    path = tmp_path / "outputs.npz"
    evaluation.save_outputs(path, **outputs())
    before = path.read_bytes()
    broken = outputs()
    broken["logits"][3, 1] = np.inf
    with pytest.raises(DataError, match="logits of 1 of 120 images are not finite"):
        evaluation.save_outputs(path, **broken)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OpenSetError, match=r"cannot write .*outputs\.npz"):
        evaluation.save_outputs(tmp_path / "file" / "outputs.npz", **outputs())


@pytest.mark.parametrize("kept", [0, 10, 500, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(tmp_path, kept):
    path = tmp_path / "outputs.npz"
    evaluation.save_outputs(path, **outputs())
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(DataError, match=r"outputs\.npz is cut off .*; delete it, and the same command makes it again"):
        evaluation.load_outputs(path)


def test_a_file_with_a_changed_byte_is_refused(tmp_path):
    path = tmp_path / "outputs.npz"
    evaluation.save_outputs(path, **outputs())
    data = bytearray(path.read_bytes())
    data[1000] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match="delete it, and the same command makes it again"):
        evaluation.load_outputs(path)


def test_files_that_are_something_else_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"absent\.npz is missing; run the step"):
        evaluation.load_outputs(tmp_path / "absent.npz")
    with pytest.raises(DataError, match="is a folder where a file belongs"):
        evaluation.load_outputs(tmp_path)
    text = tmp_path / "text.npz"
    text.write_text("split,seed\n" * 100)
    with pytest.raises(DataError, match="not the outputs of a run"):
        evaluation.load_outputs(text)
    single = tmp_path / "single.npy"
    np.save(single, np.ones(3))
    with pytest.raises(DataError, match="cut off or not the outputs of a run"):
        evaluation.load_outputs(single)
    other = tmp_path / "other.npz"
    np.savez(other, logits=np.ones((2, 2)), labels=np.ones(2))
    with pytest.raises(DataError, match="has no array 'features', 'group', 'group_names'"):
        evaluation.load_outputs(other)
    # an object array would have to be unpickled
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, **{**outputs(), "labels": np.array([{}], dtype=object)}, allow_pickle=True)
    with pytest.raises(DataError, match="not the outputs of a run"):
        evaluation.load_outputs(pickled)


def changed(name, change):
    given = outputs()
    given[name] = change(given[name])
    return given


def with_nan(array):
    array[[2, 5], 0] = np.nan
    return array


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"logits": np.ones((2, 2))}, "no array 'features', 'labels', 'group', 'group_names'"),
        (
            changed("features", lambda a: a[:-1]),
            r"differ in length \(features 119, logits 120, labels 120, group 120\)",
        ),
        (changed("features", np.ravel), r"features has shape \[960\], 2 dimension"),
        (changed("features", with_nan), "features of 2 of 120 images are not finite"),
        (changed("logits", with_nan), "logits of 2 of 120 images are not finite"),
        (changed("labels", lambda a: a.astype(np.float64)), "labels has dtype float64, integers are needed"),
        (changed("labels", lambda a: a + 1), "labels run from 0 to 4, but with 4 logits"),
        (changed("labels", lambda a: np.maximum(a, 0)), "label -1 and a group above 0 must mark the same images"),
        (changed("group", lambda a: a * 2), "group codes run from 0 to 4, but 3 groups are named"),
        (changed("group", lambda a: -a), "group codes run from -2 to 0, but 3 groups"),
        (changed("group_names", lambda a: np.append(a, "hard")), "group 'hard' has no image"),
        (changed("group_names", lambda a: a[::-1]), "must begin with 'known'"),
        (changed("group_names", lambda a: np.array(["known", "all", "hard"])), "reserved name 'all'"),
        (changed("group_names", lambda a: np.array(["known", "hard", "hard"])), "be distinct"),
        (outputs(unknown=()), "there is no unknown group"),
        (outputs(n_known=0), "group 'known' has no image"),
        (outputs(n_known=0, unknown=(0,)), "group 'known', 'unknown' has no image"),
    ],
)
@pytest.mark.parametrize("function", [evaluation.check_outputs, evaluation.curves])
def test_outputs_that_cannot_be_evaluated_are_refused(function, given, message):
    with pytest.raises(DataError, match=message):
        function(given)


def test_a_refused_file_is_named(tmp_path):
    path = tmp_path / "outputs.npz"
    np.savez(path, **changed("logits", with_nan))
    with pytest.raises(DataError, match=r"outputs\.npz: logits of 2 of 120"):
        evaluation.load_outputs(path)


def test_evaluation_loads_no_heavy_library():
    code = (
        "import sys; from openset_distill import evaluation;"
        "heavy = {'torch', 'sklearn', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_full_evaluation_takes_seconds():
    given = outputs(n_known=1000, unknown=(9000,), classes=20)
    start = time.process_time()
    evaluation.evaluate(
        given,
        scores=("maximum_logit", "msp", "energy", "feature_norm"),
        sampling=("full", "balanced"),
        bootstrap=1000,
        seed=0,
    )
    assert time.process_time() - start < 8.0
