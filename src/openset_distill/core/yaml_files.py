"""YAML files of settings: read strictly and within bounds.

A key that stands twice, an alias that unfolds without end and a file of absurd size are mistakes; a parser that follows
them silently keeps the last key, or works for minutes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import yaml

from .errors import SettingsError
from .files import decoded

# the largest experiment of this project has 40 KB and 1,500 nodes
MAX_BYTES = 2**20
MAX_NODES = 100_000
MAX_DEPTH = 50

# what the parser raises for a scalar that does not fit its tag
BAD_SCALAR = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


# libyaml's parser where PyYAML was built with it
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """YAML's plain types; checks each document between parsing and construction."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _size(node, {})
        return node


def _check_depth(text: str) -> None:
    """Raises a yaml.YAMLError for text that nests too deeply: the parsers that build nodes would exhaust the stack."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise yaml.MarkedYAMLError(problem=f"nested more than {MAX_DEPTH} deep", problem_mark=event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many nodes `node` has once its aliases are unfolded; each node is visited once.

    Raises:
        yaml.YAMLError: too many, an alias within itself, or a key that stands twice.
    """
    if id(node) in sizes:
        size = sizes[id(node)]
        if size == 0:
            raise yaml.MarkedYAMLError(problem="an alias names what it stands in", problem_mark=node.start_mark)
        return size
    sizes[id(node)] = 0
    size = 1
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value[:100]!r} stands twice in one mapping", problem_mark=key.start_mark
                    )
                seen.add((key.tag, key.value))
            size += _size(key, sizes) + _size(value, sizes)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_size(part, sizes) for part in node.value)
    if size > MAX_NODES:
        raise yaml.MarkedYAMLError(
            problem=f"more than {MAX_NODES:,} values, once aliases are unfolded", problem_mark=node.start_mark
        )
    sizes[id(node)] = size
    return size


def read_yaml(path: str | os.PathLike, what: str = "the configuration file") -> Any:
    """The contents of a YAML file as plain data.

    Args:
        what: the file is, for messages.

    Raises:
        SettingsError: it cannot be read, is not valid YAML, too large, or holds a key twice.
        OpenSetError: it is no UTF-8 text.
    """
    try:
        with open(path, "rb") as stream:
            contents = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # the latter for a NUL in the path
        raise SettingsError(f"cannot read {what} {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(contents) > MAX_BYTES:
        raise SettingsError(f"{path} is larger than {MAX_BYTES // 2**20} MiB, which no file of settings is")
    return parse_yaml(decoded(contents, path), str(path))


def parse_yaml(text: str, source: str) -> Any:
    """YAML text as plain data; `source` is named in messages.

    Raises:
        SettingsError: as `read_yaml`.
    """
    try:
        _check_depth(text)
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{source}{where}: not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, *BAD_SCALAR) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(f"{source} is not valid YAML: {reason[:300]}") from error


def check_size(value: Any, source: str) -> None:
    """Raises a SettingsError for plain data that are nested too deeply or, with shared parts unfolded, too many."""
    waiting, count = [(value, 0)], 0
    while waiting:
        part, depth = waiting.pop()
        count += 1
        if count > MAX_NODES:
            raise SettingsError(f"{source}: more than {MAX_NODES:,} values, once aliases are unfolded")
        if depth > MAX_DEPTH:
            raise SettingsError(f"{source}: nested more than {MAX_DEPTH} deep")
        if isinstance(part, Mapping):
            waiting += [(inner, depth + 1) for inner in part.values()]
        elif isinstance(part, list | tuple):
            waiting += [(inner, depth + 1) for inner in part]
