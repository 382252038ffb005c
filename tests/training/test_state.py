"""A saved state is continued by the training that it belongs to, to the same bytes in every file, and by no other."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import job, make_split, script, succeed, train, typed
from trained import OUTPUTS, fails

from openset_distill.core.device import prepare_device
from openset_distill.core.errors import CheckpointError, OpenSetError
from openset_distill.core.files import sha256
from openset_distill.models.checkpoint import load_tensors, save_classifier, save_tensors
from openset_distill.training.batches import Batches
from openset_distill.training.loop import train as train_in_place
from openset_distill.training.run_config import RunConfig
from openset_distill.training.setup import (
    SplitData,
    describe,
    identity,
    make_student,
    open_split,
    save_test_outputs,
    write_history,
)
from openset_distill.training.teachers import load_teachers

CPU = torch.device("cpu")


class Killed(Exception):
    """The process ends here, without a word."""


class Mortal(Batches):
    """Batches of a process that is killed when it asks for batch `last`."""

    last = None

    def __getitem__(self, number):
        if number == self.last:
            raise Killed
        return super().__getitem__(number)


def settings(run: str = "cutmix", epochs: int = 3) -> RunConfig:
    made = job(run)
    made["optimization"] |= {"epochs": epochs, "checkpoint_minutes": 1e-9, "select": "best_validation_accuracy"}
    return typed(made)


def opened(digits: Path, split: Path) -> SplitData:
    prepare_device(1)
    return open_split(digits, [], split / "split.npz", split / "split.json")


def lines_of(
    folder: Path, made: RunConfig, data: SplitData, teachers: list[Path] = (), until: int | None = None
) -> list[str]:
    """Trains, killed at batch `until`; or to the end, with the run's files in `folder`. Returns what was reported."""
    student, said = make_student(made, data, CPU), []
    batches = Mortal(made, data.training(CPU), torch.from_numpy(data.train_label), data.normalize(made, CPU))
    batches.last = until
    rows = train_in_place(
        made,
        student,
        load_teachers(teachers, data.classes, CPU) if teachers else None,
        batches,
        data.validation(CPU),
        identity=identity(data, teachers),
        state_path=folder / "state.safetensors",
        report=said.append,
    )
    save_test_outputs(folder / "outputs.npz", student, data, made, CPU)
    write_history(folder / "history.csv", rows)
    save_classifier(folder / "weights.safetensors", student, describe(made, data))
    with np.load(folder / "outputs.npz") as outputs:
        assert str(outputs["weights_sha256"]) == sha256(folder / "weights.safetensors")
    return said


def killed(folder: Path, made: RunConfig, data: SplitData, teachers: list[Path] = (), at: int = 9) -> None:
    folder.mkdir(exist_ok=True)
    with pytest.raises(Killed):
        lines_of(folder, made, data, teachers, until=at)
    assert (folder / "state.safetensors").exists()


def test_a_training_killed_at_any_step_ends_with_the_same_bytes_in_every_file(digits, split, teacher, tmp_path):
    data, weights = opened(digits, split), [teacher / "weights.safetensors"]
    for run, teachers in (("mixup", []), ("ad_as_released", weights)):
        made, whole = settings(run), tmp_path / f"{run}_whole"
        whole.mkdir()
        lines_of(whole, made, data, teachers)
        steps = len(data.train_label) // made.optimization.batch_size
        # in the first epoch, at its end, after it, in the middle and at the very end
        for at in (1, 2, 3, steps - 1, steps, steps + 1, 2 * steps - 2, 3 * steps - 1):
            cut = tmp_path / f"{run}_{at}"
            killed(cut, made, data, teachers, at=at)
            assert "resuming from epoch" in lines_of(cut, made, data, teachers)[0]
            for name in ("weights.safetensors", "history.csv", "outputs.npz"):
                assert (cut / name).read_bytes() == (whole / name).read_bytes(), (run, at, name)


def test_columns_of_the_history_have_one_order(tmp_path):
    rows = [
        {"epoch": 1, "hard_share": 0.5, "loss_b": 2.0, "train_loss": 3.0, "learning_rate": 0.1},
        {"epoch": 2, "validation_accuracy": 0.5, "loss_a": 1.0, "train_loss": 3.0, "learning_rate": 0.1},
    ]
    write_history(tmp_path / "history.csv", rows)
    header, first, _ = (tmp_path / "history.csv").read_text().splitlines()
    assert header == "epoch,learning_rate,train_loss,loss_a,loss_b,hard_share,validation_accuracy"
    assert first == "1,0.1,3.0,,2.0,0.5,"


def changed_split(split: Path, folder: Path, change) -> Path:
    """A copy of a split whose arrays and description `change` alters."""
    folder.mkdir()
    arrays, description = dict(np.load(split / "split.npz")), json.loads((split / "split.json").read_text())
    change(arrays, description)
    np.savez(folder / "split.npz", **arrays)
    (folder / "split.json").write_text(json.dumps(description))
    return folder


def other_images(arrays: dict, _description: dict) -> None:
    arrays["train_index"], arrays["validation_index"] = (
        np.concatenate([arrays["validation_index"][:1], arrays["train_index"][1:]]),
        np.concatenate([arrays["train_index"][:1], arrays["validation_index"][1:]]),
    )
    arrays["train_label"][0], arrays["validation_label"][0] = arrays["validation_label"][0], arrays["train_label"][0]


def other_order(arrays: dict, description: dict) -> None:
    for key in ("known", "known_ids"):
        description[key][:2] = reversed(description[key][:2])
    for part in ("train", "validation", "test"):
        labels = arrays[f"{part}_label"]
        labels[:] = np.where((labels == 0) | (labels == 1), 1 - labels, labels)


@pytest.mark.parametrize(
    ("change", "words"), [(other_images, "another split"), (other_order, "other classes")], ids=["images", "classes"]
)
def test_a_state_of_another_split_or_of_other_classes_is_left_aside(change, words, digits, split, tmp_path):
    made, folder = settings(), tmp_path / "run"
    killed(folder, made, opened(digits, split))
    other = opened(digits, changed_split(split, tmp_path / "other", change))
    said = lines_of(folder, made, other)
    assert words in said[0]
    assert "training starts over" in said[0]
    assert not any("resuming" in line for line in said)
    (tmp_path / "fresh").mkdir()
    lines_of(tmp_path / "fresh", made, other)
    assert (folder / "weights.safetensors").read_bytes() == (tmp_path / "fresh" / "weights.safetensors").read_bytes()


def test_a_state_of_other_images_teachers_settings_or_precision_is_left_aside(digits, split, teacher, tmp_path):
    data, weights, folder = opened(digits, split), teacher / "weights.safetensors", tmp_path / "run"
    made = settings("kd_mixed")
    killed(folder, made, data, [weights])
    state = (folder / "state.safetensors").read_bytes()

    def first_line(made: RunConfig, data: SplitData, teachers: list[Path]) -> str:
        (folder / "state.safetensors").write_bytes(state)
        return lines_of(folder, made, data, teachers)[0]

    assert "resuming from" in first_line(made, data, [weights])
    # the same split of images that were prepared otherwise
    changed = tmp_path / "changed"
    shutil.copytree(digits, changed)
    images = np.load(changed / "train_images.npy")
    images[0] = 255 - images[0]
    np.save(changed / "train_images.npy", images)
    manifest = json.loads((changed / "manifest.json").read_text())
    manifest["files"]["train_images.npy"] = sha256(changed / "train_images.npy")
    (changed / "manifest.json").write_text(json.dumps(manifest))
    assert "other prepared images" in first_line(made, opened(changed, split), [weights])
    tensors, metadata = load_tensors(weights)
    tensors["head.bias"] += 1
    save_tensors(tmp_path / "other.safetensors", tensors, metadata)
    assert "another teacher" in first_line(made, data, [tmp_path / "other.safetensors"])
    assert "another teacher" in first_line(made, data, [weights, weights])
    half = made.model_copy(update={"optimization": made.optimization.model_copy(update={"precision": "bfloat16"})})
    line = first_line(half, data, [weights])
    assert "other settings, another precision" in line
    # the same setting, `auto`, means another precision on another machine
    tensors, metadata = _state(state, folder)
    found = json.loads(metadata["identity"]) | {"precision": "bfloat16"}
    save_tensors(tmp_path / "edited", tensors, metadata | {"identity": json.dumps(found)})
    state = (tmp_path / "edited").read_bytes()
    with pytest.raises(CheckpointError, match="was computed in bfloat16, and `precision: auto` is float32"):
        first_line(made, data, [weights])


def _state(state: bytes, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    (folder / "state.safetensors").write_bytes(state)
    return load_tensors(folder / "state.safetensors")


def edited(name: str):
    """Changes to a state that a program of another version, a bad disk or an editor may make."""

    def shape(tensors, _metadata):
        tensors["model/head.weight"] = tensors["model/head.weight"][:1]

    def missing(tensors, _metadata):
        del tensors["model/head.weight"]

    def foreign(tensors, _metadata):
        tensors["wrong/x"] = torch.zeros(1)

    def not_a_number(tensors, _metadata):
        tensors["momentum/0"] = tensors["momentum/0"] * float("nan")

    def kind(tensors, _metadata):
        tensors["model/head.weight"] = tensors["model/head.weight"].to(torch.int32)

    def lost_momentum(tensors, _metadata):
        del tensors["momentum/1"]

    def counts(_tensors, metadata):
        metadata["progress"] = json.dumps(json.loads(metadata["progress"]) | {"counts": {}})

    def position(_tensors, metadata):
        metadata["progress"] = json.dumps(json.loads(metadata["progress"]) | {"epoch": -1})

    def text(_tensors, metadata):
        metadata["progress"] = "[1"

    def no_progress(_tensors, metadata):
        del metadata["progress"]

    def no_mapping(_tensors, metadata):
        metadata["identity"] = "[]"

    def version(_tensors, metadata):
        del metadata["format"]

    return locals()[name]


@pytest.mark.parametrize(
    "change",
    [
        "shape", "missing", "foreign", "not_a_number", "kind", "lost_momentum", "counts", "position", "text",
        "no_progress", "no_mapping", "version",
    ],
)  # fmt: skip
def test_a_damaged_state_or_one_of_another_version_starts_anew_in_one_line(change, digits, split, tmp_path):
    made, data, folder = settings(epochs=1), opened(digits, split), tmp_path / "run"
    killed(folder, made, data, at=3)
    tensors, metadata = load_tensors(folder / "state.safetensors")
    edited(change)(tensors, metadata)
    save_tensors(folder / "state.safetensors", tensors, metadata)
    said = lines_of(folder, made, data)
    assert "training starts over" in said[0]
    assert "\n" not in said[0]
    assert ("another version" if change == "version" else "is damaged") in said[0]
    (tmp_path / "fresh").mkdir()
    lines_of(tmp_path / "fresh", made, data)
    assert (folder / "weights.safetensors").read_bytes() == (tmp_path / "fresh" / "weights.safetensors").read_bytes()


# ------------------------------------------------------------------------------------- cached teacher logits


def recorded(path: Path, made: dict, digits: Path, split: Path, weights: Path):
    inputs = ["--prepared", digits, "--split", split / "split.npz", "--description", split / "split.json"]
    seen = json.dumps(typed(made).images_seen().plain())
    return script("cache_teacher_logits.py", "--job", seen, *inputs, "--teacher", weights, "--teacher-logits", path)


def test_a_recording_of_another_split_with_the_same_settings_is_refused(digits, split, teacher, tmp_path):
    weights, path = teacher / "weights.safetensors", tmp_path / "teacher_logits.safetensors"
    succeed(recorded(path, job("kd_mixed"), digits, split, weights))
    other, names = (
        changed_split(split, tmp_path / "other", other_images),
        ["--teacher", weights, "--teacher-logits", path],
    )
    process = train(tmp_path / "run", job("kd_mixed"), digits, other, *names)
    fails(process, tmp_path / "run", "split_sha256", "delete it and cache the teacher logits again")
    tensors, metadata = load_tensors(path)
    for change, words in (
        ({"raw": tensors["raw"][:-1]}, "rows do not fit"),
        ({"raw": tensors["raw"] * float("nan")}, "raw is not finite"),
        ({"row": tensors["row"].float()}, "no row of type int64"),
        ({"mixed": tensors["mixed"][:, :-1]}, "not that of these batches"),
    ):
        save_tensors(path, tensors | change, metadata)
        fails(train(tmp_path / "run", job("kd_mixed"), digits, split, *names), tmp_path / "run", "damaged", words)


def test_provenance_names_everything_that_was_read(digits, split, teacher, tmp_path):
    weights, path = teacher / "weights.safetensors", tmp_path / "teacher_logits.safetensors"
    succeed(recorded(path, job("kd_mixed"), digits, split, weights))
    succeed(train(tmp_path / "run", job("kd_mixed"), digits, split, "--teacher", weights, "--teacher-logits", path))
    assert {file.name for file in (tmp_path / "run").iterdir()} == OUTPUTS
    inputs = json.loads((tmp_path / "run" / "provenance.json").read_text())["inputs_sha256"]
    assert {Path(name).name for name in inputs} == {"split.npz", "manifest.json", weights.name, path.name}


def test_make_split_is_deterministic(digits, split, tmp_path):
    succeed(make_split(digits, tmp_path))
    assert (tmp_path / "split.npz").read_bytes() == (split / "split.npz").read_bytes()


# ----------------------------------------------------------------------------------------- splits


def at(name: str, value, place: int = 0):
    def change(arrays, _description):
        arrays[name] = arrays[name].copy()
        arrays[name][place] = value

    return change


SPLITS = {
    "a negative index": at("train_index", -1),
    "an index beyond": at("test_index", 10**6),
    "fractions": lambda arrays, _: arrays.update(train_index=arrays["train_index"].astype(float)),
    "truth values": lambda arrays, _: arrays.update(train_index=arrays["train_index"] > 3),
    "two dimensions": lambda arrays, _: arrays.update(train_label=arrays["train_label"][:, None]),
    "an image twice": lambda arrays, _: at("train_index", arrays["train_index"][1])(arrays, _),
    "training images that validate": lambda arrays, _: at("train_index", arrays["validation_index"][0])(arrays, _),
    "another label": at("train_label", 5),
    "a known image called unknown": at("test_label", -1),
    "another group": at("test_group", 1),
    "a group that nobody named": at("test_group", 7, -1),
    "another source": at("test_source", 3),
    "fewer labels": lambda arrays, _: arrays.update(train_label=arrays["train_label"][:-1]),
    "no test images": lambda arrays, _: arrays.update({key: arrays[key][:0] for key in arrays if key[:4] == "test"}),
    "no array": lambda arrays, _: arrays.pop("validation_label"),
    "objects": lambda arrays, _: arrays.update(train_index=np.array([None, 1], dtype=object)),
    "other names": lambda _, description: description["known"].reverse(),
    "a class twice": lambda _, description: description["known_ids"].__setitem__(0, description["known_ids"][1]),
    "classes that are not there": lambda _, description: description["known_ids"].__setitem__(0, 99),
    "names that are numbers": lambda _, description: description["known"].__setitem__(0, 5),
    "known is text": lambda _, description: description.update(known="abc"),
    "no groups": lambda _, description: description.pop("groups"),
}


@pytest.mark.parametrize("damage", SPLITS)
def test_a_split_that_does_not_fit_is_one_line_with_a_remedy(damage, digits, split, tmp_path):
    other = changed_split(split, tmp_path / "other", SPLITS[damage])
    with pytest.raises(OpenSetError) as caught:
        opened(digits, other)
    message = str(caught.value)
    assert str(other) in message
    assert "\n" not in message
    assert "delete it, and the same command" in message


def claims(path: Path, shape: tuple[int, ...]) -> None:
    """An archive whose member claims to hold an array of this shape."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_index.npy", header.getvalue() + bytes(16))


def test_files_that_are_no_archive_of_arrays_are_one_line(digits, split, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    shutil.copy(split / "split.json", folder)
    path = folder / "split.npz"
    whole = (split / "split.npz").read_bytes()
    for contents in (b"", b"nothing", whole[:-30], whole[:60], b"\x93NUMPY" + bytes(100)):
        path.write_bytes(contents)
        with pytest.raises(OpenSetError, match=r"split\.npz is cut off or not the images of a split"):
            opened(digits, folder)
    claims(path, (2 * 10**11,))  # 1.6 TB
    with pytest.raises(OpenSetError, match="but it holds less"):
        opened(digits, folder)
    for text in ("", "[1", "[]", "[" * 100_000):
        path.write_bytes(whole)
        (folder / "split.json").write_text(text)
        with pytest.raises(OpenSetError, match=r"split\.json (is not valid JSON|does not hold a JSON object)"):
            opened(digits, folder)
