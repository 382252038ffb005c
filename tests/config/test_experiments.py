import json
import pickle
from collections.abc import Callable
from pathlib import Path

import archives
import numpy as np
import pytest
from checkout import checkout, served, snakemake, write_configuration
from commands import REPOSITORY

from openset_distill.config.experiment import Experiment, load
from openset_distill.config.loading import merge, read_configuration
from openset_distill.core.errors import SettingsError
from openset_distill.core.files import sha256
from openset_distill.datasets.catalog import datasets
from openset_distill.datasets.protocols import PROTOCOLS
from openset_distill.methods import METHODS

EXPERIMENTS = sorted(path.stem for path in (REPOSITORY / "config" / "experiments").glob("[a-z]*.yaml"))


def file_of(name: str) -> str:
    return f"config/experiments/{name}.yaml"


MAIN_RUNS = ("teacher", "ce", "cutmix", "kd_mixed", "ad_as_released", "ad_as_described_ce")
# these ask one question, and leave out the runs that have nothing to say about it
STUDIES = {
    "tinyimagenet_32_two_sides": ("ce", "cutmix", "mixup", "ssa_cutout"),
    "cifar10_fast_two_sides": ("ce", "cutmix", "mixup", "ssa_cutout"),
    "tinyimagenet_32_length": ("ce", "ce_80", "cutmix", "cutmix_80"),
    "tinyimagenet_32_ablation": ("teacher", "kd_mixed", "ad_as_released", "ad_no_joint", "ad_as_described_ce"),
}


def experiment(name: str, **changes) -> Experiment:
    configuration = read_configuration(file_of(name))
    if "image_folder" in configuration["data"]["dataset"]:
        changes = merge({"data": {"images": "config"}}, changes)
    return load(merge(configuration, changes), stands_alone=True)


# ------------------------------------------------------------------------------------------ what files say


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_file_is_a_valid_experiment_of_its_name(name: str) -> None:
    loaded = experiment(name)
    assert loaded.name == name
    assert loaded.settings.title
    assert set(STUDIES.get(name, MAIN_RUNS)) <= set(loaded.runs)
    # a born-again network learns from the baseline
    teachers = ["teacher", "ce"] if "born_again" in loaded.runs else ["teacher"]
    assert loaded.teacher_runs == (teachers if "teacher" in loaded.runs else [])
    text = (REPOSITORY / file_of(name)).read_text()
    assert text.startswith("# ")


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_two_splits_of_an_experiment_have_the_same_classes(name: str) -> None:
    assert experiment(name).context().twins == []


@pytest.mark.usefixtures("in_repository")
def test_every_published_protocol_and_classified_dataset_has_an_experiment() -> None:
    loaded = [experiment(name) for name in EXPERIMENTS]
    assert {e.protocol["name"] for e in loaded} == set(PROTOCOLS) - {"custom"}
    used = {dataset for e in loaded for dataset in (e.settings.data.dataset, *e.settings.data.others)}
    assert used == set(datasets()) - {"digits"}


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("name", ["tinyimagenet", "cifar10", "cifar_plus_10", "cifar_plus_50"])
def test_the_papers_setting(name: str) -> None:
    loaded = experiment(name)
    # splits 0 and 1 of CIFAR-10 have the same classes
    assert loaded.splits == ((1, 2, 3, 4) if name == "cifar10" else (0, 1, 2, 3, 4))
    teacher, student = (loaded.run_config(run, 1, 0) for run in ("teacher", "ad_as_released"))
    assert (teacher.backbone["name"], student.backbone["name"]) == ("resnet50", "resnet18")
    assert {config.backbone["stem"] for config in (teacher, student)} == {"cifar"}
    optimization = student.optimization
    assert (optimization.epochs, optimization.batch_size, optimization.learning_rate) == (200, 32, 0.1)
    assert (optimization.momentum, optimization.weight_decay) == (0.9, 5e-4)
    assert (optimization.schedule, optimization.decay, optimization.warmup_epochs) == ("step", 0.2, 1)
    assert [round(200 * milestone) for milestone in optimization.milestones] == [60, 120, 160]
    assert [s["name"] for s in student.augment.single] == ["randaugment", "random_crop", "horizontal_flip"]
    assert {key: student.augment.single[0][key] for key in ("space", "num_ops", "magnitude")} == {
        "space": "vaze",
        "num_ops": 1,
        "magnitude": 9,
    }
    assert student.augment.multi["name"] == "cutmix"
    mobile = loaded.run_config("mobilenet_ad", 1, 0)
    assert (mobile.backbone["name"], mobile.method["alpha"]) == ("mobilenet_v2", 0.95)
    assert loaded.settings.resources.train_student.gpu == 1


PAPERS = ("tinyimagenet", "cifar10", "cifar_plus_10", "cifar_plus_50", "svhn", "mnist", "ood_detection")
PAPERS += ("aircraft", "cub", "scars", "imagenet21k")


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_runs_train_on_all_images_and_add_one_augmentation_at_a_time(name: str) -> None:
    loaded = experiment(name)
    assert loaded.settings.data.validation_fraction == 0
    base = loaded.runs["ce"].single
    assert base[0]["name"] == "randaugment"
    assert base[0]["space"] in ("vaze", "vaze_digits")
    assert (base[0]["space"] == "vaze_digits") == (name in ("svhn", "mnist"))
    added = {}
    for run in loaded.runs.values():
        if run.name == "tuned":
            continue
        if run.family == "ssa" and run.name not in ("ssa_none", "ssa_crop_flip"):
            assert run.single[:-1] == base
            added[run.name] = run.single[-1]["name"]
        elif run.family != "ssa":
            assert run.single == base, run.name
    assert len(set(added.values())) == len(added) == 6
    assert loaded.runs["ssa_crop_flip"].single == base[1:]
    assert loaded.runs["ssa_none"].single == []


# Vaze et al. 2022: label smoothing, learning rate of a batch, its size, operations and magnitude of RandAugment
RECIPES = {
    "tinyimagenet": (0.9, 0.01, 128, 1, 9),
    "cifar10": (0, 0.1, 128, 1, 6),
    "cifar_plus_10": (0, 0.1, 128, 1, 6),
    "cifar_plus_50": (0, 0.1, 128, 1, 6),
    "svhn": (0, 0.1, 128, 1, 18),
    "mnist": (0, 0.1, 128, 1, 8),
    "cub": (0.3, 0.001, 32, 2, 30),
    "aircraft": (0.2, 0.001, 32, 2, 15),
}


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("name", RECIPES)
def test_the_tuned_recipe_is_that_of_the_dataset(name: str) -> None:
    run = experiment(name).runs["tuned"]
    optimization, augmentation = run.optimization, run.single[0]
    rate = optimization.learning_rate * optimization.batch_size / 128
    found = (run.method["label_smoothing"], rate, optimization.batch_size)
    assert (*found, augmentation["num_ops"], augmentation["magnitude"]) == pytest.approx(RECIPES[name])
    assert (optimization.epochs, optimization.schedule, optimization.weight_decay) == (600, "cosine", 1e-4)


@pytest.mark.usefixtures("in_repository")
def test_every_reading_and_control_is_a_run_of_the_papers_experiments() -> None:
    runs = experiment("tinyimagenet").runs
    presets = METHODS["asymmetric_distillation"].presets
    readings = {name: METHODS.resolve({"name": "asymmetric_distillation", "preset": name}) for name in presets}
    for name, method in readings.items():
        assert any(run.method == method for run in runs.values()), name
    asked = {
        name: METHODS.build(run.method).teacher_input
        for name, run in runs.items()
        if run.method["name"] == "asymmetric_distillation"
    }
    assert sorted(name for name, seen in asked.items() if seen == "mixed") == [
        "ad_ce_mixed_teacher",
        "ad_dist_mixed_teacher",
        "ad_mixed_teacher",
    ]
    assert runs["kd_raw"].multi is None
    assert runs["kd_raw"].method["loss_name"] == "dist"
    assert runs["cutmix_add"].method["combine"] == "add"
    assert runs["cutmix_until"].multi_until == 0.7
    assert [runs[f"logits_{kind}"].multi is None for kind in ("raw", "mixed", "symmetric")] == [True, False, False]


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("name", ["cifar10_long", "cifar10_cpu", "tinyimagenet_32", "tinyimagenet_cpu"])
def test_small_experiments_have_the_control_of_claims_about_mixing(name: str) -> None:
    raw, mixed = (experiment(name).runs[run] for run in ("kd_raw", "kd_mixed"))
    assert raw.method == mixed.method
    assert raw.multi is None
    assert mixed.multi is not None


@pytest.mark.usefixtures("in_repository")
def test_digits_are_never_mirrored() -> None:
    for name in ("mnist", "svhn"):
        for run in experiment(name).runs.values():
            assert "horizontal_flip" not in [single["name"] for single in run.single]


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("name", ["aircraft", "cub", "scars", "imagenet21k"])
def test_images_of_any_size_are_cropped_and_resized_in_every_run(name: str) -> None:
    for run in experiment(name).runs.values():
        assert "random_crop" not in [single["name"] for single in run.single]


@pytest.mark.usefixtures("in_repository")
def test_the_authors_file_of_splits_is_found() -> None:
    assert experiment("cub").published_splits() == ["data/raw/cub/cub_osr_splits.pkl"]
    assert experiment("tinyimagenet").published_splits() == []
    assert experiment("imagenet21k").published_splits() == ["data/raw/imagenet/imagenet_osr_splits.pkl"]
    winter = experiment("imagenet21k", protocol={"name": {"name": "imagenet", "winter21": True}, "splits": [0]})
    assert winter.published_splits() == ["data/raw/imagenet/imagenet_osr_splits_winter21.pkl"]
    with pytest.raises(SettingsError, match="protocol 'cub' has no setting 'winter21'"):
        experiment("cub", protocol={"name": {"name": "cub", "winter21": True}, "splits": [0]})


@pytest.mark.usefixtures("in_repository")
def test_a_download_is_told_only_what_concerns_it() -> None:
    digits = f"sha256:{'0' * 64}"
    data = {
        "mirror": "/mirror",
        "checksum": {"cifar-10-python.tar.gz": digits},
        "urls": {"cifar-10-python.tar.gz": ["http://a/c", "http://b/c"]},
    }
    loaded = experiment("cifar_plus_10", data=data, checkpoint_splits=[1])
    file = "cifar-10-python.tar.gz"
    assert loaded.download_options("cifar10") == [
        *("--mirror", "/mirror", "--checksum", f"{file}={digits}"),
        *("--url", f"{file}=http://a/c", "--url", f"{file}=http://b/c"),
    ]
    assert loaded.download_options("cifar100") == ["--mirror", "/mirror"]
    only = ["--only", "vgg32_tinyimagenet_split1.pth"]
    assert loaded.download_options("published_checkpoints") == ["--mirror", "/mirror", *only]
    assert experiment("cifar10").download_options("cifar10") == []


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("cifar10", {"data": {"checksum": {"cifar-10-pyton.tar.gz": "x"}}}, "data.checksum: no dataset has an archive"),
        ("cifar10", {"data": {"checksum": {"cifar-10-python.tar.gz": "x"}}}, "data.checksum: 'x' is not a checksum"),
        ("cifar10", {"data": {"urls": {"x": ["http://a"]}}}, "data.urls: no dataset has an archive 'x'"),
        ("cifar10", {"data": {"images": "config"}}, "data.images is set, but no dataset uses it"),
        ("cifar10", {"data": {"others": ["image_folder"]}}, "data.images: dataset image_folder needs the folder"),
        ("cifar10", {"data": {"others": ["svhn", "svhn"]}}, "data.others: svhn is listed twice"),
        ("image_folder", {"data": {"images": "nowhere"}}, "data.images: nowhere does not exist"),
        ("image_folder", {"data": {"image_size": None}}, "data.image_size: images of this dataset differ in size"),
        ("cifar10", {"checkpoint_splits": [5]}, "checkpoint_splits.0: "),
    ],
)
def test_mistakes_in_the_data_are_one_error(name: str, changes: dict, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        experiment(name, **changes)
    assert message in str(error.value)


# ------------------------------------------------------------------------------------- what Snakemake makes of it


@pytest.mark.usefixtures("in_repository")
@pytest.mark.workflow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_snakemake_plans_every_file(name: str, tmp_path: Path) -> None:
    loaded = experiment(name)
    folder = checkout(tmp_path)
    more = []
    if name == "image_folder":
        archives.image_folder(tmp_path / "images")
        more = ["--config", "data={images: images}"]
    # predictions on a user's own images are listed by file
    targets = ["paper_figures", *(["results/image_folder/split0/seed0/ce/predictions.csv"] if more else [])]
    process = snakemake(folder, "-n", *targets, "--configfile", file_of(name), *more)
    assert process.returncode == 0, process.stdout + process.stderr
    counts = dict(line.split() for line in process.stdout.splitlines() if len(line.split()) == 2)
    jobs = len(loaded.runs) * len(loaded.splits)
    assert int(counts.get("train_teacher", 0)) + int(counts["train_student"]) == jobs
    assert counts["prepare_dataset"] == counts["download_dataset"] == str(1 + len(loaded.settings.data.others))


FEW = ("teacher", "ce", "ad_as_released")


def made_small(name: str, urls: dict, checksums: dict) -> dict:
    """An experiment in which everything is tiny and no step is left out: one split, three runs, one epoch."""
    with_all = read_configuration(file_of(name))
    return {
        "extends": file_of(name),
        "data": {"urls": urls, "checksum": checksums},
        "protocol": {"splits": [0]},
        "defaults": {
            "backbone": {"name": "small_resnet", "widths": [4, 8], "stem_stride": 2},
            "optimization": {"epochs": 1, "batch_size": 16, "warmup_epochs": 0, "precision": "float32"},
        },
        "runs": {
            **{run: None for run in with_all["runs"] if run not in FEW},
            "teacher": {"backbone": {"name": "small_resnet", "widths": [6, 8], "stem_stride": 2}},
        },
        "evaluation": {"bootstrap": 20, "detectors": ["vim", {"name": "knn", "k": 3}]},
        "analysis": {"mixing": ["cutmix"], "lam_steps": 3, "mixing_samples": 16, "embedding_samples": 50},
        "show": {
            "msa": None,
            "distillation": None,
            "asymmetric": ["ad_as_released"],
            "ablation": [],
            # without validation images, as the paper's experiments are
            "figures": ["openset_curves", "training_dynamics"],
            "tables": ["benchmark"],
        },
        "resources": {
            kind: {"threads": 1}
            for kind in ("prepare", "train_teacher", "train_student", "inference", "feature_geometry")
        },
    }


@pytest.mark.stories
@pytest.mark.usefixtures("in_repository")
@pytest.mark.workflow
@pytest.mark.parametrize(
    ("name", "dataset", "write"),
    [
        ("mnist", "mnist", lambda folder: archives.mnist(folder, train=100, test=100)),
        ("tinyimagenet", "tinyimagenet", lambda folder: archives.tiny_imagenet(folder, classes=200, train=4, test=2)),
        ("cifar10", "cifar10", lambda folder: archives.cifar10(folder, per_batch=100)),
    ],
)
def test_an_experiment_runs_from_the_archive_to_the_figure(
    name: str, dataset: str, write: Callable, tmp_path: Path
) -> None:
    write(tmp_path / "server")
    folder = checkout(tmp_path / "checkout")
    files = [archive.file for archive in datasets()[dataset].archives]
    checksums = {file: f"sha256:{sha256(tmp_path / 'server' / file)}" for file in files}
    with served(tmp_path / "server") as address:
        small = made_small(name, {file: [f"{address}/{file}"] for file in files}, checksums)
        process = snakemake(folder, "--cores", 2, "--configfile", write_configuration(folder, small))
    assert process.returncode == 0, process.stdout + process.stderr
    record = json.loads((folder / "data" / "raw" / dataset / "download.json").read_text())
    assert [origin["source"] for origin in record["files"]] == [f"{address}/{file}" for file in files]
    results = folder / "results" / name
    split = json.loads((results / "split0" / "seed0" / "split.json").read_text())
    assert (split["dataset"], split["protocol"]) == (dataset, name)
    assert split["n_known_classes"] == (20 if name == "tinyimagenet" else 6)
    for run in FEW:
        metrics = json.loads((results / "split0" / "seed0" / run / "metrics.json").read_text())
        assert metrics
    for file in (
        "figures/openset_curves.pdf",
        "figures/training_dynamics.pdf",
        "figures/openset_curves.csv",
        "tables/benchmark.md",
    ):
        assert (results / file).stat().st_size > 100
    again = snakemake(folder, "-n", "--configfile", "test.yaml")
    assert "Nothing to be done" in again.stdout + again.stderr


def prepared_by(configuration: str) -> str:
    """Where the images of `data.images` are prepared."""
    changes = {"extends": file_of("image_folder"), "data": {"images": configuration}}
    return load(changes, stands_alone=True).prepared("image_folder") + "/manifest.json"


@pytest.mark.workflow
def test_own_images_run_from_the_folder_and_are_prepared_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkout(tmp_path)
    monkeypatch.chdir(folder)
    archives.image_folder_zip(tmp_path / "mine.zip")
    archives.image_folder(tmp_path / "mine", known=("bee", "cat"))
    target, other = prepared_by("mine.zip"), prepared_by("mine")
    assert target.startswith("data/prepared/image_folder-mine.zip-")
    assert target != other
    words = ["--cores", 1, target, "--configfile", file_of("image_folder"), "--config", "data={images: mine.zip}"]
    process = snakemake(folder, *words)
    assert process.returncode == 0, process.stdout + process.stderr
    manifest = json.loads((folder / target).read_text())
    assert manifest["classes"] == ["cat", "dog", "owl", "fox"]
    assert manifest["test_only_classes"] == ["fox"]
    assert "Nothing to be done" in (process := snakemake(folder, "-n", *words)).stdout + process.stderr
    archives.image_folder_zip(tmp_path / "mine.zip", known=("cat", "dog"))
    process = snakemake(folder, *words)
    assert process.returncode == 0, process.stdout + process.stderr
    assert json.loads((folder / target).read_text())["classes"] == ["cat", "dog", "fox"]
    # another set of images of the same size, this time a folder, has a place of its own
    process = snakemake(folder, *words[:2], other, *words[3:-1], "data={images: mine}")
    assert process.returncode == 0, process.stdout + process.stderr
    assert json.loads((folder / other).read_text())["classes"] == ["bee", "cat", "fox"]
    assert "Nothing to be done" in (process := snakemake(folder, "-n", *words)).stdout + process.stderr


def planned(folder: Path, configuration: dict, sources: Path) -> dict:
    """split.json of the first split, made from the archives in `sources`, which are served and trusted."""
    files = [path.name for path in sources.iterdir() if path.is_file()]
    with served(sources) as address:
        data = {
            "urls": {file: [f"{address}/{file}"] for file in files},
            "checksum": {file: f"sha256:{sha256(sources / file)}" for file in files},
        }
        file = write_configuration(folder, merge(configuration, {"data": data}))
        name = configuration.get("experiment") or Path(configuration["extends"]).stem
        target = f"results/{name}/split0/seed0/split.json"
        process = snakemake(folder, "--cores", 2, target, "--configfile", file)
    assert process.returncode == 0, process.stdout + process.stderr
    return json.loads((folder / target).read_text())


@pytest.mark.workflow
def test_a_semantic_shift_split_comes_from_its_authors_file(tmp_path: Path) -> None:
    sources = tmp_path / "server"
    archives.cub(sources, classes=10)
    groups = {"Easy": [1, 3], "Medium": [5], "Hard": [6, 7, 8]}
    archives.class_split_pickle(sources / "cub_osr_splits.pkl", [9, 0, 4, 2], groups)
    small = {"extends": file_of("cub"), "data": {"image_size": 16}, "resources": {"prepare": {"threads": 1}}}
    split = planned(checkout(tmp_path / "checkout"), small, sources)
    assert split["known_ids"] == [9, 0, 4, 2]
    assert split["groups"] == ["known", "easy", "medium", "hard"]
    assert split["unknown_ids"]["hard"] == {"cub": [6, 7, 8]}


@pytest.mark.workflow
def test_imagenet_archives_are_put_in_place_by_hand(tmp_path: Path) -> None:
    folder, sources = checkout(tmp_path / "checkout"), tmp_path / "server"
    archives.imagenet(folder / "data" / "raw" / "imagenet")
    wnids = [f"n{30_000_000 + number:08}" for number in range(4)]
    for wnid in wnids:
        place = folder / "data" / "raw" / "imagenet21k" / "imagenet21k_val" / wnid
        place.mkdir(parents=True)
        (place / "image.JPEG").write_bytes(archives.encoded(archives.picture(1)))
    sources.mkdir()
    for release, hard in (("", wnids[1:]), ("_winter21", wnids[2:])):
        splits = {"easy_i21k_classes": wnids[:1], "hard_i21k_classes": hard}
        (sources / f"imagenet_osr_splits{release}.pkl").write_bytes(pickle.dumps(splits))
    # what lies there is verified too, so the test states the checksums of its own small archives
    stated = {path.name: f"sha256:{sha256(path)}" for path in (folder / "data" / "raw" / "imagenet").iterdir()}
    small = {
        "extends": file_of("imagenet21k"),
        "data": {"image_size": 16, "validation_fraction": 0.3, "checksum": stated},
        "protocol": {"name": {"name": "imagenet", "winter21": True}, "splits": [0]},
        "resources": {"prepare": {"threads": 1}},
    }
    split = planned(folder, small, sources)
    assert split["n_known_classes"] == 3
    assert split["unknown"] == {"easy": wnids[:1], "hard": wnids[2:]}
    assert split["counts"]["test"] == {"known": 6, "easy": 1, "hard": 2}


@pytest.mark.workflow
def test_other_datasets_take_the_size_and_channels_of_the_known_one(tmp_path: Path) -> None:
    folder, sources = checkout(tmp_path / "checkout"), tmp_path / "server"
    archives.mnist(sources)
    archives.svhn(sources)
    archives.flat_images(sources)
    small = {
        "extends": file_of("ood_detection"),
        "data": {"dataset": "mnist", "others": ["svhn", "isun"]},
        "resources": {"prepare": {"threads": 1}},
    }
    split = planned(folder, small, sources)
    assert split["groups"] == ["known", "svhn", "isun"]
    assert split["counts"]["test"] == {"known": 10, "svhn": 10, "isun": 5}
    prepared = [np.load(folder / f"data/prepared/{name}/28x1/test_images.npy") for name in ("mnist", "svhn", "isun")]
    assert {images.shape[1:] for images in prepared} == {(28, 28, 1)}


@pytest.mark.workflow
@pytest.mark.real_data
def test_the_cifar_protocol_accepts_the_archive_of_class_folders(tmp_path: Path) -> None:
    archive = archives.mirrored("cifar-10-images.zip")
    folder = checkout(tmp_path)
    target = "results/cifar10_cpu/split0/seed0/split.json"
    words = ["--cores", 2, target, "--configfile", file_of("cifar10_cpu")]
    process = snakemake(folder, *words, OPENSET_MIRROR=str(archive.parent))
    assert process.returncode == 0, process.stdout + process.stderr
    split = json.loads((folder / target).read_text())
    assert split["known"] == ["airplane", "frog", "deer", "truck", "automobile", "horse"]
    assert split["counts"] == {"train": 27000, "validation": 3000, "test": {"known": 6000, "unknown": 4000}}
