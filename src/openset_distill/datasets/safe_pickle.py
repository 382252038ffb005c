"""Foreign pickles, read as data: nothing that a pickle names is imported or run.

A pickle is a small program. Two things make this one harmless: only the opcodes and names listed here are allowed,
and the allowed names lead to functions of this module, never to the real ones.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from ..core.errors import DataError

MAXIMUM_BYTES = 256 * 1024**2
MAXIMUM_DEPTH = 100
MAXIMUM_ITEMS = 50_000_000

# Everything that builds plain values, and the two ways to name and call something (checked in `find_class`).
# Left out: persistent ids, the extension registry, out-of-band buffers, bytearrays and object construction.
_ALLOWED = """
    PROTO FRAME STOP MARK POP POP_MARK DUP PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET MEMOIZE
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET
    GLOBAL STACK_GLOBAL INST REDUCE BUILD
"""
_OPCODES = frozenset(_ALLOWED.split())


def load(
    source: str | os.PathLike | BinaryIO,
    *,
    arrays: bool = False,
    limit: int = MAXIMUM_BYTES,
    name: str | None = None,
) -> Any:
    """The value in a pickle made of dicts, lists, tuples, sets, numbers, strings, bytes, booleans and None.

    `arrays` also allows NumPy arrays, scalars and types of numbers and text (no objects, no records), which the
    CIFAR archives and the published class splits contain. Text of Python 2 is read as Latin-1. `limit` is the
    largest pickle in bytes. `name` stands for a stream in messages.

    Raises:
        DataError: the pickle names anything else (the message says what), is damaged, larger than `limit`,
            nested too deeply, or refers to itself.
    """
    if isinstance(source, str | os.PathLike):
        name = name or str(source)
        try:
            with open(source, "rb") as stream:
                return load(stream, arrays=arrays, limit=limit, name=name)
        except OSError as error:
            raise DataError(f"cannot read {name}: {error.strerror or error}; fetch the file again") from error
    name = name or str(getattr(source, "name", "the pickle"))
    data = source.read(limit + 1)
    if len(data) > limit:
        raise DataError(f"{name} is larger than {limit} bytes, the most that is read as a pickle; check the file")
    try:
        _check_opcodes(data, name)
        value = _Unpickler(data, arrays, name).load()
        return _Plain(name).convert(value, 0)[0]
    except DataError as error:
        if name in str(error):
            raise
        raise DataError(f"{name}: {error}") from error
    except Exception as error:  # a damaged pickle can end in almost any exception, as the library documents
        raise DataError(f"{name} is not a readable pickle ({error}); fetch the file again") from error


def _check_opcodes(data: bytes, name: str) -> None:
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise DataError(
                f"{name} uses the pickle instruction {opcode.name}, which plain data does not need; "
                "it is refused: do not trust this file"
            )
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument is not None and argument > len(data):
            # the unpickler makes its memo as long as the largest index
            raise DataError(f"{name} asks for a memo of {argument} entries; it is refused: do not trust this file")


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, arrays: bool, name: str):
        # Latin-1 keeps every byte, so the pixels of a Python 2 pickle can be had back from its text
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._names = {**_PLAIN_NAMES, **_ARRAY_NAMES} if arrays else _PLAIN_NAMES
        self._file = name

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._names[module, name]
        except KeyError:
            raise DataError(
                f"{self._file} asks for {module}.{name}, which is not plain data; it is refused: do not trust this file"
            ) from None


class _Callable:
    """A name that a pickle may call. The BUILD instruction cannot change it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]):
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise DataError("a pickle tries to change a function; it is refused: do not trust this file")


class _Type:
    """Stands for a NumPy type while the pickle describes it."""

    def __init__(self, text: str, *_: Any):
        self.dtype = np.dtype(text)
        if self.dtype.kind not in "biufSU":
            raise DataError(f"a pickle holds an array of type {text!r}; only numbers and text are read")

    def __setstate__(self, state: tuple) -> None:
        _, order, subtype, names, fields, size, *_ = state
        if subtype is not None or names is not None or fields is not None or size not in (-1, self.dtype.itemsize):
            raise DataError("a pickle holds an array of records; only numbers and text are read")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for a NumPy array until its contents come."""

    array: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        data = _raw(data)
        if any(type(length) is not int or length < 0 for length in shape):
            raise ValueError(f"array of shape {shape}")
        if math.prod(shape) * kind.dtype.itemsize != len(data):
            raise ValueError(f"array of shape {shape} with {len(data)} bytes")
        flat = np.frombuffer(data, kind.dtype) if data else np.empty(0, kind.dtype)
        self.array = flat.reshape(shape, order="F" if fortran else "C").copy()


def _raw(data: bytes | str) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else bytes(memoryview(data))


def _scalar(kind: _Type, data: bytes | str) -> np.generic:
    data = _raw(data)
    if len(data) != kind.dtype.itemsize:
        raise ValueError(f"number of type {kind.dtype} with {len(data)} bytes")
    return np.frombuffer(data, kind.dtype)[0] if data else kind.dtype.type()


def _reconstruct(base: Any, *_: Any) -> _Array:
    if base is not _NDARRAY:
        raise DataError("a pickle holds an unknown kind of array; only plain arrays are read")
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise DataError(f"a pickle encodes text as {encoding!r}; only latin1 is used by pickles of bytes")
    return text.encode("latin1")


def _no_call(*_: Any) -> Any:
    raise DataError("a pickle makes an array without its contents; only plain arrays are read")


_NDARRAY = _Callable(_no_call)
_PLAIN_NAMES = {
    **{
        (module, name): function
        for module in ("builtins", "__builtin__")
        for name, function in {
            "set": _Callable(set),
            "frozenset": _Callable(frozenset),
            "bytes": _Callable(lambda: b""),  # the empty one; `bytes(number)` would fill the memory
        }.items()
    },
    ("_codecs", "encode"): _Callable(_encode),  # how Python 3 writes other bytes for Python 2
}
_ARRAY_NAMES = {
    ("numpy", "dtype"): _Callable(_Type),
    ("numpy", "ndarray"): _NDARRAY,
    **{
        (module, name): function
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, function in {"scalar": _Callable(_scalar), "_reconstruct": _Callable(_reconstruct)}.items()
    },
}


class _Plain:
    """Copies a loaded value, with stand-ins replaced, and refuses what would trap a reader of it."""

    def __init__(self, name: str):
        self._name = name
        self._done: dict[int, tuple[Any, int]] = {}
        self._open: set[int] = set()

    def convert(self, value: Any, depth: int) -> tuple[Any, int]:
        """The plain value, and the number of values in it when shared parts are counted each time they occur."""
        if value is None or isinstance(value, bool | int | float | str | bytes | np.generic):
            return value, 1
        if isinstance(value, _Type):
            return value.dtype, 1
        if isinstance(value, _Array) and value.array is not None:
            return value.array, 1
        if not isinstance(value, dict | list | tuple | set | frozenset):
            raise DataError(f"{self._name} holds something that is not plain data; it is refused")
        if id(value) in self._done:
            return self._done[id(value)]
        if depth >= MAXIMUM_DEPTH or id(value) in self._open:
            raise DataError(
                f"{self._name} contains itself or is nested more than {MAXIMUM_DEPTH} levels deep; it is refused"
            )
        self._open.add(id(value))
        parts = [part for item in value.items() for part in item] if isinstance(value, dict) else value
        converted, count = [], 1
        for part in parts:
            plain, size = self.convert(part, depth + 1)
            converted.append(plain)
            count += size
        if count > MAXIMUM_ITEMS:
            raise DataError(f"{self._name} unfolds to more than {MAXIMUM_ITEMS} values; it is refused")
        self._open.discard(id(value))
        if isinstance(value, dict):
            plain = dict(zip(converted[::2], converted[1::2], strict=True))
        else:
            plain = type(value)(converted)
        self._done[id(value)] = plain, count
        return plain, count
