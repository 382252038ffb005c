import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import archives
import pytest
from commands import REPOSITORY

from openset_distill.augment import MULTI_SAMPLE, SINGLE_SAMPLE
from openset_distill.datasets.catalog import datasets
from openset_distill.datasets.protocols import PROTOCOLS
from openset_distill.evaluation.scores import SCORES
from openset_distill.methods import METHODS
from openset_distill.models import BACKBONES

COMMAND = "from openset_distill.cli import main; main()"


def openset(*words: object, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "COLUMNS")}
    command = [sys.executable, "-c", COMMAND, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=60)


def output(*words: object) -> str:
    process = openset(*words)
    assert process.returncode == 0, process.stderr
    assert "\x1b" not in process.stdout
    return process.stdout


def failure(*words: object, cwd: Path = REPOSITORY) -> str:
    process = openset(*words, cwd=cwd)
    assert process.returncode == 2
    assert process.stdout == ""
    assert "Traceback" not in process.stderr
    return process.stderr


def test_datasets_are_listed_with_what_is_here(tmp_path: Path) -> None:
    archives.mnist(tmp_path / "raw" / "mnist")
    archives.svhn(tmp_path / "raw" / "svhn")
    (tmp_path / "raw" / "svhn" / "test_32x32.mat").unlink()
    lines = output("datasets", "--folder", tmp_path).splitlines()
    states = {line.split()[0]: line.split()[1] for line in lines[1:]}
    assert set(states) == set(datasets())
    assert states["image_folder"] == "yours"
    assert (states["digits"], states["mnist"], states["svhn"], states["cub"]) == ("here", "here", "partial", "missing")
    [cifar] = [line for line in lines if line.startswith("cifar100 ")]
    assert "169.0 MB" in cifar
    [isun] = [line for line in lines if line.startswith("isun ")]
    assert "unknown" in isun
    assert "not stated by the authors" in isun


@pytest.mark.parametrize(
    ("kind", "names", "expected"),
    [
        ("augmentations", {*SINGLE_SAMPLE, *MULTI_SAMPLE}, ["num_ops=1, magnitude=9", "multi: A box of the partner"]),
        ("methods", set(METHODS), ["preset=as_released|as_described", "The paper's method"]),
        ("backbones", set(BACKBONES), ["widths=[48, 96, 192, 384]", "the paper's student", "model, stem="]),
        ("scores", set(SCORES), ["The largest logit"]),
        ("protocols", set(PROTOCOLS), ["known, seed=0", "drawn at random"]),
    ],
)
def test_names_are_listed_with_settings(kind: str, names: set[str], expected: list[str]) -> None:
    text = output("list", kind)
    # many settings take a second line, which is indented
    assert {line.split()[0] for line in text.splitlines()[1:] if not line.startswith(" ")} == names
    for part in expected:
        assert part in text


def test_without_a_kind_the_names_of_every_kind_are_listed() -> None:
    rows = {line.split()[0]: line for line in output("list").splitlines()[1:]}
    assert list(rows) == ["augmentations", "methods", "backbones", "scores", "detectors", "protocols"]
    assert "cutmix" in rows["augmentations"]
    assert "maximum_logit" in rows["scores"]


def test_config_prints_the_resolved_experiment() -> None:
    resolved = json.loads(output("config", "--set", "protocol.splits=[1]", "defaults.optimization.epochs=3"))
    assert resolved["experiment"] == "digits"
    assert resolved["protocol"] == {"name": {"name": "mnist"}, "splits": [1]}
    assert resolved["runs"]["cutmix"]["augment"]["multi"]["alpha"] == 1.0
    assert resolved["runs"]["kd_mixed"]["teachers"] == ["teacher"]
    assert {run["optimization"]["epochs"] for run in resolved["runs"].values()} == {3}
    assert "defaults" not in resolved


def test_config_prints_the_job_of_a_run() -> None:
    file = "config/experiments/tinyimagenet_cpu.yaml"
    job = json.loads(output("config", "--configfile", file, "--run", "ad_as_described_ce"))
    assert (job["experiment"], job["run"], job["split"], job["seed"]) == (
        "tinyimagenet_cpu",
        "ad_as_described_ce",
        0,
        0,
    )
    assert job["method"]["smoothing"] == 0.75
    job = json.loads(output("config", "--run", "ce", "--split", 3, "--seed", 7, "--set", "seeds=[0, 7]"))
    assert (job["split"], job["seed"]) == (3, 7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "protocol"], "error: --set 'protocol' is not KEY=VALUE"),
        (["--set", "seeds=[0"], "error: --set seeds: '[0' is not valid YAML"),
        (["--set", "protocol.split=[0]"], "unknown key 'split'; did you mean 'splits'?"),
        (["--configfile", "nowhere.yaml"], "error: cannot read the configuration file nowhere.yaml"),
        (["--run", "cutmx"], "error: experiment digits has no run 'cutmx'; did you mean 'cutmix'"),
        (["--run", "ce", "--split", "9"], "error: experiment digits has no split 9"),
        (["--run", "ce", "--seed", "9"], "error: experiment digits has no seed 9"),
        (["--split", "0"], "error: --split and --seed need --run RUN"),
    ],
)
def test_bad_configurations_are_one_error(words: list[str], message: str) -> None:
    assert message in failure("config", *words)


def test_a_missing_default_configuration_is_one_error(tmp_path: Path) -> None:
    assert "error: cannot read the configuration file config/config.yaml" in failure("config", cwd=tmp_path)


def test_unknown_words_are_refused() -> None:
    assert "invalid choice: 'colours'" in failure("list", "colours")
    assert "required: COMMAND" in failure()


def test_a_number_leads_to_its_runs_settings_and_commits():
    kept = Path("docs/results/cifar10_long")
    text = output("trace", kept / "figures" / "two_sides.png", "CutMix")
    with open(REPOSITORY / kept / "figures" / "two_sides.csv", newline="") as stream:
        shown = {row["run"]: float(row["auroc_percent"]) for row in csv.DictReader(stream)}
    assert f"CutMix, auroc of maximum_logit: {shown['cutmix']:.1f} ± " in text
    records = json.loads((REPOSITORY / kept / "provenance.json").read_text())
    for split in (0, 1, 2):
        folder = f"split{split}/seed0/cutmix"
        assert f"{folder}  {records[folder]['provenance']['git_commit'][:12]}" in text
    assert '"epochs": 18' in text
    assert '"cutmix"' in text
    assert "did you mean 'cutmix'" in failure("trace", kept / "tables" / "benchmark.md", "cutmx")
    assert "no metric 'auroz'; did you mean 'auroc'" in failure(
        "trace", kept / "tables" / "benchmark.md", "ce", "auroz"
    )
    assert "does not exist" in failure("trace", kept / "figures" / "two_side.png", "ce")
