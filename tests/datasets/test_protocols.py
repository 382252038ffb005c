"""Which classes are known, which images train, validate and test, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import archives
import numpy as np
import pytest
import yaml
from commands import REPOSITORY, script, succeed
from hypothesis import given, settings
from hypothesis import strategies as st

from openset_distill.core.errors import DataError, SettingsError
from openset_distill.datasets.prepare import write_prepared
from openset_distill.datasets.protocols import (
    PROTOCOLS,
    UNKNOWN_LABEL,
    ClassSplit,
    Datasets,
    Resources,
    check_number,
    class_sets,
    class_split,
    describe,
    distinct_splits,
    make_split,
    openness,
    twins,
)
from openset_distill.datasets.readers import READERS
from openset_distill.datasets.safe_pickle import load

REFERENCE = REPOSITORY / "config" / "reference"
RESOURCES = Resources(REFERENCE)
DIGITS = Datasets("digits", archives.DIGITS, {})
CIFAR10 = Datasets("cifar10_images", archives.CIFAR10, {})
CIFAR = Datasets("cifar10", archives.CIFAR10, {"cifar100": [f"fine_{label}" for label in range(100)]})
TINY = Datasets("tinyimagenet", [f"n{label:08}" for label in range(200)], {})


# --------------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("name", "datasets", "n_known", "n_unknown"),
    [
        ("mnist", DIGITS, 6, 4),
        ("svhn", DIGITS, 6, 4),
        ("cifar10", CIFAR10, 6, 4),
        ("cifar_plus_10", CIFAR, 4, 10),
        ("cifar_plus_50", CIFAR, 4, 50),
        ("tinyimagenet", TINY, 20, 180),
    ],
)
def test_published_splits_have_the_published_numbers(
    name: str, datasets: Datasets, n_known: int, n_unknown: int
) -> None:
    for number in range(5):
        split = class_split(name, number, datasets, RESOURCES)
        assert (len(split.known), split.n_unknown) == (n_known, n_unknown)
        assert "Vaze" in split.source


def test_known_classes_keep_the_published_order() -> None:
    # spot checks against the publication: label k is the k-th known class, not the k-th in sorted order
    assert class_split("mnist", 0, DIGITS, RESOURCES).known == (2, 4, 5, 9, 8, 3)
    assert class_split("cifar10", 0, Datasets("cifar10", archives.CIFAR10, {}), RESOURCES).known == (0, 6, 4, 9, 1, 7)
    assert class_split("tinyimagenet", 4, TINY, RESOURCES).known[:3] == (95, 6, 145)


def test_cifar_plus_takes_its_unknowns_from_cifar100_alone() -> None:
    split = class_split("cifar_plus_10", 2, CIFAR, RESOURCES)
    assert split.known == (9, 6, 1, 7)
    assert split.unknown == {"unknown": {"cifar100": (8, 9, 49, 40, 73, 60, 48, 95, 30, 71)}}


def test_cifar_plus_50_contains_cifar_plus_10() -> None:
    for number in range(5):
        ten, fifty = (class_split(f"cifar_plus_{count}", number, CIFAR, RESOURCES) for count in (10, 50))
        assert ten.known == fifty.known
        assert set(ten.unknown["unknown"]["cifar100"]) < set(fifty.unknown["unknown"]["cifar100"])


def test_openness() -> None:
    assert openness(10, 0) == 0
    assert openness(6, 4) == pytest.approx(1 - (12 / 16) ** 0.5)  # Scheirer et al. 2013: trained 6, tested 10, target 6
    assert class_split("tinyimagenet", 0, TINY, RESOURCES).openness == pytest.approx(0.5736, abs=1e-4)


@given(known=st.integers(2, 199), seed=st.integers(0, 2**32 - 1), number=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_random_splits_part_the_classes_and_repeat(known: int, seed: int, number: int) -> None:
    specification = {"name": "random", "known": known, "seed": seed}
    number %= math.comb(200, known)
    split = class_split(specification, number, TINY)
    assert len(split.known) == known
    assert sorted(split.known + split.unknown["unknown"]["tinyimagenet"]) == list(range(200))
    assert class_split(specification, number, TINY) == split


def test_random_splits_differ_by_number_and_seed() -> None:
    drawn = {
        class_split({"name": "random", "known": 6, "seed": seed}, number, TINY).known
        for seed in range(3)
        for number in range(3)
    }
    assert len(drawn) == 9


def test_random_never_takes_test_only_classes_as_known() -> None:
    datasets = Datasets("pictures", ["a", "b", "c", "fox"], {}, ["fox"])
    for number in range(3):
        assert 3 not in class_split({"name": "random", "known": 2}, number, datasets).known


@pytest.mark.parametrize(("known", "ways"), [(2, 6), (3, 4)])
def test_random_splits_are_all_the_ways_to_choose_each_once(known: int, ways: int) -> None:
    few = Datasets("few", ["a", "b", "c", "d"], {})
    specification = {"name": "random", "known": known}
    splits = [class_split(specification, number, few) for number in range(ways)]
    assert len({frozenset(split.known) for split in splits}) == ways == len({split.class_set for split in splits})
    # a draw that is new stays as it was
    first = np.random.default_rng((0, 0)).permutation(4)[:known]
    assert splits[0].known == tuple(first)
    with pytest.raises(SettingsError, match=rf"'random' has no split {ways}: .* in {ways} ways, the splits 0 to"):
        class_split(specification, ways, few)


# ----------------------------------------------------------------------------------------------- class sets


@pytest.mark.parametrize(
    ("name", "datasets", "expected", "distinct"),
    [
        ("mnist", DIGITS, [], (0, 1, 2, 3, 4)),
        ("svhn", DIGITS, [(0, 1)], (1, 2, 3, 4)),
        ("cifar10", CIFAR10, [(0, 1)], (1, 2, 3, 4)),
        # splits 1 and 2 have the same known classes, and other unknown ones
        ("cifar_plus_10", CIFAR, [], (0, 1, 2, 3, 4)),
        ("cifar_plus_50", CIFAR, [], (0, 1, 2, 3, 4)),
        ("tinyimagenet", TINY, [], (0, 1, 2, 3, 4)),
    ],
)
def test_twins_of_the_published_protocols(name, datasets, expected, distinct) -> None:
    found = class_sets(name, range(5), dataset=datasets.name, reference=REFERENCE)
    assert twins(found) == expected
    assert distinct_splits(name, reference=REFERENCE) == distinct
    assert not twins(class_sets(name, distinct, reference=REFERENCE))
    # the names are those that the data give
    assert found == {number: class_split(name, number, datasets, RESOURCES).class_set for number in range(5)}


def test_a_class_set_is_a_set_and_more_than_its_known_classes() -> None:
    def name(known: Sequence[int], unknown: Sequence[int], dataset: str = "pets", of: str = "pets") -> str:
        return ClassSplit("custom", 0, dataset, tuple(known), {"unknown": {of: tuple(unknown)}}, "").class_set

    one = name([1, 2], [3, 4])
    assert re.fullmatch("[0-9a-f]{8}", one)
    assert one == name([2, 1], [4, 3])
    assert len({one, name([1, 3], [2, 4]), name([1, 2], [3]), name([1, 2], [3, 4], of="cars")}) == 4
    grouped = ClassSplit("custom", 1, "pets", (1, 2), {"easy": {"pets": (3,)}, "hard": {"pets": (4,)}}, "")
    assert grouped.class_set == one
    assert one != name([1, 2], [3, 4], dataset="cars")


@pytest.mark.parametrize(
    ("specification", "distinct"),
    [("cub", (0,)), ("imagenet", (0,)), ("all_known", (0,)), ({"name": "custom", "known": [0, 1]}, (0,)),
     ({"name": "random", "known": 3}, (0, 1, 2, 3, 4))],
)  # fmt: skip
def test_splits_of_other_protocols_are_distinct(specification, distinct) -> None:
    assert distinct_splits(specification, reference=Path("nowhere")) == distinct
    found = class_sets(specification, distinct, reference=Path("nowhere"))
    assert twins(found) == []
    assert len(set(found.values())) == len(distinct)


def test_class_sets_need_the_published_splits_and_a_split_that_exists() -> None:
    with pytest.raises(SettingsError, match=r"the published splits are not at .*nowhere/protocols\.json"):
        distinct_splits("cifar10", reference=Path("nowhere"))
    with pytest.raises(SettingsError, match="'cifar10' has no split 5"):
        class_sets("cifar10", [5], reference=REFERENCE)


def test_custom_by_names_and_ids() -> None:
    pets = Datasets("pets", ["cat", "dog", "owl", "bat"], {"cars": ["bus", "van"]})
    specification = {
        "name": "custom",
        "known": ["owl", 0],
        "unknown": {"animals": ["bat"], "vehicles": {"cars": [1, "bus"], "pets": ["dog"]}},
    }
    split = class_split(specification, 0, pets)
    assert split.known == (2, 0)
    assert split.unknown == {"animals": {"pets": (3,)}, "vehicles": {"cars": (1, 0), "pets": (1,)}}
    assert split.n_unknown == 4


@pytest.mark.parametrize("quoted", [False, True])
def test_a_number_is_a_name_where_classes_are_called_by_numbers(quoted: bool) -> None:
    """A file gives numbers, the command line gives text; both mean the same class."""
    folders = Datasets("pets", sorted(["1", "2", "3", "10", "11", "12"]), {"years": ["1999", "20230101"]})
    wanted = [1, 2, 3]
    specification = {"name": "custom", "known": [str(n) for n in wanted] if quoted else wanted}
    split = class_split(specification | {"unknown": {"years": {"years": [20230101]}}}, 0, folders)
    assert [folders.classes[label] for label in split.known] == ["1", "2", "3"]
    assert split.unknown == {"years": {"years": (1,)}}


@pytest.mark.parametrize("quoted", [False, True])
def test_a_number_is_a_position_where_no_class_is_called_by_one(quoted: bool) -> None:
    pets = Datasets("pets", ["cat", "dog", "owl"], {})
    assert class_split({"name": "custom", "known": ["2", "0"] if quoted else [2, 0]}, 0, pets).known == (2, 0)


def test_numbers_with_zeros_in_front_need_quotes() -> None:
    padded = Datasets("pets", ["01", "02", "10"], {})
    assert class_split({"name": "custom", "known": ["01", "02"]}, 0, padded).known == (0, 1)
    with pytest.raises(SettingsError, match='the number 1 names alone; write the class with quotes: "01"'):
        class_split({"name": "custom", "known": [1, 10]}, 0, padded)
    with pytest.raises(SettingsError, match="has no class '1'; did you mean '01'"):
        class_split({"name": "custom", "known": ["1", "10"]}, 0, padded)
    both = Datasets("pets", ["1", "01", "2"], {})
    with pytest.raises(SettingsError, match='with quotes: "1" or "01"'):
        class_split({"name": "custom", "known": [1, 2]}, 0, both)
    assert class_split({"name": "custom", "known": ["1", "2"]}, 0, both).known == (0, 2)


@pytest.mark.parametrize("key", ["known", "unknown", "group"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no", ("truth value", 'write "no" with quotes')),
        ("on", ("truth value", 'write "yes" with quotes')),
        ("null", ("empty value", '"null"')),
        ("~", ("empty value",)),
        ("1.5", ('"1.5" with quotes',)),
        ("2024-01-02", ('"2024-01-02" with quotes',)),
        ("[a]", ("a list is no class",)),
        ("9" * 30, ("with quotes",)),
    ],
)
def test_what_yaml_makes_of_a_name_is_no_class(text: str, words: tuple[str, ...], key: str) -> None:
    value = yaml.safe_load(text)
    specification: dict = {"name": "custom", "known": ["maybe", "no"]}
    if key == "known":
        specification["known"] = ["maybe", value]
    else:
        specification["unknown"] = [value] if key == "unknown" else {"a": {"answers": [value]}}
    answers = Datasets("answers", ["maybe", "no", "on", "yes"], {})
    with pytest.raises(SettingsError) as raised:
        class_split(specification, 0, answers)
    for word in words:
        assert word in str(raised.value)


def test_a_group_that_yaml_does_not_read_as_text() -> None:
    with pytest.raises(SettingsError, match="false is no name of a group or dataset; write it with quotes"):
        PROTOCOLS.resolve({"name": "custom", "known": ["a", "b"], "unknown": {False: ["c"]}})


def test_custom_without_unknowns_takes_everything_else() -> None:
    pets = Datasets("pets", ["cat", "dog", "owl"], {"cars": ["bus", "van"]})
    split = class_split({"name": "custom", "known": ["owl", "cat"]}, 0, pets)
    assert split.unknown == {"unknown": {"pets": (1,)}, "cars": {"cars": (0, 1)}}


def test_all_known_with_other_datasets() -> None:
    pets = Datasets("pets", ["cat", "dog", "fox"], {"cars": ["bus"], "textures": ["dotted", "woven"]}, ["fox"])
    split = class_split("all_known", 0, pets)
    assert split.known == (0, 1)
    assert split.unknown == {"unknown": {"pets": (2,)}, "cars": {"cars": (0,)}, "textures": {"textures": (0, 1)}}


def published(known: Sequence[int], **groups: Sequence[int]) -> dict:
    return {"known_classes": list(known), "unknown_classes": {name.title(): list(ids) for name, ids in groups.items()}}


BIRDS = Datasets("cub", [f"bird {label}" for label in range(10)], {})
BIRD_SPLIT = published([9, 0, 4, 2], easy=[1, 3], medium=[5], hard=[6, 7, 8])


def test_semantic_shift_groups() -> None:
    split = class_split("cub", 0, BIRDS, Resources(REFERENCE, BIRD_SPLIT))
    assert split.known == (9, 0, 4, 2)
    assert list(split.unknown.items()) == [
        ("easy", {"cub": (1, 3)}),
        ("medium", {"cub": (5,)}),
        ("hard", {"cub": (6, 7, 8)}),
    ]


def test_semantic_shift_hard_of_later_papers() -> None:
    split = class_split({"name": "cub", "combine_hard": True}, 0, BIRDS, Resources(REFERENCE, BIRD_SPLIT))
    assert split.unknown == {"easy": {"cub": (1, 3)}, "hard": {"cub": (5, 6, 7, 8)}}
    assert "medium and hard" in split.source


@pytest.mark.parametrize(
    "broken", [np.inf, np.nan, 1.5, None, "a", [1], np.array([[9, 0]]), np.array([1.0, 2.0]), {}, 2**70, -1]
)
@pytest.mark.parametrize("place", ["known", "unknown"])
def test_published_lists_that_hold_anything_else(place: str, broken: object) -> None:
    lists = published([9, 0, 4, 2], easy=[1, 3], medium=[5], hard=[6, 7, 8])
    if place == "known":
        lists["known_classes"] = broken if isinstance(broken, np.ndarray) else [9, 0, 4, broken]
    else:
        lists["unknown_classes"]["Easy"] = broken if isinstance(broken, np.ndarray) else [1, broken]
    with pytest.raises((DataError, SettingsError), match="'cub'") as raised:
        class_split("cub", 0, BIRDS, Resources(REFERENCE, lists))
    assert "\n" not in str(raised.value)


def test_imagenet_unknowns_come_from_imagenet21k_by_name() -> None:
    datasets = Datasets("imagenet", ["n1", "n2"], {"imagenet21k": ["n1", "n7", "n8", "n9"]})
    lists = {"easy_i21k_classes": np.array(["n9"]), "hard_i21k_classes": ["n8", "n7"]}
    split = class_split("imagenet", 0, datasets, Resources(REFERENCE, lists))
    assert split.known == (0, 1)
    assert split.unknown == {"easy": {"imagenet21k": (3,)}, "hard": {"imagenet21k": (2, 1)}}


def test_resolved_settings_are_plain_data() -> None:
    assert PROTOCOLS.resolve({"name": "random", "known": 6}) == {"name": "random", "known": 6, "seed": 0}
    assert PROTOCOLS.resolve("cub") == {"name": "cub", "combine_hard": False}
    assert json.dumps(PROTOCOLS.resolve({"name": "custom", "known": [1, "a"]}))


# ------------------------------------------------------------------------------------------- refused classes


@pytest.mark.parametrize(
    ("specification", "number", "datasets", "words"),
    [
        ("mnst", 0, DIGITS, ("mnst", "did you mean 'mnist'")),
        ({"name": "random", "knwon": 3}, 0, DIGITS, ("knwon", "did you mean 'known'")),
        ({"name": "random"}, 0, DIGITS, ("random", "known")),
        ({"name": "random", "known": 0}, 0, DIGITS, ("known", "greater than or equal to 2")),
        ({"name": "random", "known": 10}, 0, DIGITS, ("10 known classes", "only 9 can be known")),
        ("mnist", 5, DIGITS, ("no split 5", "0 to 4")),
        ("mnist", -1, DIGITS, ("no split -1",)),
        ("all_known", 1, CIFAR, ("no split 1", "number 0")),
        ({"name": "random", "known": 2}, -1, DIGITS, ("no split -1", "from 0 on")),
        ("mnist", 0, CIFAR, ("'mnist'", "'cifar10'", "airplane", "choose the protocol")),
        ("cifar10", 0, DIGITS, ("'cifar10'", "'digits'")),
        ("tinyimagenet", 0, DIGITS, ("200", "'digits'")),
        ("cifar_plus_10", 0, Datasets("cifar10", archives.CIFAR10, {}), ("cifar100", "given: none")),
        (
            "cifar_plus_10",
            0,
            Datasets("cifar10", archives.CIFAR10, {"cifar100": ["a", "b"]}),
            ("unknown class 30 does not exist", "cifar100", "0 to 1"),
        ),
        ("mnist", 0, Datasets("digits", archives.DIGITS, {"isun": ["isun"]}), ("does not use", "isun", "remove")),
        ("all_known", 0, DIGITS, ("no unknown class",)),
        ("all_known", 0, Datasets("isun", ["isun"], {"x": ["y"]}, ["isun"]), ("0 known classes",)),
        ({"name": "custom", "known": []}, 0, DIGITS, ("0 known classes", "at least two")),
        ({"name": "custom", "known": [3]}, 0, DIGITS, ("1 known classes",)),
        ({"name": "custom", "known": list(range(10))}, 0, DIGITS, ("no unknown class",)),
        ({"name": "custom", "known": [0, 1], "unknown": []}, 0, DIGITS, ("no unknown class",)),
        ({"name": "custom", "known": [1, 10]}, 0, DIGITS, ("no class '10'", "called by numbers")),
        ({"name": "custom", "known": [0, 1], "unknown": [-2]}, 0, DIGITS, ("no class '-2'", "called by numbers")),
        ({"name": "custom", "known": [1, 10]}, 0, CIFAR, ("known class 10 does not exist", "0 to 9")),
        ({"name": "custom", "known": [0, 1], "unknown": ["-2"]}, 0, CIFAR, ("unknown class -2 does not exist",)),
        ({"name": "custom", "known": ["catt"]}, 0, CIFAR, ("no class 'catt'", "did you mean 'cat'")),
        ({"name": "custom", "known": [1, 1]}, 0, DIGITS, ("twice",)),
        ({"name": "custom", "known": [1, "2"], "unknown": [2]}, 0, DIGITS, ("'2'", "both known and unknown")),
        (
            {"name": "custom", "known": [0, 1], "unknown": {"a": [2], "b": [3, 2]}},
            0,
            DIGITS,
            ("'2'", "both a and b"),
        ),
        ({"name": "custom", "known": [0, 1], "unknown": {"known": [2]}}, 0, DIGITS, ("'known'", "another name")),
        ({"name": "custom", "known": [0, 1], "unknown": {"a": {"birds": [2]}}}, 0, DIGITS, ("birds", "given: none")),
        ({"name": "custom", "known": [1.5]}, 0, DIGITS, ("known",)),
        ("cub", 0, BIRDS, ("cub_osr_splits.pkl", "--published")),
    ],
)
def test_refused(specification: str | dict, number: int, datasets: Datasets, words: Sequence[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        class_split(specification, number, datasets, RESOURCES)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "contents", [{}, [1, 2], {"known_classes": [1]}, published(["x"], easy=[], medium=[], hard=[])]
)
def test_authors_file_of_another_structure(contents: object) -> None:
    with pytest.raises(DataError, match="another structure"):
        class_split("cub", 0, BIRDS, Resources(REFERENCE, contents))
    with pytest.raises(DataError, match="another structure"):
        class_split("imagenet", 0, BIRDS, Resources(REFERENCE, contents))


def test_authors_file_of_another_dataset() -> None:
    other = published([0, 1], easy=[2], medium=[], hard=[3])
    with pytest.raises(SettingsError, match="splits 4 classes, but 'cub' has 10"):
        class_split("cub", 0, BIRDS, Resources(REFERENCE, other))


def test_missing_reference_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"protocols\.json; run from the root of the repository"):
        class_split("mnist", 0, DIGITS, Resources(tmp_path))


def test_number_of_a_split_is_checked_without_data() -> None:
    check_number("tinyimagenet", 4)
    check_number({"name": "random", "known": 3}, 10_000)
    with pytest.raises(SettingsError, match="no split 1; it has one split, number 0"):
        check_number("cub", 1)


# ---------------------------------------------------------------------------------------------------- images


def small_split(**changes: object) -> ClassSplit:
    values = {
        "name": "custom",
        "number": 0,
        "dataset": "pets",
        "known": (3, 0),
        "unknown": {"near": {"pets": (1,)}, "far": {"cars": (1,), "pets": (2,)}},
        "source": "test",
    }
    return ClassSplit(**(values | changes))


PETS = ("cat", "dog", "owl", "bat")
TRAIN = np.array([0, 1, 2, 3] * 10 + [3] * 10)
TEST = np.array([3, 2, 1, 0, 0, 3])
CARS = np.array([0, 1, 1])


def images(split: ClassSplit | None = None, **changes: object) -> dict[str, np.ndarray]:
    options = {
        "train_labels": TRAIN,
        "test_labels": TEST,
        "other_test_labels": {"cars": CARS},
        "classes": PETS,
        "seed": 0,
        "validation_fraction": 0.2,
    }
    return make_split(split or small_split(), **(options | changes))


def test_images_of_a_split() -> None:
    arrays = images()
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "train_index": "int64",
        "train_label": "int64",
        "validation_index": "int64",
        "validation_label": "int64",
        "test_index": "int64",
        "test_label": "int64",
        "test_source": "int64",
        "test_group": "int16",
    }
    known = np.array(small_split().known)
    for part in ("train", "validation"):
        index, label = arrays[f"{part}_index"], arrays[f"{part}_label"]
        assert np.array_equal(known[label], TRAIN[index])  # the label is the position in the known list
        assert np.all(np.diff(index) > 0)
    assert (
        sorted([*arrays["train_index"], *arrays["validation_index"]]) == np.flatnonzero(np.isin(TRAIN, known)).tolist()
    )
    assert np.bincount(arrays["validation_label"]).tolist() == [4, 2]  # a fifth of 20 and of 10
    rows = list(zip(*(arrays[f"test_{name}"].tolist() for name in ("index", "label", "source", "group")), strict=True))
    assert rows == [
        *[(0, 0, 0, 0), (3, 1, 0, 0), (4, 1, 0, 0), (5, 0, 0, 0)],
        (2, UNKNOWN_LABEL, 0, 1),
        *[(1, UNKNOWN_LABEL, 1, 2), (2, UNKNOWN_LABEL, 1, 2)],
        (1, UNKNOWN_LABEL, 0, 2),
    ]


def test_validation_images_depend_on_the_seed_alone() -> None:
    assert all(np.array_equal(images()[name], array) for name, array in images().items())
    assert not np.array_equal(images()["validation_index"], images(seed=1)["validation_index"])
    assert np.array_equal(images()["test_index"], images(seed=1)["test_index"])


@given(
    counts=st.lists(st.integers(2, 30), min_size=2, max_size=6),
    fraction=st.floats(0.001, 0.999),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_every_class_keeps_training_and_validation_images(counts: list[int], fraction: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    known = tuple(range(len(counts) - 1))
    split = small_split(known=known, unknown={"unknown": {"pets": (len(counts) - 1,)}})
    arrays = images(
        split,
        train_labels=labels,
        test_labels=np.arange(len(counts)),
        other_test_labels={},
        classes=[str(count) for count in counts],
        seed=seed,
        validation_fraction=fraction,
    )
    for label in known:
        train, validation = (int(np.sum(arrays[f"{part}_label"] == label)) for part in ("train", "validation"))
        assert train >= 1
        assert validation >= 1
        assert train + validation == counts[label]
        assert abs(validation - fraction * counts[label]) <= 1
    assert not set(arrays["train_index"]) & set(arrays["validation_index"])


def test_no_validation_images_when_none_are_wanted() -> None:
    arrays = images(validation_fraction=0.0)
    assert len(arrays["validation_index"]) == len(arrays["validation_label"]) == 0
    assert len(arrays["train_index"]) == 30


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_validation_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(SettingsError, match="validation_fraction"):
        images(validation_fraction=fraction)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_labels": np.array([0, 0, 1])}, ("training images of 1 known classes", "bat", "official archive")),
        ({"test_labels": np.array([3, 1, 2])}, ("test images of 1 known classes", "cat")),
        ({"train_labels": np.array([0, 0, 3])}, ("'bat'", "single training image", "fraction to 0")),
        ({"test_labels": np.array([0, 3, 2])}, ("'near'", "no test images")),
    ],
)
def test_images_that_are_not_there(changes: dict, words: Sequence[str]) -> None:
    with pytest.raises(DataError) as caught:
        images(**changes)
    for word in words:
        assert word in str(caught.value)


def test_description_has_names_counts_and_sources() -> None:
    datasets = Datasets("pets", PETS, {"cars": ["bus", "van"]})
    description = describe(small_split(), datasets, images(), seed=7, validation_fraction=0.2)
    assert description["known"] == ["bat", "cat"]
    assert description["known_ids"] == [3, 0]
    assert description["unknown"] == {"near": ["dog"], "far": ["van", "owl"]}
    assert description["unknown_ids"] == {"near": {"pets": [1]}, "far": {"cars": [1], "pets": [2]}}
    assert description["groups"] == ["known", "near", "far"]
    assert description["sources"] == ["pets", "cars"]
    assert description["counts"] == {"train": 24, "validation": 6, "test": {"known": 4, "near": 1, "far": 3}}
    assert (description["n_known_classes"], description["n_unknown_classes"]) == (2, 3)
    assert description["openness"] == pytest.approx(1 - (4 / 7) ** 0.5)
    assert json.loads(json.dumps(description)) == description


# --------------------------------------------------------------------------------------------------- command


def split_command(folder: Path, prepared: Path, protocol: str | dict, *more: object) -> list[object]:
    text = protocol if isinstance(protocol, str) else json.dumps(protocol)
    files = ["--arrays", folder / "split.npz", "--description", folder / "split.json"]
    return ["split.py", "--prepared", prepared, "--protocol", text, *files, *more]


def prepared(layout: str, folder: Path, name: str, make: Callable[[Path], object], size: int = 16) -> Path:
    make(folder / "raw" / name)
    raw = READERS[layout](folder / "raw" / name)
    write_prepared(raw, folder / name / f"{size}x{raw.channels}", name=name, size=size)
    return folder / name / f"{size}x{raw.channels}"


def test_command_with_a_folder_of_images_and_other_images(tmp_path: Path) -> None:
    pets = prepared("image_folder", tmp_path, "image_folder", archives.image_folder)
    isun = prepared("flat_images", tmp_path, "isun", archives.flat_images)
    more = ("--other", f"isun={isun}", "--seed", 3, "--validation-fraction", 0.25)
    succeed(script(*split_command(tmp_path, pets, "all_known", *more)))
    description = json.loads((tmp_path / "split.json").read_text())
    assert description["known"] == ["cat", "dog", "owl"]
    assert description["unknown"] == {"unknown": ["fox"], "isun": ["isun"]}
    assert description["counts"] == {"train": 9, "validation": 3, "test": {"known": 6, "unknown": 2, "isun": 5}}
    with np.load(tmp_path / "split.npz", allow_pickle=False) as arrays:
        assert np.bincount(arrays["test_source"]).tolist() == [8, 5]


def test_command_with_published_semantic_shift(tmp_path: Path) -> None:
    cub = prepared("cub", tmp_path, "cub", lambda folder: archives.cub(folder, classes=10))
    path = tmp_path / "cub_osr_splits.pkl"
    archives.class_split_pickle(path, BIRD_SPLIT["known_classes"], BIRD_SPLIT["unknown_classes"])
    output = succeed(script(*split_command(tmp_path, cub, "cub", "--published", path))).stdout
    assert "4 known and 6 unknown classes" in output
    assert json.loads((tmp_path / "split.json").read_text())["groups"] == ["known", "easy", "medium", "hard"]


def test_same_seed_same_bytes(tmp_path: Path, digits: Path) -> None:
    files = []
    for name in ("one", "two"):
        succeed(script(*split_command(tmp_path / name, digits, {"name": "random", "known": 5}, "--split", 2)))
        files.append([(tmp_path / name / file).read_bytes() for file in ("split.npz", "split.json")])
    assert files[0] == files[1]


def test_partial_tiny_imagenet_names_what_is_missing(tmp_path: Path) -> None:
    split = class_split("tinyimagenet", 1, TINY, RESOURCES)
    present = sorted(set(split.known) - {split.known[3]})

    def make(folder: Path) -> None:
        archives.tiny_imagenet(folder, classes=200, train=2, test=1, present=present)

    tiny = prepared("tiny_imagenet", tmp_path, "tinyimagenet", make, size=8)
    process = script(*split_command(tmp_path, tiny, "tinyimagenet", "--split", 1))
    assert process.returncode == 2
    missing = f"n{10_000_000 + 7 * split.known[3]:08}"
    for word in ("training images of 1 known classes", missing, "complete official archive"):
        assert word in process.stderr
    assert not (tmp_path / "split.npz").exists()


@pytest.mark.parametrize(
    ("protocol", "more", "words"),
    [
        ("mnist", ("--split", 9), ("no split 9",)),
        ("mnist", ("--reference", "nowhere"), ("nowhere/protocols.json",)),
        ("all_known", ("--other", "digits={digits}"), ("known dataset", "remove --other digits")),
        ("all_known", ("--other", "isun={digits}/none"), ("none holds no prepared dataset",)),
        ("cub", ("--published", "{digits}/manifest.json"), ("manifest.json", "pickle")),
    ],
)
def test_command_refuses(protocol: str, more: Sequence, words: Sequence[str], digits: Path, tmp_path: Path) -> None:
    filled = [str(word).format(digits=digits) for word in more]
    process = script(*split_command(tmp_path, digits, protocol, *filled))
    assert process.returncode == 2
    assert process.stderr.startswith("error: ")
    assert len(process.stderr.splitlines()) == 1
    for word in words:
        assert word in process.stderr
    assert not list(tmp_path.iterdir())


def test_command_refuses_images_of_another_shape(digits: Path, tmp_path: Path) -> None:
    isun = prepared("flat_images", tmp_path, "isun", archives.flat_images)
    process = script(*split_command(tmp_path, digits, "all_known", "--other", f"isun={isun}"))
    assert process.returncode == 2
    assert "isun are 16x16 with 3 channels, those of digits are 8x8 with 1 channel; prepare isun" in process.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--protocol", '{"name": '), "is not JSON"), (("--protocol", "mnist", "--other", "isun"), "is not NAME=FOLDER")],
)
def test_command_line_that_cannot_be_read(arguments: Sequence[str], words: str, digits: Path, tmp_path: Path) -> None:
    files = ["--arrays", tmp_path / "split.npz", "--description", tmp_path / "split.json"]
    process = script("split.py", "--prepared", digits, *files, *arguments)
    assert process.returncode == 2
    assert words in process.stderr


# ------------------------------------------------------------------------------------------------- references


def test_published_results_carry_source_and_protocol() -> None:
    with open(REFERENCE / "published_results.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert rows
    for row in rows:
        assert row["source"]
        assert row["protocol"]
        assert row["confidence"] in ("primary", "secondary", "stale")
        assert 0 < float(row["value"]) < 100


# -------------------------------------------------------------------------------------------------- real data


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "classes", "known", "groups"),
    [
        ("cub", 200, 100, {"easy": 32, "medium": 34, "hard": 34}),
        ("aircraft", 100, 50, {"easy": 20, "medium": 17, "hard": 13}),
        ("scars", 196, 98, {"easy": 76, "medium": 15, "hard": 7}),
    ],
)
def test_real_semantic_shift_splits(name: str, classes: int, known: int, groups: dict[str, int]) -> None:
    lists = load(archives.mirrored(f"{name}_osr_splits.pkl"))
    datasets = Datasets(name, [f"class {label}" for label in range(classes)], {})
    split = class_split(name, 0, datasets, Resources(REFERENCE, lists))
    assert len(split.known) == known
    assert {group: len(of_group[name]) for group, of_group in split.unknown.items()} == groups


@pytest.mark.real_data
@pytest.mark.parametrize(("suffix", "hard"), [("", 1000), ("_winter21", 980)])
def test_real_imagenet_splits(suffix: str, hard: int) -> None:
    lists = load(archives.mirrored(f"imagenet_osr_splits{suffix}.pkl"))
    wnids = sorted({str(wnid) for group in ("easy", "hard") for wnid in lists[f"{group}_i21k_classes"]})
    datasets = Datasets("imagenet", [f"n{label}" for label in range(1000)], {"imagenet21k": wnids})
    split = class_split("imagenet", 0, datasets, Resources(REFERENCE, lists))
    assert len(split.known) == 1000
    assert len(split.unknown["easy"]["imagenet21k"]) == 1000
    assert len(split.unknown["hard"]["imagenet21k"]) == hard


@pytest.mark.real_data
def test_real_tiny_imagenet_has_what_every_split_needs() -> None:
    raw = READERS["tiny_imagenet"](archives.mirrored("tiny-imagenet-200.zip"))
    datasets = Datasets("tinyimagenet", raw.classes, {})
    for number in range(5):
        split = class_split("tinyimagenet", number, datasets, RESOURCES)
        arrays = make_split(
            split,
            train_labels=raw.train.labels,
            test_labels=raw.test.labels,
            other_test_labels={},
            classes=raw.classes,
            seed=0,
            validation_fraction=0.1,
        )
        counts = describe(split, datasets, arrays, seed=0, validation_fraction=0.1)["counts"]
        assert counts == {"train": 9000, "validation": 1000, "test": {"known": 1000, "unknown": 9000}}
    # split 0 starts with class 108, whose wnid is at this place of the sorted list
    assert class_split("tinyimagenet", 0, datasets, RESOURCES).known[0] == 108
