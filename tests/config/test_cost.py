"""What an experiment costs before it is started, against what was measured."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from commands import REPOSITORY

from openset_distill import cli
from openset_distill.config.cost import JOB_SECONDS, RATES, cost
from openset_distill.config.experiment import load
from openset_distill.config.loading import read_configuration
from openset_distill.core.errors import OpenSetError
from openset_distill.datasets.catalog import datasets
from openset_distill.methods import METHODS

pytestmark = pytest.mark.usefixtures("in_repository")
MIXED = {"name": "cutmix", "probability": 1.0}


def of(**changes):
    return cost(load(changes, stands_alone=False))


def two_runs(method, **optimization):
    """A teacher and one run of a method, on batches that are all mixed."""
    run = {"method": method, "augment": {"multi": MIXED}, "optimization": optimization}
    show = {"baseline": "one", "msa": "null", "distillation": "null"}
    return {"runs": {"one": run}, "only": ["teacher", "one"], "show": show, "protocol": {"splits": [0]}}


def hours(found, kind):
    """Of one job of a kind, beyond its start."""
    jobs = next(jobs for jobs in found.jobs if jobs.kind == kind)
    return jobs.hours / jobs.count - JOB_SECONDS / 3600


def test_the_rates_are_those_of_the_kept_benchmarks():
    def rate(file, case):
        kept = json.loads((REPOSITORY / "docs" / "benchmarks" / file).read_text())
        engine = kept["cases"][case]["methods"]["cross entropy"]["engine"]
        return engine["images_a_second"]["median"] * engine["student_gflop_an_image"] / kept["machine"]["cores"]

    assert RATES["dense"] == pytest.approx(rate("training_small.json", "small_64"), rel=0.02)
    assert RATES["depthwise"] == pytest.approx(rate("training.json", "mobilenet_v2_32"), rel=0.02)


@pytest.mark.parametrize("name", ["cifar10_long", "tinyimagenet_cpu", "tinyimagenet_32_length"])
def test_kept_trainings_took_between_half_and_twice_the_estimate(name):
    folder = REPOSITORY / "docs" / "results" / name
    kept = json.loads((folder / "provenance.json").read_text())
    measured = sum(run["provenance"]["wall_seconds"] * run["provenance"]["threads"] for run in kept.values())
    configuration = read_configuration(folder / "experiment.yaml")
    splits = sorted({int(key.split("/")[0].removeprefix("split")) for key in kept})
    configuration["protocol"]["splits"] = splits
    found = cost(load(configuration, stands_alone=True))
    trainings = [jobs for jobs in found.jobs if jobs.kind in ("teachers", "students")]
    assert sum(jobs.count for jobs in trainings) == len(kept)
    assert 0.5 < measured / 3600 / sum(jobs.hours for jobs in trainings) < 2


@pytest.mark.parametrize("method", METHODS)
def test_every_objective_is_counted(method):
    found = of(**two_runs(method, epochs=9000))
    assert hours(found, "students") > 0.99 * hours(of(**two_runs("cross_entropy", epochs=9000)), "students") > 0


def test_a_live_teacher_and_a_second_loss_cost_more():
    plain = hours(of(**two_runs("cross_entropy", epochs=9000)), "students")
    added = hours(of(**two_runs({"name": "cross_entropy", "combine": "add"}, epochs=9000)), "students")
    assert 1.9 < added / plain < 2.0
    cached, asked = two_runs("distillation", epochs=9000), two_runs("distillation", epochs=9000)
    asked["runs"]["one"]["teacher_logits"] = "online"
    cached, asked = of(**cached), of(**asked)
    assert cached.disk["cached teacher logits"] > 0 == asked.disk["cached teacher logits"]
    assert hours(asked, "students") > hours(cached, "students")
    assert hours(cached, "cached teacher logits") > 0.1 * hours(cached, "students")


def test_a_rate_of_ones_own_hardware_and_networks_that_are_bound_by_memory():
    experiment = load({}, stands_alone=False)
    slow, fast = cost(experiment, 10.0), cost(experiment, 1e9)
    start = sum(jobs.count for jobs in fast.jobs) * JOB_SECONDS / 3600
    assert fast.hours == pytest.approx(start, rel=1e-3)
    assert slow.hours - start > 10 * (cost(experiment).hours - start)
    wide = load({"defaults": {"backbone": "mobilenet_v2"}, "data": {"image_size": 32}}, stands_alone=False)
    assert cost(wide).gpu_bytes[0] > 12 * 2_000_000  # weights, gradients and momentum of two million


@pytest.mark.workflow
def test_the_number_of_jobs_is_snakemakes(tmp_path):
    changed = {"evaluation": {"detectors": ["knn"]}, "protocol": {"splits": [0, 1]}, "seeds": [0, 1]}
    found = of(**changed)
    told = ["evaluation={detectors: [knn]}", "protocol={splits: [0, 1]}", "seeds=[0,1]", f"results={tmp_path}"]
    told.append(f"data={{folder: {tmp_path}/data}}")
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "--config", *told, "--", "paper_figures"]
    planned = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    total = int(re.search(r"^total +(\d+)$", planned.stdout, re.MULTILINE)[1])
    assert sum(jobs.count for jobs in found.jobs) == total - 1  # the target itself does nothing


def test_every_dataset_of_the_catalog_is_counted_or_says_why_not():
    assert {name for name, entry in datasets().items() if not entry.counts} == {"image_folder", "imagenet21k"}
    own = load({"data": {"dataset": "image_folder", "images": "docs", "image_size": 8}}, stands_alone=False)
    with pytest.raises(OpenSetError, match=r"known when they are prepared; run `snakemake .*manifest.json`"):
        cost(own)
    found = cost(load(read_configuration("config/experiments/imagenet21k.yaml"), stands_alone=True))
    assert any("imagenet21k" in sentence for sentence in found.unknown)
    assert found.train_images == 1_281_167


@pytest.mark.parametrize("name", ["cifar10_long", "tinyimagenet_32", "cub"])
def test_the_table_in_the_documentation(name, tmp_path):
    text = (REPOSITORY / "docs" / "cluster.md").read_text()
    configuration = read_configuration(f"config/experiments/{name}.yaml")
    configuration["data"]["folder"] = str(tmp_path)  # nothing is prepared there
    found = cost(load(configuration, stands_alone=True))
    trainings = sum(jobs.count for jobs in found.jobs if jobs.kind in ("teachers", "students"))
    cells = [sum(jobs.count for jobs in found.jobs), trainings, f"{found.images_seen / 1e6:,.0f}"]
    cells += [cli._hours(found.hours), cli._size(found.gpu_bytes[0]), cli._size(sum(found.disk.values()))]
    assert f"| `{name}` | {' | '.join(map(str, cells))} |" in text


def test_the_command(capsys):
    cli._main(["cost", "--set", "protocol.splits=[0]"])
    text = capsys.readouterr().out
    assert re.search(r"students +13 +1 core, 2 GB, 30 min", text)
    assert "total" in text
    for words in ("longest training: ", "GPU memory", "disk: ", "An estimate", "docs/benchmarks.md"):
        assert words in text
    cli._main(["cost", "cifar10", "--gflops", "20000"])
    text = capsys.readouterr().out
    assert "1 GPU" in text
    assert "20,000 GFLOP/s, as given" in text
    assert "of the 24.0 h that its job requests" in text
    cli._main(["cost", "cifar10", "--gflops", "100"])
    assert "longer than its time limit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["cifar1"], "did you mean 'cifar10'"),
        (["none.yaml"], "none.yaml"),
        (["--set", "protocol.splits"], "is not KEY=VALUE"),
        (["--set", "runs.ce.backbone=resnet"], "resnet18"),
        (["--set", "runs.ce.backbone={name: timm, model: no_such_model}"], "no_such_model"),
    ],
)
def test_bad_input_is_one_line(words, expected):
    with pytest.raises(OpenSetError) as error:
        cli._main(["cost", *words])
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", ["0", "-1", "nan", "inf", "fast"])
def test_a_rate_is_a_number_above_zero(number, capsys):
    with pytest.raises(SystemExit):
        cli._main(["cost", "--gflops", number])
    assert "--gflops" in capsys.readouterr().err
