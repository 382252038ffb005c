"""The JSON schema of configuration files, judged by a public validator."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest
import yaml
from commands import REPOSITORY

from openset_distill.cli import _main
from openset_distill.config.schema import NAMES, REGISTRIES, configuration_schema

FILES = [REPOSITORY / "config" / "config.yaml", *sorted((REPOSITORY / "config" / "experiments").glob("*.yaml"))]
SCHEMA = configuration_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_it_is_a_schema_and_the_command_prints_it(capsys):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    _main(["config", "--schema"])
    assert json.loads(capsys.readouterr().out) == SCHEMA


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_configuration_file_fits_it(path):
    # as editors see it: lists, not tuples
    VALIDATOR.validate(json.loads(json.dumps(yaml.safe_load(path.read_text()), default=str)))


def test_it_has_every_name_of_the_registries():
    text = json.dumps(SCHEMA)
    for names in (*REGISTRIES.values(), *NAMES.values()):
        assert all(json.dumps(name) in text for name in names)


@pytest.mark.parametrize(
    "change",
    [
        {"exprimeint": "x"},
        {"defaults": {"optimization": {"epohcs": 3}}},
        {"defaults": {"optimization": {"epochs": 0}}},
        {"defaults": {"augment": {"multi": "cutmiks"}}},
        {"runs": {"ce": {"method": {"name": "distillation", "alfa": 1}}}},
        {"data": {"dataset": "cifar11"}},
        {"evaluation": {"scores": ["softmax"]}},
        {"show": {"figures": ["two_side"]}},
    ],
)
def test_a_slip_is_seen(change):
    configuration = yaml.safe_load(FILES[0].read_text())
    assert VALIDATOR.is_valid(configuration)
    for key, value in copy.deepcopy(change).items():
        configuration[key] = {**configuration.get(key, {}), **value} if isinstance(value, dict) else value
    assert not VALIDATOR.is_valid(configuration)
