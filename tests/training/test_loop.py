"""Training as a process: results, determinism, interruption, and everything that can be wrong with its inputs."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import REPOSITORY, SCRIPTS, job, make_split, script, succeed, train, typed
from trained import OUTPUTS, fails, history, same, wait_for

from openset_distill.core.errors import TrainingError
from openset_distill.evaluation.evaluate import load_outputs
from openset_distill.methods import METHODS
from openset_distill.models.checkpoint import load_classifier, load_tensors, save_tensors
from openset_distill.training.batches import Batches
from openset_distill.training.loop import train as train_in_place
from openset_distill.training.run_config import OptimizationSettings
from openset_distill.training.schedule import learning_rate
from openset_distill.training.setup import identity, make_student, open_split


def test_a_run_leaves_its_files_and_nothing_else(teacher, split):
    assert {path.name for path in teacher.iterdir()} == OUTPUTS
    model, described = load_classifier(teacher / "weights.safetensors")
    assert described.classes == tuple(json.loads((split / "split.json").read_text())["known"])
    outputs = load_outputs(teacher / "outputs.npz")
    arrays = np.load(split / "split.npz")
    assert outputs["labels"].tolist() == arrays["test_label"].tolist()
    assert outputs["logits"].shape == (len(arrays["test_index"]), 6)
    assert [int(row["epoch"]) for row in history(teacher)] == [1, 2, 3]
    provenance = json.loads((teacher / "provenance.json").read_text())
    assert provenance["packages"]["torch"] == torch.__version__.split("+")[0]
    assert provenance["wall_seconds"] > 0
    assert set(provenance["machine_energy_joules"]) == {"processors", "gpus"}
    assert any(name.endswith("manifest.json") for name in provenance["inputs_sha256"])
    assert not model.training


def test_training_learns(digits, split, tmp_path):
    settings = job("ce")
    settings["optimization"]["epochs"] = 30
    succeed(train(tmp_path, settings, digits, split))
    outputs = load_outputs(tmp_path / "outputs.npz")
    known = outputs["labels"] >= 0
    assert (outputs["logits"][known].argmax(1) == outputs["labels"][known]).mean() > 0.8


@pytest.mark.parametrize("method", ["arpl", "placeholders", "class_wise_self_distillation"])
def test_a_method_without_a_teacher_learns_and_teaches(method, digits, split, tmp_path):
    settings = job("mixup" if method == "placeholders" else "ce", method=METHODS.resolve(method))
    settings["optimization"]["epochs"] = 30
    succeed(train(tmp_path / "first", settings, digits, split))
    outputs = load_outputs(tmp_path / "first" / "outputs.npz")
    known = outputs["labels"] >= 0
    assert (outputs["logits"][known].argmax(1) == outputs["labels"][known]).mean() > 0.8
    weights_file = tmp_path / "first" / "weights.safetensors"
    model, described = load_classifier(weights_file)
    assert described.head == METHODS[method].head
    assert len(model(torch.zeros(1, 1, 8, 8))) == 2
    succeed(train(tmp_path / "second", job("kd_mixed"), digits, split, "--teacher", weights_file))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_outputs_are_those_of_the_saved_weights_in_float32(precision, digits, split, tmp_path):
    from openset_distill.datasets.loader import ImageLoader, Normalize
    from openset_distill.models.inference import predict

    settings = job("ce")
    settings["optimization"]["precision"] = precision
    succeed(train(tmp_path, settings, digits, split))
    data = open_split(digits, [], split / "split.npz", split / "split.json")
    model, _ = load_classifier(tmp_path / "weights.safetensors")
    loader = data.test(torch.device("cpu"))[0]
    assert isinstance(loader, ImageLoader)
    features, logits = predict(model, loader, Normalize(**settings["normalization"], channels=1, device=loader.device))
    outputs = load_outputs(tmp_path / "outputs.npz")
    np.testing.assert_allclose(logits.numpy(), outputs["logits"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features.numpy(), outputs["features"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("run", ["cutmix", "kd_mixed", "ad_as_released", "ad_as_described_ce", "ad_soft"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(run, teacher, digits, split, tmp_path):
    settings = job(run)
    with_teacher = [] if run == "cutmix" else ["--teacher", teacher / "weights.safetensors"]
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        succeed(train(tmp_path / name, settings | {"seed": seed}, digits, split, *with_teacher))
    assert same(tmp_path / "first", tmp_path / "second")
    assert not same(tmp_path / "first", tmp_path / "other")
    assert (tmp_path / "first" / "history.csv").read_bytes() == (tmp_path / "second" / "history.csv").read_bytes()
    assert (tmp_path / "first" / "outputs.npz").read_bytes() == (tmp_path / "second" / "outputs.npz").read_bytes()


def interruptible() -> dict:
    """Settings of a training that lasts a while and saves its state after every step."""
    settings = job("mixup")
    settings["optimization"] |= {"epochs": 40, "checkpoint_minutes": 1e-9, "select": "best_validation_accuracy"}
    return settings


def start_training(folder: Path, settings: dict, digits: Path, split: Path) -> subprocess.Popen[str]:
    """A training in the background."""
    names = ["weights.safetensors", "history.csv", "outputs.npz", "config.json", "provenance.json"]
    outputs = [part for name in names for part in (f"--{name.split('.')[0]}", str(folder / name))]
    inputs = ["--prepared", digits, "--split", split / "split.npz", "--description", split / "split.json"]
    command = [sys.executable, SCRIPTS / "train.py", "--job", json.dumps(settings), *inputs, *outputs]
    return subprocess.Popen(list(map(str, command)), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)


def test_two_processes_never_train_one_run(digits, split, tmp_path):
    settings = interruptible()
    first = start_training(tmp_path / "run", settings, digits, split)
    wait_for(tmp_path / "run" / "state.safetensors", first)
    second = train(tmp_path / "run", settings, digits, split)
    assert second.returncode == 2
    assert f"process {first.pid} is training mixup in " in second.stderr
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert (tmp_path / "run" / "state.safetensors").exists()


@pytest.fixture(scope="module")
def whole(digits, split, tmp_path_factory) -> Path:
    """The training of `interruptible` that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    succeed(train(folder, interruptible(), digits, split))
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_an_interrupted_training_goes_on_to_the_same_bits(number, digits, split, whole, tmp_path):
    settings = interruptible()
    process = start_training(tmp_path / "cut", settings, digits, split)
    wait_for(tmp_path / "cut" / "state.safetensors", process)
    time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}.get(number, 2)
    if number != signal.SIGKILL:
        assert "stopped by a signal" in errors
        assert "run again" in errors
        assert "Traceback" not in errors
    assert not (tmp_path / "cut" / "weights.safetensors").exists()

    continued = succeed(train(tmp_path / "cut", settings, digits, split))
    assert "resuming from epoch" in continued.stderr
    assert same(tmp_path / "cut", whole)
    assert history(tmp_path / "cut") == history(whole)
    assert not (tmp_path / "cut" / "state.safetensors").exists()


def test_a_state_of_other_settings_or_a_damaged_one_is_not_continued(digits, split, tmp_path):
    (tmp_path / "run").mkdir()
    state = tmp_path / "run" / "state.safetensors"
    state.write_bytes(b"nothing of the kind")
    damaged = succeed(train(tmp_path / "run", job("ce"), digits, split))
    assert "damaged" in damaged.stderr
    assert "starts over" in damaged.stderr
    save_tensors(state, {"model/x": torch.zeros(1)}, {"job": "{}", "progress": "{}"})
    other = succeed(train(tmp_path / "run", job("ce"), digits, split))
    assert "saved by another version" in other.stderr


def test_a_loss_that_is_not_finite_is_named(digits, split, tmp_path):
    settings = job("ce")
    # each step multiplies the weights by -99
    settings["optimization"] |= {"learning_rate": 100, "weight_decay": 1, "warmup_epochs": 0}
    fails(train(tmp_path / "run", settings, digits, split), tmp_path / "run", "not finite", "label", "learning rate")


def test_a_loss_that_is_not_finite_leaves_the_last_good_state_which_goes_on_to_the_same_bits(digits, split, tmp_path):
    data, cpu = open_split(digits, [], split / "split.npz", split / "split.json"), torch.device("cpu")
    settings = job("ce")
    settings["optimization"] |= {"epochs": 2, "checkpoint_minutes": 1e-9}
    settings = typed(settings)

    class Damaged(Batches):
        """Batches of which one, early in the second epoch, is not made of numbers."""

        def __getitem__(self, number):
            batch = super().__getitem__(number)
            return (
                dataclasses.replace(batch, images=batch.images * math.nan)
                if number == self.steps_per_epoch + 2
                else batch
            )

    def trained(batches: type[Batches], state: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
        student = make_student(settings, data, cpu)
        labels = torch.from_numpy(data.train_label)
        images = batches(settings, data.training(cpu), labels, data.normalize(settings, cpu))
        rows = train_in_place(
            settings, student, None, images, data.validation(cpu), identity=identity(data, []), state_path=state
        )
        return student.state_dict(), rows

    with pytest.raises(TrainingError, match=r"not finite in epoch 2 \(term .*label\)"):
        trained(Damaged, tmp_path / "state.safetensors")
    tensors, metadata = load_tensors(tmp_path / "state.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert (json.loads(metadata["progress"])["epoch"], json.loads(metadata["progress"])["step"]) == (1, 2)
    continued, whole = (
        trained(Batches, tmp_path / "state.safetensors"),
        trained(Batches, tmp_path / "other.safetensors"),
    )
    assert all(torch.equal(continued[0][name], tensor) for name, tensor in whole[0].items())
    assert continued[1] == whole[1]


def test_a_student_without_its_teacher(digits, split, tmp_path):
    fails(train(tmp_path / "run", job("kd_mixed"), digits, split), tmp_path / "run", "no teacher", "--teacher")


def test_a_teacher_that_is_not_there(digits, split, tmp_path):
    options = ["--teacher", tmp_path / "nowhere.safetensors"]
    process = train(tmp_path / "run", job("kd_mixed"), digits, split, *options)
    assert process.returncode == 2
    assert "nowhere.safetensors" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_teacher_nobody_asked_for(teacher, digits, split, tmp_path):
    options = ["--teacher", teacher / "weights.safetensors"]
    fails(train(tmp_path / "run", job("ce"), digits, split, *options), tmp_path / "run", "does not distil")


def test_a_truncated_teacher(teacher, digits, split, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((teacher / "weights.safetensors").read_bytes()[:-100])
    process = train(tmp_path / "run", job("kd_mixed"), digits, split, "--teacher", cut)
    fails(process, tmp_path / "run", "damaged", "the same command makes it again")


def test_a_teacher_of_other_classes(teacher, digits, tmp_path):
    succeed(make_split(digits, tmp_path, number=1))
    process = train(tmp_path / "run", job("kd_mixed"), digits, tmp_path, "--teacher", teacher / "weights.safetensors")
    fails(process, tmp_path / "run", "other classes", "same split")


def test_a_foreign_file_as_teacher(digits, split, tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_tensors(foreign, {"weight": torch.zeros(2)}, {})
    process = train(tmp_path / "run", job("kd_mixed"), digits, split, "--teacher", foreign)
    fails(process, tmp_path / "run", "does not describe its network")


def test_fewer_images_than_a_batch(digits, split, tmp_path):
    settings = job("ce")
    settings["optimization"]["batch_size"] = 60_000
    fails(train(tmp_path / "run", settings, digits, split), tmp_path / "run", "do not fill one batch", "batch_size")


def test_mixing_that_ends_before_the_first_step(digits, split, tmp_path):
    settings = job("cutmix")
    settings["augment"] = settings["augment"] | {"multi_until": 1e-6}
    fails(train(tmp_path / "run", settings, digits, split), tmp_path / "run", "augment.multi_until", "raise it")


def test_selecting_on_validation_images_that_are_not_there(digits, tmp_path):
    files = ["--arrays", tmp_path / "split.npz", "--description", tmp_path / "split.json"]
    options = ["--protocol", "mnist", "--split", 0, "--seed", 0, "--validation-fraction", 0]
    succeed(script("split.py", "--prepared", digits, *options, *files))
    settings = job("ce")
    settings["optimization"]["select"] = "best_validation_accuracy"
    fails(train(tmp_path / "run", settings, digits, tmp_path), tmp_path / "run", "needs validation images")


def test_a_damaged_split(digits, split, tmp_path):
    (tmp_path / "split.json").write_bytes((split / "split.json").read_bytes())
    (tmp_path / "split.npz").write_bytes((split / "split.npz").read_bytes()[:200])
    fails(train(tmp_path / "run", job("ce"), digits, tmp_path), tmp_path / "run", "split.npz", "makes it again")


def test_a_results_folder_that_cannot_be_made(digits, split, tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    process = train(tmp_path / "run", job("ce"), digits, split)
    assert process.returncode == 2
    assert "cannot write" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_job_that_is_not_one(digits, split, tmp_path):
    fails(train(tmp_path / "run", {"run": "ce"}, digits, split), tmp_path / "run", "--job must hold exactly")


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("step", 0, 0.02),  # warm-up: a fifth of the peak of 0.1 after the first of five steps
        ("step", 4, 0.1),
        ("step", 14, 0.1),
        ("step", 15, 0.02),
        ("step", 30, 0.004),
        ("step", 40, 0.0008),
        ("linear", 2, 0.06),
        ("linear", 5, 0.1),
        ("linear", 49, 0.1 / 45),
        ("cosine", 5, 0.1),
        ("cosine", 49, 0.1 * 0.5 * (1 + np.cos(np.pi * 44 / 45))),
        ("constant", 49, 0.1),
    ],
)
def test_learning_rate(schedule, step, expected):
    settings = job("ce")["optimization"] | {
        "schedule": schedule,
        "epochs": 10,
        "batch_size": 128,
        "learning_rate": 0.1,
        "warmup_epochs": 1,
    }
    assert learning_rate(OptimizationSettings(**settings), step, steps_per_epoch=5) == pytest.approx(expected)
