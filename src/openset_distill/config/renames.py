"""Keys of earlier versions, which are read under their new names for one release, with a hint."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from ..core.errors import SettingsError

# kinds of jobs: of an experiment's resources, and of a cluster's site file
KINDS_OF_JOBS = {"light": "small", "measure": "feature_geometry", "analyze": "inference"}

Renamed = tuple[tuple[str, ...], str, str, Mapping[str, str]]
# place of a mapping (`*`: each entry), old key -> new key, and new values for old ones
RENAMED: tuple[Renamed, ...] = (
    (("data",), "addresses", "urls", {}),
    (("defaults",), "answers", "teacher_logits", {"recorded": "cached", "live": "online"}),
    (("runs", "*"), "answers", "teacher_logits", {"recorded": "cached", "live": "online"}),
    *((("resources",), old, new, {}) for old, new in KINDS_OF_JOBS.items()),
)


def with_new_names(layer: Mapping[str, Any], renamed_keys: Sequence[Renamed] = RENAMED) -> dict[str, Any]:
    """`layer`, one file's settings before it is merged with others, with the keys of today.

    Raises:
        SettingsError: a key stands there under both names.
    """
    layer = dict(layer)
    for place, old, new, values in renamed_keys:
        for holder, key in list(_mappings(layer, place)):
            found = holder[key]
            if old not in found:
                continue
            where = ".".join(place).replace("*", key)
            if new in found:
                raise SettingsError(f"configuration: {where}: {old} is now called {new}; remove {old}")
            value = found[old]
            renamed = values.get(value, value) if isinstance(value, str) else value
            _hint(f"{where}: {old} is now called {new}" + (f", and {value} {renamed}" if renamed != value else ""))
            holder[key] = {new if name == old else name: renamed if name == old else one for name, one in found.items()}
    return layer


def _mappings(layer: dict[str, Any], place: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each mapping at `place`: the mapping that holds it, a copy that is put in place, and its key there."""
    first, *rest = place
    for key in list(layer) if first == "*" else [first]:
        if not isinstance(layer.get(key), Mapping):
            continue
        if rest:
            layer[key] = dict(layer[key])
            yield from _mappings(layer[key], tuple(rest))
        else:
            yield layer, key


@cache  # a file may be read more than once
def _hint(text: str) -> None:
    print(f"hint: {text}", file=sys.stderr)
