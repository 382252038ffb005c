"""The workflow as a user drives it: Snakemake and DVC as processes, on a small cut of the digits experiment."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from commands import REPOSITORY
from small_repository import BIN, copy_of_the_repository, dvc_repository, jobs, run, snakemake

from openset_distill.datasets.protocols import class_sets
from openset_distill.report.figures import FIGURES

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which the whole workflow has run. Tests that change it work on a copy."""
    folder = copy_of_the_repository(tmp_path_factory.mktemp("workflow"))
    process = snakemake(folder, "paper_figures")
    assert process.returncode == 0, process.stdout + process.stderr
    (folder / "first_run.txt").write_text(process.stdout + process.stderr)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    return folder


def test_every_figure_and_table_is_made_and_the_summary_shown(finished):
    results = finished / "results" / "digits"
    figures = {path.name for path in (results / "figures").iterdir()}
    names = ("two_sides", "feature_discrimination", "mixing_response", "feature_space", "ablation", "openset_curves")
    for name in (*names, "training_dynamics", "feature_geometry", "attention"):
        assert {f"{name}.pdf", f"{name}.png", f"{name}.csv"} <= figures
    tables = {path.name for path in (results / "tables").iterdir()}
    names = ("benchmark", "augmentation", "ablation", "significance", "scores")
    assert {f"{name}.{kind}" for name in names for kind in ("md", "tex", "csv", "html")} == tables
    text = (finished / "first_run.txt").read_text()
    assert "AD (as released)" in text
    assert "figures: results/digits/figures/" in text
    with open(results / "tidy" / "runs.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["protocol"] for row in rows} == {"mnist"}
    assert {row["split"] for row in rows} == {"0", "1"}
    # the class sets of the data are those that the protocol promises before there are any
    promised = class_sets("mnist", [0, 1], dataset="digits", reference=REPOSITORY / "config" / "reference")
    assert {int(row["split"]): row["class_set"] for row in rows} == promised
    with open(results / "tidy" / "summary.csv", newline="") as stream:
        assert {row["n"] for row in csv.DictReader(stream)} == {"2"}
    for metric in ("auroc", "aupr_known", "aupr_unknown", "fpr95", "oscr", "openauc"):
        assert {row["score"] for row in rows if row["metric"] == metric} == {
            "maximum_logit", "msp", "energy", "feature_norm",
        }  # fmt: skip


def test_a_figure_and_the_table_beside_it_are_one_target(copy):
    results = copy / "results" / "digits"
    made = [results / "figures" / "two_sides.png", results / "tables" / "augmentation.md"]
    for path in made:
        path.unlink()
    done = jobs(snakemake(copy, "two_sides"))
    assert done == {"figure_two_sides": 1, "table_augmentation": 1, "two_sides": 1}
    assert all(path.exists() for path in made)
    with open(results / "tidy" / "networks.csv", newline="") as stream:
        networks = {row["run"]: row for row in csv.DictReader(stream)}
    assert networks["ce"]["network"] == "small_resnet 4-8"
    assert int(networks["ce"]["parameters"]) > 1000


def test_nothing_to_do_the_second_time(finished):
    again = snakemake(finished, "paper_figures")
    assert "Nothing to be done" in again.stderr and "AUROC" in again.stdout, "the results are shown again"


@pytest.mark.stories
def test_two_runs_from_scratch_agree_to_the_byte(finished, tmp_path):
    again = copy_of_the_repository(tmp_path / "again")
    assert snakemake(again, "two_sides", "training_dynamics").returncode == 0
    for name in (
        "tidy/runs.csv", "tidy/history.csv", "tidy/mixing.csv", "tidy/embedding.csv", "tidy/features.csv",
        "tidy/attention.csv", "figures/two_sides.pdf", "figures/two_sides.png", "figures/training_dynamics.pdf",
    ):  # fmt: skip
        file = Path("results") / "digits" / name
        assert (again / file).read_bytes() == (finished / file).read_bytes(), name


def test_a_change_to_one_student_redoes_that_student_and_what_hangs_on_it(copy):
    change = ["--config", "runs={kd_mixed: {optimization: {epochs: 3}}}"]
    planned = jobs(snakemake(copy, "-n", "paper_figures", *change))
    assert planned["train_student"] == planned["evaluate"] == 2
    assert "train_teacher" not in planned
    assert "make_split" not in planned
    assert planned["aggregate"] == planned["figure_two_sides"] == 1


def test_a_new_student_of_a_cached_teacher_is_the_only_one_that_is_trained(copy):
    added = "runs={another: {method: {name: asymmetric_distillation, preset: as_described}, augment: {multi: cutmix}}}"
    planned = jobs(snakemake(copy, "-n", "paper_figures", "--config", added))
    assert planned["train_student"] == 2
    assert "cache_teacher_logits" not in planned
    for path in copy.glob("results/digits/split*/seed*/teacher_logits_*.safetensors"):
        path.rename(path.with_name(path.name.replace("teacher_logits", "answers")))  # as version 0.1 called them
    planned = jobs(snakemake(copy, "-n", "paper_figures", "--config", added))
    assert planned["train_student"]
    assert "cache_teacher_logits" not in planned


def test_a_change_to_the_teacher_redoes_its_students_too(copy):
    change = ["--config", "runs={teacher: {optimization: {epochs: 3}}}"]
    planned = jobs(snakemake(copy, "-n", "paper_figures", *change))
    assert planned["train_teacher"] == 2
    assert planned["train_student"] == 4  # kd_mixed and ad_as_released in two splits; ce and cutmix have no teacher


def test_another_bootstrap_trains_nothing(copy):
    planned = jobs(snakemake(copy, "-n", "paper_figures", "--config", "evaluation={bootstrap: 30}"))
    assert planned["evaluate"] == 10
    assert "train_student" not in planned
    assert "train_teacher" not in planned


def test_a_new_label_trains_nothing(copy):
    planned = jobs(snakemake(copy, "-n", "paper_figures", "--config", "runs={ce: {label: Baseline}}"))
    assert "aggregate" in planned
    assert "train_student" not in planned
    assert "evaluate" not in planned


def test_a_run_can_be_taken_out_on_the_command_line(finished):
    change = ["--config", "experiment=try", "runs={cutmix: null}", "show={msa: ce, figures: [openset_curves]}"]
    planned = jobs(snakemake(finished, "-n", "openset_curves", *change))
    # nothing of results/digits is touched
    assert planned["train_student"] == 6
    assert planned["train_teacher"] == 2


def test_kept_results_are_redrawn_from_their_tidy_tables_alone(copy):
    keep = [
        sys.executable,
        "tools/keep_results.py",
        "--results",
        "results/digits",
        "--folder",
        "docs/results/d",
    ]
    process = run(copy, *keep, "--configuration", "config/config.yaml")
    assert process.returncode == 0, process.stderr
    kept = copy / "docs" / "results" / "d"
    before = {path: path.read_bytes() for path in sorted(kept.glob("*/*.csv"))}
    shutil.rmtree(copy / "results")
    done = jobs(snakemake(copy, "paper_figures", "--forceall", "--configfile", "docs/results/d/experiment.yaml"))
    assert not {"make_split", "train_teacher", "train_student", "evaluate", "aggregate"} & set(done)
    assert done["figure_two_sides"] == done["table_benchmark"] == 1
    assert {path: path.read_bytes() for path in before} == before
    assert any("figures" in str(path) for path in before)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("sedes=[1]", ["'sedes'", "'seeds'"]),
        ("protocol={splits: [9]}", ["protocol.splits", "no split 9"]),
        ("runs={cutmix: {augment: {multi: cutmux}}}", ["runs.cutmix.augment.multi", "'cutmix'"]),
        ("show={figures: [two_side]}", ["'two_sides'"]),
        ("seeds=one", ["seeds", "a list"]),
    ],
)
def test_a_mistake_in_the_configuration_stops_before_any_job(finished, setting, words):
    process = snakemake(finished, "paper_figures", "--config", setting)
    output = process.stdout + process.stderr
    assert process.returncode != 0
    assert all(word in output for word in words), output
    assert "Traceback" not in output
    assert "Job stats" not in output


@pytest.mark.stories
def test_a_damaged_checkpoint_is_named_and_trained_again_on_request(copy):
    teacher = copy / "results" / "digits" / "split0" / "seed0" / "teacher" / "weights.safetensors"
    teacher.write_bytes(teacher.read_bytes()[:500])
    change = ["--config", "runs={kd_mixed: {optimization: {epochs: 3}}}"]
    failed = snakemake(copy, "paper_figures", *change)
    output = failed.stdout + failed.stderr
    assert failed.returncode != 0
    assert "error: checkpoint" in output
    assert "is damaged" in output
    assert "the same command makes it again" in output
    assert "resumes" in output
    # the student was not trained from it: what it was is still there
    trained = teacher.parents[1] / "kd_mixed" / "config.json"
    assert json.loads(trained.read_text())["optimization"]["epochs"] == 2
    teacher.unlink()
    assert snakemake(copy, "paper_figures", *change).returncode == 0
    assert json.loads(trained.read_text())["optimization"]["epochs"] == 3


@pytest.mark.stories
def test_a_killed_workflow_goes_on_from_what_was_complete(copy):
    split = copy / "results" / "digits" / "split0" / "seed0"
    change = ["--config", "runs={ce: {optimization: {epochs: 3}}, cutmix: {optimization: {epochs: 3}}}"]
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(
        ["snakemake", "--cores", "1", "paper_figures", *change],
        cwd=copy,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    started = time.time()
    # until the first of the four trainings is complete
    while not any(
        path.stat().st_mtime > started for path in copy.glob("results/digits/split*/seed0/c*/provenance.json")
    ):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    locked = snakemake(copy, "paper_figures", *change)
    assert locked.returncode != 0
    assert "--unlock" in locked.stdout + locked.stderr
    assert snakemake(copy, "--unlock", *change).returncode == 0
    again = snakemake(copy, "paper_figures", *change)
    assert 2 <= jobs(again)["train_student"] <= 4
    assert "train_teacher" not in jobs(again)
    assert json.loads((split / "ce" / "config.json").read_text())["optimization"]["epochs"] == 3


@pytest.mark.usefixtures("finished")
def test_the_slurm_profile_plans_resources_for_each_job(tmp_path):
    folder = copy_of_the_repository(tmp_path / "slurm")
    site = {
        "every": {"account": "project", "partition": "cpu", "mail": "me@localhost"},
        "train_student": {"partition": "gpu", "gres": "gpu:a100", "threads": 64},
    }
    (folder / "profiles" / "slurm" / "site.yaml").write_text(yaml.safe_dump(site))
    resources = "resources={train_student: {gpu: 2, memory_mb: 3000, runtime_min: 7, threads: 2}}"
    process = run(folder, "snakemake", "--profile", "profiles/slurm", "-n", "paper_figures", "--config", resources)
    assert process.returncode == 0, process.stderr
    plan = process.stdout + process.stderr
    student = plan.split("\nrule train_student:")[1].split("\nrule ")[0]
    # more threads than this machine has cores, more GPUs than the one that the default profile counts; memory for each
    assert "threads: 64" in student
    assert "mem_mb=6000" in student
    assert "runtime=7" in student
    assert "slurm_partition=gpu" in student
    assert "slurm_account=project" in student
    assert "gres=gpu:a100:2" in student
    assert "--mail-user=me@localhost" in student
    assert "--signal=TERM@105" in student
    teacher = plan.split("\nrule train_teacher:")[1].split("\nrule ")[0]
    assert "slurm_partition=cpu" in teacher
    assert "gres" not in teacher
    assert "Group job evaluations" in plan
    # without the profile the site's file says nothing
    here = snakemake(folder, "-n", "paper_figures", "--config", resources)
    assert jobs(here)["train_student"] == 8
    assert "slurm_partition" not in here.stdout
    assert "threads: 64" not in here.stdout


def test_the_report_holds_figures_and_captions(finished):
    process = snakemake(finished, "--report", "report.html", "paper_figures")
    assert process.returncode == 0, process.stderr
    html = (finished / "report.html").read_text()
    assert "two_sides.png" in html
    assert "AUROC of the maximum logit" in html
    shown = re.search(r'"params": "(.*?[^\\])"', html)
    assert shown
    assert "protocol=mnist, 2" in shown[1], "words"
    assert not {"{", "caption=", "context="} & {word for word in ("{", "caption=", "context=") if word in shown[1]}


def test_the_code_for_a_notebook_reads_a_finished_run(finished):
    page = (REPOSITORY / "docs" / "next_day.md").read_text()
    section = page.partition("## Use a network in a notebook")[2]
    code = section.split("```python\n")[1].split("```")[0]
    process = run(finished, sys.executable, "-c", code)
    assert process.returncode == 0, process.stderr
    assert len(ast.literal_eval(process.stdout)) == 8


def test_lint_and_format(finished):
    assert snakemake(finished, "--lint").returncode == 0
    assert run(finished, "snakefmt", "--check", "Snakefile", "rules").returncode == 0


# ------------------------------------------------------------------------------------------------ DVC


def test_dvc_records_what_snakemake_made_and_redoes_what_a_change_asks_for(copy):
    folder = dvc_repository(copy)
    recorded = run(folder, "dvc", "repro")
    assert recorded.returncode == 0, recorded.stdout + recorded.stderr
    assert "Job stats" not in recorded.stdout + recorded.stderr
    assert (folder / "dvc.lock").exists()
    assert "Data and pipelines are up to date" in run(folder, "dvc", "repro").stdout

    path = folder / "config" / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["runs"]["kd_mixed"]["optimization"] = {"epochs": 3}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    single = run(folder, "dvc", "repro", "--single-item", "runs")
    output = single.stdout + single.stderr
    assert single.returncode == 0, output
    trained = re.findall(r": training (.*); log: ", output)
    assert sorted(trained) == ["kd_mixed, split 0, seed 0", "kd_mixed, split 1, seed 0"]
    config = folder / "results" / "digits" / "split0" / "seed0" / "kd_mixed" / "config.json"
    assert json.loads(config.read_text())["optimization"]["epochs"] == 3


# ---------------------------------------------------------------------- files that repeat other files


@pytest.mark.parametrize("name", ["dvc_stages.py", "write_environment.py"])
def test_generated_files_are_up_to_date(name, in_repository):
    process = run(in_repository, sys.executable, f"tools/{name}", "--check")
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("name", ["dvc_stages.py", "write_environment.py"])
def test_a_generated_file_that_differs_is_noticed(name, in_repository, tmp_path):
    (tmp_path / "file").write_text("something else\n")
    process = run(in_repository, sys.executable, f"tools/{name}", "--check", "--file", str(tmp_path / "file"))
    assert process.returncode == 2
    assert "--write" in process.stderr


def test_the_lock_pins_every_dependency_with_hashes_and_no_address(in_repository):
    text = (in_repository / "requirements.lock").read_text()
    entries = [line for line in text.splitlines() if "==" in line and not line.startswith(" ")]
    assert len(entries) > 50
    assert all(line.endswith("\\") for line in entries), "an entry without hashes"
    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text


def test_every_rule_belongs_to_a_stage_of_dvc(finished):
    listed = run(finished, "snakemake", "--list-rules")
    targets = {"paper_figures", "paper_tables", "paper_training", *FIGURES}
    # a check from outside, on data that the default experiment does not have
    targets |= {"published_checkpoints", "evaluate_published_checkpoints"}
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    # the stage of the records runs no rule
    commands = [stage["cmd"] for name, stage in stages.items() if name != "records"]
    allowed = {word for cmd in commands for word in cmd.split("--allowed-rules ")[1].split(" -- ")[0].split()}
    rules = {line.strip() for line in listed.stdout.splitlines() if line.strip()} - targets
    assert rules - allowed == set()
