"""Configuration: every mistake is one error that names the key and the nearest right one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openset_distill.config.experiment import Experiment, load
from openset_distill.config.loading import merge, read_configuration
from openset_distill.core.errors import SettingsError

pytestmark = pytest.mark.usefixtures("in_repository")


def changed(changes: dict):
    return load(changes, stands_alone=False)


def error(changes: dict) -> str:
    with pytest.raises(SettingsError) as caught:
        changed(changes)
    return str(caught.value)


def test_the_default_is_valid_and_complete():
    experiment = changed({})
    assert experiment.name == "digits"
    assert experiment.teacher_runs == ["teacher"]
    assert len(experiment.student_runs) == len(experiment.runs) - 1
    assert experiment.runs["ad_as_released"].teachers == ("teacher",)
    assert experiment.runs["ce"].teachers == ()
    families = {name: run.family for name, run in experiment.runs.items()}
    assert families["ce"] == "cross_entropy"
    assert families["cutmix"] == "msa"
    assert families["kd_mixed"] == "distillation"
    assert families["ad_as_described_ce"] == "asymmetric"
    assert families["ad_no_joint"] == "ablation"
    assert families["ad_soft"] == "asymmetric"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sedes": [1]}, ["'sedes'", "'seeds'"]),
        ({"data": {"datset": "digits"}}, ["data", "'datset'", "'dataset'"]),
        ({"data": {"dataset": "digit"}}, ["data.dataset", "'digits'"]),
        ({"defaults": {"optimization": {"epoch": 3}}}, ["defaults.optimization", "'epoch'", "'epochs'"]),
        ({"runs": {"cutmix": {"augment": {"mutli": "mixup"}}}}, ["runs.cutmix.augment", "'mutli'", "'multi'"]),
        ({"runs": {"cutmix": {"augment": {"multi": "cutmux"}}}}, ["runs.cutmix.augment.multi", "'cutmix'"]),
        ({"runs": {"ce": {"augment": {"single": ["randaugmnt"]}}}}, ["runs.ce.augment.single", "'randaugment'"]),
        ({"runs": {"ce": {"method": "cross_entrop"}}}, ["runs.ce.method", "'cross_entropy'"]),
        ({"runs": {"ce": {"method": {"name": "cross_entropy", "smoothing": 0.1}}}}, ["label_smoothing"]),
        ({"runs": {"ce": {"backbone": "resnet81"}}}, ["runs.ce.backbone", "'resnet18'"]),
        ({"runs": {"ce": {"optimization": {"epochs": "many"}}}}, ["runs.ce.optimization.epochs", "integer"]),
        ({"runs": {"ce": {"optimization": {"epochs": 0}}}}, ["runs.ce.optimization.epochs", "greater"]),
        ({"runs": {"kd_mixed": {"teacher": "techer"}}}, ["runs.kd_mixed.teacher", "'teacher'"]),
        ({"runs": {"kd_mixed": {"teacher": "kd_mixed"}}}, ["runs.kd_mixed.teacher", "would teach itself"]),
        (
            {"runs": {"ad_as_released": {"augment": {"multi": None}}}},
            ["runs.ad_as_released.method: asymmetric_distillation", "runs.ad_as_released.augment.multi", "name an"],
        ),
        (
            {"runs": {"ad_soft": {"augment": {"multi": {"name": "cutmix", "probability": 0}}}}},
            ["runs.ad_soft.method: soft_asymmetric_distillation", "learns from mixed images"],
        ),
        (
            {"runs": {"ce": {"method": {"name": "cross_entropy", "combine": "add"}}}},
            ["runs.ce.method: cross_entropy with these settings learns from mixed images"],
        ),
        ({"runs": {"ce": {"method": "placeholders"}}}, ["runs.ce.method: placeholders", "runs.ce.augment.multi"]),
        (
            {"runs": {"ad_as_released": {"method": {"name": "asymmetric_distillation", "relabel_mean": "bach"}}}},
            ["runs.ad_as_released.method", "relabel_mean", "'hard' or 'batch'"],
        ),
        ({"runs": {"ce": {"augment": {"multi_until": 0.7}}}}, ["runs.ce.augment.multi_until", "leave multi_until out"]),
        ({"runs": {"cutmix": {"augment": {"multi_until": 0}}}}, ["runs.cutmix.augment.multi_until", "greater"]),
        ({"runs": {"cutmix": {"augment": {"multi_until": 70}}}}, ["runs.cutmix.augment.multi_until", "less"]),
        (
            {
                "runs": {
                    "points": {"method": "arpl"},
                    "ad_as_released": {
                        "method": {"name": "asymmetric_distillation", "easy_target": "enriched"},
                        "teacher": "points",
                    },
                }
            },
            ["runs.ad_as_released.method: easy_target: enriched", "teacher points is reciprocal_points"],
        ),
        ({"protocol": {"splits": [0, 5]}}, ["protocol.splits", "no split 5", "0 to 4"]),
        ({"protocol": {"splits": [-1]}}, ["protocol.splits.0", "greater"]),
        ({"protocol": {"splits": []}}, ["protocol.splits", "at least 1"]),
        # what comes twice would count twice
        ({"protocol": {"splits": [0, 1, 0]}}, ["protocol.splits", "0 is listed twice; list it once"]),
        ({"seeds": [3, 3]}, ["seeds", "3 is listed twice"]),
        ({"checkpoint_splits": [1, 1]}, ["checkpoint_splits", "1 is listed twice"]),
        ({"only": ["ce", "cutmix", "ce"]}, ["only", "'ce' is listed twice"]),
        ({"evaluation": {"scores": ["msp", "maximum_logit", "msp"]}}, ["evaluation.scores", "'msp' is listed twice"]),
        ({"evaluation": {"sampling": ["full", "full"]}}, ["evaluation.sampling", "'full' is listed twice"]),
        ({"analysis": {"mixing": ["mixup", "mixup"]}}, ["analysis.mixing", "'mixup' is listed twice"]),
        ({"show": {"ablation": ["ce", "cutmix", "ce"]}}, ["show.ablation", "'ce' is listed twice"]),
        ({"show": {"figures": ["two_sides", "two_sides"]}}, ["show.figures", "'two_sides' is listed twice"]),
        ({"show": {"tables": ["scores", "scores"]}}, ["show.tables", "'scores' is listed twice"]),
        ({"protocol": {"name": "minst"}}, ["protocol.name", "'mnist'"]),
        ({"evaluation": {"scores": ["max_logit"]}}, ["evaluation.scores", "'maximum_logit'"]),
        ({"evaluation": {"scores": ["energy"]}}, ["evaluation.scores", "maximum_logit", "add it"]),
        ({"evaluation": {"headline": "mps"}}, ["evaluation.headline", "'mps'", "maximum_logit, msp, energy"]),
        ({"evaluation": {"headline": "knn"}}, ["evaluation.headline", "evaluation.detectors"]),
        ({"evaluation": {"sampling": ["balanced"]}}, ["evaluation.sampling", "full", "add it"]),
        ({"analysis": {"mixing": ["cutmox"]}}, ["analysis.mixing", "'cutmix'"]),
        ({"show": {"baseline": "cee"}}, ["show.baseline", "'ce'"]),
        ({"show": {"distillation": "kd_mixd"}}, ["show.distillation", "'kd_mixed'"]),
        ({"show": {"asymmetric": ["ad_as_relesed"]}}, ["show.asymmetric", "'ad_as_released'"]),
        ({"show": {"ablation": ["kd_mixed"]}}, ["show.ablation", "compare with"]),
        ({"show": {"dynamics": ["ce", "cutmx"]}}, ["show.dynamics", "'cutmix'"]),
        ({"show": {"figures": ["two_side"]}}, ["show.figures", "'two_sides'"]),
        ({"show": {"tables": ["benchmrk"]}}, ["show.tables", "'benchmark'"]),
        ({"resources": {"train_student": {"gpus": 1}}}, ["resources.train_student", "'gpu'"]),
        ({"runs": {"bad name": {}}}, ["runs.bad name", "cannot name a folder"]),
        ({"runs": {"features.csv": {}}}, ["runs.features.csv", "leave the ending out"]),
        ({"runs": {"CE": {}}}, ["runs", "'ce' and 'CE'", "rename one"]),
        ({"runs": {1: {}}}, ["runs", "write '1'"]),
        ({"runs": {"ce": {"label": "CutMix"}}}, ["label", "'CutMix'", "'ce'"]),
        ({"runs": {"ce": {"family": "ms"}}}, ["runs.ce.family", "'msa'"]),
        ({"title": "a\x07b"}, ["title", "cannot be printed"]),
        ({"results": "a{b}"}, ["results", "braces"]),
        ({"experiment": "../x"}, ["experiment", "cannot name a folder"]),
    ],
)
def test_a_mistake_is_named_with_its_key(changes, words):
    message = error(changes)
    assert all(word in message for word in words), message


def test_added_augmentations_follow_those_of_the_defaults():
    run = changed({"runs": {"ce": {"augment": {"added": ["horizontal_flip"]}}}}).runs["ce"]
    assert [one["name"] for one in run.single] == ["random_shift", "horizontal_flip"]
    assert "runs.ce.augment.added" in error({"runs": {"ce": {"augment": {"added": ["horizontal_flop"]}}}})


def test_when_mixing_ends_is_a_part_of_the_run_and_of_its_cached_logits():
    default = changed({})
    cut = changed({"runs": {"ad_as_released": {"augment": {"multi_until": 0.7}}}})
    assert default.run_config("ad_as_released", 0, 0).plain()["augment"]["multi_until"] == 1.0
    assert cut.run_config("ad_as_released", 0, 0).plain()["augment"]["multi_until"] == 0.7
    key = default.teacher_logits_key("ad_as_released")
    assert cut.teacher_logits_key("ad_as_released") != key == cut.teacher_logits_key("ad_as_described_ce")
    assert len(cut.teacher_logits_keys) == len(default.teacher_logits_keys) + 1


def test_a_figure_whose_runs_are_not_configured():
    runs = dict.fromkeys(("mixup", "cutmix", "kd_mixed", "ad_as_released", "ad_as_described_ce"))
    runs |= dict.fromkeys(("ad_mixed_teacher", "ad_no_joint", "ad_no_relabel"))
    show = {"msa": None, "distillation": None, "asymmetric": [], "ablation": []}
    assert "two_sides" not in changed({"runs": runs, "show": show}).figures
    message = error({"runs": runs, "show": {**show, "figures": ["two_sides"]}})
    assert "show.figures: two_sides needs" in message
    assert "'msa'" in message
    assert "leave the figure out" in message


def test_a_part_that_show_leaves_open_goes_to_its_family():
    parts = changed({"show": {"msa": None, "distillation": None, "asymmetric": [], "ablation": []}})
    assert (parts.highlight.msa, parts.highlight.distillation) == ("mixup", "kd_mixed")
    assert parts.compared_runs == ["ce", "mixup", "ad_as_released", "ad_as_described_ce", "ad_soft"]
    assert parts.context().highlight == parts.highlight

    students = dict.fromkeys(name for name, run in parts.runs.items() if run.teachers)
    alone = changed({"runs": students, "show": {"distillation": None, "asymmetric": [], "ablation": [], "figures": []}})
    assert (alone.highlight.distillation, alone.highlight.asymmetric, alone.highlight.ablation) == ("", (), ())
    assert alone.compared_runs == ["ce", "cutmix"]


def test_tables_that_an_experiment_cannot_fill():
    assert changed({}).tables == ("benchmark", "augmentation", "ablation", "significance", "scores")
    message = error({"show": {"tables": ["benchmark", "ood"]}})
    assert "show.tables: ood needs unknown images of at least two other datasets" in message
    assert "leave the table out" in message
    assert changed({"show": {"tables": ["scores"]}}).tables == ("scores",)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("cub", "semantic_shift"),
        ("imagenet21k", "semantic_shift"),
        ("ood_detection", "ood"),
        ("cifar10", "architectures"),
    ],
)
def test_an_experiment_writes_the_tables_that_belong_to_it(name, table):
    experiment = load(read_configuration(f"config/experiments/{name}.yaml"), stands_alone=True)
    assert table in experiment.tables
    wide = changed({"runs": {"kd_mixed": {"backbone": {"name": "small_resnet", "widths": [16, 48], "depth": 1}}}})
    assert "architectures" in wide.tables
    assert wide.runs["kd_mixed"].network == "small_resnet 16-48"


def test_facts_in_a_title_or_label_are_those_of_the_settings():
    label = "CE ({network}), {epochs} epochs {1}"
    told = changed(
        {
            "title": "Digits at {size} {size",
            "data": {"image_size": 16},
            "runs": {"ce": {"label": label, "optimization": {"epochs": 7}}},
        }
    )
    assert told.context().title == "Digits at 16\N{MULTIPLICATION SIGN}16 {size"
    assert told.runs["ce"].label == f"CE ({told.runs['ce'].network.split()[0]}), 7 epochs {{1}}"
    assert told.layout()["runs"]["ce"]["label"] == told.runs["ce"].label


def test_what_a_label_says_of_a_run_beside_the_others_is_computed():
    runs = {
        "ce": {"label": "CE, {times} times as long"},
        "cutmix": {"label": "CutMix, not in the last {unmixed}", "augment": {"multi": "cutmix", "multi_until": 0.7}},
    }
    told = changed({"defaults": {"optimization": {"epochs": 6}}, "runs": runs})
    assert told.runs["ce"].label == "CE, 1 times as long"
    assert told.runs["cutmix"].label == "CutMix, not in the last 30 %"
    runs["ce"]["optimization"] = {"epochs": 9}
    told = changed({"defaults": {"optimization": {"epochs": 6}}, "runs": runs})
    assert told.runs["ce"].label == "CE, 1.5 times as long"


def test_the_headline_is_any_score_or_detector():
    default = changed({})
    assert default.context().score == default.evaluation_job()["headline"] == "maximum_logit"
    other = changed({"evaluation": {"headline": "msp", "scores": ["msp"]}})
    assert other.context().score == other.evaluation_job()["headline"] == "msp"
    assert changed({"evaluation": {"headline": "knn", "detectors": ["knn"]}}).context().score == "knn"
    assert other.run_config("ce", 0, 0) == default.run_config("ce", 0, 0)


def test_without_a_list_the_splits_are_those_with_different_classes():
    configuration = read_configuration("config/config.yaml")

    def of(protocol: str | dict, splits: list[int] | None = None) -> Experiment:
        settings = {"name": protocol} if splits is None else {"name": protocol, "splits": splits}
        return load({**configuration, "protocol": settings}, stands_alone=True)

    assert of("svhn").splits == (1, 2, 3, 4)
    assert of("mnist").splits == (0, 1, 2, 3, 4)
    assert of("svhn").resolved()["protocol"]["splits"] == [1, 2, 3, 4]
    assert of({"name": "random", "known": 6}).splits == (0, 1, 2, 3, 4)
    assert of({"name": "custom", "known": [0, 1]}).splits == (0,)
    assert of("svhn").context().twins == []
    twins = of("svhn", [0, 1, 2]).context()
    assert twins.twins == [(0, 1)]
    assert (twins.splits, len(set(twins.class_sets.values()))) == (3, 2)
    assert twins.scale().endswith(": 2 class sets (splits 0 and 1 have the same classes)")


def test_only_what_decides_the_weights_is_part_of_the_run_config():
    before = changed({}).run_config("ce", 0, 0)
    assert changed({"runs": {"ce": {"label": "Cross entropy"}}}).run_config("ce", 0, 0) == before
    assert changed({"evaluation": {"bootstrap": 10}}).run_config("ce", 0, 0) == before
    other = changed({"runs": {"cutmix": {"optimization": {"epochs": 7}}}})
    assert other.run_config("ce", 0, 0) == before
    assert other.run_config("cutmix", 0, 0).plain()["optimization"]["epochs"] == 7


def test_presets_resolve_to_plain_settings():
    experiment = changed({})
    released, described = (experiment.runs[name].method for name in ("ad_as_released", "ad_as_described_ce"))
    assert (released["smoothing"], released["easy_target"], released["combine"]) == (0.0, "raw_a", "replace")
    assert (described["smoothing"], described["easy_target"], described["combine"]) == (0.75, "mixed", "add")
    assert "preset" not in released


def test_merge():
    base = {"a": {"x": 1, "y": 2}, "method": {"name": "m", "alpha": 1}, "runs": {"one": {}, "two": {"k": 1}}}
    over = {"a": {"y": 3}, "method": {"name": "n"}, "runs": {"two": None}}
    assert merge(base, over) == {"a": {"x": 1, "y": 3}, "method": {"name": "n"}, "runs": {"one": {}}}


def test_a_run_that_is_null_is_not_there():
    # as Snakemake hands over --config beside a --configfile: `merge` has had nothing to remove it from
    assert "new" not in changed({"runs": {"new": "null"}}).runs
    assert "runs.new" in error({"runs": {"new": None}}), "a null in a file that removes nothing is a mistake"
    assert changed({"show": {"msa": "null"}}).highlight.msa == "mixup"
    assert "cutmix" not in changed({"runs": {"cutmix": None}, "show": {"msa": None}}).runs


def test_only_some_of_the_runs():
    some = changed({"only": ["teacher", "ce", "cutmix", "ad_as_described_ce"], "show": {"figures": ["two_sides"]}})
    assert list(some.runs) == ["teacher", "ce", "cutmix", "ad_as_described_ce"]
    assert some.highlight.asymmetric == ("ad_as_described_ce",)
    assert some.highlight.distillation == ""
    with_all_figures = changed({"only": ["teacher", "ce", "cutmix", "kd_mixed", "ad_as_described_ce"]})
    assert with_all_figures.highlight.ablation == ("kd_mixed", "ad_as_described_ce")
    assert some.run_config("cutmix", 0, 0) == changed({}).run_config("cutmix", 0, 0)
    assert "'cutmix'" in error({"only": ["ce", "cutmux"]})
    assert "runs.ad_as_described_ce.teacher" in error({"only": ["ce", "cutmix", "ad_as_described_ce"]})
    assert "show.baseline" in error({"only": ["teacher", "cutmix"]})


def test_a_file_extends_another(tmp_path):
    (tmp_path / "base.yaml").write_text("experiment: base\nseeds: [0]\ndata: {dataset: digits}\n")
    (tmp_path / "child.yaml").write_text(f"extends: {tmp_path / 'base.yaml'}\nexperiment: child\n")
    assert read_configuration(tmp_path / "child.yaml") == {
        "experiment": "child",
        "seeds": [0],
        "data": {"dataset": "digits"},
    }


def test_keys_of_the_release_before_are_read_with_a_hint(tmp_path, capsys):
    old = {
        "data": {"addresses": {"a": ["http://x/a"]}},
        "defaults": {"answers": "live"},
        "runs": {"kd": {"answers": "recorded"}},
        "resources": {"light": {"threads": 1}, "measure": {"threads": 2}, "analyze": {"threads": 3}},
    }
    (tmp_path / "old.yaml").write_text(json.dumps(old))
    assert read_configuration(tmp_path / "old.yaml") == {
        "data": {"urls": {"a": ["http://x/a"]}},
        "defaults": {"teacher_logits": "online"},
        "runs": {"kd": {"teacher_logits": "cached"}},
        "resources": {"small": {"threads": 1}, "feature_geometry": {"threads": 2}, "inference": {"threads": 3}},
    }
    hints = capsys.readouterr().err.splitlines()
    assert "hint: data: addresses is now called urls" in hints
    assert "hint: resources: light is now called small" in hints
    assert "hint: defaults: answers is now called teacher_logits, and live online" in hints
    assert changed({"defaults": {"answers": "live"}}).teacher_logits_keys == {}
    both = {"runs": {"kd_mixed": {"answers": "live", "teacher_logits": "online"}}}
    assert "runs.kd_mixed: answers is now called teacher_logits; remove answers" in error(both)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extends: {self}\n", ["circle"]),
        ("extends: nowhere.yaml\n", ["nowhere.yaml"]),
        ("a: [1\n", ["not valid YAML"]),
        ("- a\n", ["mapping"]),
    ],
)
def test_a_configuration_file_that_cannot_be_read(tmp_path, text, words):
    path = tmp_path / "file.yaml"
    path.write_text(text.replace("{self}", str(path)))
    with pytest.raises(SettingsError) as caught:
        read_configuration(path)
    assert all(word in str(caught.value) for word in words)


def test_captions_state_what_was_set():
    sentence = changed({}).context().about()
    assert sentence == (
        "Images of 8\N{MULTIPLICATION SIGN}8 pixels; teacher small_resnet 32-64, students small_resnet 16-32; "
        "30 epochs, batches of 64 images. The paper: teacher ResNet-50, students ResNet-18, 200 epochs."
    )
    other = changed(
        {
            "data": {"image_size": 16},
            "scale_note": "On a laptop",
            "defaults": {"backbone": "resnet18", "optimization": {"epochs": 1, "batch_size": 32}},
            "runs": {"cutmix": {"backbone": {"name": "mobilenet_v2", "pretrained": True}}},
        }
    )
    assert other.context().about() == (
        "Images of 16\N{MULTIPLICATION SIGN}16 pixels (the dataset's: 8\N{MULTIPLICATION SIGN}8); "
        "teacher small_resnet 32-64, students ResNet-18 and MobileNetV2 (pretrained); 1 epoch, batches of 32 images. "
        "The paper: teacher ResNet-50, students ResNet-18, 200 epochs. On a laptop."
    )
    alone = changed({"only": ["ce", "cutmix"], "runs": {"ce": {"optimization": {"epochs": 7}}}})
    assert "; networks small_resnet 16-32; 7 to 30 epochs, batches of 64 images. " in alone.context().about()


def test_captions_at_the_papers_own_settings_do_not_name_them_twice():
    assert (
        "The paper"
        not in load({"extends": "config/experiments/tinyimagenet.yaml"}, stands_alone=True).context().about()
    )


def test_no_experiment_types_what_is_set():
    for path in sorted(Path("config/experiments").glob("*.yaml")):
        assert "scale_note" not in read_configuration(path), path
