"""The small rooms: files, registry, networks, feeding images, collecting results, analysis."""

from __future__ import annotations

import csv
import json
import os
import stat
import subprocess
import sys
from typing import Annotated

import numpy as np
import pytest
import torch
from pydantic import Field
from scipy.stats import ttest_rel

from openset_distill.analysis.embedding import embed
from openset_distill.analysis.mixing_scan import mixing_response, other_class_partners
from openset_distill.core.device import derive_seed, generator
from openset_distill.core.errors import CheckpointError, DataError, OpenSetError, SettingsError, TrainingError
from openset_distill.core.files import atomic_write, read_json, write_json
from openset_distill.core.registry import Registry, settings_class
from openset_distill.datasets.loader import ImageLoader, Normalize
from openset_distill.datasets.prepared import Images
from openset_distill.models import BACKBONES, build_classifier
from openset_distill.models.checkpoint import NetworkSpec, save_classifier
from openset_distill.models.heads import HEADS
from openset_distill.report.aggregate import Collector, read_rows, write_rows
from openset_distill.report.summary import summarize
from openset_distill.report.tidy import read_tidy
from openset_distill.training.optimizer import SGD
from openset_distill.training.teachers import TeacherEnsemble

CPU = torch.device("cpu")

# -------------------------------------------------------------------------------------------- files


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    with pytest.raises(RuntimeError), atomic_write(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~current_umask()


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OpenSetError, match=r"cannot write .*file/below"), atomic_write(tmp_path / "file" / "below"):
        pass


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "state"
    path.write_text("old")
    # a limit on the size of files is what a full disk looks like to a program
    program = (
        "import resource, signal, sys\n"
        "from openset_distill.core.files import atomic_write\n"
        "from openset_distill.core.command import run\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "def main():\n"
        "    with atomic_write(sys.argv[1]) as partial:\n"
        "        partial.write_bytes(bytes(5000))\n"
        "run(main)\n"
    )
    process = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert process.returncode == 2 and process.stderr.startswith("error: cannot write"), process.stderr
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_json(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    assert read_json(tmp_path / "a.json") == {"x": 1}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    with pytest.raises(OpenSetError, match="missing"):
        read_json(tmp_path / "c.json")
    (tmp_path / "d.json").write_text("{")
    with pytest.raises(OpenSetError, match="not valid JSON"):
        read_json(tmp_path / "d.json")


# ----------------------------------------------------------------------------------------- registry


@settings_class
class Thing:
    size: Annotated[int, Field(ge=1, le=100)] = 1
    presets = {"big": {"size": 9}}  # noqa: RUF012


def test_registry():
    things = Registry("thing", {"thing": Thing})
    assert things.build("thing").size == 1
    assert things.resolve({"name": "thing", "preset": "big"}) == {"name": "thing", "size": 9}
    assert things.resolve({"name": "thing", "preset": "big", "size": 3}) == {"name": "thing", "size": 3}
    for wrong, words in [
        ("thin", "'thing'"),
        ({"size": 1}, "needs a name"),
        ({"name": "thing", "sise": 1}, "'size'"),
        ({"name": "thing", "size": 0}, "greater than or equal"),
        ({"name": "thing", "size": "x"}, "integer"),
        ({"name": "thing", "preset": "bigg"}, "'big'"),
    ]:
        with pytest.raises(SettingsError, match=words):
            things.build(wrong)


def test_settings_of_all_kinds_are_read_without_torch():
    program = (
        "import sys, openset_distill.config.experiment; "
        "sys.exit('torch.nn' in sys.modules or 'pandas.core' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


# ----------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("backbone", ["small_resnet", "vgg32", "resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_forward_pass_gives_features_and_logits(backbone, channels):
    torch.manual_seed(0)
    model = build_classifier(backbone, classes=5, channels=channels).eval()
    with torch.inference_mode():
        features, logits = model(torch.rand(2, channels, 32, 32))
        assert torch.allclose(model.head(features), logits)
    assert features.shape == (2, model.encoder.num_features)
    assert logits.shape == (2, 5)


@pytest.mark.parametrize("head", HEADS)
def test_the_encoder_alone_computes_in_bfloat16(head):
    torch.manual_seed(0)
    model = build_classifier({"name": "small_resnet", "widths": [8, 64]}, classes=5, channels=3, head=head).eval()
    images = torch.rand(200, 3, 8, 8)
    exact, _ = model(images)
    model.precision = torch.bfloat16
    features, logits = model(images)
    assert torch.equal(features, features.bfloat16().float())
    assert not torch.equal(features, exact)
    assert torch.allclose(features, exact, rtol=0.05, atol=0.02)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, model.head(features))
    assert len(logits.amax(dim=1).unique()) > 190, "scores do not tie"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(images)[1], logits), "the network alone says what computes in which type"


def test_cifar_stem_keeps_the_resolution_of_small_images():
    cifar = build_classifier("resnet18", classes=2, channels=3).encoder.body
    assert cifar.conv1.stride == (1, 1)
    assert isinstance(cifar.maxpool, torch.nn.Identity)
    plain = build_classifier({"name": "resnet18", "stem": "imagenet"}, classes=2, channels=3).encoder.body
    assert plain.conv1.stride == (2, 2)
    assert cifar(torch.rand(1, 3, 32, 32)).shape[-2:] == (4, 4)


def test_flatten_2x2_is_the_released_head():
    model = build_classifier({"name": "resnet18", "pool": "flatten_2x2"}, classes=3, channels=3).eval()
    assert model(torch.rand(1, 3, 64, 64))[0].shape == (1, 512 * 4)


def test_a_model_that_timm_lacks():
    with pytest.raises(SettingsError, match="resnet18"):
        build_classifier({"name": "timm", "model": "resnet18x"}, classes=2, channels=3)
    with pytest.raises(SettingsError, match="stem: imagenet"):
        build_classifier({"name": "timm", "model": "vit_tiny_patch16_224"}, classes=2, channels=3)


def test_every_backbone_has_a_line_of_documentation():
    assert all(cls.__doc__ for cls in BACKBONES.values())


def test_a_teacher_is_frozen_and_an_ensemble_is_a_mean():
    torch.manual_seed(1)
    members = [build_classifier({"name": "small_resnet", "widths": [4]}, classes=3, channels=1) for _ in range(2)]
    teacher = TeacherEnsemble(members)
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    images = torch.rand(4, 1, 8, 8)
    answer = teacher(images)
    assert not answer.requires_grad
    expected = (members[0](images)[1] + members[1](images)[1]) / 2
    assert torch.allclose(answer, expected.detach())


# ---------------------------------------------------------------------------------------- optimizer


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.9, "weight_decay": 5e-4},
        {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": True},
        {"momentum": 0.0, "weight_decay": 0.0},
    ],
)
def test_sgd_is_that_of_torch(settings):
    torch.manual_seed(3)
    ours = build_classifier({"name": "small_resnet", "widths": [4, 8]}, classes=3, channels=1)
    theirs = build_classifier({"name": "small_resnet", "widths": [4, 8]}, classes=3, channels=1)
    theirs.load_state_dict(ours.state_dict())
    own, reference = (
        SGD(ours.parameters(), **settings),
        torch.optim.SGD(theirs.parameters(), lr=0.1, fused=True, **settings),
    )
    for step in range(5):
        images, labels = torch.rand(8, 1, 8, 8), torch.arange(8) % 3
        for model in (ours, theirs):
            torch.nn.functional.cross_entropy(model(images)[1], labels).backward()
        own.step(0.1 / (step + 1))
        reference.param_groups[0]["lr"] = 0.1 / (step + 1)
        reference.step()
        reference.zero_grad()
    for x, y in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(x, y)


def test_sgd_names_weights_that_the_loss_leaves_out():
    model = build_classifier({"name": "small_resnet", "widths": [4, 8]}, classes=3, channels=1)
    model(torch.rand(8, 1, 8, 8))[0].sum().backward()
    with pytest.raises(TrainingError, match=r"does not depend on 2 weights .*\(3, 8\).*requires_grad_"):
        SGD(model.parameters(), momentum=0.9).step(0.1)


# --------------------------------------------------------------------------------------------- loader


def test_feed_gives_the_chosen_images_channels_last():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 6, 5, 3), dtype=np.uint8)
    loader = ImageLoader(Images(pixels, np.zeros(10, np.int64)), np.array([7, 2, 9]), CPU)
    batch = loader.batch(torch.tensor([2, 0]))
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert (batch.permute(0, 2, 3, 1).numpy() == pixels[[9, 7]]).all()


def test_normalize():
    mean, std = [0.5, 0.4, 0.3], [0.1, 0.2, 0.3]
    images = torch.full((2, 3, 1, 1), 51, dtype=torch.uint8)
    got = Normalize(mean, std, 3, CPU)(images)[0].flatten()
    assert torch.allclose(got, torch.tensor([(0.2 - m) / s for m, s in zip(mean, std, strict=True)]))
    grey = Normalize(mean, std, 1, CPU)(images[:, :1])
    assert grey.flatten()[0].item() == pytest.approx((0.2 - 0.4) / 0.2)


def test_seeds_depend_on_what_they_are_for():
    seeds = {derive_seed(0, 1, "order", 2), derive_seed(0, 1, "augment", 2), derive_seed(1, 1, "order", 2)}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, 1, "order", 2) == derive_seed(0, 1, "order", 2)
    assert torch.rand(3, generator=generator("a")).tolist() == torch.rand(3, generator=generator("a")).tolist()


# ------------------------------------------------------------------------------------------ analysis


def test_partners_are_of_another_class():
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    partner = other_class_partners(labels, generator("x"))
    assert (labels[partner] != labels).all()


def test_mixing_response_at_the_ends_is_the_answer_to_the_raw_images():
    torch.manual_seed(2)
    model = build_classifier({"name": "small_resnet", "widths": [4]}, classes=3, channels=1).eval()
    images, labels = torch.rand(9, 1, 8, 8), torch.arange(9) % 3
    rows = list(mixing_response({"t": model}, "t", images, labels, mixing="mixup", lams=[0.0, 0.5, 1.0], seed=0))
    value = {(row["lam"], row["quantity"]): row["value"] for row in rows}
    assert {quantity for _, quantity in value} == {"teacher_confidence", "hard_share", "maximum_logit", "feature_norm"}
    with torch.inference_mode():
        features, logits = model(images)
    assert value[1.0, "maximum_logit"] == pytest.approx(logits.amax(1).mean().item(), rel=1e-5)
    assert value[1.0, "feature_norm"] == pytest.approx(features.norm(dim=1).mean().item(), rel=1e-5)
    partner = other_class_partners(labels, generator(0, "partners"))
    assert value[0.0, "maximum_logit"] == pytest.approx(logits[partner].amax(1).mean().item(), rel=1e-5)


def test_embedding_keeps_clusters_apart():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(0, 0.1, (40, 8)), rng.normal(5, 0.1, (40, 8))]).astype(np.float32)
    points = embed(features, seed=0)
    centre = points[:40].mean(0), points[40:].mean(0)
    nearest = np.linalg.norm(points[:, None] - np.stack(centre)[None], axis=2).argmin(1)
    assert (nearest == np.repeat([0, 1], 40)).all()
    assert (embed(features, seed=0) == points).all()


# ----------------------------------------------------------------------------------------- collecting


def write_run(folder, auroc: float) -> None:
    row = {"score": "maximum_logit", "group": "all", "sampling": "full", "metric": "auroc", "value": auroc}
    row |= {"low": None, "high": None, "n_known": 5, "n_unknown": 5}
    write_json(folder / "metrics.json", {"headline": {"auroc": auroc}, "rows": [row]})


def test_collector_pairs_runs_by_split_and_seed(tmp_path):
    values = {"ce": [0.80, 0.90, 0.85, 0.70, 0.75], "ad": [0.82, 0.93, 0.86, 0.72, 0.79]}
    for run, aurocs in values.items():
        for split, auroc in enumerate(aurocs):
            write_run(tmp_path / f"split{split}" / "seed0" / run, auroc)
            classes = {"dataset": "d", "known_ids": [split], "unknown_ids": {"unknown": {"d": [9]}}}
            write_json(tmp_path / f"split{split}" / "seed0" / "split.json", classes)
    layout = {
        **{"experiment": "e", "dataset": "d", "protocol": "p", "splits": [0, 1, 2, 3, 4], "seeds": [0]},
        **{"baseline": "ce", "tables": [], "embedded": []},
        "runs": {run: {"label": run.upper(), "family": run} for run in values},
    }
    collector = Collector(tmp_path, layout)
    summary = {row["run"]: row for row in summarize(collector.metrics(), "ce")}
    assert summary["ad"]["n"] == 5
    assert summary["ad"]["mean"] == pytest.approx(np.mean(values["ad"]))
    assert summary["ad"]["std"] == pytest.approx(np.std(values["ad"], ddof=1))
    assert summary["ad"]["difference"] == pytest.approx(np.mean(np.subtract(values["ad"], values["ce"])))
    assert summary["ad"]["p_value"] == pytest.approx(ttest_rel(values["ad"], values["ce"]).pvalue)
    assert np.isnan(summary["ce"]["difference"])
    without = summarize([row for row in collector.metrics() if row["run"] == "ad"], "ce")
    assert np.isnan(without[0]["difference"]), "a metric that the baseline does not have"
    assert collector.headline() == {run: {"auroc": pytest.approx(np.mean(of_run))} for run, of_run in values.items()}


def test_a_history_without_hard_samples_and_validation_can_be_read_and_drawn_from(tmp_path):
    epochs = [
        {"epoch": 1, "learning_rate": 0.1, "train_loss": 2.0},
        {"epoch": 2, "learning_rate": 0.1, "train_loss": 1.5},
    ]
    (tmp_path / "split0" / "seed0" / "ce").mkdir(parents=True)
    write_rows(tmp_path / "split0" / "seed0" / "ce" / "history.csv", epochs)
    runs = {"ce": {"label": "CE", "family": "cross_entropy"}}
    layout = {"splits": [0], "seeds": [0], "runs": runs, "epochs": {"ce": 2}}
    write_rows(tmp_path / "history.csv", Collector(tmp_path, layout).history())
    table = read_tidy("history", tmp_path / "history.csv")
    assert table["train_loss"].tolist() == [2.0, 1.5]
    assert table[["validation_accuracy", "hard_share"]].isna().all(axis=None)
    write_rows(tmp_path / "split0" / "seed0" / "ce" / "history.csv", epochs[:1])
    with pytest.raises(DataError, match=r"history\.csv has lost its end: its rows are not epochs 1 to 2; delete it"):
        list(Collector(tmp_path, layout).history())


def test_curves_and_activations_that_end_too_early_at_a_lines_end_are_refused(tmp_path):
    curves = [{"curve": name, "x": x / 2, "y": 1.0} for name in ("roc", "oscr") for x in range(3)]
    images = [{"known": 1, "maximum_logit": 2.0, "feature_norm": 3.0}] * 4
    for run in ("ce", "kd"):
        write_rows(tmp_path / "split0" / "seed0" / run / "curves.csv", curves)
        write_rows(tmp_path / "split0" / "seed0" / run / "activations.csv", images)
    runs = {run: {"label": run, "family": "cross_entropy"} for run in ("ce", "kd")}
    collector = Collector(tmp_path, {"splits": [0], "seeds": [0], "runs": runs})
    assert len(list(collector.curves())) == 12
    assert len(list(collector.activations())) == 8
    for rows, of_curve in ((curves[:-1], "oscr"), (curves[:3], "oscr"), (curves[:2], "roc")):
        write_rows(tmp_path / "split0" / "seed0" / "kd" / "curves.csv", rows)
        with pytest.raises(DataError, match=rf"kd.curves\.csv has lost its end: the curve {of_curve} does not reach"):
            list(collector.curves())
    write_rows(tmp_path / "split0" / "seed0" / "ce" / "activations.csv", images[:3])
    with pytest.raises(DataError, match=r"ce.activations\.csv has lost its end: it has 3 images, another run has 4"):
        list(collector.activations())


def test_networks_are_counted_from_the_weights(tmp_path):
    folder = tmp_path / "split2" / "seed1" / "ce"
    backbone = {"name": "small_resnet", "widths": [4, 6], "depth": 1, "stem_stride": 1}
    model = build_classifier(backbone, classes=3, channels=1)
    save_classifier(folder / "weights.safetensors", model, NetworkSpec(backbone, ("a", "b", "c"), 1, 8))
    layout = {"splits": [2, 0], "seeds": [1], "runs": {"ce": {"label": "CE", "family": "cross_entropy"}}}
    layout["networks"] = {"ce": "small_resnet 4-6"}
    (row,) = Collector(tmp_path, layout).networks()
    assert row["run"] == "ce"
    assert row["network"] == "small_resnet 4-6"
    assert row["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    (folder / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"cannot be read .* delete it, and the same command makes it again"):
        list(Collector(tmp_path, layout).networks())


def test_rows_survive_a_file(tmp_path):
    write_rows(tmp_path / "a.csv", [{"x": 1, "y": float("nan")}, {"x": 2, "z": "text"}])
    with open(tmp_path / "a.csv", newline="") as stream:
        assert next(csv.reader(stream)) == ["x", "y", "z"]
    assert read_rows(tmp_path / "a.csv") == [{"x": "1", "y": "", "z": ""}, {"x": "2", "y": "", "z": "text"}]
    with pytest.raises(DataError, match="missing"):
        read_rows(tmp_path / "b.csv")


# ------------------------------------------------------------------------------------------ checkpoints


def test_weights_that_do_not_fit_what_they_describe(tmp_path):
    from openset_distill.models.checkpoint import load_classifier, load_tensors, save_tensors

    backbone = {"name": "small_resnet", "widths": [4], "depth": 1, "stem_stride": 1}
    model = build_classifier(backbone, classes=2, channels=1)
    path = tmp_path / "w.safetensors"
    save_classifier(path, model, NetworkSpec(backbone, ("a", "b"), 1, 8))
    loaded, described = load_classifier(path, classes=("a", "b"))
    assert described.classes == ("a", "b")
    assert all(
        torch.equal(x, y) for x, y in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    )
    with pytest.raises(CheckpointError, match="another order"):
        load_classifier(path, classes=("b", "a"))
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, {key: value for key, value in metadata.items() if key != "head"})  # as 0.1.0 wrote it
    assert load_classifier(path)[1] == described
    save_tensors(path, tensors, metadata | {"head": "liner"})
    with pytest.raises(CheckpointError, match=r"head of an unknown kind.*'linear'"):
        load_classifier(path)
    save_tensors(path, tensors, metadata | {"backbone": json.dumps(backbone | {"widths": [5]})})
    with pytest.raises(CheckpointError, match="does not fit"):
        load_classifier(path)


def test_a_killed_writer_leaves_nothing_for_long_and_a_living_one_is_left_alone(tmp_path):
    from openset_distill.core.files import atomic_write

    (tmp_path / ".file.abc.partial").write_text("half")
    (tmp_path / ".file2.abc.partial").write_text("of another file")
    with atomic_write(tmp_path / "file") as first:
        first.write_text("first")
        with atomic_write(tmp_path / "file") as second:
            second.write_text("second")
    assert (tmp_path / "file").read_text() == "first"
    assert {path.name for path in tmp_path.iterdir()} == {"file", ".file2.abc.partial"}


def test_the_same_tensors_and_metadata_are_the_same_bytes(tmp_path):
    from openset_distill.models.checkpoint import save_tensors

    for name in "ab":
        save_tensors(tmp_path / name, {"x": torch.ones(2)}, {key: key for key in ("one", "two", "three", "four")})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_energy_is_read_from_the_counters_of_the_machine(tmp_path):
    from openset_distill.core.provenance import Energy

    assert Energy(tmp_path).joules() == {"processors": None, "gpus": None}
    # as Linux shows them: two packages, and a part that is in the first
    for zone, count in (("intel-rapl:0", 900), ("intel-rapl:0:0", 5), ("intel-rapl:1", 100)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{count}000000\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("1000000000\n")
    energy = Energy(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("50000000\n")  # began anew at a thousand joules
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("130000000\n")
    assert energy.joules()["processors"] == 150 + 30
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("what is this\n")
    assert energy.joules()["processors"] is None
