"""The model folder: what is in it, that it comes back as it was, and that nothing else passes for one."""

from __future__ import annotations

import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import script, succeed
from PIL import Image

from openset_distill import OpenSetClassifier
from openset_distill.core.errors import CheckpointError, DataError, OpenSetError, SettingsError
from openset_distill.evaluation.evaluate import load_outputs, load_validation
from openset_distill.evaluation.scores import SCORES
from openset_distill.evaluation.scores import score as score_images
from openset_distill.models.checkpoint import load_tensors, save_tensors
from openset_distill.recognition.description import CARD, DESCRIPTION, WEIGHTS
from openset_distill.recognition.package import package_run


def changed(packaged: Path, folder: Path, **fields: object) -> Path:
    """A copy of the model whose description has other fields."""
    shutil.copytree(packaged, folder)
    plain = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps(plain | fields))
    return folder


def test_a_model_is_three_files_and_says_all_that_is_needed(packaged, run_folder):
    assert sorted(path.name for path in packaged.iterdir()) == sorted([WEIGHTS, DESCRIPTION, CARD])
    plain = json.loads((packaged / DESCRIPTION).read_text())
    settings = json.loads((run_folder / "config.json").read_text())
    assert plain["schema_version"] == 1
    assert plain["preprocessing"]["mean"] == settings["normalization"]["mean"]
    assert plain["preprocessing"]["image_size"] == 8
    assert plain["preprocessing"]["channels"] == 1
    assert plain["training_data"]["dataset"] == "digits"
    assert len(plain["training_data"]["fingerprint"]) == 64
    [point] = plain["operating_points"]["maximum_logit"]
    assert point["level"] == 0.95
    assert point["known"]["images"] == plain["training_data"]["validation_images"]
    assert set(plain["operating_points"]) == set(SCORES)


def test_the_model_gives_the_outputs_that_the_run_recorded(model, run_folder, digits, split):
    from openset_distill.datasets.prepared import open_prepared

    outputs = load_outputs(run_folder / "outputs.npz")
    index = np.load(split / "split.npz")["test_index"]
    pixels = open_prepared(digits).test.batch(index)
    features, logits = model.outputs(pixels)
    np.testing.assert_allclose(logits, outputs["logits"], atol=1e-4)
    np.testing.assert_allclose(features, outputs["features"], atol=1e-4)


def test_the_default_threshold_is_that_of_the_validation_images(model, run_folder):
    features, logits, labels = load_validation(run_folder / "outputs.npz")
    assert len(features) == len(logits) == len(labels)
    assert labels.min() >= 0
    scores = np.sort(score_images("maximum_logit", features, logits))
    point = model.operating_point()
    assert (scores >= point.threshold).mean() >= 0.95
    above = scores[scores > point.threshold]
    assert (scores >= above[0]).mean() < 0.95


def test_files_and_pixels_of_every_form_get_the_same_answers(model, pictures):
    paths = sorted((pictures / "unknown").glob("*.png"))[:5] + sorted((pictures / "known").glob("*/*.png"))[:20]
    by_path = model.predict(paths)
    images = [Image.open(path) for path in paths]
    arrays = [np.asarray(image) for image in images]
    batch = np.stack(arrays)[..., None]
    assert set(by_path) <= {*model.classes_, "unknown"}
    for form in (
        [str(path) for path in paths],
        images,
        arrays,
        batch,
        batch.astype(np.float32) / 255,
        torch.from_numpy(batch).permute(0, 3, 1, 2),
        [torch.tensor(array)[None] for array in arrays],
    ):
        np.testing.assert_array_equal(model.predict(form), by_path)


def test_conventions_of_scikit_learn(model, pictures):
    paths = sorted((pictures / "known").glob("*/*.png"))[:30]
    probabilities = model.predict_proba(paths)
    assert probabilities.shape == (30, len(model.classes_))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    distance = model.decision_function(paths)
    rejected = model.predict(paths) == "unknown"
    np.testing.assert_array_equal(rejected, distance < 0)
    np.testing.assert_array_equal(model.score_samples(paths), model.scores(paths, "maximum_logit"))
    closed = model.classes_[probabilities.argmax(axis=1)]
    np.testing.assert_array_equal(model.predict(paths)[~rejected], closed[~rejected])


def test_saved_and_loaded_it_answers_with_the_same_bits(model, pictures, tmp_path):
    paths = sorted((pictures / "known").glob("*/*.png"))[:20]
    model.save(tmp_path / "copy")
    again = OpenSetClassifier.load(tmp_path / "copy")
    np.testing.assert_array_equal(model.scores(paths), again.scores(paths))
    assert again.description == model.description
    again.save(tmp_path / "copy")
    assert OpenSetClassifier.load(tmp_path / "copy").description == model.description
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_several_threads_may_ask_at_once(model, pictures):
    paths = sorted((pictures / "known").glob("*/*.png"))[:40]
    alone = model.scores(paths)
    with ThreadPoolExecutor(4) as pool:
        for together in pool.map(lambda _: model.scores(paths), range(8)):
            np.testing.assert_array_equal(together, alone)


def test_calibration_sets_the_threshold_that_accepts_what_was_asked_for(model, pictures):
    known, unknown = pictures / "known", pictures / "unknown"
    strict, loose, false = model.calibrate(known, unknown, accept=[0.9, 0.99], false_accept=[0.1])
    scores, others = model.scores(known), model.scores(unknown)
    assert np.mean(scores >= strict.threshold) >= 0.9 > np.mean(scores > strict.threshold)
    assert loose.threshold < strict.threshold
    assert np.mean(others >= false.threshold) <= 0.1
    assert strict.unknown.accepted == np.count_nonzero(others >= strict.threshold)
    assert model.operating_point() == strict
    assert model.operating_point(accept=0.99) == loose
    assert model.operating_point(false_accept=0.1) == false
    # what was there before for another rate stays
    assert model.operating_point(accept=0.95).source == "validation images of the training"
    rejected = np.mean(model.predict(known) == "unknown")
    assert rejected == np.mean(scores < strict.threshold)


def test_a_rate_that_was_not_calibrated_is_refused_with_the_command_that_does(model):
    with pytest.raises(SettingsError, match=r"--accept 0\.5.*openset calibrate|openset calibrate.*--accept 0\.5"):
        model.operating_point(accept=0.5)


def test_an_old_run_without_validation_outputs_becomes_a_model_that_asks_to_be_calibrated(
    run_folder, pictures, tmp_path
):
    old = tmp_path / "old"
    old.mkdir()
    for name in (WEIGHTS, "config.json", "provenance.json"):
        shutil.copy(run_folder / name, old / name)
    outputs = load_outputs(run_folder / "outputs.npz")
    np.savez(old / "outputs.npz", **outputs)
    package_run(old).save(tmp_path / "model")
    model = OpenSetClassifier.load(tmp_path / "model")
    with pytest.raises(SettingsError, match=r"no threshold.*openset calibrate"):
        model.predict(pictures / "known")
    assert model.predict_proba(pictures / "unknown").shape[1] == len(model.classes_)
    model.calibrate(pictures / "known")
    assert set(model.predict(pictures / "known")) <= {*model.classes_, "unknown"}


def test_every_evaluation_leaves_a_default_threshold_of_every_score(run_folder, model, tmp_path):
    settings = {"scores": ["maximum_logit"], "detectors": [], "sampling": ["full"], "bootstrap": 0}
    outputs = [("--metrics", "m.json"), ("--curves", "c.csv"), ("--activations", "a.csv")]
    words = [word for option, name in outputs for word in (option, tmp_path / name)]
    settings["activation_samples"] = 10
    given = ["--outputs", run_folder / "outputs.npz", "--settings", json.dumps(settings)]
    succeed(script("evaluate.py", *given, *words))
    points = json.loads((tmp_path / "m.json").read_text())["operating_points"]
    assert set(points) == set(SCORES)
    assert points["msp"]["threshold"] == model.operating_point(score="msp").threshold


# ------------------------------------------------------------------------------------------------------ the card


def test_the_card_has_front_matter_metrics_with_intervals_and_limits(packaged):
    text = (packaged / CARD).read_text()
    _, front, body = text.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["library_name"] == "openset-distill"
    assert matter["pipeline_tag"] == "image-classification"
    [entry] = matter["model-index"]
    assert {metric["type"] for metric in entry["results"][0]["metrics"]} >= {"accuracy", "auroc", "oscr"}
    for words in ("95 % interval", "Operating points", "(default)", "validation images of the training", "## Limits"):
        assert words in body


@pytest.mark.parametrize("name", ["a|b", "*x*", "no", "<script>", "`", "$x$", "---"])
def test_class_names_cannot_break_the_card(model, name):
    from openset_distill.recognition.card import model_card

    classes = (name, *model.description.classes[1:])
    data = {"dataset": name, "unknown_classes": [name]}
    text = model_card(model.description.model_copy(update={"classes": classes, "training_data": data}))
    front = text.split("---\n", 2)[1] if name != "---" else text[4 : text.index("\n---\n\n#")]
    matter = yaml.safe_load(front)
    assert matter["model-index"][0]["results"][0]["dataset"]["name"] == name
    assert "<script>" not in text.replace("`<script>`", "").replace(json.dumps("<script>"), "")


def test_the_card_says_that_pretraining_may_have_seen_the_unknowns(model):
    from openset_distill.recognition.card import model_card

    assert "Pretraining" not in model_card(model.description)
    architecture = model.description.architecture.model_copy(
        update={"backbone": {"name": "timm", "model": "resnet18", "pretrained": True}}
    )
    assert "Pretraining may have seen the unknowns" in model_card(
        model.description.model_copy(update={"architecture": architecture})
    )


def test_the_card_says_settings_in_words_and_with_units(model):
    from openset_distill.recognition.card import model_card

    def card(size: int, **backbone: object) -> str:
        description = model.description
        of_network = description.architecture.model_copy(update={"backbone": backbone})
        pixels = description.preprocessing.model_copy(update={"image_size": size})
        return model_card(description.model_copy(update={"architecture": of_network, "preprocessing": pixels}))

    plain = card(8, **model.description.architecture.backbone)
    assert re.search(r"\| backbone \| `small_resnet`; .*widths 6, 8", plain)
    assert "| trained with | cross entropy |" in plain
    assert "| trained for | 3 epochs |" in plain
    assert "| input | 8 x 8 pixels, grey;" in plain
    assert '- name: "Open-set classifier of 6 classes"' in plain
    assert "inside the network" not in plain
    frozen = card(32, name="efficientnet_lite0", pretrained=True, freeze=True, input_size=160, views=0)
    assert "| backbone | `efficientnet_lite0` with trained weights; frozen: only the head was trained |" in frozen
    assert "| inside the network | enlarged to 160 x 160 pixels |" in frozen
    assert "| trained for | 3 epochs of the head |" in frozen


def test_validation_images_that_chose_the_epoch_are_told(run_folder, tmp_path):
    for path in run_folder.iterdir():
        shutil.copy(path, tmp_path / path.name)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["optimization"]["select"] = "best_validation_accuracy"
    (tmp_path / "config.json").write_text(json.dumps(settings))
    package_run(tmp_path).save(tmp_path / "model")
    text = (tmp_path / "model" / CARD).read_text()
    assert "validation images of the training, which also chose its epoch" in text
    assert "its rates are slightly optimistic" in text
    package_run(run_folder).save(tmp_path / "model")
    assert "chose" not in (tmp_path / "model" / CARD).read_text()


# ---------------------------------------------------------------------------------------------------- what is no model


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"is no model folder.*openset train"):
        OpenSetClassifier.load(tmp_path)
    with pytest.raises(CheckpointError, match="is no folder"):
        OpenSetClassifier.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schema_version": 2}, "schema 2.*reads up to 1"),
        ({"schema_version": None}, "does not describe a model"),
        ({"preprocessing": {}}, "is damaged"),
        ({"classes": ["a", "a"]}, "two classes have one name"),
        ({"classes": ["a", "b"]}, "other classes"),
        ({"score": "magic"}, "magic"),
    ],
)
def test_a_description_that_does_not_hold(packaged, tmp_path, fields, words):
    folder = changed(packaged, tmp_path / "model", **fields)
    with pytest.raises(CheckpointError, match=words) as caught:
        OpenSetClassifier.load(folder)
    assert "\n" not in str(caught.value)


def test_a_description_that_is_no_json(packaged, tmp_path):
    folder = changed(packaged, tmp_path / "model")
    (folder / DESCRIPTION).write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        OpenSetClassifier.load(folder)


def test_damaged_weights(packaged, tmp_path):
    folder = changed(packaged, tmp_path / "model")
    contents = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(contents[: len(contents) // 2])
    with pytest.raises(CheckpointError, match=r"damaged \(.*\); restore the file, or make the model again$"):
        OpenSetClassifier.load(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"missing; restore the file, or make the model again$"):
        OpenSetClassifier.load(folder)


def test_weights_of_another_training_are_refused_because_the_thresholds_are_not_theirs(packaged, tmp_path):
    folder = changed(packaged, tmp_path / "model")
    tensors, metadata = load_tensors(folder / WEIGHTS)
    save_tensors(folder / WEIGHTS, {name: tensor + 1 for name, tensor in tensors.items()}, metadata)
    with pytest.raises(CheckpointError, match=r"is not the file that .*model\.json belongs to"):
        OpenSetClassifier.load(folder)


def test_a_folder_with_something_else_is_not_overwritten(model, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OpenSetError, match="exists and is not a model"):
        model.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_full_disk_leaves_nothing_half_written(model, packaged, tmp_path):
    """A limit on the size of files fails as a full disk does, in the middle of the weights."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    shutil.copytree(packaged, tmp_path / "old")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        for folder in ("new", "old"):
            with pytest.raises(OpenSetError, match="cannot write"):
                model.save(tmp_path / folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    OpenSetClassifier.load(tmp_path / "old")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((8, 8, 3), np.uint8), "3 channels.*grey"),
        (np.zeros((8, 8), np.int64), "give uint8"),
        (np.full((8, 8), np.nan, np.float32), "floats from 0 to 1"),
        (np.zeros(8, np.uint8), "is not an image"),
        (np.zeros((0, 8, 1), np.uint8), "no pixels"),
        ([], "no image"),
        (7, "is not an image"),
        (["nowhere.png"], r"nowhere\.png cannot be opened"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(model, images, words):
    with pytest.raises(DataError, match=words) as caught:
        model.predict_proba(images)
    assert "\n" not in str(caught.value)


def test_the_package_imports_nothing_heavy_until_it_is_asked_to():
    import subprocess
    import sys

    code = "import sys, openset_distill; print('torch' in sys.modules); openset_distill.OpenSetClassifier; "
    code += (
        "heavy = {'pandas', 'sklearn', 'matplotlib', 'timm'} & set(sys.modules); print('torch' in sys.modules, heavy)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split("\n")[:2] == ["False", "True set()"]


def test_package_and_calibrate_as_commands(run_folder, pictures, tmp_path, openset):
    made = openset("package", run_folder, "--out", tmp_path / "model")
    assert made.returncode == 0 and "95 % of knowns accepted" in made.stdout, made.stderr
    words = ["--known", pictures / "known", "--unknown", pictures / "unknown", "--accept", "0.9,0.95"]
    done = openset("calibrate", tmp_path / "model", *words, "--false-accept", "0.5")
    assert done.returncode == 0 and "90 % of knowns accepted (default)" in done.stdout, done.stderr
    assert "50 % of unknowns accepted" in done.stdout
    model = OpenSetClassifier.load(tmp_path / "model")
    assert model.operating_point().level == 0.9
    assert str(pictures / "known") in (tmp_path / "model" / CARD).read_text().replace("\\", "")


def test_mistakes_of_package_and_calibrate(packaged, pictures, tmp_path, refused):
    copy = tmp_path / "model"
    shutil.copytree(packaged, copy)
    before = (copy / DESCRIPTION).read_bytes()
    assert "not the folder of a finished run" in refused("package", tmp_path, "--out", tmp_path / "new")
    assert "--unknown" in refused("calibrate", copy, "--known", pictures / "known", "--false-accept", "0.1")
    assert "not in (0, 1]" in refused("calibrate", copy, "--known", pictures / "known", "--accept", "1.5")
    foreign = tmp_path / "pictures"
    (foreign / "zebra").mkdir(parents=True)
    os.link(next((pictures / "unknown").iterdir()), foreign / "zebra" / "a.png")
    assert "'zebra', which is not a class of the model" in refused("calibrate", copy, "--known", foreign)
    (tmp_path / "empty").mkdir()
    assert "has no images" in refused("calibrate", copy, "--known", tmp_path / "empty")
    assert (copy / DESCRIPTION).read_bytes() == before
    assert not (tmp_path / "new").exists()
