"""Foreign pickles, read as data: an allow-list of names, and a check that plain containers and numbers came out.

A pickle is a small program that may name anything and call it. The names of `_ALLOWED` are all that it gets; see
"Restricting Globals" in the manual of Python's `pickle`.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError

MAXIMUM_BYTES = 256 * 1024**2
MAXIMUM_DEPTH = 100
MAXIMUM_ITEMS = 50_000_000
_KINDS = "biufSU"  # NumPy's letters for numbers and text


def load(path: str | os.PathLike) -> Any:
    """The value in a pickle file (see `loads`).

    Raises:
        DataError: as `loads`, or the file cannot be read.
    """
    try:
        if Path(path).stat().st_size > MAXIMUM_BYTES:
            raise DataError(f"{path} is larger than {MAXIMUM_BYTES} bytes, the most that is read as a pickle; check it")
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; fetch the file again") from error
    return loads(data, str(path))


def loads(data: bytes, name: str = "the pickle") -> Any:
    """The value in a pickle made of dicts, lists, tuples, sets, numbers, strings, bytes, booleans, None, and NumPy
    arrays, scalars and types of numbers and text.

    Text of Python 2 is read as Latin-1, which keeps every byte. `name` stands for the pickle in messages.

    Raises:
        DataError: the pickle names anything else (the message says what), is damaged, nested too deeply, or refers to
            itself.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            # the unpickler makes its memo as long as the largest index
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument is not None and argument > len(data):
                raise DataError(f"{name} asks for a memo of {argument} entries; it is refused: do not trust this file")
        value = _Unpickler(data, name).load()
        _check(value, name, 0, {})
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can end in almost any exception, as the library documents
        raise DataError(f"{name} is not a readable pickle ({error}); fetch the file again") from error
    return value


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, name: str):
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise DataError(
                f"{self._name} asks for {module}.{name}, which is not plain data; it is refused: do not trust this file"
            ) from None


def _no_bytes() -> bytes:
    return b""  # `bytes(number)` would fill the memory


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"text in {encoding!r} where pickles of bytes use latin1")
    return text.encode("latin1")


def _dtype(text: str, *_: Any) -> np.dtype:
    kind = np.dtype(text, copy=True)  # its byte order is set next
    if kind.kind not in _KINDS:
        raise ValueError(f"an array of type {text}; only numbers and text are read")
    return kind


def _reconstruct(*_: Any) -> np.ndarray:
    return np.empty(0, np.uint8)  # its contents come next


def _scalar(kind: np.dtype, data: bytes | str) -> np.generic:
    data = data.encode("latin1") if isinstance(data, str) else data
    if len(data) != kind.itemsize:
        raise ValueError(f"a number of type {kind} with {len(data)} bytes")
    return np.frombuffer(data, kind)[0] if data else kind.type()


_ALLOWED: Mapping[tuple[str, str], Any] = {
    **{
        (module, name): function
        for module in ("builtins", "__builtin__")
        for name, function in {"set": set, "frozenset": frozenset, "bytes": _no_bytes}.items()
    },
    ("_codecs", "encode"): _encode,  # how Python 3 writes bytes for Python 2
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): None,  # only named, as an argument of `_reconstruct`
    **{
        (module, name): function
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, function in {"scalar": _scalar, "_reconstruct": _reconstruct}.items()
    },
}


def _check(value: Any, name: str, depth: int, counts: dict[int, int]) -> int:
    """The number of values in `value` when shared parts are counted each time they occur; `counts` has those known.

    Raises:
        DataError: it holds something else than plain data, or what would trap a reader of it.
    """
    if isinstance(value, np.ndarray | np.generic | np.dtype):
        kind = value if isinstance(value, np.dtype) else value.dtype
        if kind.kind not in _KINDS:
            raise DataError(f"{name} holds an array of type {kind}; only numbers and text are read")
        return 1
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return 1
    if type(value) not in (dict, list, tuple, set, frozenset):
        raise DataError(f"{name} holds something that is not plain data; it is refused")
    if depth >= MAXIMUM_DEPTH:
        raise DataError(f"{name} contains itself or is nested more than {MAXIMUM_DEPTH} levels deep; it is refused")
    if id(value) not in counts:
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_check(part, name, depth + 1, counts) for part in parts)
    if counts[id(value)] > MAXIMUM_ITEMS:
        raise DataError(f"{name} unfolds to more than {MAXIMUM_ITEMS} values; it is refused")
    return counts[id(value)]
