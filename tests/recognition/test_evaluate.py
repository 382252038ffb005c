"""`openset evaluate`: a model on folders, and anybody's logits and scores."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import archives
import numpy as np
import pytest
from commands import script, succeed
from PIL import Image

from openset_distill import OpenSetClassifier
from openset_distill.datasets.prepare import write_prepared
from openset_distill.datasets.prepared import open_prepared
from openset_distill.datasets.readers import READERS
from openset_distill.evaluation.evaluate import evaluate, load_outputs, save_outputs
from openset_distill.evaluation.scores import SCORES
from openset_distill.recognition.own_outputs import read_outputs


@pytest.fixture
def own() -> dict[str, np.ndarray]:
    """Logits of three classes on 60 knowns and 40 unknowns."""
    generator = np.random.default_rng(0)
    labels = np.concatenate([np.arange(60) % 3, np.full(40, -1)])
    logits = generator.normal(size=(100, 3))
    logits[np.arange(60), labels[:60]] += 2.5
    return {"labels": labels, "logits": logits}


def values(process) -> dict[tuple[str, str, str], float]:
    assert process.returncode == 0, process.stderr
    rows = json.loads(process.stdout)["metrics"]
    return {(row["score"], row["group"], row["metric"]): row["value"] for row in rows}


def write_csv(path: Path, own: dict[str, np.ndarray]) -> None:
    names = ["ant", "bee", "cat"]
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", *(f"logit_{name}" for name in names)])
        for i, label in enumerate(own["labels"]):
            name = "unknown" if label < 0 else names[label]
            writer.writerow([f"{i}.png", name, *map(repr, own["logits"][i].tolist())])


def test_the_workflows_own_outputs_get_the_workflows_numbers(run_folder, openset):
    found = values(openset("evaluate", "--outputs", run_folder / "outputs.npz", "--json", "--bootstrap", 20))
    rows = evaluate(load_outputs(run_folder / "outputs.npz"), scores=list(SCORES), bootstrap=0, seed=0)
    expected = {(row["score"], row["group"], row["metric"]): row["value"] for row in rows}
    assert found == pytest.approx(expected)


def test_own_logits_as_npz_and_as_csv(own, openset, tmp_path):
    np.savez(tmp_path / "own.npz", **own)
    write_csv(tmp_path / "own.csv", own)
    first = values(openset("evaluate", "--outputs", tmp_path / "own.npz", "--json", "--bootstrap", 20))
    second = values(openset("evaluate", "--outputs", tmp_path / "own.csv", "--json", "--bootstrap", 20))
    assert first == second
    assert first["", "known", "accuracy"] == np.mean(own["logits"][:60].argmax(axis=1) == own["labels"][:60])
    assert {score for score, _, _ in first} == {"", "maximum_logit", "msp", "energy", "negative_entropy"}
    text = openset("evaluate", "--outputs", tmp_path / "own.csv", "--bootstrap", 20).stdout
    for words in ("closed-set accuracy", "maximum_logit", "confusion", "most confident mistakes", ".png: ", "bee"):
        assert words in text


def test_scores_without_logits_have_no_accuracy(own, openset, tmp_path):
    scores = own["logits"].max(axis=1)
    np.savez(tmp_path / "scores.npz", labels=np.minimum(own["labels"], 0), scores=scores)
    found = values(openset("evaluate", "--outputs", tmp_path / "scores.npz", "--json", "--bootstrap", 20))
    assert {metric for _, _, metric in found} == {"auroc", "aupr_known", "aupr_unknown", "fpr95"}
    np.savez(tmp_path / "logits.npz", **own)
    by_logits = values(openset("evaluate", "--outputs", tmp_path / "logits.npz", "--json", "--bootstrap", 20))
    assert found["score", "all", "auroc"] == by_logits["maximum_logit", "all", "auroc"]
    predicted = own["logits"].argmax(axis=1)
    np.savez(tmp_path / "both.npz", labels=own["labels"], scores=scores, predicted=predicted)
    with_class = values(openset("evaluate", "--outputs", tmp_path / "both.npz", "--json", "--bootstrap", 20))
    assert with_class["score", "all", "oscr"] == by_logits["maximum_logit", "all", "oscr"]


def test_groups_of_unknowns_and_features(own, openset, tmp_path):
    group = np.where(np.arange(100) % 2, "near", "far")
    features = np.random.default_rng(1).normal(size=(100, 4))
    np.savez(tmp_path / "own.npz", **own, group=group, features=features)
    found = values(openset("evaluate", "--outputs", tmp_path / "own.npz", "--json", "--bootstrap", 0))
    assert {group for _, group, _ in found} == {"known", "all", "near", "far"}
    assert {score for score, _, _ in found} == {"", *SCORES}
    assert "auroc against near" in openset("evaluate", "--outputs", tmp_path / "own.npz", "--bootstrap", 0).stdout


def test_a_model_on_folders(packaged, pictures, openset, tmp_path):
    words = ["evaluate", packaged, pictures / "known", "--unknown", pictures / "unknown", "--bootstrap", 20]
    process = openset(*words, "--json", "--out", tmp_path / "out")
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    model = OpenSetClassifier.load(packaged)
    known = sorted((pictures / "known").glob("*/*.png"))
    answers = model.predictions(known)
    right = [one.predicted == path.parent.name for one, path in zip(answers, known, strict=True)]
    [accuracy] = [row for row in result["metrics"] if row["metric"] == "accuracy"]
    assert accuracy["value"] == np.mean(right)
    assert accuracy["n_known"] == len(known)
    point = result["operating_point"]
    assert point["acceptance"]["accepted"] == sum(not one.rejected for one in answers)
    assert point["acceptance"]["low"] < point["acceptance"]["rate"] < point["acceptance"]["high"]
    unknown = model.predict(sorted((pictures / "unknown").iterdir()))
    assert point["false_acceptance"]["accepted"] == np.count_nonzero(unknown != "unknown")
    counts = np.array(result["confusion"]["counts"])
    assert counts.sum() == len(known) + len(unknown)
    assert counts[-1, -1] == np.count_nonzero(unknown == "unknown")
    mistakes = result["most_confident_mistakes"]
    assert [one["score"] for one in mistakes] == sorted((one["score"] for one in mistakes), reverse=True)
    assert all(Path(one["file"]).is_file() and one["true"] != one["predicted"] for one in mistakes)
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    assert len(rows) == len(known) + len(unknown)
    assert sum(row["rejected"] == "true" for row in rows) == counts[:, -1].sum()
    for name in ("roc.png", "oscr.png", "scores.png"):
        with Image.open(tmp_path / "out" / name) as image:
            assert np.asarray(image.convert("L")).std() > 10
    text = openset(*words).stdout
    assert "knowns accepted with the right class" in text
    assert "unknowns accepted" in text


def test_groups_of_unknowns_may_have_any_name(packaged, pictures, openset, tmp_path):
    for number, name in enumerate(("known", "all", "unknown", "train")):
        (tmp_path / name).mkdir()
        for path in sorted((pictures / "unknown").iterdir())[number:40:4]:
            shutil.copy(path, tmp_path / name)
    given = ["evaluate", packaged, pictures / "known", "--unknown", tmp_path, "--bootstrap", 0, "--json"]
    found = values(openset(*given))
    assert {group for _, group, _ in found} == {"known", "known_", "all", "all_", "unknown", "train"}
    rows = {(row["group"], row["metric"]): row for row in json.loads(openset(*given).stdout)["metrics"]}
    assert rows["all", "auroc"]["n_unknown"] == 40
    assert rows["all_", "auroc"]["n_unknown"] == 10
    assert rows["known_", "auroc"]["n_unknown"] == 10


def test_knowns_alone_have_an_accuracy(packaged, pictures, openset):
    process = openset("evaluate", packaged, pictures / "known", "--bootstrap", 20)
    assert process.returncode == 0 and "closed-set accuracy" in process.stdout, process.stderr
    assert "auroc" not in process.stdout
    assert "knowns accepted" in process.stdout


def test_a_run_on_own_images_lists_its_answers_by_file(digits, tmp_path):
    archives.image_folder(tmp_path / "images")
    own = tmp_path / "prepared"
    write_prepared(READERS["image_folder"](tmp_path / "images"), own, name="image_folder", size=8, channels=1)
    made = ["--arrays", tmp_path / "split.npz", "--description", tmp_path / "split.json"]
    given = ["--prepared", own, "--other", f"digits={digits}"]
    succeed(script("split.py", *given, "--protocol", "all_known", "--validation-fraction", 0.25, *made))
    with np.load(tmp_path / "split.npz") as arrays:
        labels, group = arrays["test_label"], arrays["test_group"]
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(len(labels), 3)).astype(np.float32)
    validation = (np.ones((3, 2)), np.array([[2.0, 0, 0], [1, 0, 0], [0.5, 0, 0]]), np.zeros(3, int))
    names = json.loads((tmp_path / "split.json").read_text())["groups"]
    of_images = {"features": np.ones((len(labels), 2)), "logits": logits, "labels": labels, "group": group}
    save_outputs(tmp_path / "outputs.npz", **of_images, group_names=names, validation=validation)
    settings = {"scores": ["maximum_logit"], "detectors": [], "sampling": ["full"], "bootstrap": 0}
    words = ["--outputs", tmp_path / "outputs.npz", "--settings", json.dumps(settings | {"activation_samples": 5})]
    words += [word for name in ("metrics", "curves", "activations") for word in (f"--{name}", tmp_path / f"{name}.out")]
    words += ["--predictions", tmp_path / "predictions.csv", "--prepared", own]
    words += ["--split", tmp_path / "split.npz", "--description", tmp_path / "split.json"]
    succeed(script("evaluate.py", *words, "--prepared", digits))
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert len(rows) == len(labels) == 8 + len(open_prepared(digits).test)
    assert {row["file"]: row["true"] for row in rows[:8]} == {
        f"test/{name}/{number}.png": name for name in ("cat", "dog", "owl", "fox") for number in (0, 1)
    }
    assert [row["known"] for row in rows] == [str(bool(label >= 0)).lower() for label in labels]
    assert all(row["file"].startswith("digits ") and row["true"] in "0123456789" for row in rows[8:])
    assert [row["predicted"] for row in rows] == [("cat", "dog", "owl")[i] for i in logits.argmax(axis=1)]
    threshold = json.loads((tmp_path / "metrics.out").read_text())["operating_points"]["maximum_logit"]["threshold"]
    assert [row["rejected"] == "true" for row in rows] == (logits.max(axis=1) < threshold).tolist()
    # images of another preparation are noticed
    swapped = script("evaluate.py", *words[:-6], *words[-4:], "--prepared", digits)
    assert swapped.returncode == 2 and "is not of the images of" in swapped.stderr, swapped.stderr


def npz(path: Path, own: dict[str, np.ndarray], **changes: object) -> Path:
    arrays = {name: array for name, array in (own | changes).items() if array is not None}
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"logits": np.full((100, 3), np.nan)}, "logits of 100 of 100 images are NaN"),
        ({"logits": None}, "neither logits nor scores"),
        ({"labels": None}, "no array 'labels'"),
        ({"labels": np.zeros(100, int)}, "has no unknown image"),
        ({"labels": np.full(100, -1)}, "has no known image"),
        ({"labels": np.arange(100) - 1}, "labels go up to 98"),
        ({"labels": np.zeros(7, int)}, "has shape"),
        ({"labels": np.zeros(100)}, "give class ids"),
        ({"labels": np.full(100, -5)}, "unknowns are -1"),
        ({"group": np.full(100, "all")}, "another name"),
        ({"classes": np.array(["a", "a", "b"])}, "each needs one of its own"),
        ({"logits": None, "scores": np.full(100, np.inf)}, "scores of 100 of 100"),
        ({"logits": np.full((100, 3), "x")}, "numbers are needed"),
        ({"labels": np.array([None] * 100, dtype=object)}, "cannot be read as an .npz file of plain arrays"),
    ],
)
def test_outputs_that_cannot_be_judged(own, refused, tmp_path, changes, words):
    path = npz(tmp_path / "own.npz", own, **changes)
    assert words in refused("evaluate", "--outputs", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column 'label'"),
        ("a,b\n1,2\n", "no column 'label'; it has a, b"),
        ("label,score\n0,x\n", "'x' is not a number"),
        ("label,score\n0,nan\n-1,1\n", "NaN"),
        ("label,score\n0\n", "different number of cells"),
        ("label,label\n0,0\n", "two columns of the same name"),
        ("label,logit_a,logit_b\nc,1,2\n", "'c' is not a class (a, b)"),
        ("label,score\n0,1\n1,2\n", "has no unknown image"),
        ("label,score\n0,1\n-1,1\n-2,2\n", "'-2' is not a class (0)"),
    ],
)
def test_tables_that_cannot_be_judged(refused, tmp_path, text, words):
    (tmp_path / "own.csv").write_text(text)
    assert words in refused("evaluate", "--outputs", tmp_path / "own.csv")


def test_files_that_are_no_outputs(refused, tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04nothing")
    assert "cannot be read" in refused("evaluate", "--outputs", tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", np.zeros(3))
    assert "one array without a name" in refused("evaluate", "--outputs", tmp_path / "b.npy")
    (tmp_path / "c.csv").write_bytes("label,score\nä,1".encode("utf-16"))
    assert "UTF-8" in refused("evaluate", "--outputs", tmp_path / "c.csv")
    assert "is not a file" in refused("evaluate", "--outputs", tmp_path / "nowhere.npz")


@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_ids_of_a_large_catalog_count_the_classes_that_are_there(kind, tmp_path):
    """As of iNaturalist: a table of all ids would not fit into memory."""
    ids, predicted = [2_000_000_000, 7, -1, 7, 31_000], [2_000_000_000, 31_000, 7, 7, 31_000]
    path = tmp_path / f"own.{kind}"
    if kind == "csv":
        rows = [f"{label},{guess},{number}" for number, (label, guess) in enumerate(zip(ids, predicted, strict=True))]
        path.write_text("\n".join(["label,predicted,score", *rows]) + "\n")
    else:
        np.savez(path, labels=np.array(ids), predicted=np.array(predicted), scores=np.arange(5.0))
    outputs = read_outputs(path)
    assert outputs.classes == ("7", "31000", "2000000000")
    assert outputs.labels.tolist() == [2, 0, -1, 0, 1]
    assert outputs.predicted.tolist() == [2, 1, 0, 0, 1]


def test_names_of_classes_may_be_numbers_in_any_order(own, tmp_path):
    write_csv(tmp_path / "own.csv", own)
    text = (tmp_path / "own.csv").read_text()
    for old, new in (("ant", "10"), ("bee", "2"), ("cat", "1")):
        text = text.replace(old, new)
    (tmp_path / "own.csv").write_text(text)
    outputs = read_outputs(tmp_path / "own.csv")
    np.testing.assert_array_equal(outputs.labels, own["labels"])
    assert outputs.classes == ("10", "2", "1")


def test_mistakes(packaged, own, pictures, refused, tmp_path):
    assert "give MODEL and FOLDER, or --outputs" in refused("evaluate")
    assert "give the folder" in refused("evaluate", packaged)
    assert "no class folders" in refused("evaluate", packaged, pictures / "unknown")
    foreign = tmp_path / "foreign" / "zebra"
    foreign.mkdir(parents=True)
    shutil.copy(next((pictures / "unknown").iterdir()), foreign)
    assert "'zebra', which is not a class of the model" in refused("evaluate", packaged, foreign.parent)
    whole = tmp_path / "whole"
    (whole / "test").mkdir(parents=True)
    (whole / "train").symlink_to(foreign)
    assert f"for example {whole / 'test'}" in refused("evaluate", packaged, whole)
    path = npz(tmp_path / "own.npz", own)
    assert "feature_norm" in refused("evaluate", "--outputs", path, "--score", "feature_norm")
    assert "leave out FOLDER" in refused("evaluate", "--outputs", path, "--unknown", pictures)
    assert "cannot write" in refused("evaluate", "--outputs", path, "--bootstrap", 0, "--out", path / "below")
