"""Every number in the settings is finite and has a range; every slip is one line at load that names its key."""

from __future__ import annotations

import math
import time
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field

from openset_distill.augment import MULTI_SAMPLE, SINGLE_SAMPLE
from openset_distill.config import loading, settings
from openset_distill.config.experiment import load
from openset_distill.core.bounds import numeric_fields
from openset_distill.core.errors import SettingsError
from openset_distill.core.registry import settings_class
from openset_distill.core.settings import Strict
from openset_distill.datasets.protocols import PROTOCOLS
from openset_distill.evaluation.detectors import DETECTORS
from openset_distill.methods import METHODS
from openset_distill.models import BACKBONES

pytestmark = pytest.mark.usefixtures("in_repository")

REGISTRIES = (BACKBONES, METHODS, SINGLE_SAMPLE, MULTI_SAMPLE, DETECTORS, PROTOCOLS)
INFINITY, HUGE = math.inf, 10**400


@pytest.mark.parametrize(
    "annotation",
    [int, float, int | None, Annotated[int, Field(ge=0)], Annotated[float, Field(lt=1)], tuple[int, ...], list[float],
     Annotated[tuple[int, ...], Field(min_length=1, max_length=2)], dict[str, Annotated[int, Field(ge=0)]],
     Literal["a"] | float],
)  # fmt: skip
def test_a_number_without_a_range_is_refused_where_its_class_is_defined(annotation):
    with pytest.raises(TypeError, match=r"field is a number without a (smallest|largest) value"):
        settings_class(type("Loose", (), {"__annotations__": {"field": annotation}}))
    with pytest.raises(TypeError, match=r"Loose\.field is a number"):
        type("Loose", (Strict,), {"__annotations__": {"field": annotation}, "__module__": __name__})


def test_numbers_with_a_range_text_and_truth_values_are_accepted():
    class Bounded:
        count: Annotated[int, Field(ge=0, le=9)] = 0
        parts: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
        flag: bool = False
        mode: Literal["a", "b"] = "a"
        free: ClassVar[int] = 3

    assert settings_class(Bounded).numeric_fields == {"count", "parts"}


def test_every_registered_class_has_ranges():
    for registry in REGISTRIES:
        for cls in registry.values():
            assert cls.numeric_fields == numeric_fields(cls)
    models = [value for value in vars(settings).values() if isinstance(value, type) and issubclass(value, Strict)]
    assert len(models) > 10
    assert all(model._numeric == numeric_fields(model) for model in models)


def numbers() -> list[tuple[str, str, str]]:
    """Registry's kind, name and setting of every number that can be configured."""
    return [
        (registry.kind, name, field)
        for registry in REGISTRIES
        for name, cls in registry.items()
        for field in sorted(cls.numeric_fields)
    ]


@pytest.mark.parametrize("value", [INFINITY, -INFINITY, math.nan, 1e300, -1e300, HUGE, -HUGE, True], ids=str)
def test_no_setting_of_any_registry_takes_what_is_no_sensible_number(value):
    registries = {registry.kind: registry for registry in REGISTRIES}
    required = {"random": {"known": 2}, "timm": {"model": "resnet18"}}
    assert len(numbers()) > 60
    for kind, name, field in numbers():
        for given in (value, [value]):
            with pytest.raises(SettingsError, match=field):
                registries[kind].build({"name": name, **required.get(name, {}), field: given})


def run(**changes) -> dict:
    return {"runs": {"cutmix": changes}}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (run(optimization={"checkpoint_minutes": INFINITY}), "runs.cutmix.optimization.checkpoint_minutes"),
        (run(optimization={"learning_rate": math.nan}), "runs.cutmix.optimization.learning_rate"),
        (run(optimization={"epochs": HUGE}), "runs.cutmix.optimization.epochs"),
        (run(optimization={"epochs": True}), "runs.cutmix.optimization.epochs"),
        (run(optimization={"batch_size": 10**9}), "runs.cutmix.optimization.batch_size"),
        (run(optimization={"milestones": [0.1] * 1000}), "runs.cutmix.optimization.milestones"),
        (run(backbone={"name": "small_resnet", "widths": []}), "runs.cutmix.backbone: backbone 'small_resnet': widths"),
        (run(backbone={"name": "small_resnet", "widths": [1e9]}), "widths.0"),
        (run(backbone={"name": "small_resnet", "widths": [8192] * 8, "depth": 99}), "network of"),
        (run(backbone=[1]), "runs.cutmix.backbone"),
        (run(backbone={"name": ["vgg32"]}), "runs.cutmix.backbone"),
        (run(method={"name": "asymmetric_distillation", "preset": ["a"]}), "preset ['a']"),
        (run(augment={"single": [{"name": "random_crop", "padding": 10**9}]}), "runs.cutmix.augment.single"),
        (run(augment={"multi": {"name": "cutmix", "alpha": 1e-300}}), "runs.cutmix.augment.multi"),
        (run(family="mine"), "runs.cutmix.family"),
        ({"runs": {"kd_mixed": {"teacher": []}}}, "runs.kd_mixed.teacher"),
        ({"runs": {"kd_mixed": {"teacher": ["teacher", "teacher"]}}}, "runs.kd_mixed.teacher"),
        ({"runs": {"x" * 300: {}}}, "runs"),
        ({"seeds": [10**30]}, "seeds.0"),
        ({"seeds": [True]}, "seeds"),
        ({"evaluation": {"bootstrap": 1e12}}, "evaluation.bootstrap"),
        ({"evaluation": {"scores": ["maximum_logit", "maximum_logit"]}}, "evaluation.scores"),
        ({"evaluation": {"detectors": [5]}}, "evaluation.detectors.0"),
        ({"analysis": {"lam_steps": 10**8}}, "analysis.lam_steps"),
        ({"data": {"image_size": 10**9}}, "data.image_size"),
        ({"data": {"mean": [0.1, 0.2]}}, "data.mean: 2 numbers for images of 1 channel"),
        ({"data": {"dataset": "svhn", "mean": [0.1]}}, "data.mean: 1 numbers for images of 3 channels"),
        ({"data": {"std": [0.1, -0.2, 0.3]}}, "data.std.1"),
        ({"data": {"std": [0.1, 0, 0.3]}}, "data.std.1"),
        ({"data": {"folder": ""}}, "data.folder"),
        ({"data": {"dataset": "image_folder", "image_size": 8, "images": "x" * 300}}, "data.images"),
        ({"results": "a\0b"}, "results"),
        ({"experiment": "x" * 300}, "experiment"),
        ({"title": "x" * 3000}, "title"),
        ({"extends": ["a"]}, "extends"),
        ({"extends": "x" * 300}, "cannot read the configuration file"),
        ({"show": {"figures": ["two_sides", "two_sides"]}}, "show.figures"),
        ({"show": {"tables": ["scores", "scores"]}}, "show.tables"),
        ({"show": {"asymmetric": ["ad_as_released", "ad_as_released"]}}, "show.asymmetric"),
        ({"only": ["ce", "ce"]}, "only"),
        ({"checkpoint_splits": [0, 0]}, "checkpoint_splits"),
        ({"resources": {"small": {"memory_mb": 10**15}}}, "resources.small.memory_mb"),
        ({"protocol": {"name": {"name": "random", "known": 10**20}}}, "protocol.name"),
        ({5: 5}, "unknown key 5"),
    ],
)  # fmt: skip
def test_a_slip_is_one_line_that_names_its_key_within_a_second(changes, key):
    start = time.monotonic()
    with pytest.raises(SettingsError) as caught:
        load(changes, stands_alone=False)
    assert time.monotonic() - start < 1
    message = str(caught.value)
    assert key in message and "\n" not in message and "function" not in message, message


def test_the_paths_that_files_extend_are_one_path_each(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("extends: [a]\n")
    with pytest.raises(SettingsError, match=r"settings\.yaml: extends: \['a'\] is not the path of one file"):
        loading.read_configuration(path)
