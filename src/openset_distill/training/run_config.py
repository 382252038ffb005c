"""The resolved settings of one job: plain data, as they travel on a command line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ..core.errors import SettingsError
from ..core.files import read_json
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
