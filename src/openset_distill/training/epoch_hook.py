"""A hook on the rows of a training: TensorBoard, or a function of the user's, such as one that calls Weights & Biases.

The environment variable OPENSET_EPOCH_HOOK names it. It is no setting of a run: who watches a training changes
nothing of its results, and is no reason to train again.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from ..core.errors import SettingsError
from .run_config import RunConfig

VARIABLE = "OPENSET_EPOCH_HOOK"
# where TensorBoard's files go, a folder for each training
FOLDER = Path("tensorboard")
EVENTS = "events.out.tfevents.*"

Row = Mapping[str, float]
Hook = Callable[[Row], None]


def epoch_hook(config: RunConfig, report: Callable[[str], None]) -> Hook | None:
    """The hook that the environment names, for one training; None where it names none.

    Args:
        report: receives one line when the hook fails; training then continues without it.

    Raises:
        SettingsError: it is neither `tensorboard` nor FILE.py:FUNCTION, cannot be loaded, or did not begin.
    """
    name = os.environ.get(VARIABLE, "")
    if not name:
        return None
    begin = _tensorboard if name == "tensorboard" else _function(name)
    try:
        hook = begin(config)
    except SettingsError:
        raise
    except Exception as error:
        raise SettingsError(
            f"{VARIABLE}={name} failed to start: {_words(error)}; correct it, or unset the variable"
        ) from error
    if not callable(hook):
        raise SettingsError(f"{VARIABLE}={name} must return a function that takes a row, but returned {hook!r}")
    broken = False

    def guarded(row: Row) -> None:
        nonlocal broken
        if broken:
            return
        try:
            hook(dict(row))
        except Exception as error:
            broken = True
            report(f"{VARIABLE}={name} failed ({_words(error)}); the training continues without it")

    return guarded


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _function(name: str) -> Callable[[RunConfig], Hook]:
    """A function in a file of the user's."""
    file, _, function = name.rpartition(":")
    if not file.endswith(".py") or not function:
        raise SettingsError(f"{VARIABLE}={name} is neither tensorboard nor FILE.py:FUNCTION")
    if not Path(file).is_file():
        raise SettingsError(f"{VARIABLE}={name}: the file {file} does not exist; correct the path")
    spec = importlib.util.spec_from_file_location("epoch_hook_of_the_user", file)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{VARIABLE}={name}: {file} is not a Python module; correct the path")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SettingsError(f"{VARIABLE}={name}: {file} cannot be loaded ({_words(error)})") from error
    found: Any = getattr(module, function, None)
    if not callable(found):
        raise SettingsError(f"{VARIABLE}={name}: {file} has no function {function}")
    return cast("Callable[[RunConfig], Hook]", found)


def _tensorboard(config: RunConfig) -> Hook:
    """Writes each number of a row as a scalar, in a folder named after the run, its split and seed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SettingsError(
            f"{VARIABLE}=tensorboard needs TensorBoard; install the extra: pip install 'openset-distill[tensorboard]'"
        ) from error
    folder = FOLDER / config.experiment / f"{config.run}_split{config.split}_seed{config.seed}"
    writers: list[SummaryWriter] = []

    def write(row: Row) -> None:
        step = int(row["epoch"])
        if not writers:
            if step == 1:  # trained anew: points of before would be drawn as well
                for events in folder.glob(EVENTS):
                    events.unlink()
            writers.append(SummaryWriter(folder))
        for name, value in row.items():
            if name != "epoch":
                writers[0].add_scalar(name, value, step)
        writers[0].flush()

    return write
