"""The resolved settings of one job: plain data, as they travel on a command line."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from ..core.errors import OpenSetError, SettingsError
from ..core.files import AGAIN, read_json, read_record
from ..methods import METHODS

TRAINING = {"experiment", "split", "seed", "run", "backbone", "method", "augment", "optimization", "normalization"}
# what decides which images a training sees, and in which precision
IMAGES = {"split", "seed", "augment", "optimization", "normalization"}
OPTIMIZATION_OF_IMAGES = ("batch_size", "epochs", "precision")


def read_job(text: str, keys: set[str] = TRAINING) -> dict[str, Any]:
    """The settings of a job, from JSON text or from the path of a JSON file.

    Raises:
        SettingsError: not JSON, or other keys than `keys`.
    """
    try:
        job = json.loads(text) if text.lstrip().startswith("{") else read_json(text)
    except ValueError as error:
        raise SettingsError(f"--job is not valid JSON: {error}") from error
    if not isinstance(job, dict) or set(job) != keys:
        raise SettingsError(f"--job must hold exactly the keys {', '.join(sorted(keys))}")
    try:
        _check(job)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"--job is not what `openset config` prints: {error}") from error
    return job


# the numbers of `optimization` that every job has
_COUNTS = {"epochs": 1, "batch_size": 2, "warmup_epochs": 0}
_AMOUNTS = ("learning_rate", "momentum", "weight_decay", "decay", "checkpoint_minutes")


def _check(job: Mapping[str, Any]) -> None:
    """Raises a ValueError, KeyError or TypeError for settings of a wrong type; their ranges are the experiment's."""
    for key in ("split", "seed"):
        if not _whole(job[key]) or job[key] < 0:
            raise ValueError(f"{key} is {job[key]!r}, not a number from 0 on")
    for key in job.keys() & {"backbone", "method", "augment", "optimization", "normalization"}:
        if not isinstance(job[key], Mapping):
            raise ValueError(f"{key} is {job[key]!r}, not a mapping")
    optimization = job["optimization"]
    for key, least in _COUNTS.items():
        needed = "run" in job or key in OPTIMIZATION_OF_IMAGES
        if needed and (not _whole(optimization[key]) or optimization[key] < least):
            raise ValueError(f"optimization.{key} is {optimization[key]!r}, not a whole number from {least} on")
    for key in _AMOUNTS if "run" in job else ():
        amount = optimization[key]
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < math.inf:
            raise ValueError(f"optimization.{key} is {amount!r}, not a number from 0 on")
    _check_normalization(job["normalization"])


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_normalization(normalization: Mapping[str, Any]) -> None:
    for key in ("mean", "std"):
        values = normalization[key]
        if not isinstance(values, list) or not values or not all(isinstance(x, int | float) for x in values):
            raise ValueError(f"normalization.{key} is {values!r}, not a list of numbers")
        if not all(math.isfinite(x) for x in values) or (key == "std" and min(values) <= 0):
            raise ValueError(f"normalization.{key} is {values!r}, which images cannot be divided by")


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """The resolved settings that a training stored with its weights.

    Raises:
        OpenSetError: the file is missing, damaged, or holds something else.
    """
    job = read_record(path, {"run": str, "split": int, "seed": int, "backbone": dict, "normalization": dict})
    try:
        _check_normalization(job["normalization"])
    except (KeyError, ValueError) as error:
        raise OpenSetError(f"{path}: {error}; {AGAIN}") from error
    return job


def images_seen(job: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a training's settings that decides which images its teacher is shown: equal for runs that share them.

    A method that does not ask for logits on mixed images shares the raw ones with runs that mix nothing: a batch's raw
    images do not depend on whether it is mixed afterwards.
    """
    seen = {key: job[key] for key in sorted(IMAGES)}
    if "method" in job and not METHODS.build(job["method"]).asks_on_mixed:
        seen["augment"] = {**job["augment"], "multi": None, "multi_until": 1.0}
    seen["optimization"] = {key: job["optimization"][key] for key in OPTIMIZATION_OF_IMAGES}
    return seen


def fingerprint(value: Any) -> str:
    """Twelve hexadecimal digits of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def caches_features(job: Mapping[str, Any]) -> bool:
    """Whether a run trains its head on features that are computed once for each image.

    It does where the backbone is frozen and only the head is asked at each step: images that are mixed, or shown to a
    teacher too, are new at every step and pass through the frozen backbone each time.

    Args:
        job: at least `backbone`, `method` and `augment`, resolved.
    """
    mixes = job["augment"]["multi"] is not None
    return bool(job["backbone"].get("freeze")) and not mixes and not METHODS[job["method"]["name"]].needs_teacher


def check_frozen(job: Mapping[str, Any]) -> None:
    """Whether the augmentation of a run with a frozen backbone can be had from features that are computed once.

    Raises:
        SettingsError: it cannot.
    """
    if not job["backbone"].get("freeze"):
        return
    views, single = job["backbone"]["views"], job["augment"]["single"]
    if not caches_features(job):
        if views:
            raise SettingsError(
                "backbone.views: with mixed images, or with a teacher, the frozen backbone is asked at every step and "
                "no views are kept; leave views out, or augment.multi and the teacher"
            )
    elif single and not views:
        raise SettingsError(
            "augment.single: features of a frozen backbone are computed once for each image; set backbone.views to the "
            "number of augmented versions (for example 4), or augment.single to []"
        )
    elif views and not single:
        raise SettingsError(
            "backbone.views: without an augmentation all versions of an image are the same; name one in "
            "augment.single, or leave views out"
        )
