"""Feature geometry: closed forms, and slow transcriptions of the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from commands import script, succeed
from safetensors.numpy import save_file

from openset_distill.analysis import feature_geometry as geometry
from openset_distill.analysis.feature_geometry import Classes, Reference, groups, linear_hsic, measure
from openset_distill.evaluation.evaluate import save_outputs
from openset_distill.report.aggregate import read_rows

CLASSES, EACH, WIDTH = 4, 15, 7


def simplex(classes: int, width: int) -> np.ndarray:
    """A simplex of points in general position, `[classes, width]`, away from the origin."""
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))
    return 3 * (np.eye(classes) - 1 / classes) @ rotation[:classes] + 5 * rotation[-1]


@pytest.fixture(params=[4, 1000], ids=["blocks of 4", "one block"])
def clusters(request, monkeypatch) -> dict[str, np.ndarray]:
    """Outputs of an invented network: known clusters of unequal size, and unknowns, in random order."""
    monkeypatch.setattr(geometry, "BLOCK", request.param)
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.repeat(np.arange(CLASSES), [EACH, EACH, EACH + 8, EACH - 5]), np.full(20, -1)])
    rng.shuffle(labels)
    centre = np.vstack([3 * rng.normal(size=(CLASSES, WIDTH)), np.zeros(WIDTH)])
    features = (centre[labels] + rng.normal(size=(len(labels), WIDTH))).astype(np.float32)
    logits = rng.normal(size=(len(labels), CLASSES)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += 3
    return {"features": features, "logits": logits, "labels": labels}


def by_name(rows) -> dict[tuple[str, str], float]:
    return {(row["quantity"], row["group"]): row["value"] for row in rows}


def test_a_perfect_simplex_is_collapsed():
    means = simplex(CLASSES, WIDTH)
    labels = np.repeat(np.arange(CLASSES), EACH)
    head = means - means.mean(axis=0)
    outputs = {"features": means[labels], "logits": means[labels] @ head.T, "labels": labels}
    outputs = {name: np.concatenate([array, array[:5]]) for name, array in outputs.items()}
    outputs["labels"][-5:] = -1
    found = by_name(measure(outputs, 7 * head))
    for name in ("within_scatter", "nc1", "nc2_equinorm", "nc2_equiangular", "nc2_maximal_angle", "nc3", "nc4"):
        assert found[name, "known"] == pytest.approx(0, abs=1e-12), name
    assert found["effective_rank", "known"] == pytest.approx(CLASSES - 1, rel=1e-9)
    assert found["silhouette", "known"] == pytest.approx(1, abs=1e-6)
    assert found["between_scatter", "known"] == pytest.approx(9 * (CLASSES - 1) / CLASSES)


def test_measures_agree_with_their_definitions(clusters):
    features, labels = clusters["features"].astype(np.float64), clusters["labels"]
    head = np.random.default_rng(3).normal(size=(CLASSES, WIDTH))
    found = by_name(measure(clusters, head))
    own = [features[labels == c] for c in range(CLASSES)]
    means = np.array([part.mean(axis=0) for part in own])
    centre = means.mean(axis=0)
    within = np.mean([np.cov(part.T, bias=True) for part in own], axis=0)
    between = np.mean([np.outer(mean - centre, mean - centre) for mean in means], axis=0)
    lengths = [np.linalg.norm(mean - centre) for mean in means]
    pairs = [(i, j) for i in range(CLASSES) for j in range(CLASSES) if i != j]
    cosines = [(means[i] - centre) @ (means[j] - centre) / lengths[i] / lengths[j] for i, j in pairs]
    known = features[labels >= 0]
    singular = np.linalg.svd(known - known.mean(axis=0), compute_uv=False)
    share = singular / singular.sum()
    distances = np.linalg.norm(known[:, None] - means, axis=2)
    silhouette = []
    for row, label in zip(distances, labels[labels >= 0], strict=True):
        a, b = row[label], min(row[c] for c in range(CLASSES) if c != label)
        silhouette.append((b - a) / max(a, b))
    expected = {
        "within_scatter": np.trace(within),
        "between_scatter": np.trace(between),
        "scatter_ratio": np.trace(within) / np.trace(between),
        "nc1": np.trace(within @ np.linalg.pinv(between)) / CLASSES,
        "nc2_equinorm": np.std(lengths) / np.mean(lengths),
        "nc2_equiangular": np.std(cosines),
        "nc2_maximal_angle": np.mean(np.abs(np.array(cosines) + 1 / (CLASSES - 1))),
        "nc3": np.sum((head / np.linalg.norm(head) - (means - centre) / np.linalg.norm(means - centre)) ** 2),
        "nc4": np.mean(clusters["logits"][labels >= 0].argmax(axis=1) != distances.argmin(axis=1)),
        "silhouette": np.mean(silhouette),
        "effective_rank": np.exp(-np.sum(share * np.log(share))),
        "feature_norm_median": np.median(np.linalg.norm(known, axis=1)),
        "maximum_logit_mean": clusters["logits"][labels >= 0].max(axis=1).mean(),
    }
    for name, value in expected.items():
        assert found[name, "known"] == pytest.approx(value, rel=1e-6), name
    assert 0 < found["nc4", "known"] < 1, "the case must be able to fail"


def test_silhouette_ranks_clusterings_as_scikit_learn_does(clusters):
    from sklearn.metrics import silhouette_score

    known = clusters["labels"] >= 0
    features, labels = clusters["features"][known].astype(np.float64), clusters["labels"][known]
    noise = np.random.default_rng(5).normal(size=features.shape)
    ours, theirs = [], []
    for spread in (0, 1, 3):
        spoiled = {"features": features + spread * noise, "logits": clusters["logits"][known], "labels": labels}
        found = geometry.nearest_mean(spoiled["features"], labels, labels, Classes.of(spoiled["features"], labels))
        ours.append(found["silhouette"])
        theirs.append(silhouette_score(spoiled["features"], labels))
    assert ours == sorted(ours, reverse=True)
    assert theirs == sorted(theirs, reverse=True)


def unbiased_hsic(first: np.ndarray, second: np.ndarray) -> float:
    """Song et al. 2012, equation 5, times n (n - 3), with the kernel matrices written out."""
    n = len(first)
    k, l = first @ first.T, second @ second.T  # noqa: E741 - the paper's names
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    return np.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l).sum()


def test_cka_agrees_with_kernel_matrices(clusters):
    first = clusters["features"].astype(np.float64)
    second = np.tanh(first @ np.random.default_rng(2).normal(size=(WIDTH, 5)))
    rows = groups(clusters["labels"])["known"]
    assert linear_hsic(first, second, rows) == pytest.approx(unbiased_hsic(first[rows], second[rows]), rel=1e-9)
    found = Reference(first, {"known": rows}).cka(second)
    own = unbiased_hsic(first[rows], first[rows]) * unbiased_hsic(second[rows], second[rows])
    assert found["known"] == pytest.approx(unbiased_hsic(first[rows], second[rows]) / own**0.5, rel=1e-9)


def test_cka_sees_neither_rotation_nor_scale_nor_chance():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 64)) * np.linspace(0.1, 2, 64)
    rotation, _ = np.linalg.qr(rng.normal(size=(64, 64)))
    reference = Reference(features, {"all": np.arange(300)})
    assert reference.cka(3 * features @ rotation + 1)["all"] == pytest.approx(1, rel=1e-9)
    chance = [reference.cka(rng.normal(size=(300, 200)))["all"] for _ in range(5)]
    assert abs(np.mean(chance)) < 0.03, "the plain form is 0.3 here"
    assert np.isnan(Reference(features, {"few": np.arange(3)}).cka(features)["few"])


def test_one_class_and_dead_features_have_no_geometry():
    rng = np.random.default_rng(0)
    labels = np.array([0] * 6 + [-1] * 3)
    outputs = {"features": rng.normal(size=(9, 3)), "logits": rng.normal(size=(9, 1)), "labels": labels}
    found = by_name(measure(outputs, rng.normal(size=(1, 3))))
    assert np.isnan([found[name, "known"] for name in ("nc1", "nc2_equinorm", "silhouette", "scatter_ratio")]).all()
    assert np.isfinite(found["within_scatter", "known"])
    assert np.isfinite(found["effective_rank", "known"])

    labels = np.array([0, 0, 0, 1, 1, 1, -1, -1, -1])
    outputs = {"features": np.zeros((9, 3)), "logits": np.zeros((9, 2)), "labels": labels}
    found = by_name(measure(outputs, np.ones((2, 3)), Reference(np.eye(9), groups(labels))))
    undefined = ("nc1", "nc2_equinorm", "silhouette", "scatter_ratio", "effective_rank", "cka_teacher")
    assert np.isnan([found[name, "known"] for name in undefined]).all()
    assert found["feature_norm_mean", "known"] == 0


def test_the_command_measures_all_runs_of_a_split(tmp_path, clusters):
    labels = clusters["labels"]
    for name, factor in (("teacher", 1), ("ce", 2)):
        group = (labels < 0).astype(int)
        save_outputs(
            tmp_path / f"{name}.npz", features=factor * clusters["features"], logits=clusters["logits"], labels=labels,
            group=group, group_names=["known", "unknown"],
        )  # fmt: skip
    save_file({"head.weight": np.eye(CLASSES, WIDTH, dtype=np.float32)}, tmp_path / "ce.safetensors")
    runs = [part for name in ("teacher", "ce") for part in ("--run", f"{name}={tmp_path / name}.npz")]
    save_file({"head.points": np.eye(CLASSES, WIDTH, dtype=np.float32)}, tmp_path / "teacher.safetensors")
    head = [part for name in ("teacher", "ce") for part in ("--head", f"{name}={tmp_path / name}.safetensors")]
    succeed(
        script("feature_geometry.py", *runs, *head, "--teacher", "teacher", "--features", tmp_path / "features.csv")
    )
    value = {(row["run"], row["quantity"], row["group"]): row["value"] for row in read_rows(tmp_path / "features.csv")}
    assert float(value["ce", "cka_teacher", "all"]) == pytest.approx(1)
    ratio = float(value["ce", "within_scatter", "known"]) / float(value["teacher", "within_scatter", "known"])
    assert ratio == pytest.approx(4)
    assert ("ce", "nc3", "known") in value
    assert ("teacher", "nc3", "known") not in value
    assert ("teacher", "cka_teacher", "all") not in value

    other = np.where(labels == 0, 1, labels)
    save_outputs(
        tmp_path / "ce.npz", features=clusters["features"], logits=clusters["logits"], labels=other,
        group=(labels < 0).astype(int), group_names=["known", "unknown"],
    )  # fmt: skip
    process = script("feature_geometry.py", *runs, "--teacher", "teacher", "--features", tmp_path / "other.csv")
    assert process.returncode == 2
    assert "other test images than those of teacher" in process.stderr
    outputs = f"ce={tmp_path / 'ce.npz'}"
    process = script("feature_geometry.py", "--run", outputs, "--head", outputs, "--features", tmp_path / "other.csv")
    assert process.returncode == 2
    assert "no head that can be read" in process.stderr
    assert not (tmp_path / "other.csv").exists()
