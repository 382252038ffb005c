"""Settings that users write and jobs are given: strict pydantic models, and their mistakes in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import pydantic

from .bounds import numeric_fields, refuse_truth_values
from .errors import SettingsError, nearest
from .text import printable

# characters of a setting that is text: longer ones are slips, and no file system takes them
LONGEST_TEXT = 2000

Model = TypeVar("Model", bound="Strict")


class Strict(pydantic.BaseModel):
    """Settings in which an unknown key is an error that names its right place, or the nearest right key.

    Every number has a range, `Annotated[int, Field(ge=0, le=100)]`, and is finite; a class with another number is a
    TypeError where it is defined. A truth value is no number.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_max_length=LONGEST_TEXT)
    _numeric: ClassVar[frozenset[str]] = frozenset()
    # what plain mappings among the fields hold, for the places of keys
    _held: ClassVar[Mapping[str, type[Strict]]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls._numeric = numeric_fields(cls)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        if info.field_name in cls._numeric:
            refuse_truth_values(value)
        return value

    @pydantic.model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                if key not in cls.model_fields:
                    whole = (info.context or {}).get("whole", cls)
                    raise ValueError(f"unknown key {key!r}; {_right_key(str(key), cls, whole)}")
        return value


def _right_key(key: str, model: type[Strict], whole: type[Strict]) -> str:
    """What helps about a key that `model`, a part of `whole`, lacks: where it belongs, or the nearest that there is."""
    name, colon, _ = key.partition(":")
    if colon and name in model.model_fields:
        return f"a space is missing after the colon: '{name}: ...'"
    for places in (_places(model), _places(whole)):
        if key in places:
            *above, last = places[key]
            if not above:
                return "it belongs at the top of the configuration, not in here"
            inner = f"{last}: ..."
            for part in reversed(above[1:]):
                inner = f"{part}: {{{inner}}}"
            return f"it belongs in {'.'.join(above)}: '{above[0]}={{{inner}}}'"
    return nearest(key, model.model_fields)


def _places(model: type[Strict]) -> dict[str, tuple[str, ...]]:
    """Key -> its place among the settings within `model`, for keys that have one place only."""
    found: dict[str, list[tuple[str, ...]]] = {}

    def walk(part: type[Strict], above: tuple[str, ...]) -> None:
        for key, field in part.model_fields.items():
            found.setdefault(key, []).append((*above, key))
            within = part._held.get(key, field.annotation)
            if isinstance(within, type) and issubclass(within, Strict):
                walk(within, (*above, key))

    walk(model, ())
    return {key: places[0] for key, places in found.items() if len(places) == 1}


# how pydantic names one of the types that a value may have
_TYPE = re.compile(r"^(constrained-|function-|str$|dict\[|tuple\[|\[key\]$)")


def validated(model: type[Model], value: Any, where: str = "", *, source: str = "configuration") -> Model:
    """`value` as `model`.

    Args:
        where: key under which the value stands, for messages.
        source: what holds the settings, for messages.

    Raises:
        SettingsError: one line for each unknown key, wrong type or value out of range.
    """
    try:
        return model.model_validate(value, context={"whole": model})
    except pydantic.ValidationError as error:
        found: dict[str, list[str]] = {}
        for problem in error.errors():
            if problem["type"] == "too_short" and found:
                continue  # an entry was refused, and is missing for that reason alone
            # where a value may be of several types, each type is a part of the place, and says why it is not that
            parts = (str(part) for part in problem["loc"] if not _TYPE.search(str(part)))
            key = printable(".".join(part for part in (where, *parts) if part))
            message = problem["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list, such as [0]")
            found.setdefault(key, []).append(message)
        lines = [f"{source}: {key + ': ' if key else ''}{', or: '.join(messages)}" for key, messages in found.items()]
        raise SettingsError("\n       ".join(lines)) from error
