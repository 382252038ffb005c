"""The resolved settings of a training: one class on both ends of the command line and of `config.json`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import REPOSITORY, job, typed

from openset_distill.core.errors import OpenSetError, SettingsError
from openset_distill.core.files import read_json
from openset_distill.training.run_config import ImagesSeen, RunConfig

KEPT = sorted((REPOSITORY / "docs" / "results").glob("*/provenance.json"))


@pytest.mark.parametrize("run", ["teacher", "cutmix", "ad_as_released"])
def test_settings_are_the_same_after_their_way_through_json(run):
    config = typed(job(run))
    assert RunConfig.parse(json.dumps(config.plain())) == config
    seen = config.images_seen()
    assert ImagesSeen.parse(json.dumps(seen.plain())) == seen
    assert seen.images_seen() is seen


@pytest.mark.parametrize("record", KEPT, ids=lambda path: path.parent.name)
def test_settings_of_kept_results_are_read_as_they_were_written(record, tmp_path: Path):
    for name, one in read_json(record).items():
        (tmp_path / "config.json").write_text(json.dumps(one["settings"]))
        config = RunConfig.read(tmp_path / "config.json")
        assert (config.run, config.plain()["backbone"]) == (one["settings"]["run"], one["settings"]["backbone"]), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": True}, "seed: true is a truth value"),
        ({"seed": -1}, "seed"),
        ({"split": 1.5}, "split"),
        ({"augment": None}, "augment"),
        ({"method": "cross_entropy"}, "method"),
        ({"normalization": {"mean": [0.5], "std": [0.0]}}, "normalization.std"),
        ({"normalization": {"mean": [float("nan")], "std": [1.0]}}, "normalization.mean"),
        ({"optimization": {"epochs": 0}}, "optimization.epochs"),
        ({"optimization": {"epohcs": 3}}, "did you mean 'epochs'"),
        ({"optimization": {"learning_rate": float("inf")}}, "optimization.learning_rate"),
    ],
)
def test_settings_that_are_none(change, words, tmp_path: Path):
    text = json.dumps(job("ce") | change)
    with pytest.raises(SettingsError, match=r"--job is not what `openset config` prints") as error:
        RunConfig.parse(text)
    assert words in str(error.value), str(error.value)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(OpenSetError, match=r"config\.json") as error:
        RunConfig.read(tmp_path / "config.json")
    assert words in str(error.value)
    assert "makes it again" in str(error.value)
