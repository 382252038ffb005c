"""Which classes are known and which are unknown, and which images train, validate and test.

Class ids are positions in a dataset's list of class names. Label k of a classifier is the k-th known class of
its split, in the split's own order; the label of every unknown image is -1.

Published numbers are comparable only within one protocol: every split carries the name and the source of its own.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field

from ..core.errors import DataError, SettingsError, nearest
from ..core.files import read_json
from ..core.names import UNKNOWN_LABEL
from ..core.registry import Registry, settings_class

REFERENCE = Path("config/reference")
# how many splits of a protocol with any number of them are used where none are named
DEFAULT_SPLITS = 5
SEMANTIC_SHIFT = "S. Vaze et al., Open-set recognition: a good closed-set classifier is all you need, ICLR 2022"

# group of unknown classes -> dataset that has them -> class ids
Unknown = dict[str, dict[str, tuple[int, ...]]]


@dataclass(frozen=True)
class ClassSplit:
    """Known and unknown classes, as class ids.

    `known`: ids in `dataset`, in label order. `unknown`: group name -> dataset name -> ids; the groups in the
    order of their codes 1, 2, ... (code 0 is the known classes). `source`: where the split was published.
    """

    name: str
    number: int
    dataset: str
    known: tuple[int, ...]
    unknown: Unknown
    source: str

    @property
    def class_set(self) -> str:
        """The name of the split's class set: the same for splits with the same known and the same unknown classes."""
        return class_set_name(self.dataset, self.known, self.unknown)

    @property
    def n_unknown(self) -> int:
        """The number of unknown classes, over all groups and datasets."""
        return sum(len(ids) for of_group in self.unknown.values() for ids in of_group.values())

    @property
    def openness(self) -> float:
        """Openness by Scheirer et al. (TPAMI 2013): 1 - sqrt(2 C_train / (C_test + C_target)), in [0, 1).

        Trained on, and asked for, are the known classes (C_train = C_target = known);
        tested are all of them (C_test = known + unknown). 0 means a closed set.
        """
        return openness(len(self.known), self.n_unknown)


def class_set_name(dataset: str, known: Iterable[int], unknown: Mapping[str, Mapping[str, Iterable[int]]]) -> str:
    """The name of a class set: eight hexadecimal digits that depend on which classes are known and which are unknown.

    Neither the order of the classes nor the groups of the unknown ones matter. Splits with one name are twins: whoever
    counts them twice counts the same evidence twice.

    Args:
        dataset: whose classes are known.
        known: class ids.
        unknown: group -> dataset -> class ids.
    """
    of_dataset: dict[str, set[int]] = {}
    for of_group in unknown.values():
        for name, ids in of_group.items():
            of_dataset.setdefault(name, set()).update(map(int, ids))
    content = [dataset, sorted({int(label) for label in known}), sorted((n, sorted(i)) for n, i in of_dataset.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]


def openness(n_known: int, n_unknown: int) -> float:
    """Openness (Scheirer et al. 2013) of a test with `n_known` trained and `n_unknown` untrained classes."""
    return 1.0 - float(np.sqrt(2 * n_known / (2 * n_known + n_unknown)))


@dataclass(frozen=True)
class Datasets:
    """The class names that a protocol chooses from.

    `name` and `classes`: the dataset whose classes are known; `others`: further datasets, by name;
    `test_only`: classes of the dataset that never have training images, by design.
    """

    name: str
    classes: Sequence[str]
    others: Mapping[str, Sequence[str]]
    test_only: Sequence[str] = ()

    def of(self, name: str, protocol: str) -> Sequence[str]:
        """The class names of dataset `name`.

        Raises:
            SettingsError: the protocol needs a dataset that was not given.
        """
        if name == self.name:
            return self.classes
        if name not in self.others:
            raise SettingsError(
                f"protocol {protocol!r} takes unknown classes from the dataset {name!r}; "
                f"prepare it and add it to the other datasets (given: {', '.join(self.others) or 'none'})"
            )
        return self.others[name]

    def trainable(self) -> tuple[int, ...]:
        """The ids of the classes that can be known: all but the test-only ones."""
        test_only = set(self.test_only)
        return tuple(label for label, class_name in enumerate(self.classes) if class_name not in test_only)

    def rest(self, known: Sequence[int]) -> tuple[int, ...]:
        """The ids of the dataset's classes that are not in `known`."""
        taken = set(known)
        return tuple(label for label in range(len(self.classes)) if label not in taken)


@dataclass(frozen=True)
class Resources:
    """Files that a protocol may need: the project's `reference` folder, and the contents of an authors' file of
    `published` splits as plain lists."""

    reference: Path = REFERENCE
    published: Mapping[str, Any] | None = None


# ------------------------------------------------------------------------------------------------ protocols


def _class_value(value: Any) -> int | str:
    """A class as a configuration names it, with what YAML makes of a name without quotes refused."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > 10**15:
            raise ValueError(f'a class is a name or a number; write "{value}" with quotes if it is a name')
        return value
    if isinstance(value, bool):
        words = ("yes", "on", "true") if value else ("no", "off", "false")
        raise ValueError(
            f"a truth value is no class; YAML reads {', '.join(words)} without quotes as one: "
            f'write "{words[0]}" with quotes'
        )
    if value is None:
        raise ValueError('an empty value is no class; YAML reads null, ~ and nothing as one: write "null" with quotes')
    if isinstance(value, float | datetime.date):
        raise ValueError(f'{value} is no class; write "{value}" with quotes if it is the name of one')
    raise ValueError(f"a {type(value).__name__} is no class; write its name, or its number")


def _unknown_value(value: Any, *, grouped: bool = True) -> Any:
    """A list of classes, or group -> list, or group -> dataset -> list, with each class checked."""
    if isinstance(value, list | tuple):
        return [_class_value(item) for item in value]
    if not isinstance(value, Mapping):
        raise ValueError("give a list of classes, or groups of them: {group: [class, ...]}")
    for name in value:
        if not isinstance(name, str):
            shown = str(name).lower()
            raise ValueError(f'{shown} is no name of a group or dataset; write it with quotes, "{shown}"')
    if not grouped:
        return {name: [_class_value(item) for item in _list(of_dataset)] for name, of_dataset in value.items()}
    return {name: _unknown_value(of_group, grouped=False) for name, of_group in value.items()}


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is no list of classes; write [class, ...]")
    return value


ClassValue = Annotated[Any, BeforeValidator(_class_value)]


def _published(name: str, reference: Path) -> Mapping[str, Any]:
    path = reference / "protocols.json"
    if not path.is_file():
        raise SettingsError(
            f"the published splits are not at {path}; run from the root of the repository, or name the reference folder"
        )
    return read_json(path)[name]


class _OwnClassSets:
    """Protocols no two of whose splits have the same classes."""

    available: ClassVar[int | None] = 1

    def class_set(self, _name: str, number: int, _dataset: str, _reference: Path) -> str:
        return f"split {number}"

    def distinct(self, _name: str, _reference: Path) -> tuple[int, ...]:
        return tuple(range(self.available or DEFAULT_SPLITS))


@settings_class
class Published:
    """A published list of splits, kept in `protocols.json` of the reference folder."""

    available: ClassVar[int | None] = 5

    def groups(self, _others: Sequence[str]) -> tuple[str, ...]:
        """The groups of unknown classes, as far as they can be told before any data are there; so in every protocol."""
        return ("unknown",)

    def split(self, name: str, number: int, datasets: Datasets, resources: Resources) -> ClassSplit:
        entry = _published(name, resources.reference)
        # the names of the classes, or their number where the names are only codes
        expected, present = entry["classes"], list(datasets.classes)
        if present != expected and len(present) != expected:
            count = expected if isinstance(expected, int) else len(expected)
            raise SettingsError(
                f"protocol {name!r} was made for other classes ({count}) than those of {datasets.name!r} "
                f"({len(present)}: {', '.join(present[:3])}, ...); choose the protocol that belongs to the dataset, "
                "or 'random', 'custom' or 'all_known'"
            )
        return self._of_entry(entry, name, number, datasets)

    def class_set(self, name: str, number: int, dataset: str, reference: Path) -> str:
        """The name of a split's class set, which needs no data; so in every protocol."""
        entry = _published(name, reference)
        expected = entry["classes"]
        classes = list(map(str, range(expected))) if isinstance(expected, int) else expected
        return self._of_entry(entry, name, number, Datasets(dataset, classes, {})).class_set

    def distinct(self, name: str, reference: Path) -> tuple[int, ...]:
        """The splits to use where none are named, no two of one class set: the last of twins; so in every protocol."""
        last = {self.class_set(name, number, "", reference): number for number in range(self.available or 0)}
        return tuple(sorted(last.values()))

    def _of_entry(self, entry: Mapping[str, Any], name: str, number: int, datasets: Datasets) -> ClassSplit:
        known = tuple(entry["known"][number])
        if "unknown" in entry:
            unknown: Unknown = {"unknown": {entry["unknown_from"]: tuple(entry["unknown"][number])}}
        else:
            unknown = {"unknown": {datasets.name: datasets.rest(known)}}
        return ClassSplit(name, number, datasets.name, known, unknown, entry["source"])


@settings_class
class SemanticShift(_OwnClassSets):
    """A split of the semantic shift benchmarks, with unknown classes by difficulty, from its authors' file.

    The files are `cub_osr_splits.pkl`, `aircraft_osr_splits.pkl` and `scars_osr_splits.pkl`, which hold class ids, and
    `imagenet_osr_splits.pkl` and `imagenet_osr_splits_winter21.pkl`, which hold WordNet ids of ImageNet-21K
    classes (github.com/sgvaze/osr_closed_set_all_you_need). With ImageNet every class that the prepared dataset
    has is known: 1000, or 991 where the images come from the winter21 release of ImageNet-21K.

    `combine_hard`: the fine-grained files have the groups easy, medium and hard. Later papers report two groups
    and call the union of medium and hard "hard"; true does the same. Their "hard" is not the file's.
    """

    combine_hard: bool = False

    def groups(self, _others: Sequence[str]) -> tuple[str, ...]:
        return ("easy", "hard") if self.combine_hard else ("easy", "medium", "hard")

    def split(self, name: str, number: int, datasets: Datasets, resources: Resources) -> ClassSplit:
        published = resources.published
        if published is None:
            raise SettingsError(
                f"protocol {name!r} is read from its authors' file; name that file "
                f"({name}_osr_splits.pkl, --published of the split command)"
            )
        try:
            if name == "imagenet":
                unknown_from = "imagenet21k"
                known = tuple(range(len(datasets.classes)))
                groups: dict[str, list[int | str]] = {
                    group: [str(wnid) for wnid in published[f"{group}_i21k_classes"]] for group in ("easy", "hard")
                }
            else:
                unknown_from = datasets.name
                known = tuple(operator.index(label) for label in published["known_classes"])
                groups = {
                    group.lower(): [operator.index(label) for label in published["unknown_classes"][group]]
                    for group in ("Easy", "Medium", "Hard")
                }
                total = len(known) + sum(map(len, groups.values()))
                if total != len(datasets.classes):
                    raise SettingsError(
                        f"protocol {name!r} splits {total} classes, but {datasets.name!r} has {len(datasets.classes)}; "
                        "choose the protocol, and the authors' file, that belong to the dataset"
                    )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"the published splits for {name!r} have another structure than expected "
                f"({type(error).__name__}: {error}); fetch the authors' file again"
            ) from error
        if self.combine_hard and "medium" in groups:
            groups["hard"] = [*groups.pop("medium"), *groups["hard"]]
        classes = datasets.of(unknown_from, name)
        unknown = {group: {unknown_from: _ids(ids, classes, unknown_from)} for group, ids in groups.items()}
        source = SEMANTIC_SHIFT + ("; hard is the published medium and hard" if self.combine_hard else "")
        return ClassSplit(name, number, datasets.name, known, unknown, source)


@settings_class
class ImageNetShift(SemanticShift):
    """The ImageNet split of the semantic shift benchmarks; `winter21`: with the authors' file for that release."""

    winter21: bool = False

    def groups(self, _others: Sequence[str]) -> tuple[str, ...]:
        return ("easy", "hard")


@settings_class
class Random(_OwnClassSets):
    """`known` classes drawn at random; the rest are unknown. Split k of the same `seed` is always the same.

    No two splits have the same classes: a draw that an earlier split has is drawn again.
    """

    available: ClassVar[int | None] = None
    known: Annotated[int, Field(ge=2, le=1_000_000)]
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0

    def groups(self, _others: Sequence[str]) -> tuple[str, ...]:
        return ("unknown",)

    def split(self, name: str, number: int, datasets: Datasets, _resources: Resources) -> ClassSplit:
        candidates = datasets.trainable()
        total = len(datasets.classes)
        if self.known > min(len(candidates), total - 1):
            raise SettingsError(
                f"protocol 'random' asks for {self.known} known classes, but of the {total} classes of {datasets.name} "
                f"only {min(len(candidates), total - 1)} can be known, so that some are unknown; choose fewer"
            )
        known = self._draw(candidates, number, datasets.name)
        unknown: Unknown = {"unknown": {datasets.name: datasets.rest(known)}}
        source = f"drawn at random: {self.known} of {total} classes, seed {self.seed}, split {number}"
        return ClassSplit(name, number, datasets.name, known, unknown, source)

    def _draw(self, candidates: Sequence[int], number: int, dataset: str) -> tuple[int, ...]:
        """The known classes of split `number`, unlike those of every split before it."""
        there = math.comb(len(candidates), self.known)
        if number >= there:
            raise SettingsError(
                f"protocol 'random' has no split {number}: {self.known} of {len(candidates)} classes of {dataset} can "
                f"be chosen in {there} ways, the splits 0 to {there - 1}"
            )
        taken: set[frozenset[int]] = set()
        known: tuple[int, ...] = ()
        for earlier in range(number + 1):
            generator = np.random.default_rng((self.seed, earlier))
            while not known or frozenset(known) in taken:
                known = tuple(int(label) for label in generator.permutation(candidates)[: self.known])
            taken.add(frozenset(known))
        return known


@settings_class
class Custom(_OwnClassSets):
    """The user's own lists: class names, or, where no class is called by a number, class ids (positions from 0).

    A number means the same with quotes and without, in a file and on the command line: the class of that name.
    `unknown`: a list of classes of the same dataset; or group -> list; or group -> dataset -> list.
    Without it every other class of the dataset is unknown, and every class of the other datasets, one group each.
    """

    known: list[ClassValue]
    unknown: Annotated[Any, BeforeValidator(lambda value: value if value is None else _unknown_value(value))] = None

    def groups(self, others: Sequence[str]) -> tuple[str, ...]:
        if self.unknown is None:
            return ("unknown", *others)
        return tuple(self.unknown) if isinstance(self.unknown, dict) else ("unknown",)

    def split(self, name: str, number: int, datasets: Datasets, _resources: Resources) -> ClassSplit:
        known = _named(self.known, datasets.classes, datasets.name)
        if self.unknown is None:
            unknown = _everything_else(datasets, known)
        else:
            groups = {"unknown": self.unknown} if isinstance(self.unknown, list) else self.unknown
            unknown = {}
            for group, entry in groups.items():
                of_dataset = {datasets.name: entry} if isinstance(entry, list) else entry
                unknown[group] = {
                    dataset: _named(wanted, datasets.of(dataset, name), dataset)
                    for dataset, wanted in of_dataset.items()
                }
        return ClassSplit(name, number, datasets.name, known, unknown, "given in the configuration")


@settings_class
class AllKnown(_OwnClassSets):
    """Every class is known; unknown are the dataset's test-only classes and all of the other datasets.

    For out-of-distribution detection, and for folders of images whose test part has additional classes.
    """

    def groups(self, others: Sequence[str]) -> tuple[str, ...]:
        # and "unknown", where the test part has classes of its own
        return tuple(others)

    def split(self, name: str, number: int, datasets: Datasets, _resources: Resources) -> ClassSplit:
        known = datasets.trainable()
        source = "all classes known; unknown from the test part and from other datasets"
        return ClassSplit(name, number, datasets.name, known, _everything_else(datasets, known), source)


PROTOCOLS: Registry = Registry(
    "protocol",
    {
        "mnist": Published,
        "svhn": Published,
        "cifar10": Published,
        "cifar_plus_10": Published,
        "cifar_plus_50": Published,
        "tinyimagenet": Published,
        "cub": SemanticShift,
        "aircraft": SemanticShift,
        "scars": SemanticShift,
        "imagenet": ImageNetShift,
        "random": Random,
        "custom": Custom,
        "all_known": AllKnown,
    },
)


def class_split(
    specification: str | Mapping[str, Any],
    number: int,
    datasets: Datasets,
    resources: Resources | None = None,
) -> ClassSplit:
    """Split `number` (from 0) of a protocol: a name (`tinyimagenet`) or `{name: random, known: 6}`.

    Raises:
        SettingsError: unknown protocol or setting; split out of range; a class that the dataset lacks, that is
            listed twice, or that is both known and unknown; fewer than two known classes, or no unknown one.
    """
    check_number(specification, number)
    protocol = PROTOCOLS.build(specification)
    name = _name(specification)
    split = protocol.split(name, number, datasets, resources or Resources())
    _check(split, datasets)
    return split


def class_sets(
    specification: str | Mapping[str, Any],
    splits: Iterable[int],
    *,
    dataset: str = "",
    reference: Path = REFERENCE,
) -> dict[int, str]:
    """Split -> the name of its class set, of the splits of a protocol; no data are needed.

    Published splits have the names that `ClassSplit.class_set` gives; splits of other protocols have only names that
    tell them apart, because their classes are not known before the data are there.

    Raises:
        SettingsError: unknown protocol or setting, no such split, or the published splits are not in `reference`.
    """
    protocol, name = PROTOCOLS.build(specification), _name(specification)
    found = {}
    for split in splits:
        check_number(specification, split)
        found[split] = protocol.class_set(name, split, dataset, reference)
    return found


def distinct_splits(specification: str | Mapping[str, Any], *, reference: Path = REFERENCE) -> tuple[int, ...]:
    """The splits of a protocol that are used where none are named: no two of them have the same classes.

    Raises:
        SettingsError: unknown protocol or setting, or the published splits are not in `reference`.
    """
    return PROTOCOLS.build(specification).distinct(_name(specification), reference)


def twins(class_sets: Mapping[int, str]) -> list[tuple[int, ...]]:
    """The splits that share their class set, one group a class set, in the order of the first of each.

    >>> twins({0: "a", 1: "a", 2: "b", 3: "c", 4: "b"})
    [(0, 1), (2, 4)]
    """
    groups: dict[str, list[int]] = {}
    for split, name in class_sets.items():
        groups.setdefault(name, []).append(split)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _name(specification: str | Mapping[str, Any]) -> str:
    return specification if isinstance(specification, str) else specification["name"]


def check_number(specification: str | Mapping[str, Any], number: int) -> None:
    """Whether a protocol has split `number` (from 0): the published ones have five, `random` has any number, and the
    others have one.

    Raises:
        SettingsError: unknown protocol or setting, or no such split.
    """
    available = PROTOCOLS.build(specification).available
    name = _name(specification)
    if number < 0 or (available is not None and number >= available):
        if available is None:
            has = "every split from 0 on"
        else:
            has = "one split, number 0" if available == 1 else f"the splits 0 to {available - 1}"
        raise SettingsError(f"protocol {name!r} has no split {number}; it has {has}")


_NUMBER = re.compile(r"-?[0-9]+")


def _named(wanted: Sequence[int | str], classes: Sequence[str], dataset: str) -> tuple[int, ...]:
    """The ids of classes that a configuration names.

    A number is the name of a class where any class of the dataset is called by a number, and a position elsewhere,
    whether it came as a number or as text: on the command line everything is text.
    """
    position = {class_name: label for label, class_name in enumerate(classes)}
    numbers: dict[int, list[str]] = {}
    for class_name in classes:
        if _NUMBER.fullmatch(class_name):
            numbers.setdefault(int(class_name), []).append(class_name)
    ids = []
    for item in wanted:
        text = str(item)
        alike = numbers.get(int(text), []) if _NUMBER.fullmatch(text) else []
        if isinstance(item, int) and alike not in ([], [text]):
            quoted = " or ".join(f'"{name}"' for name in alike)
            raise SettingsError(
                f"{dataset} has no class that the number {text} names alone; write the class with quotes: {quoted}"
            )
        if text in position:
            ids.append(position[text])
        elif _NUMBER.fullmatch(text) and not numbers:
            ids.append(int(text))
        elif alike:
            raise SettingsError(
                f"dataset {dataset} has no class {text!r}; did you mean {' or '.join(map(repr, alike))}?"
            )
        elif _NUMBER.fullmatch(text):
            raise SettingsError(
                f"dataset {dataset} has no class {text!r}; its classes are called by numbers, so that a number is a "
                f"name and no position; {nearest(text, position)}"
            )
        else:
            raise SettingsError(f"dataset {dataset} has no class {item!r}; {nearest(text, position)}")
    return tuple(ids)


def _ids(wanted: Sequence[int | str], classes: Sequence[str], dataset: str) -> tuple[int, ...]:
    """The ids of classes that a published list names: by position, or by name."""
    position = {class_name: label for label, class_name in enumerate(classes)}
    ids = []
    for item in wanted:
        if isinstance(item, str):
            if item not in position:
                raise SettingsError(f"dataset {dataset} has no class {item!r}; {nearest(item, position)}")
            ids.append(position[item])
        else:
            ids.append(int(item))
    return tuple(ids)


def _everything_else(datasets: Datasets, known: Sequence[int]) -> Unknown:
    rest = datasets.rest(known)
    unknown: Unknown = {"unknown": {datasets.name: rest}} if rest else {}
    for other, classes in datasets.others.items():
        unknown[other] = {other: tuple(range(len(classes)))}
    return unknown


def _check(split: ClassSplit, datasets: Datasets) -> None:
    def check_ids(ids: Sequence[int], dataset: str, role: str) -> None:
        total = len(datasets.of(dataset, split.name))
        for label in ids:
            if not 0 <= label < total:
                raise SettingsError(
                    f"protocol {split.name!r}: {role} class {label} does not exist, {dataset} has the classes "
                    f"0 to {total - 1}; correct the list, or prepare the dataset that the protocol was made for"
                )

    check_ids(split.known, split.dataset, "known")
    if len(split.known) < 2:
        raise SettingsError(f"protocol {split.name!r} has {len(split.known)} known classes; give at least two")
    if not split.n_unknown:
        raise SettingsError(
            f"protocol {split.name!r} has no unknown class; leave some classes unknown or add another dataset"
        )
    seen = dict.fromkeys(((split.dataset, label) for label in split.known), "known")
    if len(seen) < len(split.known):
        raise SettingsError(f"protocol {split.name!r} lists a known class twice; list every class once")
    for group, of_group in split.unknown.items():
        if group in ("known", "all", ""):
            raise SettingsError(f"a group of unknown classes cannot be called {group!r}; choose another name")
        for dataset, ids in of_group.items():
            check_ids(ids, dataset, "unknown")
            for label in ids:
                if (dataset, label) in seen:
                    raise SettingsError(
                        f"protocol {split.name!r}: class {datasets.of(dataset, split.name)[label]!r} of {dataset} is "
                        f"both {seen[dataset, label]} and {group}; list every class once"
                    )
                seen[dataset, label] = group
    used = {dataset for of_group in split.unknown.values() for dataset in of_group}
    for other in datasets.others:
        if other not in used:
            raise SettingsError(
                f"protocol {split.name!r} does not use the dataset {other!r}; remove it from the other datasets"
            )


# --------------------------------------------------------------------------------------------- image indices


def make_split(
    split: ClassSplit,
    *,
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    other_test_labels: Mapping[str, np.ndarray],
    classes: Sequence[str],
    seed: int,
    validation_fraction: float,
) -> dict[str, np.ndarray]:
    """The images of a split, as indices into the parts of the prepared datasets.

    Training and validation images are training images of known classes only, so that no test image takes part in
    any choice. The validation images are drawn by `seed`, the same fraction of each class, at least one; a class
    keeps at least one training image. Known test images come first, then the unknown ones, in order of
    group, dataset and index.

    Returns the arrays of `split.npz`: `train_index`, `train_label`, `validation_index`, `validation_label`,
    `test_index`, `test_label` (-1 = unknown), `test_source` (0 = the known dataset, j = the j-th of
    `other_test_labels`), all int64, and `test_group` (0 = known, then by group), int16.

    Raises:
        SettingsError: `validation_fraction` is not in [0, 1).
        DataError: a known class has no training or no test image, too few for a validation image,
            or a group of unknown classes has no test image.
    """
    if not 0 <= validation_fraction < 1:
        raise SettingsError(
            f"validation_fraction is {validation_fraction}; choose 0 (no validation images) or more, below 1"
        )
    position = _positions(split, len(classes))
    _check_images(split, train_labels, test_labels, classes)

    generator = np.random.default_rng(seed)
    in_validation = np.zeros(len(train_labels), dtype=bool)
    for class_id in split.known if validation_fraction > 0 else ():
        indices = np.flatnonzero(train_labels == class_id)
        count = min(max(1, round(validation_fraction * len(indices))), len(indices) - 1)
        if count < 1:
            raise DataError(
                f"known class {classes[class_id]!r} of {split.dataset} has a single training image, which training and "
                "validation cannot share; add images of it, or set the validation fraction to 0"
            )
        in_validation[generator.permutation(indices)[:count]] = True
    of_known = position[train_labels] != UNKNOWN_LABEL
    train, validation = np.flatnonzero(of_known & ~in_validation), np.flatnonzero(in_validation)
    return {
        "train_index": train,
        "train_label": position[train_labels[train]],
        "validation_index": validation,
        "validation_label": position[train_labels[validation]],
        **test_images(split, test_labels, other_test_labels),
    }


def test_images(
    split: ClassSplit, test_labels: np.ndarray, other_test_labels: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """The arrays `test_*` of `make_split`, which need no training images.

    Raises:
        DataError: a group of unknown classes has no test image.
    """
    position = _positions(split, int(max(test_labels.max(initial=0), *split.known)) + 1)
    known = np.flatnonzero(position[test_labels] != UNKNOWN_LABEL)
    # rows of (indices, labels, source, group)
    test = [(known, position[test_labels[known]], 0, 0)]
    sources = {split.dataset: test_labels, **(other_test_labels or {})}
    for code, (group, of_group) in enumerate(split.unknown.items(), start=1):
        for dataset, ids in of_group.items():
            indices = np.flatnonzero(np.isin(sources[dataset], ids))
            test.append((indices, np.full(len(indices), UNKNOWN_LABEL), list(sources).index(dataset), code))
        if not any(len(indices) for indices, _, _, row_code in test if row_code == code):
            raise DataError(
                f"the unknown classes of group {group!r} have no test images; add some, or remove the group"
            )
    lengths = [len(indices) for indices, *_ in test]
    return {
        "test_index": np.concatenate([row[0] for row in test]),
        "test_label": np.concatenate([row[1] for row in test]),
        "test_source": np.repeat([row[2] for row in test], lengths),
        "test_group": np.repeat([row[3] for row in test], lengths).astype(np.int16),
    }


def _positions(split: ClassSplit, classes: int) -> np.ndarray:
    """Class id -> position in the known list, or -1: int64 `[classes]`."""
    position = np.full(classes, UNKNOWN_LABEL)
    position[list(split.known)] = np.arange(len(split.known))
    return position


def _check_images(split: ClassSplit, train_labels: np.ndarray, test_labels: np.ndarray, classes: Sequence[str]) -> None:
    """Every known class needs training and test images."""
    for labels, kind, remedy in (
        (
            train_labels,
            "training",
            "prepare it from an archive that has them (the complete official archive does), or choose another split",
        ),
        (test_labels, "test", "add some, or leave these classes out of the known ones"),
    ):
        without = np.bincount(labels, minlength=len(classes)) == 0
        missing = [classes[class_id] for class_id in split.known if without[class_id]]
        if missing:
            raise DataError(
                f"split {split.number} of protocol {split.name!r} needs {kind} images of {len(missing)} known classes "
                f"that the prepared {split.dataset} lacks: {', '.join(missing)}; {remedy}"
            )


def describe(
    split: ClassSplit, datasets: Datasets, arrays: Mapping[str, np.ndarray], *, seed: int, validation_fraction: float
) -> dict[str, Any]:
    """The contents of `split.json`: names, ids, counts and sources of a split, as plain data."""
    groups = ["known", *split.unknown]
    return {
        "protocol": split.name,
        "split": split.number,
        "seed": seed,
        "source": split.source,
        "dataset": split.dataset,
        "sources": [split.dataset, *datasets.others],
        "known_ids": list(split.known),
        "known": [datasets.classes[label] for label in split.known],
        "unknown_ids": {
            group: {dataset: list(ids) for dataset, ids in of_group.items()}
            for group, of_group in split.unknown.items()
        },
        "unknown": {
            group: [datasets.of(dataset, split.name)[label] for dataset, ids in of_group.items() for label in ids]
            for group, of_group in split.unknown.items()
        },
        "groups": groups,
        "validation_fraction": validation_fraction,
        "n_known_classes": len(split.known),
        "n_unknown_classes": split.n_unknown,
        "openness": split.openness,
        "counts": {
            "train": len(arrays["train_index"]),
            "validation": len(arrays["validation_index"]),
            "test": {group: int(np.sum(arrays["test_group"] == code)) for code, group in enumerate(groups)},
        },
    }
