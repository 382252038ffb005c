"""`openset clean`: what it lists, what it deletes, and what it never touches."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from openset_distill.cli import main

SPLIT = "results/digits/split0/seed0"
# every file of a finished experiment, and the kind that it belongs to; None is what must stay
FILES = {
    f"{SPLIT}/teacher_logits_0123456789ab.safetensors": "logits",
    f"{SPLIT}/ce/weights.safetensors": None,
    f"{SPLIT}/ce/outputs.npz": None,
    f"{SPLIT}/ce/state.safetensors": "states",
    f"{SPLIT}/ce/.outputs.npz.1234.partial": "partial",
    "results/digits/tidy/headline.json": None,
    "data/raw/cifar10/cifar-10-python.tar.gz": "raw",
    "data/raw/cifar10/download.json": None,
    "data/raw/cifar10/cifar10_osr_splits.pkl": None,
    "data/raw/svhn/train_32x32.mat": None,  # not prepared
    "data/prepared/cifar10/32x3/manifest.json": None,
    # an index: trainings read the archives
    "data/raw/imagenet/ILSVRC2012_img_train.tar": None,
    "data/prepared/imagenet/224x3/manifest.json": None,
    # no URL serves it again
    "data/raw/cifar10_images/cifar-10-images.zip": None,
    "data/prepared/cifar10_images/32x3/manifest.json": None,
    # a manifest that cannot be read: its archives may be needed
    "data/raw/mnist/train-images-idx3-ubyte.gz": None,
    "data/prepared/mnist/28x1/manifest.json": None,
    ".dvc/cache/files/md5/00/11": "dvc",
}

MANIFESTS = {
    "cifar10": b'{"storage": "arrays"}',
    "imagenet": b'{"storage": "index"}',
    "cifar10_images": b'{"storage": "arrays"}',
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished experiment; files are as old as they stand in the list, and all are of yesterday."""
    for age, name in enumerate(FILES):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(MANIFESTS.get(path.parents[1].name if path.name == "manifest.json" else "", bytes(100_000)))
        when = time.time() - 86_400 + age
        os.utime(path, (when, when))
    newest = time.time() - 80_000
    os.utime(tmp_path / SPLIT / "ce" / "weights.safetensors", (newest, newest))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def clean(monkeypatch, capsys, *words: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["openset", "clean", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    return ended.value.code, printed.out + printed.err


def kinds_left(folder: Path) -> set[str | None]:
    return {kind for name, kind in FILES.items() if (folder / name).exists()}


def test_without_words_it_lists_and_deletes_nothing(folder, monkeypatch, capsys):
    status, text = clean(monkeypatch, capsys)
    rows = {line.split()[0]: line.split()[1:4] for line in text.splitlines()[1:6]}
    assert status == 0 and rows == {
        kind: ["1", "0.1", "MB"] for kind in ("partial", "states", "logits", "raw", "dvc")
    }, text
    assert "nothing was deleted" in text
    assert all((folder / name).exists() for name in FILES)


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--yes"], {None, "dvc"}),
        (["logits"], {None, "dvc", "raw", "states", "partial"}),
        (["dvc", "raw"], {None, "logits", "states", "partial"}),
    ],
)
def test_what_is_named_is_deleted_and_everything_else_stays(words, left, folder, monkeypatch, capsys):
    status, text = clean(monkeypatch, capsys, *words)
    assert status == 0 and kinds_left(folder) == left, text
    assert all((folder / name).exists() for name, kind in FILES.items() if kind is None)
    assert clean(monkeypatch, capsys, *words)[0] == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"{SPLIT}/cutmix/state.safetensors", "states"),  # a training that was interrupted
        (f"{SPLIT}/cutmix/state.safetensors", "logits"),  # and reads them
        (f"{SPLIT}/ce/.weights.safetensors.99.partial", "partial"),  # written now
    ],
)
def test_what_is_still_needed_is_not_listed(name, kind, folder, monkeypatch, capsys):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"1")
    status, text = clean(monkeypatch, capsys, kind)
    assert status == 0
    assert (folder / name).exists()
    assert (None, kind)[kind == "logits"] in kinds_left(folder), text


def test_a_state_newer_than_its_network_is_a_training_that_goes_on(folder, monkeypatch, capsys):
    os.utime(folder / SPLIT / "ce" / "state.safetensors")
    clean(monkeypatch, capsys, "--yes")
    assert (folder / SPLIT / "ce" / "state.safetensors").exists()


def test_logits_that_were_made_after_the_results_were_gathered_stay(folder, monkeypatch, capsys):
    os.utime(folder / SPLIT / "teacher_logits_0123456789ab.safetensors")
    clean(monkeypatch, capsys, "logits")
    assert "logits" in kinds_left(folder)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["logit"], "error: openset clean: unknown kind 'logit'; did you mean 'logits'?"),
        (["--results", "nowhere", "--data", "none"], "error: neither nowhere nor none is a folder here"),
    ],
)
def test_bad_input_is_one_line(words, line, folder, monkeypatch, capsys):
    status, text = clean(monkeypatch, capsys, *words)
    assert status == 2
    assert text.startswith(line)
    assert text.count("\n") == 1
    assert all((folder / name).exists() for name in FILES)


def test_a_running_workflow_is_left_alone(folder, monkeypatch, capsys):
    (folder / ".snakemake" / "locks").mkdir(parents=True)
    (folder / ".snakemake" / "locks" / "0.input.lock").touch()
    status, text = clean(monkeypatch, capsys, "--yes")
    assert status == 2
    assert "a workflow is running here" in text
    assert all((folder / name).exists() for name in FILES)
