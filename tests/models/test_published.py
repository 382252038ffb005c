import csv
import json
import os
from pathlib import Path

import pytest
import torch
from archives import mirrored
from checkout import checkout, snakemake
from commands import script

from openset_distill.core.errors import CheckpointError
from openset_distill.core.files import sha256
from openset_distill.models.classifier import Classifier
from openset_distill.models.published import load_vgg32
from openset_distill.models.vgg import VGG32


def as_published(model: Classifier, prefix: str = "") -> dict[str, torch.Tensor]:
    """The state of a classifier under the names that the authors' files have."""
    state = {}
    for name, tensor in model.state_dict().items():
        layer = name.removeprefix("encoder.") if name.startswith("encoder.") else name.replace("head.", "fc.")
        state[prefix + layer] = tensor
    return state


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(VGG32(channels=3), 20, bias=False).eval()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_file_gives_the_same_answers(model: Classifier, tmp_path: Path, prefix: str) -> None:
    torch.save(as_published(model, prefix), tmp_path / "weights.pth")
    loaded = load_vgg32(tmp_path / "weights.pth", classes=20)
    images = torch.rand(2, 3, 16, 16)
    assert not loaded.training
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), model(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv3.weight"), "lacks encoder.conv3.weight"),
        (lambda state: state.pop("bn10.running_mean"), "lacks encoder.bn10.running_mean"),
        (lambda state: state.update({"fc.bias": torch.zeros(20)}), "has head.bias, which the network lacks"),
        (lambda state: state.update({"fc.weight": torch.zeros(10, 128)}), r"\(10, 128\) where \(20, 128\)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(model: Classifier, tmp_path: Path, change, message: str) -> None:
    state = as_published(model)
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=message):
        load_vgg32(tmp_path / "weights.pth", classes=20)


class Command:
    """What a foreign pickle might run."""

    def __reduce__(self):
        return os.mkdir, ("made_by_a_pickle",)


def test_damaged_missing_and_foreign_files_are_refused(model: Classifier, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    with pytest.raises(CheckpointError, match="is missing; download it first"):
        load_vgg32(path, classes=20)
    torch.save(as_published(model), path)
    whole = path.read_bytes()
    for damaged in (b"", b"no checkpoint", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            load_vgg32(path, classes=20)
    torch.save({"conv1.weight": Command()}, path)
    with pytest.raises(CheckpointError, match="more than weights"):
        load_vgg32(path, classes=20)
    assert not (tmp_path / "made_by_a_pickle").exists()
    for value in ([torch.zeros(1)], {"epoch": 3}):
        torch.save(value, path)
        with pytest.raises(CheckpointError, match="no mapping of names to tensors"):
            load_vgg32(path, classes=20)


def test_the_command_wants_images_of_the_right_size(digits: Path, tmp_path: Path) -> None:
    outputs = ["--csv", tmp_path / "table.csv", "--markdown", tmp_path / "table.md"]
    inputs = ["--prepared", digits, "--published", "config/reference/published_results.csv"]
    process = script("published_checkpoints.py", *inputs, "--checkpoint", "0=nowhere.pth", *outputs)
    assert process.returncode == 2
    assert "is not 64x64 RGB; prepare Tiny-ImageNet" in process.stderr
    process = script("published_checkpoints.py", *inputs, "--checkpoint", "nowhere.pth", *outputs)
    assert process.returncode == 2
    assert "is not SPLIT=PATH" in process.stderr


def test_single_checkpoints_are_fetched(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    file = "vgg32_tinyimagenet_split1.pth"
    (mirror / file).write_bytes(b"weights")
    words = ["--dataset", "published_checkpoints", "--folder", tmp_path / "raw", "--record", tmp_path / "record.json"]
    words += ["--mirror", mirror, "--checksum", f"{file}=sha256:{sha256(mirror / file)}", "--quiet"]
    process = script("download.py", *words, "--only", file)
    assert process.returncode == 0, process.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    assert [origin["file"] for origin in record["files"]] == [file]
    process = script("download.py", *words, "--only", "vgg32_tinyimagenet_split7.pth")
    assert process.returncode == 2
    assert "error: published_checkpoints has no file 'vgg32_tinyimagenet_split7.pth'; did you mean" in process.stderr
    process = script("download.py", *words, "--only", file, "--url", "x=http://localhost/x")
    assert process.returncode == 2
    assert "error: data.urls: no dataset has an archive 'x'" in process.stderr


# accuracy and AUROC in percent that these two files have on all test images of their splits
MEASURED = {"0": (85.1, 83.24), "1": (81.2, 79.92)}


@pytest.mark.real_data
@pytest.mark.workflow
def test_published_checkpoints_have_their_known_numbers(tmp_path: Path) -> None:
    """The check from outside: data, decoding, splits, network, score and metrics are the field's."""
    archive = mirrored("tiny-imagenet-200.zip")
    checkpoints = Path(os.environ.get("OPENSET_CHECKPOINTS", archive.parent.parent / "checkpoints"))
    if not (checkpoints / "vgg32_tinyimagenet_split0.pth").is_file():
        pytest.skip(f"{checkpoints} has no checkpoints; set OPENSET_CHECKPOINTS to a folder that has them")
    settings = {
        "checkpoint_splits": [0, 1],
        "data": {"checksum": {archive.name: f"sha256:{sha256(archive)}"}},
    }
    changes = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    folder = checkout(tmp_path)
    mirrors = os.pathsep.join(map(str, [archive.parent, checkpoints]))
    words = ["--cores", 2, "published_checkpoints", "--config", *changes]
    process = snakemake(folder, *words, timeout=1800, OPENSET_MIRROR=mirrors)
    assert process.returncode == 0, process.stdout + process.stderr
    results = folder / "results" / "published_checkpoints"
    with open(results / "table.csv", newline="") as stream:
        rows = {row["split"]: row for row in csv.DictReader(stream)}
    for split, (accuracy, auroc) in MEASURED.items():
        assert float(rows[split]["accuracy"]) == pytest.approx(accuracy, abs=0.05)
        assert float(rows[split]["auroc"]) == pytest.approx(auroc, abs=0.05)
        assert float(rows[split]["oscr"]) < float(rows[split]["accuracy"])
        assert (rows[split]["n_known"], rows[split]["n_unknown"]) == ("1000", "9000")
    reported = rows["mean reported by the authors"]
    assert (reported["accuracy"], reported["auroc"]) == ("84.2", "83")
    markdown = (results / "table.md").read_text()
    assert "| Split 0 | 85.10 | 83.24 |" in markdown
    assert "| Mean reported by the authors | 84.20 | 83.00 |" in markdown
