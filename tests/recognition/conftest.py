"""A small trained model of the digits, as the workflow leaves it and as a model folder, and images to ask it about."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openset_distill import OpenSetClassifier
from openset_distill.cli import main
from openset_distill.datasets.prepared import open_prepared
from openset_distill.recognition.package import package_run


@pytest.fixture(scope="session")
def run_folder(teacher: Path, split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the workflow with the split in the folder around it, as under results/."""
    around = tmp_path_factory.mktemp("results")
    (around / "teacher").symlink_to(teacher)
    for name in ("split.npz", "split.json"):
        (around / name).symlink_to(split / name)
    return around / "teacher"


@pytest.fixture(scope="session")
def packaged(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of that run, which nobody changes."""
    folder = tmp_path_factory.mktemp("models") / "digits"
    package_run(run_folder).save(folder)
    return folder


@pytest.fixture
def model(packaged: Path) -> OpenSetClassifier:
    return OpenSetClassifier.load(packaged)


@pytest.fixture(scope="session")
def pictures(digits: Path, packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test digits as files: `known/<class>/*.png` of the model's classes, and `unknown/*.png` of the others."""
    folder = tmp_path_factory.mktemp("pictures")
    dataset, classes = open_prepared(digits), OpenSetClassifier.load(packaged).description.classes
    images, labels = dataset.test.batch(np.arange(len(dataset.test))), dataset.test.labels
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        name = dataset.classes[label]
        path = folder / "known" / name if name in classes else folder / "unknown"
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0]).save(path / f"{number:04d}.png")
    return folder


def openset(*words: object, input: str = "") -> subprocess.CompletedProcess[str]:
    """The command in this process, which is much faster than in one of its own; what it printed and its status."""
    out, err = io.StringIO(), io.StringIO()
    stdin = io.TextIOWrapper(io.BytesIO(os.fsencode(input)))
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", stdin)
        patch.setattr(sys, "argv", ["openset", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    return subprocess.CompletedProcess(words, ended.value.code, out.getvalue(), err.getvalue())


@pytest.fixture(name="openset")
def _openset():
    return openset


@pytest.fixture
def refused():
    """Runs the command, which must end in one line of error without a traceback; the line."""

    def run(*words: object, **options) -> str:
        process = openset(*words, **options)
        assert process.returncode == 2, process.stderr
        [line] = [line for line in process.stderr.splitlines() if not line.startswith("warning: ")]
        assert line.startswith("error: ")
        assert process.stdout == ""
        return line

    return run
