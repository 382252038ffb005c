"""The catalog of datasets: which there are, where their archives are served, how these are checked, their licences.

The facts are in `catalog.yaml`, read when they are first asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from ..core.errors import SettingsError, nearest
from ..core.settings import Strict, validated
from ..core.yaml_files import read_yaml

CATALOG = Path(__file__).with_name("catalog.yaml")
_CHECKSUM_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}

Name = Annotated[str, Field(pattern="^[a-z0-9_]+$")]
Line = Annotated[str, Field(min_length=1)]
Pixels = Annotated[int, Field(gt=0, le=65_536)]


def parse_checksum(text: str) -> tuple[str, str]:
    """Splits `algorithm:hexadecimal digits`.

    >>> parse_checksum("md5:90528d7ca1a48142e341f4ef8d21d0de")
    ('md5', '90528d7ca1a48142e341f4ef8d21d0de')

    Raises:
        SettingsError: not of this form.
    """
    algorithm, _, digits = text.strip().lower().partition(":")
    if _CHECKSUM_DIGITS.get(algorithm) != len(digits) or not re.fullmatch("[0-9a-f]+", digits):
        raise SettingsError(
            f"{text!r} is not a checksum; write sha256: and 64 hexadecimal digits (sha512, sha1 and md5 work too)"
        )
    return algorithm, digits


class Archive(Strict):
    """A file to fetch; `catalog.yaml` explains the keys."""

    file: Annotated[str, Field(pattern="^[A-Za-z0-9._-]+$")]
    urls: tuple[Line, ...] = ()
    size: Annotated[int, Field(gt=0, le=2**50)] | None = None
    checksum: str | None = None
    by_hand: str = ""
    unpacked: tuple[Line, ...] = ()

    @pydantic.field_validator("checksum")
    @classmethod
    def _is_checksum(cls, text: str | None) -> str | None:
        try:
            return text if text is None else ":".join(parse_checksum(text))
        except SettingsError as error:
            raise ValueError(str(error)) from error


class Counts(Strict):
    """The images of the training and the test part of a dataset, and its classes."""

    train: Annotated[int, Field(ge=0, le=10**9)]
    test: Annotated[int, Field(ge=0, le=10**9)]
    classes: Annotated[int, Field(ge=1, le=10**6)]


class Dataset(Strict):
    """A dataset of the catalog; `catalog.yaml` explains the keys."""

    name: Name
    title: Line
    licence: Line
    citation: str
    notes: str = ""
    reader: Name
    size: tuple[Pixels, Pixels] | None = None
    channels: Literal[1, 3]
    classes: Annotated[tuple[Line, ...], Field(min_length=1)] | Line
    counts: Counts | None = None
    same_images_as: Name | None = None
    archives: tuple[Archive, ...] = ()
    auxiliary: tuple[Archive, ...] = ()

    @property
    def files(self) -> tuple[Archive, ...]:
        """Everything to fetch: the archives and the auxiliary files."""
        return self.archives + self.auxiliary

    @pydantic.model_validator(mode="after")
    def _can_be_fetched(self) -> Dataset:
        for archive in self.files:
            if not archive.urls and not archive.by_hand:
                raise ValueError(f"{archive.file} has neither urls nor by_hand")
            for url in archive.urls:
                if not re.match("https?://[^/]+/.", url):
                    raise ValueError(f"{archive.file}: {url!r} is not an http or https URL")
        names = [archive.file for archive in self.files]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} is named twice")
        return self


class _Catalog(Strict):
    datasets: dict[Name, Dataset]
    published_checkpoints: Dataset

    @pydantic.model_validator(mode="after")
    def _others_are_known(self) -> _Catalog:
        for name, entry in self.datasets.items():
            if entry.same_images_as not in (None, *self.datasets) or entry.same_images_as == name:
                raise ValueError(f"{name}: same_images_as: there is no other dataset {entry.same_images_as!r}")
        return self

    @pydantic.field_validator("datasets", "published_checkpoints", mode="before")
    @classmethod
    def _named(cls, entries: object, info: pydantic.ValidationInfo) -> object:
        """A key of the file is the entry's name."""
        if not isinstance(entries, Mapping):
            return entries
        if info.field_name == "published_checkpoints":
            return {**entries, "name": info.field_name}
        return {
            name: {**entry, "name": name} if isinstance(entry, Mapping) else entry for name, entry in entries.items()
        }


def read_catalog(path: Path) -> tuple[Mapping[str, Dataset], Dataset]:
    """The datasets of a catalog by name, and its published checkpoints.

    Raises:
        SettingsError: a key is missing, unknown, of the wrong type or out of range.
    """
    catalog = validated(_Catalog, read_yaml(path, "the catalog"), source=str(path))
    return MappingProxyType(catalog.datasets), catalog.published_checkpoints


@cache
def _read() -> tuple[Mapping[str, Dataset], Dataset]:
    return read_catalog(CATALOG)


def datasets() -> Mapping[str, Dataset]:
    """The datasets of the catalog by name."""
    return _read()[0]


def published_checkpoints() -> Dataset:
    """The classifiers that Vaze et al. 2022 published."""
    return _read()[1]


def _entries() -> Iterator[Dataset]:
    yield from datasets().values()
    yield published_checkpoints()


def find(name: str) -> Dataset:
    """The entry of that name: a dataset or `published_checkpoints`.

    Raises:
        SettingsError: there is none.
    """
    entries = {entry.name: entry for entry in _entries()}
    if name not in entries:
        raise SettingsError(f"unknown dataset {name!r}; {nearest(name, entries)}")
    return entries[name]


def check_files(setting: str, files: Iterable[str]) -> None:
    """Whether each name is a file of the catalog; `setting` names the list in the message.

    Raises:
        SettingsError: one is not.
    """
    known = {archive.file for entry in _entries() for archive in entry.files}
    for file in files:
        if file not in known:
            raise SettingsError(f"{setting}: no dataset has an archive {file!r}; {nearest(file, known)}")
