"""Named things with typed settings: one registry line makes a class selectable from the configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar, dataclass_transform

import pydantic
import pydantic.dataclasses

from .bounds import numeric_fields, refuse_truth_values
from .errors import SettingsError, nearest
from .settings import LONGEST_TEXT

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings_class(cls: type[T]) -> type[T]:
    """Class decorator: typed fields become settings with defaults, checked when an instance is made.

    A dataclass in which an unknown setting, a wrong type or a value out of range is an error. Every number has a range,
    `Annotated[int, pydantic.Field(ge=0, le=100)]`, and is finite.

    Raises:
        TypeError: the class has a number without a smallest or largest value.
    """
    config = pydantic.ConfigDict(extra="forbid", strict=False, allow_inf_nan=False, str_max_length=LONGEST_TEXT)
    made: Any = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)(cls)
    made.numeric_fields = numeric_fields(made)
    return made


class Registry(Mapping[str, type[T]], Generic[T]):
    """The classes of one kind, by the name that the configuration uses.

    A specification is a bare name (`cutmix`) or a mapping with settings (`{name: cutmix, alpha: 0.5}`). A class with
    `presets` (name -> settings) also takes `preset`; settings beside it override the preset's.

    Args:
        others: end of the message about a name that is not there; NAME stands for it.
    """

    def __init__(self, kind: str, entries: Mapping[str, type[T]], others: str = ""):
        self.kind, self._others = kind, others
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._entries:
            others = self._others.replace("NAME", str(name))
            raise SettingsError(f"unknown {self.kind} {name!r}; {nearest(name, self._entries)}{others}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def build(self, specification: str | Mapping[str, Any]) -> T:
        """Makes the instance that `specification` describes.

        Raises:
            SettingsError: unknown name or setting, wrong type, value out of range.
        """
        if isinstance(specification, str):
            specification = {"name": specification}
        if not isinstance(specification, Mapping):
            raise SettingsError(
                f"a {self.kind} is a name, or a mapping with a name and settings; got {specification!r}"
            )
        settings = dict(specification)
        name = settings.pop("name", None)
        if not isinstance(name, str):
            raise SettingsError(f"a {self.kind} needs a name; {nearest('', self._entries)}")
        cls: Any = self[name]  # a settings class: a dataclass with `numeric_fields`
        presets = getattr(cls, "presets", {})
        if "preset" in settings:
            preset = settings.pop("preset")
            if not isinstance(preset, str) or preset not in presets:
                raise SettingsError(f"{self.kind} {name!r} has no preset {preset!r}; {nearest(str(preset), presets)}")
            settings = presets[preset] | settings
        fields = [field.name for field in dataclasses.fields(cls)]
        for key in settings:
            if key not in fields:
                raise SettingsError(f"{self.kind} {name!r} has no setting {key!r}; {nearest(str(key), fields)}")
        for key in cls.numeric_fields & settings.keys():
            try:
                refuse_truth_values(settings[key])
            except ValueError as error:
                raise SettingsError(f"{self.kind} {name!r}: {key}: {error}") from error
        try:
            return cls(**settings)
        except pydantic.ValidationError as error:
            # what is missing may be so for the sake of what is wrong
            first = min(error.errors(), key=lambda problem: problem["type"] == "missing")
            where = ".".join(str(part) for part in first["loc"]) or "settings"
            message = first["msg"].removeprefix("Value error, ")
            raise SettingsError(f"{self.kind} {name!r}: {where}: {message}") from error

    def resolve(self, specification: str | Mapping[str, Any]) -> dict[str, Any]:
        """The specification with every default filled in, as plain data: what a run records and hashes."""
        instance: Any = self.build(specification)
        name = specification if isinstance(specification, str) else specification["name"]
        return {"name": name, **dataclasses.asdict(instance)}
