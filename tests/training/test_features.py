"""A frozen backbone: its head is trained on features that are computed once."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from commands import REPOSITORY, job, succeed, train, typed
from safetensors.torch import load_file, save_file
from trained import OUTPUTS, history, same, weights

from openset_distill.config.experiment import load
from openset_distill.core.device import autocast_dtype
from openset_distill.core.errors import OpenSetError, SettingsError
from openset_distill.core.signals import Interrupted
from openset_distill.models import BACKBONES
from openset_distill.training.features import CHUNK, FeatureStore
from openset_distill.training.run import Training
from openset_distill.training.setup import SplitData, identity, make_student, open_split

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A tiny frozen network, whose weights are random but in a file."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    given = {"name": "timm", "model": "test_resnet", "stem": "imagenet", "weights": str(path), "input_size": 32}
    return {**given, "freeze": True}


@pytest.fixture
def data(digits: Path, split: Path) -> SplitData:
    return open_split(digits, [], split / "split.npz", split / "split.json")


def settings(backbone: dict, views: int = 0, **changes) -> dict:
    plain = job()
    single = plain["augment"]["single"] if views else []
    return {
        **plain,
        "backbone": BACKBONES.resolve({**backbone, "views": views}),
        "augment": {**plain["augment"], "single": single},
        **changes,
    }


class Counting:
    """Counts the images that pass through an encoder."""

    def __init__(self, encoder: torch.nn.Module):
        self.images = 0
        encoder.register_forward_pre_hook(self._add)

    def _add(self, _module, inputs):
        self.images += len(inputs[0])


@pytest.mark.parametrize("views", [0, 2])
def test_each_image_passes_through_the_backbone_once_whatever_the_epochs(backbone, data, tmp_path: Path, views: int):
    given = settings(backbone, views)
    given["optimization"]["epochs"] = 7
    student = make_student(typed(given), data, CPU)
    counted = Counting(student.encoder)
    before = {name: value.clone() for name, value in student.encoder.state_dict().items()}
    training = Training(tmp_path / "state.safetensors", identity(data, []), print)
    rows = training.run(typed(given), student, None, data, CPU)
    validation = len(data.arrays["validation_index"])
    assert counted.images == max(views, 1) * len(data.train_label) + validation
    assert len(rows) == 7
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[-1]["validation_accuracy"] > 1 / 6
    assert student.precision is None
    assert all(torch.equal(value, before[name]) for name, value in student.encoder.state_dict().items())
    training.finish()
    assert not list(tmp_path.iterdir())


def test_the_head_of_a_frozen_run_is_that_of_an_uncached_training(backbone, data, tmp_path: Path):
    """The same batches through the whole network, in the loop that knows no features, end in the same head."""
    from openset_distill.training.loop import train as plain_train
    from openset_distill.training.setup import make_batches

    given = settings(backbone)
    given["optimization"]["precision"] = "float32"
    cached, plain = make_student(typed(given), data, CPU), make_student(typed(given), data, CPU)
    Training(tmp_path / "state.safetensors", identity(data, []), print).run(typed(given), cached, None, data, CPU)
    plain_train(
        typed(given),
        plain,
        None,
        make_batches(typed(given), data, CPU),
        data.validation(CPU),
        identity=identity(data, []),
        state_path=tmp_path / "other.safetensors",
    )
    assert torch.allclose(cached.head.weight, plain.head.weight, atol=1e-4)
    assert not torch.allclose(cached.head.weight, make_student(typed(given), data, CPU).head.weight, atol=1e-2)


def test_a_frozen_run_of_the_workflow(backbone, digits: Path, split: Path, tmp_path: Path):
    given = settings(backbone)
    succeed(train(tmp_path / "first", given, digits, split))
    succeed(train(tmp_path / "second", given, digits, split))
    assert same(tmp_path / "first", tmp_path / "second")
    assert {path.name for path in (tmp_path / "first").iterdir()} == OUTPUTS
    assert len(history(tmp_path / "first")) == given["optimization"]["epochs"]
    published, stored = load_file(backbone["weights"]), weights(tmp_path / "first")
    encoder = {name.removeprefix("encoder.body."): value for name, value in stored.items() if "encoder" in name}
    assert encoder.pop("conv1.0.weight").shape[1] == 1, "digits are grey"
    assert encoder
    assert all(torch.equal(value, published[name]) for name, value in encoder.items())


def test_a_stopped_computation_of_features_continues_to_the_same_bits(backbone, data, tmp_path: Path):
    given, said = settings(backbone, 2), []

    def run(folder: Path) -> torch.Tensor:
        student = make_student(typed(given), data, CPU)
        Training(folder / "state.safetensors", identity(data, []), said.append).run(
            typed(given), student, None, data, CPU
        )
        return student.head.weight

    expected = run(tmp_path / "whole")
    student = make_student(typed(given), data, CPU)
    counted = Counting(student.encoder)
    student.encoder.register_forward_hook(
        lambda *_: signal.raise_signal(signal.SIGTERM) if counted.images == 3 * CHUNK else None
    )
    stopped = Training(tmp_path / "stopped" / "state.safetensors", identity(data, []), said.append)
    with pytest.raises(Interrupted, match=f"after {3 * CHUNK} of"):
        stopped.run(typed(given), student, None, data, CPU)
    assert torch.equal(run(tmp_path / "stopped"), expected)
    assert any(f"resuming with {3 * CHUNK} of" in line for line in said)


@pytest.mark.parametrize("damage", ["array", "record", "key"])
def test_features_that_do_not_belong_here_are_computed_anew(backbone, data, tmp_path: Path, damage: str):
    given, said = settings(backbone), []

    def run() -> tuple[torch.Tensor, int]:
        student = make_student(typed(given), data, CPU)
        counted = Counting(student.encoder)
        (tmp_path / "state.safetensors").unlink(missing_ok=True)
        Training(tmp_path / "state.safetensors", identity(data, []), said.append).run(
            typed(given), student, None, data, CPU
        )
        return student.head.weight, counted.images

    expected, images = run()
    assert run()[1] == 0, "complete features are there"
    if damage == "array":
        (tmp_path / "features.npy").write_bytes(b"no array")
    elif damage == "record":
        (tmp_path / "features.json").write_text("{")
    else:
        record = json.loads((tmp_path / "features.json").read_text())
        (tmp_path / "features.json").write_text(json.dumps(record | {"key": "another"}))
    again, counted = run()
    assert counted == images
    assert torch.equal(again, expected)


def test_other_versions_have_other_features_and_nothing_is_left(backbone, data, tmp_path: Path, monkeypatch):
    keys = set()
    for version in ("2.11.0", "2.12.1"):
        monkeypatch.setattr(torch, "__version__", version)
        student = make_student(typed(settings(backbone)), data, CPU)
        training = Training(tmp_path / "state.safetensors", identity(data, []), print)
        training.run(typed(settings(backbone)), student, None, data, CPU)
        keys.add(json.loads((tmp_path / "features.json").read_text())["key"])
    assert len(keys) == 2
    # a process of a training on several GPUs that was killed left these
    (tmp_path / ".features1").mkdir()
    (tmp_path / ".features1" / "features.npy").write_bytes(b"half")
    training.finish()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_that_says_how_much_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10})())
    with pytest.raises(OpenSetError, match="need 4 MB: free some space") as caught:
        FeatureStore(tmp_path, "key", print)._opened((1000, 1000))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_with_mixing_the_backbone_is_asked_at_every_step_and_the_log_says_so(backbone, data, tmp_path: Path):
    given = settings(backbone)
    given["augment"]["multi"] = {"name": "cutmix", "probability": 1.0, "alpha": 1.0}
    student, said = make_student(typed(given), data, CPU), []
    before = {name: value.clone() for name, value in student.encoder.state_dict().items()}
    counted = Counting(student.encoder)
    Training(tmp_path / "state.safetensors", identity(data, []), said.append).run(
        typed(given), student, None, data, CPU
    )
    assert counted.images > given["optimization"]["epochs"] * (len(data.train_label) - 64)
    assert any("frozen backbone runs at every step" in line for line in said)
    assert all(torch.equal(value, before[name]) for name, value in student.encoder.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "set backbone.views"),
        ({"augment": {"single": []}, "backbone": {"views": 2}}, "add one to augment.single"),
        ({"augment": {"multi": "cutmix"}, "backbone": {"views": 2}}, "leave views out"),
        ({"method": "distillation", "backbone": {"views": 2}}, "leave views out"),
    ],
)
def test_what_features_cannot_give_is_refused_before_anything_runs(backbone, changes: dict, words: str):
    changes = {**changes, "backbone": {**backbone, **changes.get("backbone", {})}}
    with pytest.raises(SettingsError, match=f"runs.ce: .*{words}"):
        load({"runs": {"ce": changes}}, stands_alone=False, default=REPOSITORY / "config" / "config.yaml")


def test_the_normalisation_of_trained_weights_is_the_runs_own():
    base = {
        "experiment": "e",
        "title": "E",
        "data": {"dataset": "cifar10"},
        "protocol": {"name": "cifar10", "splits": [0]},
        "defaults": {"backbone": {"name": "efficientnet_lite0", "freeze": True}},
        "runs": {"ce": {}},
        "show": {"figures": []},
    }
    given = load(base, stands_alone=True).run_config("ce", 0, 0).normalization.plain()
    assert np.allclose(given["mean"], 127 / 255)
    assert np.allclose(given["std"], 128 / 255)
    with pytest.raises(SettingsError, match=r"runs.teacher.backbone: .*set data.mean and data.std"):
        load({**base, "runs": {"ce": {}, "teacher": {"backbone": "resnet18"}}}, stands_alone=True)


def test_precision_of_features_is_that_of_training(backbone, data, tmp_path: Path):
    given = settings(backbone)
    given["optimization"]["precision"] = "bfloat16"
    student = make_student(typed(given), data, CPU)
    training = Training(tmp_path / "state.safetensors", identity(data, []), print)
    training.run(typed(given), student, None, data, CPU)
    stored = torch.from_numpy(np.load(tmp_path / "features.npy"))
    images = data.normalize(typed(given), CPU)(data.training(CPU).batch(torch.arange(CHUNK)))
    with torch.inference_mode(), torch.autocast("cpu", dtype=autocast_dtype("bfloat16", CPU)):
        assert torch.equal(stored[:CHUNK], student.eval().encoder(images).float())


def test_other_weights_in_the_same_file_start_a_training_anew(data, tmp_path: Path):
    file = tmp_path / "given.safetensors"
    given = settings({"name": "timm", "model": "test_resnet", "stem": "imagenet", "weights": str(file)})
    given["optimization"]["epochs"] = 1
    said: list[str] = []

    def trained(seed: int) -> None:
        torch.manual_seed(seed)
        save_file(timm.create_model("test_resnet").state_dict(), file)
        student = make_student(typed(given), data, CPU)
        Training(tmp_path / "state.safetensors", identity(data, []), said.append).run(
            typed(given), student, None, data, CPU
        )

    given["optimization"]["checkpoint_minutes"] = 1e-4  # a state is left, as a kill would leave it
    trained(1)
    assert (tmp_path / "state.safetensors").exists()
    said.clear()
    trained(1)
    assert any("resuming from" in line for line in said)
    assert not any("other weights" in line for line in said)
    said.clear()
    trained(2)
    assert any("other weights to start from" in line for line in said)
