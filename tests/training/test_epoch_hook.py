"""The hook on the rows of a training: a function of the user's, TensorBoard, and what can be wrong with either."""

from __future__ import annotations

import json
import os
import re
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
from commands import job, succeed, train, typed
from trained import fails, history, same

from openset_distill.core.errors import SettingsError
from openset_distill.training.epoch_hook import VARIABLE, epoch_hook

LISTS = """
import json

def rows(config):
    stream = open("rows.jsonl", "a")
    return lambda row: print(json.dumps({"run": config.run, **row}), file=stream, flush=True)
"""
ROWS = [{"epoch": 1, "train_loss": 2.0, "validation_accuracy": 0.5}, {"epoch": 2, "train_loss": 1.5}]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def hook(monkeypatch, name, said=None):
    monkeypatch.setenv(VARIABLE, name)
    return epoch_hook(typed(job("ce")), (said if said is not None else []).append)


def test_a_function_of_the_user_is_given_every_row_and_changes_nothing(digits, split, tmp_path):
    (tmp_path / "mine.py").write_text(LISTS.replace('"rows.jsonl"', repr(str(tmp_path / "rows.jsonl"))))
    environment = os.environ | {VARIABLE: f"{tmp_path / 'mine.py'}:rows"}
    succeed(train(tmp_path / "watched", job("ce"), digits, split, env=environment))
    succeed(train(tmp_path / "alone", job("ce"), digits, split))
    assert same(tmp_path / "watched", tmp_path / "alone")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert {row["run"] for row in rows} == {"ce"}
    assert [row["train_loss"] for row in rows] == [float(row["train_loss"]) for row in history(tmp_path / "watched")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tensorbord", "neither tensorboard nor FILE.py:FUNCTION"),
        ("mine.py", "neither tensorboard nor FILE.py:FUNCTION"),
        ("none.py:rows", "none.py does not exist"),
        ("mine.py:row", "has no function row"),
        ("mine.py:nothing", "must return a function"),
        ("mine.py:refuses", "failed to start: ValueError: no key"),
        ("broken.py:rows", "cannot be loaded (SyntaxError"),
    ],
)
def test_a_hook_that_cannot_begin_is_refused_before_the_training(name, words, here, monkeypatch):
    refuses = "def refuses(config):\n    raise ValueError('no key')\n"
    (here / "mine.py").write_text(f"{LISTS}\ndef nothing(config):\n    pass\n\n{refuses}")
    (here / "broken.py").write_text("def rows(:\n")
    with pytest.raises(SettingsError, match=re.escape(words)):
        hook(monkeypatch, name)


def test_the_training_ends_in_one_line_where_the_hook_is_wrong(digits, split, tmp_path):
    environment = os.environ | {VARIABLE: "tensorbord"}
    fails(train(tmp_path, job("ce"), digits, split, env=environment), tmp_path, VARIABLE, "tensorbord")


def test_a_hook_that_fails_is_dropped_and_named_once(here, monkeypatch):
    (here / "mine.py").write_text("def rows(config):\n    return lambda row: row['nothing']\n")
    said = []
    failing = hook(monkeypatch, "mine.py:rows", said)
    for row in ROWS:
        failing(row)
    assert len(said) == 1
    assert "KeyError: 'nothing'" in said[0]
    assert "continues without it" in said[0]


@pytest.mark.usefixtures("here")
def test_without_tensorboard_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingsError, match=r"pip install 'openset-distill\[tensorboard\]'"):
        hook(monkeypatch, "tensorboard")


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads from a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder)).Reload()
    return {tag: [(one.step, one.value) for one in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


class Writer:
    """Stands in for TensorBoard's writer where TensorBoard is not installed: a file of events for each writer."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"events.out.tfevents.{len(list(folder.iterdir()))}"

    def add_scalar(self, name: str, value: float, step: int) -> None:
        with open(self.path, "a", encoding="utf-8") as stream:
            print(json.dumps([name, step, value]), file=stream)

    def flush(self) -> None:
        pass


def points_of_the_stand_in(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.iterdir()):
        for name, step, value in map(json.loads, path.read_text().splitlines()):
            found.setdefault(name, []).append((step, value))
    return found


def test_tensorboard_has_a_point_for_each_row_also_of_a_training_that_is_resumed_or_begun_anew(here, monkeypatch):
    if find_spec("tensorboard"):
        read = points
    else:
        read = points_of_the_stand_in
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    folder = here / "tensorboard" / "digits" / "ce_split0_seed0"
    expected = {"train_loss": [(1, 2.0), (2, 1.5)], "validation_accuracy": [(1, 0.5)]}
    for rows in (ROWS[:1], ROWS[1:]):  # two processes: interrupted after the first epoch
        writing = hook(monkeypatch, "tensorboard")
        for row in rows:
            writing(row)
    assert read(folder) == expected
    writing = hook(monkeypatch, "tensorboard")
    for row in ROWS:
        writing(row)
    assert read(folder) == expected
