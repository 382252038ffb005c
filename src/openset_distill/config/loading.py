"""Configuration files: read, laid upon those that they extend, merged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import SettingsError
from ..core.yaml_files import read_yaml
from .renames import with_new_names


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid upon `base`, mapping by mapping.

    A mapping with a `name` is a specification and replaces the old one whole: its settings belong to that name. A
    value of null in `over` removes an entry of `runs`-like mappings only when the base had a mapping there.
    """
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and "name" not in value:
            merged[key] = merge(old, value)
        elif isinstance(old, Mapping) and value in (None, "null"):  # Snakemake's --config gives every value as text
            del merged[key]
        else:
            merged[key] = value
    return merged


def read_configuration(path: str | Path) -> dict[str, Any]:
    """A YAML configuration file with the files that it `extends` beneath it (paths from the repository's root).

    Raises:
        SettingsError: missing file, invalid YAML, not a mapping, or a circle of `extends`.
    """
    seen: list[Path] = []
    layers: list[dict[str, Any]] = []
    following: str | Path | None = path
    while following is not None:
        if not isinstance(following, str | Path):
            raise SettingsError(f"{seen[-1] if seen else path}: extends: {following!r} is not the path of one file")
        current = Path(following)
        if current in seen:
            raise SettingsError(f"{path}: `extends` goes in a circle at {current}")
        seen.append(current)
        layer = read_yaml(current)
        if not isinstance(layer, dict):
            raise SettingsError(f"{current} must hold a mapping of settings")
        following = layer.pop("extends", None)
        layers.append(with_new_names(layer))
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged = merge(merged, layer)
    return merged
