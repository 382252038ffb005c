"""Detectors: against pytorch-ood called plainly, the sign convention, and mistakes that are named with their remedy."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import pytorch_ood.detector as library
import torch
from checkout import checkout
from commands import job, script, succeed, train
from small_repository import jobs, snakemake
from torch import nn

from openset_distill.config.experiment import load
from openset_distill.config.loading import merge, read_configuration
from openset_distill.core.errors import DataError, SettingsError
from openset_distill.evaluation import scores
from openset_distill.evaluation.detectors import (
    DETECTORS,
    TrainingOutputs,
    balanced_choice,
    detect,
    load_training_outputs,
)
from openset_distill.evaluation.evaluate import save_outputs
from openset_distill.report.context import SCORE_TITLES

CLASSES, D = 4, 12


def network(n: int, *, unknown: bool = False, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, logits and labels of a made-up network: classes are clusters, unknowns lie between and beside them."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, n)
    centres = np.random.default_rng(7).normal(size=(CLASSES, D)) * 3
    features = np.abs((centres.mean(axis=0) if unknown else centres[labels]) + generator.normal(size=(n, D)))
    features = features.astype(np.float32)
    head = linear_head()
    return features, features @ head.weight.detach().numpy().T + head.bias.detach().numpy(), labels


def linear_head() -> nn.Linear:
    """A head that gives the nearest centre the largest logit."""
    head = nn.Linear(D, CLASSES)
    centres = np.abs(np.random.default_rng(7).normal(size=(CLASSES, D)) * 3)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(centres - centres.mean(axis=0)))
        lengths = (centres**2).sum(axis=1)
        head.bias.copy_(torch.from_numpy((lengths.mean() - lengths) / 2))
    return head


def training(n: int = 300, **changes: np.ndarray) -> TrainingOutputs:
    features, logits, labels = network(n)
    head = linear_head()
    arrays = {
        "features": features,
        "logits": logits,
        "labels": labels,
        "head_weight": head.weight.detach().numpy(),
        "head_bias": head.bias.detach().numpy(),
    }
    return TrainingOutputs(**{**arrays, **changes})


KNOWN, UNKNOWN = network(60, seed=1), network(60, unknown=True, seed=2)
FEATURES, LOGITS = (np.concatenate(pair) for pair in list(zip(KNOWN, UNKNOWN, strict=True))[:2])


def plain(name: str) -> torch.Tensor:
    """What the library itself gives, outlier scores, from its own calls on one batch."""
    head = linear_head()
    z, f, y = (torch.from_numpy(array) for array in network(300))
    if name == "openmax":
        return library.OpenMax(nn.Identity(), 20, CLASSES, 1.0).fit_logits(f, y).predict(torch.from_numpy(LOGITS))
    x = torch.from_numpy(FEATURES)
    if name == "vim":
        return library.ViM(nn.Identity(), 6, head.weight, head.bias).fit_features(z, y).predict(x)
    if name == "knn":
        return library.KNN(nn.Identity(), 50).fit_features(z, y).predict(x)
    if name == "mahalanobis":
        return library.Mahalanobis(nn.Identity()).fit_features(z, y).predict(x)
    assert name == "react"
    return library.ReAct(nn.Identity(), head, percentile=0.9).fit_feature_maps(z, y).predict(x)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_is_the_librarys_with_the_sign_turned(name, monkeypatch):
    assert np.unique(LOGITS.argmax(axis=1)).size == CLASSES  # the library's OpenMax leaves out the others
    expected = -plain(name).double().numpy()
    found = detect([name], training(), FEATURES, LOGITS)[name]
    assert found.dtype == np.float64
    assert found.shape == (120,)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(found, detect([name], training(), FEATURES, LOGITS)[name]), "the same again"
    # blocks bound the memory and change nothing
    monkeypatch.setattr("openset_distill.evaluation.detectors.BLOCK", 7)
    np.testing.assert_allclose(detect([name], training(), FEATURES, LOGITS)[name], found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DETECTORS)
def test_larger_means_more_known(name):
    found = detect([name], training(), FEATURES, LOGITS)[name]
    assert np.median(found[:60]) > np.median(found[60:])


def test_gradnorm_is_the_librarys_on_the_heads_weights():
    detector = library.GradNorm(linear_head(), param_filter=lambda name: name == "weight").to("cpu")
    expected = -detector.predict(torch.from_numpy(FEATURES)).double().numpy()
    np.testing.assert_allclose(scores.score("gradnorm", FEATURES, LOGITS), expected, rtol=1e-5)


def test_settings_reach_the_library():
    near = detect([{"name": "knn", "k": 1}], training(), FEATURES, LOGITS)["knn"]
    assert (near >= detect(["knn"], training(), FEATURES, LOGITS)["knn"]).all()
    assert near.max() < 0
    # with no activation clipped, ReAct is the energy
    clipped = detect([{"name": "react", "percentile": 1.0}], training(), KNOWN[0] * 0.1, LOGITS[:60])["react"]
    head = linear_head()
    logits = head(torch.from_numpy(KNOWN[0] * 0.1)).detach().numpy()
    np.testing.assert_allclose(clipped, scores.energy(logits), rtol=1e-5)


def test_every_detector_has_a_title_and_a_name_of_its_own():
    assert not set(DETECTORS) & set(scores.SCORES)
    assert {*DETECTORS, *scores.SCORES} <= set(SCORE_TITLES)


def few(labels: list[int]) -> TrainingOutputs:
    n = len(labels)
    return training(n, labels=np.array(labels))


@pytest.mark.parametrize(
    ("detector", "outputs", "words"),
    [
        ("openmax", few([0, 1, 2, 3] * 10), ["to 20 images of each class", "class 0 has 10", "smaller tailsize"]),
        ("knn", few([0, 1, 2, 3] * 10), ["neighbour 50 among 40", "smaller k"]),
        ("mahalanobis", few([0, 1, 3] * 10), ["class 2 has none", "detector_samples"]),
        ({"name": "vim", "components": D}, training(), ["12 from 12 features", "below 12"]),
        ("vim", training(head_weight=np.zeros((0, D), np.float32)), ["linear head", "leave it out"]),
        ("react", training(head_weight=np.zeros((0, D), np.float32)), ["linear head", "leave it out"]),
        ("mahalanobi", training(), ["unknown detector 'mahalanobi'", "'mahalanobis'"]),
        ({"name": "knn", "n": 3}, training(), ["no setting 'n'", "k"]),
    ],
)
def test_what_a_detector_cannot_do_is_said_with_the_remedy(detector, outputs, words):
    with pytest.raises(SettingsError) as caught:
        detect([detector], outputs, FEATURES, LOGITS)
    assert all(word in str(caught.value) for word in words), caught.value


def test_outputs_of_another_network_and_scores_without_meaning_are_refused():
    with pytest.raises(DataError, match="have 11 features and 4 logits, the training images 12 and 4"):
        detect(["knn"], training(), FEATURES[:, :11], LOGITS)
    # all features are the same: nothing lies outside of the principal subspace
    flat = training(features=np.zeros((300, D), np.float32), head_bias=np.zeros(CLASSES, np.float32))
    with pytest.raises(DataError, match="'vim' gives 120 of 120 images a score that is not finite; leave it out"):
        detect(["vim"], flat, np.zeros_like(FEATURES), LOGITS)


def test_the_choice_is_balanced_seeded_and_complete():
    labels = np.repeat([0, 1, 2], [5, 100, 50])
    chosen = balanced_choice(labels, 35, np.random.default_rng(3))
    assert np.bincount(labels[chosen]).tolist() == [5, 15, 15]
    assert np.array_equal(chosen, np.unique(chosen))
    assert np.array_equal(chosen, balanced_choice(labels, 35, np.random.default_rng(3)))
    assert not np.array_equal(chosen, balanced_choice(labels, 35, np.random.default_rng(4)))
    assert np.array_equal(balanced_choice(labels, 1000, np.random.default_rng(0)), np.arange(155))


def test_training_outputs_are_whole_or_refused(tmp_path):
    path = tmp_path / "training_outputs.npz"
    training().save(path)
    again = load_training_outputs(path)
    assert all(np.array_equal(value, getattr(again, name)) for name, value in vars(training()).items())
    with pytest.raises(DataError, match=r"nothing\.npz is missing; run the step that makes it first"):
        load_training_outputs(tmp_path / "nothing.npz")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="is cut off or not the outputs on training images"):
        load_training_outputs(path)
    for changes, words in (
        ({"labels": np.zeros(7, int)}, "do not fit together"),
        ({"labels": np.full(300, CLASSES)}, "do not fit together"),
        ({"logits": np.full((300, CLASSES), np.nan)}, "logits is not finite; train the run again"),
        ({"head_bias": np.zeros((1, 1))}, r"head_bias has shape \[1, 1\]"),
    ):
        training(**changes).save(path)
        with pytest.raises(DataError, match=words):
            load_training_outputs(path)


def test_outputs_of_two_networks_are_refused(tmp_path):
    group = (np.arange(len(LOGITS)) >= 60).astype(int)
    labels = np.where(group == 0, np.resize(KNOWN[2], len(LOGITS)), -1)
    arrays = {"features": FEATURES, "logits": LOGITS, "labels": labels, "group": group}
    for name, digest in (("one", 64 * "1"), ("two", 64 * "2"), ("old", "")):
        save_outputs(tmp_path / f"{name}.npz", **arrays, group_names=["known", "unknown"], weights=digest)
        training(weights=digest).save(tmp_path / f"{name}_training.npz")
    assert load_training_outputs(tmp_path / "one_training.npz", tmp_path / "one.npz").weights == 64 * "1"
    with pytest.raises(DataError, match=r"one\.npz and .*two_training\.npz come from two networks .*; delete both"):
        load_training_outputs(tmp_path / "two_training.npz", tmp_path / "one.npz")
    # files of earlier versions do not say where they come from
    load_training_outputs(tmp_path / "old_training.npz", tmp_path / "one.npz")
    load_training_outputs(tmp_path / "one_training.npz", tmp_path / "old.npz")


def test_the_evaluation_reports_detectors_beside_scores(tmp_path):
    n = len(LOGITS)
    group = (np.arange(n) >= 60).astype(int)
    labels = np.where(group == 0, np.resize(KNOWN[2], n), -1)
    save_outputs(
        tmp_path / "outputs.npz",
        features=FEATURES,
        logits=LOGITS,
        labels=labels,
        group=group,
        group_names=["known", "unknown"],
    )
    training().save(tmp_path / "training.npz")
    wanted = {"scores": ["maximum_logit"], "detectors": [{"name": "knn"}], "sampling": ["full"], "bootstrap": 0}
    command = [sys.executable, "workflow_scripts/evaluate.py", "--outputs", tmp_path / "outputs.npz"]
    command += ["--settings", json.dumps(wanted | {"activation_samples": 50})]
    for name in ("metrics", "curves", "activations"):
        command += [f"--{name}", tmp_path / name]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "give their outputs with --training" in refused.stderr
    done = subprocess.run([*command, "--training", tmp_path / "training.npz"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "metrics").read_text())["rows"]
    area = {row["score"]: row["value"] for row in rows if row["metric"] == "auroc"}
    found = detect(["knn"], training(), FEATURES, LOGITS)["knn"]
    assert set(area) == {"maximum_logit", "knn"}
    # reciprocal points are no linear head: what computes with one is left out, the rest stays
    training(head_weight=np.zeros((0, D), np.float32), head_bias=np.zeros(0, np.float32)).save(tmp_path / "other.npz")
    command[command.index("--settings") + 1] = json.dumps(
        wanted | {"detectors": [{"name": "vim"}, {"name": "knn"}], "activation_samples": 50}
    )
    done = subprocess.run([*command, "--training", tmp_path / "other.npz"], capture_output=True, text=True)
    assert done.returncode == 0 and "vim is left out" in done.stdout, done.stderr
    assert {row["score"] for row in json.loads((tmp_path / "metrics").read_text())["rows"]} == {"", *area}
    assert area["knn"] == pytest.approx((found[:60, None] > found[None, 60:]).mean(), abs=1e-3)
    # a detector can be what runs are compared by: the headline and the curves are its own
    by_knn = wanted | {"headline": "knn", "activation_samples": 50}
    command[command.index("--settings") + 1] = json.dumps(by_knn)
    done = subprocess.run([*command, "--training", tmp_path / "training.npz"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "metrics").read_text())["headline"]["auroc"] == pytest.approx(area["knn"])
    with open(tmp_path / "curves", newline="") as stream:
        curve = [(float(row["x"]), float(row["y"])) for row in csv.DictReader(stream) if row["curve"] == "roc"]
    assert np.trapezoid(*np.array(curve).T[::-1]) == pytest.approx(area["knn"], abs=0.01)
    command[command.index("--settings") + 1] = json.dumps(
        by_knn | {"headline": "vim", "detectors": [{"name": "vim"}, {"name": "knn"}]}
    )
    done = subprocess.run([*command, "--training", tmp_path / "other.npz"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "choose another evaluation.headline" in done.stderr


# ---------------------------------------------------------------------------------------- the configuration


@pytest.mark.usefixtures("in_repository")
def test_detectors_in_the_configuration():
    assert load({}, stands_alone=False).detectors == []
    paper = load(read_configuration("config/experiments/tinyimagenet.yaml"), stands_alone=True)
    assert [detector["name"] for detector in paper.detectors] == list(DETECTORS)
    knn = merge({}, {"evaluation": {"detectors": ["vim", {"name": "knn", "k": 5}]}})
    assert load(knn, stands_alone=False).evaluation_job()["detectors"][1] == {"name": "knn", "k": 5}
    for wrong, words in (
        (["opnmax"], "evaluation.detectors: unknown detector 'opnmax'; did you mean 'openmax'"),
        ([{"name": "knn", "k": 0}], "evaluation.detectors: detector 'knn': k: Input should be greater"),
        (["knn", {"name": "knn", "k": 5}], "evaluation.detectors: knn is listed twice"),
    ):
        with pytest.raises(SettingsError, match=words):
            load({"evaluation": {"detectors": wrong}}, stands_alone=False)


@pytest.mark.usefixtures("in_repository")
@pytest.mark.workflow
def test_trainings_write_their_outputs_for_detectors_and_later_detectors_train_nothing(tmp_path):
    folder, runs = checkout(tmp_path), len(load({}, stands_alone=False).runs)
    words = ["-n", "paper_training", "--config", "protocol={splits: [0]}"]
    planned = jobs(snakemake(folder, *words, "evaluation={detectors: [knn]}"))
    assert "training_outputs" not in planned
    assert planned["evaluate"] == runs
    # a run that was trained without them, or with fewer: a rule of its own makes them, for all
    old = folder / "results/digits/split0/seed0/ce/provenance.json"
    old.parent.mkdir(parents=True)
    for record, samples, expected in (({}, 50_000, runs), ({"training_outputs": 100}, 100, 0)):
        old.write_text(json.dumps(record))
        wanted = f"evaluation={{detectors: [knn], detector_samples: {samples}}}"
        planned = jobs(snakemake(folder, *words, wanted))
        assert planned.get("training_outputs", 0) == expected
        assert planned["evaluate"] == runs


def test_a_training_writes_the_outputs_that_the_rule_would(digits, split, tmp_path):
    succeed(train(tmp_path, job(), digits, split, "--samples", 40))
    made = load_training_outputs(tmp_path / "training_outputs.npz", tmp_path / "outputs.npz")
    names = ["--prepared", digits, "--split", split / "split.npz", "--description", split / "split.json"]
    names += ["--weights", tmp_path / "weights.safetensors", "--config", tmp_path / "config.json", "--samples", 40]
    succeed(script("training_outputs.py", *names, "--training", tmp_path / "again.npz"))
    again = load_training_outputs(tmp_path / "again.npz", tmp_path / "outputs.npz")
    assert len(made.labels) == 40
    assert made.weights == again.weights != ""
    for name in ("features", "logits", "labels", "head_weight", "head_bias"):
        assert np.array_equal(getattr(made, name), getattr(again, name))
    assert json.loads((tmp_path / "provenance.json").read_text())["training_outputs"] == 40
    succeed(train(tmp_path / "none", job(), digits, split))
    assert not (tmp_path / "none" / "training_outputs.npz").exists()
