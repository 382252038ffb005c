"""Keys of earlier versions, which are read under their new names for one release, with a hint."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from ..core.errors import SettingsError

# place of a mapping (`*`: each entry), old key -> new key, and new values for old ones
RENAMED: tuple[tuple[tuple[str, ...], str, str, Mapping[str, str]], ...] = (
    (("data",), "addresses", "urls", {}),
    (("defaults",), "answers", "teacher_logits", {"recorded": "cached", "live": "online"}),
    (("runs", "*"), "answers", "teacher_logits", {"recorded": "cached", "live": "online"}),
)


def with_new_names(layer: Mapping[str, Any]) -> dict[str, Any]:
    """`layer`, one file's settings before it is merged with others, with the keys of today.

    Raises:
        SettingsError: a key stands there under both names.
    """
    layer = dict(layer)
    for place, old, new, values in RENAMED:
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
