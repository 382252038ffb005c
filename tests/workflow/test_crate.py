"""The RO-Crate, CITATION.cff and the container recipes, each judged by a public validator."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from commands import REPOSITORY
from small_repository import copy_of_the_repository, run, snakemake

pytestmark = pytest.mark.stories

TOOLS = REPOSITORY / ".venv-tools" / "bin"


def tool(*command: object) -> subprocess.CompletedProcess[str]:
    """Runs one of the validators in the environment of its own."""
    assert TOOLS.exists(), "the validators are missing; `make tools` installs them"
    # the project's own library is no part of that environment
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=300
    )


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a finished small experiment and its crate."""
    folder = copy_of_the_repository(tmp_path_factory.mktemp("crate") / "repository")
    assert snakemake(folder, "paper_figures").returncode == 0
    pack(folder)
    return folder


def pack(folder: Path) -> None:
    process = run(folder, "python", "tools/crate.py", "--results", "results/digits", "--folder", "crate", "--zip")
    assert process.returncode == 0, process.stderr
    files = {path.relative_to(folder / "crate").as_posix() for path in (folder / "crate").rglob("*") if path.is_file()}
    assert process.stdout.startswith(f"crate: {len(files)} files, ")
    assert "\ncrate.zip: " in process.stdout
    with zipfile.ZipFile(folder / "crate.zip") as archive:
        assert set(archive.namelist()) == files
        assert archive.testzip() is None


@pytest.mark.parametrize("profile", ["workflow-ro-crate", "process-run-crate"])
def test_the_crate_is_valid(packed, profile):
    process = tool(TOOLS / "python", REPOSITORY / "tests" / "helpers" / "validate_crate.py", packed / "crate", profile)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "is a valid" in process.stdout


def test_the_crate_describes_every_file_and_every_training(packed):
    crate = packed / "crate"
    entities = {one["@id"]: one for one in json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]}
    files = {path.relative_to(crate).as_posix() for path in crate.rglob("*") if path.is_file()}
    assert {name for name in files if name not in entities} == set()
    for name in ("results/digits/figures/two_sides.pdf", "results/digits/split0/seed0/ce/weights.safetensors"):
        assert entities[name]["sha256"] == hashlib.sha256((crate / name).read_bytes()).hexdigest()
    trainings = {name: one for name, one in entities.items() if one["@type"] == "CreateAction"}
    assert len(trainings) == 10
    distilled = trainings["#train-split0-seed0-kd_mixed"]
    assert {"@id": "results/digits/split0/seed0/teacher/weights.safetensors"} in distilled["object"]
    assert {"@id": "results/digits/split0/seed0/kd_mixed/outputs.npz"} in distilled["result"]
    root = entities["./"]
    assert root["license"] == {"@id": "https://spdx.org/licenses/MIT"}
    assert root["citation"] == {"@id": "https://doi.org/10.24963/ijcai.2024/101"}
    assert root["mainEntity"] == {"@id": "Snakefile"}
    assert any(one.get("name") == "torch" and one.get("softwareVersion") for one in entities.values())


def test_packing_again_replaces_the_crate_and_nothing_else(packed):
    before = (packed / "crate" / "ro-crate-metadata.json").read_bytes()
    pack(packed)
    assert (packed / "crate" / "ro-crate-metadata.json").read_bytes() == before
    process = run(packed, "python", "tools/crate.py", "--results", "results/digits", "--folder", "config")
    assert process.returncode == 2
    assert "files that crate did not write" in process.stderr
    process = run(packed, "python", "tools/crate.py", "--results", "results/other", "--folder", "new")
    assert process.returncode == 2
    assert "not a finished experiment" in process.stderr


def test_the_citation_file_is_valid():
    process = tool(TOOLS / "cffconvert", "--validate", "--infile", "CITATION.cff")
    assert process.returncode == 0 and "valid according to schema version 1.2.0" in process.stdout, process.stdout


def test_the_container_recipe_has_no_complaint_of_the_linter():
    process = tool(TOOLS / "hadolint", "container/Dockerfile")
    assert process.returncode == 0, process.stdout


@pytest.mark.parametrize("method", ["conda", "apptainer"])
def test_the_workflow_is_planned_with_other_ways_to_bring_its_software(packed, method):
    process = snakemake(packed, "--sdm", method, "-n", "--forceall", "paper_figures")
    output = process.stdout + process.stderr
    if shutil.which(method):
        assert process.returncode == 0 and "rule train_student" in output, output
    else:  # Snakemake asks for the program before it plans
        assert process.returncode != 0 and f"{method} " in output and "Traceback" not in output, output
