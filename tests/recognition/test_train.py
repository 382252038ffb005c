"""`openset train`: from a folder of images to a model, and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import yaml
from commands import REPOSITORY
from PIL import Image
from safetensors.torch import save_file

from openset_distill import OpenSetClassifier
from openset_distill.config.experiment import load
from openset_distill.core.errors import DataError, OpenSetError, SettingsError
from openset_distill.core.signals import Interrupted
from openset_distill.recognition.own_images import read
from openset_distill.recognition.train import Request, choose_backbone, configuration, configuration_text, train_folder
from openset_distill.training import features

TINY = "{name: fast_cnn, widths: [8, 16]}"
COLOURS = {"green": (40, 190, 60), "red": (200, 40, 50), "blue": (40, 60, 200)}


def make_images(folder: Path, n: int, colour: tuple[int, int, int], *, size: int = 12, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng([seed, *colour])
    for number in range(n):
        pixels = np.clip(np.array(colour) + draws.normal(0, 25, (size, size, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of 20 images in class folders."""
    for name, colour in COLOURS.items():
        make_images(tmp_path / "images" / name, 20, colour)
    return tmp_path / "images"


def request(folder: Path, **changes) -> Request:
    given = {"folder": folder, "out": folder.parent / "model", "backbone": TINY, "epochs": 12, "threads": 1}
    return Request(**{**given, **changes})


def left_over(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"images", "unknown", "model"}


def test_a_folder_becomes_a_model_with_a_threshold(folder: Path):
    make_images(folder.parent / "unknown", 15, (210, 200, 60))
    said: list[str] = []
    text = train_folder(request(folder, unknown=folder.parent / "unknown"), said.append)
    assert said[0] == (
        "3 classes: 39 images to train, 9 to calibrate, 12 to test (drawn from each class by seed 0); 15 unknown"
    )
    assert len(text.splitlines()) < 20
    assert "of 12 test images" in text
    assert "of 15 unknown images" in text
    assert "AUROC" in text
    assert "openset predict" in text
    assert not left_over(folder.parent), "what was needed in between is gone"
    model = OpenSetClassifier.load(folder.parent / "model")
    assert model.description.classes == tuple(sorted(COLOURS))
    point = model.operating_point()
    assert point.known.images == 9
    assert point.name == "95 % of knowns accepted"
    classes = [model.predictions(folder / name / "000.png")[0].predicted for name in COLOURS]
    assert classes == list(COLOURS)
    assert model.description.training_data["images"] == 39


def test_without_unknowns_there_is_an_accuracy_and_a_threshold(folder: Path):
    text = train_folder(request(folder), print)
    assert "accuracy" in text
    assert "AUROC" not in text
    assert "unknown images" not in text
    rows = OpenSetClassifier.load(folder.parent / "model").description.metrics
    assert [row["metric"] for row in rows] == ["accuracy"]


def test_the_same_request_gives_the_same_weights_and_replaces_the_model(folder: Path):
    train_folder(request(folder), print)
    first = (folder.parent / "model" / "weights.safetensors").read_bytes()
    train_folder(request(folder), print)
    assert (folder.parent / "model" / "weights.safetensors").read_bytes() == first
    train_folder(request(folder, seed=1), print)
    assert (folder.parent / "model" / "weights.safetensors").read_bytes() != first


def test_parts_are_stratified_distinct_and_drawn_by_the_seed(folder: Path):
    first, again, other = read(folder, None, 0), read(folder, None, 0), read(folder, None, 1)
    assert first == again
    assert first.test != other.test
    assert first.drawn
    for name in COLOURS:
        assert len(first.test[name]) == 4
        assert len(first.train[name]) == 16
        assert not set(first.test[name]) & set(first.train[name])


def test_parts_that_the_user_made_stay_as_they_are(tmp_path: Path):
    for name in ("green", "red"):
        make_images(tmp_path / "images" / "train" / name / "deep", 8, COLOURS[name])
        make_images(tmp_path / "images" / "test" / name, 3, COLOURS[name], seed=1)
    make_images(tmp_path / "images" / "test" / "blue", 4, COLOURS["blue"])
    images = read(tmp_path / "images", None, 0)
    assert not images.drawn
    assert images.classes == ("green", "red")
    assert len(images.unknown) == 4
    text = train_folder(request(tmp_path / "images", epochs=2), print)
    assert "of 6 test images" in text
    assert "of 4 unknown images" in text


def test_names_that_meet_in_one_class_stay_apart(tmp_path: Path):
    for part in ("a", "b"):
        make_images(tmp_path / "images" / "green" / part, 3, COLOURS["green"], seed=ord(part))
    make_images(tmp_path / "images" / "unknown", 6, COLOURS["red"])
    make_images(tmp_path / "others", 2, COLOURS["blue"])
    images = read(tmp_path / "images", tmp_path / "others", 0)
    images.link(tmp_path / "linked")
    linked = {path.relative_to(tmp_path / "linked").as_posix() for path in (tmp_path / "linked").rglob("*.png")}
    assert len(linked) == 14
    assert {name for name in linked if "/unknown_/" in name} == {"test/unknown_/000.png", "test/unknown_/001.png"}


def frozen(folder: Path, more: str = "") -> str:
    """A tiny network, frozen, with the weights of a file."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), folder / "tiny.safetensors")
    weights = folder / "tiny.safetensors"
    return f"{{name: timm, model: test_resnet, stem: imagenet, weights: '{weights}', freeze: true{more}}}"


def test_a_frozen_network_on_own_images(folder: Path, tmp_path: Path):
    given, said = frozen(tmp_path), []
    text = train_folder(request(folder, backbone=given, epochs=40), said.append)
    assert "frozen: features once per image" in said[1]
    assert "may have seen" in text
    # a budget of time is measured on training images alone
    train_folder(request(folder, out=tmp_path / "timed", backbone=given, epochs=None, minutes=5), said.append)
    assert OpenSetClassifier.load(tmp_path / "timed").description.architecture.backbone["freeze"]
    (tmp_path / "tiny.safetensors").unlink()
    model = OpenSetClassifier.load(tmp_path / "model")
    assert model.description.architecture.backbone["freeze"]
    # the normalisation of the weights, not of some data set, came along
    assert np.allclose(model.description.preprocessing.mean, timm.get_pretrained_cfg("test_resnet").mean)
    model.predict(folder)


def test_a_time_budget_decides_the_epochs(folder: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    with monkeypatch.context() as patched:
        # a second a step, nine steps per epoch, half a second for each tested image: 9 + 9 / 2 s per epoch
        patched.setattr("openset_distill.recognition.train.measured", lambda *_: (1.0, 0.5, 0.0))
        train_folder(request(folder, epochs=None, minutes=5), said.append)
    planned = next(int(line.split()[0]) for line in said if "fit into 5 minutes" in line)
    assert 0.8 * 300 < 10.5 + planned * 13.5 < 300
    train_folder(request(folder, epochs=None, minutes=0.2), said.append)  # measured, not planned
    assert any("fit into 0.2 minutes" in line for line in said)
    with pytest.raises(SettingsError, match=r"--minutes 0\.0001 is not enough: about .* are needed"):
        train_folder(request(folder, epochs=None, minutes=0.0001), said.append)
    with pytest.raises(SettingsError, match="give one of them"):
        train_folder(request(folder, minutes=1), said.append)


class SlowMachine:
    """A clock that features alone move on: at 160 pixels an image takes `seconds`, at others as its area says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float):
        self.now, self.sizes = 0.0, []
        true = features.features_of

        def features_of(model, images):
            size = model.encoder.input_size
            self.sizes += [size] * len(images)
            self.now += seconds * (size / 160) ** 2 * len(images)
            return true(model, images)

        monkeypatch.setattr(features, "features_of", features_of)
        monkeypatch.setattr(features, "CHUNK", 8)
        monkeypatch.setattr("openset_distill.recognition.train.time", SimpleNamespace(monotonic=lambda: self.now))
        # the plan, made before the machine turned slow: everything fits
        monkeypatch.setattr("openset_distill.recognition.train.measured", lambda *_: (0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("minutes", "sizes", "words"),
    [
        (5, {160}, None),  # 48 images of 4 s, and as much for each of the 21 that are tested: 276 s
        (3, {160, 96}, "images are processed at 96 pixels"),
        (0.7, {160}, "more minutes are needed"),
    ],
)
def test_features_that_take_longer_than_planned_are_of_smaller_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, sizes: set[int], words: str | None
):
    given, said = frozen(folder.parent, ", input_size: 160"), []
    machine = SlowMachine(monkeypatch, 4)
    train_folder(request(folder, backbone=given, epochs=2, minutes=minutes), said.append)
    assert set(machine.sizes) == sizes
    slower = [line for line in said if "slower than planned" in line]
    assert [words in line for line in slower] == ([True] if words else [])
    backbone = OpenSetClassifier.load(folder.parent / "model").description.architecture.backbone
    assert backbone["input_size"] == min(sizes)


def test_a_plan_is_made_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    planned = []

    def measured(*_):
        planned.append(1)
        return (1.0, 0.5, 0.0)

    monkeypatch.setattr("openset_distill.recognition.train.measured", measured)
    with monkeypatch.context() as patched:
        patched.setattr("openset_distill.recognition.train.save_test_outputs", interrupted)
        with pytest.raises(Interrupted):
            train_folder(request(folder, epochs=None, minutes=2), print)
    train_folder(request(folder, epochs=None, minutes=2), print)
    assert planned == [1]


def interrupted(*_arguments: object) -> None:
    raise Interrupted("stopped", signal.SIGTERM)


@pytest.mark.usefixtures("in_repository")
def test_the_experiment_file_is_one_that_the_workflow_takes(folder: Path):
    text = configuration_text(request(folder, unknown=None))
    assert "# The workflow compares knowns with unknowns" in text
    make_images(folder.parent / "unknown", 5, (210, 200, 60))
    asked = request(folder, unknown=folder.parent / "unknown")
    plain = yaml.safe_load(configuration_text(asked))
    experiment = load(plain, stands_alone=True)
    job = experiment.run_config("ce", 0, 0)
    images = read(folder, asked.unknown, 0)
    same = configuration(asked, images, folder.parent / "model.images", side=images.side())
    assert job == load(same, stands_alone=True).run_config("ce", 0, 0)
    assert job.optimization.epochs == 12
    assert experiment.settings.show.figures
    linked = folder.parent / "model.images"
    assert sorted(path.name for path in (linked / "test").iterdir()) == ["blue", "green", "red", "unknown"]
    assert all(path.is_symlink() for path in linked.rglob("*.png"))


@pytest.mark.parametrize(
    ("side", "there", "expected"),
    [
        (64, True, "efficientnet_lite0"),
        (32, True, "efficientnet_lite0"),
        (28, True, "fast_cnn"),
        (64, False, "fast_cnn"),
    ],
)
def test_the_default_backbone_follows_from_the_images_and_what_is_installed(monkeypatch, side, there, expected):
    monkeypatch.setattr("openset_distill.recognition.train.has_packaged_weights", lambda: there)
    chosen = choose_backbone(None, side)
    assert chosen["name"] == expected
    assert chosen.get("freeze", False) == (expected == "efficientnet_lite0")


def test_backbones_of_timm_and_mistyped_ones():
    assert choose_backbone("test_vit", 64)["model"] == "test_vit"
    with pytest.raises(SettingsError, match="efficientnet_lite0"):
        choose_backbone("eficientnet_lite0", 64)
    with pytest.raises(SettingsError, match="no setting 'frozen'"):
        choose_backbone("{name: efficientnet_lite0, frozen: true}", 64)
    with pytest.raises(SettingsError, match="neither a name nor"):
        choose_backbone("[1, 2]", 64)


# ------------------------------------------------------------------------------------------------ bad input


def few(folder: Path) -> None:
    for path in sorted((folder / "red").iterdir())[4:]:
        path.unlink()


def one_class(folder: Path) -> None:
    for name in ("red", "blue"):
        for path in (folder / name).iterdir():
            path.unlink()
        (folder / name).rmdir()


def no_classes(folder: Path) -> None:
    one_class(folder)
    for path in (folder / "green").iterdir():
        path.rename(folder / path.name)
    (folder / "green").rmdir()


def empty(folder: Path) -> None:
    no_classes(folder)
    for path in folder.iterdir():
        path.unlink()


def empty_class(folder: Path) -> None:
    (folder / "void").mkdir()


def half_a_layout(folder: Path) -> None:
    (folder / "green").rename(folder / "train")


def a_lost_link(folder: Path) -> None:
    (folder / "yellow").symlink_to(folder / "never_fetched")


def a_broken_image(folder: Path) -> None:
    (folder / "red" / "003.png").write_bytes(b"no image")


def gone(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (few, r"fewer than 5 images of red \(4\); add images"),
        (one_class, "has one class, green; a classifier needs two"),
        (no_classes, "has 20 images in no class folder; put the images of each class into a folder"),
        (empty, "is empty: it has no class folders; put the images"),
        (empty_class, r"fewer than 5 images of void \(0\)"),
        (a_lost_link, r"yellow is a link to .*never_fetched, which is not there \(1 such links\)"),
        (half_a_layout, "has a folder train and no folder test; add it"),
        (a_broken_image, "003.png"),
        (gone, "does not exist; check the path"),
    ],
)
def test_images_that_make_no_model_are_one_line_and_leave_nothing(folder: Path, damage, words: str):
    damage(folder)
    with pytest.raises(DataError, match=words):
        train_folder(request(folder), print)
    assert not (folder.parent / "model").exists()
    assert left_over(folder.parent) <= {"elsewhere", ".model.training"}


def test_an_image_cannot_be_known_and_unknown(folder: Path):
    with pytest.raises(DataError, match="known class and unknown too"):
        read(folder, folder / "red", 0)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_model_is_not_replaced(folder: Path, kind: str):
    out = folder.parent / "model"
    if kind == "folder":
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
    else:
        out.write_text("years of work")
    with pytest.raises(OpenSetError, match="choose another --out"):
        train_folder(request(folder), print)
    assert (out / "thesis.txt" if kind == "folder" else out).read_text() == "years of work"
    assert not left_over(folder.parent)


def test_two_trainings_of_one_model(folder: Path):
    from filelock import FileLock

    work = request(folder).work
    work.mkdir()
    with FileLock(work / "lock"), pytest.raises(OpenSetError, match="another training is writing"):
        train_folder(request(folder), print)


def test_a_full_disk_while_the_model_is_written_leaves_no_model(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("openset_distill.recognition.model.save_classifier", full)
        with pytest.raises(OpenSetError, match="No space left on device"):
            train_folder(request(folder), print)
    assert not (folder.parent / "model").exists()
    assert left_over(folder.parent) == {".model.training"}
    train_folder(request(folder), print)
    assert not left_over(folder.parent)


def test_a_killed_training_continues_with_the_same_command(folder: Path):
    words = [sys.executable, "-c", "from openset_distill.cli import main; main()", "train", str(folder)]
    words += ["--out", str(folder.parent / "model")]
    words += ["--backbone", TINY, "--epochs", "4000", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stderr:
        if line.startswith("epoch 1/"):
            process.send_signal(signal.SIGTERM)
            break
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0 and "run again to resume" in error.splitlines()[-1], error
    said: list[str] = []
    assert (request(folder).work / "ce" / "state.safetensors").exists()
    state = (request(folder).work / "ce" / "state.safetensors").stat().st_mtime_ns
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stderr:
        said.append(line)
        if "resuming from epoch" in line:
            process.send_signal(signal.SIGTERM)
            break
    process.communicate(timeout=60)
    assert any("resuming from epoch" in line for line in said), said
    assert (request(folder).work / "ce" / "state.safetensors").stat().st_mtime_ns >= state
    assert not (folder.parent / "model").exists()


def test_the_links_never_replace_what_somebody_else_put_there(folder: Path):
    taken = folder.parent / "model.images" / "holiday"
    make_images(taken, 2, (10, 20, 30))
    with pytest.raises(OpenSetError, match="did not write"):
        configuration_text(request(folder))
    assert len(list(taken.iterdir())) == 2
    with pytest.raises(OpenSetError, match="must stay as it is"):
        # MODEL.images is the folder of the images itself
        configuration_text(request(folder.rename(folder.with_name("birds.images")), out=folder.with_name("birds")))
    assert len(list(folder.with_name("birds.images").rglob("*.png"))) == 60


def test_leftovers_of_programs_are_no_classes(folder: Path):
    for leftover in ("#recycle", "@eaDir", "lost+found", ".cache"):
        make_images(folder / leftover, 5, (9, 9, 9))
    assert read(folder, None, 0).classes == ("blue", "green", "red")
