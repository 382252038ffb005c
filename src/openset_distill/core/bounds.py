"""Numbers in settings: each is finite and has a smallest and a largest value, or its class cannot be defined."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator
from pydantic.fields import FieldInfo

T = TypeVar("T")


def _distinct(values: Sequence[T]) -> Sequence[T]:
    for position, value in enumerate(values):
        if value in values[:position]:
            raise ValueError(f"{value!r} is listed twice; list it once")
    return values


# after the type of a list whose entries are names: `Annotated[tuple[str, ...], Distinct]`
Distinct = AfterValidator(_distinct)


def numeric_fields(cls: type) -> frozenset[str]:
    """The fields of a settings class that hold numbers, alone or in lists; all of them are bounded.

    Raises:
        TypeError: a number has no smallest or no largest value.
    """
    numeric = set()
    for name, annotation in typing.get_type_hints(cls, include_extras=True).items():
        if name.startswith("_") or typing.get_origin(annotation) is ClassVar:
            continue
        kinds = set()
        for kind, low, high in _leaves(annotation, False, False):
            kinds.add(kind)
            if kind in (int, float) and not (low and high):
                raise TypeError(
                    f"{cls.__name__}.{name} is a number without a {'largest' if low else 'smallest'} value; "
                    "write Annotated[int, Field(ge=..., le=...)], so that a slip is refused before anything runs"
                )
        if kinds & {int, float} and bool not in kinds:
            numeric.add(name)
    return frozenset(numeric)


def _leaves(annotation: Any, low: bool, high: bool) -> Iterator[tuple[Any, bool, bool]]:
    """The plain types within `annotation`, each with whether it has a smallest and a largest value."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        limits = [
            limit for extra in inner[1:] for limit in (extra.metadata if isinstance(extra, FieldInfo) else [extra])
        ]
        low = low or any(hasattr(limit, "ge") or hasattr(limit, "gt") for limit in limits)
        high = high or any(hasattr(limit, "le") or hasattr(limit, "lt") for limit in limits)
        yield from _leaves(inner[0], low, high)
    elif origin in (typing.Union, types.UnionType):
        for part in inner:
            yield from _leaves(part, low, high)
    elif origin is Literal:
        yield str, True, True
    elif inner:  # limits of a list are those of its length
        for part in inner:
            if part is not Ellipsis:
                yield from _leaves(part, False, False)
    else:
        yield annotation, low, high


def refuse_truth_values(value: Any) -> None:
    """Raises a ValueError where a number, or one in a list, is a truth value: YAML reads `yes` and `on` as one."""
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is a truth value where a number belongs; write the number")
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for part in parts:
        refuse_truth_values(part)
