import contextlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from openset_distill.core.errors import DataError
from openset_distill.datasets import safe_pickle


def dumps(value, protocol=2):
    return pickle.dumps(value, protocol=protocol)


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


PLAIN = {
    "known_classes": [1, 2, 300, -(2**70)],
    "unknown_classes": {"Easy": (1, 2), "Hard": [None, True, False, 1.5]},
    b"bytes": {b"\x00\xff", "text"},
    ("a", 1): frozenset([1, 2]),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_containers_come_back_as_they_were(protocol):
    assert safe_pickle.loads(dumps(PLAIN, protocol)) == PLAIN


def test_reads_a_path(tmp_path):
    path = tmp_path / "split.pkl"
    path.write_bytes(pickle.dumps(PLAIN))
    assert safe_pickle.load(path) == PLAIN


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.pkl"):
        safe_pickle.load(tmp_path / "absent.pkl")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(5, dtype=">i4"),
        np.array(["n01440764", "n2"]),
        np.array([True, False]),
        np.empty((0, 7), dtype=np.int64),
        np.array(3.0),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_come_back(array, protocol):
    loaded = safe_pickle.loads(dumps({"data": array, "labels": [1, 2]}, protocol))
    np.testing.assert_array_equal(loaded["data"], array)
    assert loaded["data"].dtype == array.dtype.newbyteorder("=")  # as `pickle` itself reads it
    assert loaded["data"].flags.writeable
    assert type(loaded["data"]) is np.ndarray


@pytest.mark.parametrize("scalar", [np.str_("n02119789"), np.str_(""), np.int64(-7), np.float32(0.5), np.bool_(True)])
def test_scalars_come_back(scalar):
    loaded = safe_pickle.loads(dumps([scalar], 4))[0]
    assert loaded == scalar
    assert type(loaded) is type(scalar)


def python2_batch():
    """A pickle as Python 2 wrote the CIFAR batches: module names of its time, 8-bit strings, protocol 2."""
    pixels = np.arange(12, dtype=np.uint8)[::-1] * 20
    text = lambda value: b"U" + bytes([len(value)]) + value  # noqa: E731 (SHORT_BINSTRING)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01K\x02K\x06\x86cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + text(pixels.tobytes()) + b"tb"
    )
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + b"](K\x06K\x09eu.", pixels.reshape(2, 6)


def test_reads_batches_of_python_2():
    data, pixels = python2_batch()
    loaded = safe_pickle.loads(data)
    np.testing.assert_array_equal(loaded["data"], pixels)
    assert loaded["labels"] == [6, 9]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_commands_are_not_run(tmp_path, protocol):
    mark = tmp_path / "mark"
    with pytest.raises(DataError, match=r"asks for (posix|nt|os)\.system"):
        safe_pickle.loads(dumps([1, Calls(os.system, f"touch {mark}")], protocol))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (eval, "1 + 1"),
        (getattr, (1, "real")),
        (Path, "x"),
        (bytearray, 10),
        (__import__, "os"),
        (open, "x"),
        (bytes, 9),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_other_name_is_refused_and_named(function, argument):
    arguments = argument if isinstance(argument, tuple) else (argument,)
    with pytest.raises(DataError, match=function.__name__ if function is not bytes else "not a readable pickle"):
        safe_pickle.loads(dumps(Calls(function, *arguments)))


def test_a_command_deep_inside_is_refused(tmp_path):
    value = Calls(os.system, f"touch {tmp_path / 'mark'}")
    for _ in range(50):
        value = {"next": [value]}
    with pytest.raises(DataError, match="system"):
        safe_pickle.loads(dumps(value))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x80\x02(S'touch mark'\nios\nsystem\n.", "os.system"),  # INST names and calls at once
        (b"\x80\x04Pid\n.", "persistent"),
        (b"\x80\x02\x82\x01.", "extension"),
        (b"\x80\x02cnumpy\nndarray\nJ\x00\x00\x00\x40\x85R.", "pickle"),  # a call of what is only named
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "pickle"),  # a bytearray of 8 EiB
        (b"\x80\x02cbuiltins\nset\n}S'x'\nK\x01sb.", "pickle"),  # BUILD on an allowed name
        (b"\x80\x02N]r\xff\xff\xff\x7f.", "memo"),
        (b"\x80\x02cbuiltins\nset\n.", "plain"),  # the bare name as the value
    ],
)
def test_hostile_instructions_are_refused(data, what):
    with pytest.raises(DataError, match=what):
        safe_pickle.loads(data)


@pytest.mark.parametrize(
    "array", [np.array([{}], dtype=object), np.zeros(2, dtype=[("a", "i4")]), np.zeros(1, "V8"), np.zeros(1, "M8[s]")]
)
def test_arrays_of_anything_but_numbers_and_text_are_refused(array):
    with pytest.raises(DataError, match="only numbers and text"):
        safe_pickle.loads(dumps(array))


def test_an_array_that_claims_more_than_it_holds_is_refused():
    data = pickle.dumps(np.zeros(7, np.uint8), protocol=2)
    assert data.count(b"K\x07\x85") == 1  # the shape (7,)
    with pytest.raises(DataError, match="not a readable pickle"):
        safe_pickle.loads(data.replace(b"K\x07\x85", b"J\x00\x00\x00\x40\x85"))


def test_too_large_a_pickle_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_pickle, "MAXIMUM_BYTES", 1000)
    path = tmp_path / "split.pkl"
    path.write_bytes(dumps("x" * 1000))
    with pytest.raises(DataError, match="larger than 1000 bytes"):
        safe_pickle.load(path)
    path.write_bytes(dumps("x" * 900))
    assert safe_pickle.load(path) == "x" * 900


def test_deep_nesting_is_refused():
    # written by hand: the pickle module itself cannot write such a thing
    with pytest.raises(DataError, match="levels deep"):
        safe_pickle.loads(b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b".")


def test_what_contains_itself_is_refused():
    value = [1]
    value.append(value)
    with pytest.raises(DataError, match="contains itself"):
        safe_pickle.loads(dumps(value))


def test_a_small_pickle_that_unfolds_to_billions_is_refused():
    value = ["x"]
    for _ in range(12):
        value = [value] * 10
    with pytest.raises(DataError, match="unfolds"):
        safe_pickle.loads(dumps(value))


def test_shared_parts_are_kept():
    shared = [1, 2]
    loaded = safe_pickle.loads(dumps([shared, shared]))
    assert loaded == [[1, 2], [1, 2]]


@pytest.mark.parametrize("cut", [0, 1, 5, 40, -1])
def test_damaged_pickles_are_refused(cut):
    with pytest.raises(DataError, match=r"batch_1 is not a readable pickle"):
        safe_pickle.loads(pickle.dumps(PLAIN)[:cut], name="batch_1")


def test_no_bytes_at_all_can_do_more_than_raise_an_error():
    generator = np.random.default_rng(0)
    whole = pickle.dumps({"data": np.arange(30), "labels": [1, 2], "text": "x"}, protocol=2)
    for _ in range(300):
        damaged = bytearray(whole)
        for position in generator.integers(0, len(whole), 3):
            damaged[position] = generator.integers(0, 256)
        with contextlib.suppress(DataError):
            safe_pickle.loads(bytes(damaged))


def test_huge_announced_lengths_allocate_nothing():
    data = b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc."  # BINBYTES8
    with pytest.raises(DataError, match="not a readable pickle"):
        safe_pickle.loads(data)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("file", "key", "count"),
    [
        ("cub_osr_splits.pkl", "known_classes", 100),
        ("aircraft_osr_splits.pkl", "known_classes", 50),
        ("scars_osr_splits.pkl", "known_classes", 98),
        ("imagenet_osr_splits.pkl", "hard_i21k_classes", 1000),
        ("imagenet_osr_splits_winter21.pkl", "easy_i21k_classes", 1000),
    ],
)
def test_reads_the_published_class_splits(file, key, count):
    mirror = os.environ.get("OPENSET_MIRROR")
    if not mirror:
        pytest.skip("name the folder that holds the official archives in OPENSET_MIRROR")
    path = next(Path(mirror).rglob(file))
    assert len(safe_pickle.load(path)[key]) == count
