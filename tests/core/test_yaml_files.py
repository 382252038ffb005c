"""YAML files of settings: what a lenient parser follows silently or for minutes is one error at once."""

from __future__ import annotations

import time

import pytest

from openset_distill.core.errors import OpenSetError, SettingsError
from openset_distill.core.yaml_files import MAX_BYTES, check_size, parse_yaml, read_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
OF_MAPPINGS = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{p: *a{n - 1}, q: *a{n - 1}}}\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", ["line 2", "'a' stands twice"]),
        ("a: {b: 1, c: 2, b: 3}\n", ["line 1", "'b' stands twice"]),
        (LAUGHS, ["100,000", "aliases"]),
        (OF_MAPPINGS, ["100,000", "aliases"]),
        ("a: &a [*a]\n", ["alias names what it stands in"]),
        ("a: &a {b: *a}\n", ["alias names what it stands in"]),
        ("a: *b\n", ["undefined alias"]),
        ("[" * 200_000, ["nested"]),
        ("- " * 400_000, ["nested"]),
        ("{a: " * 60 + "1" + "}" * 60, ["nested"]),
        ("a: [1\n", ["line 2", "not valid YAML"]),
        ("a: " + "9" * 5000, ["not valid YAML"]),
        ("a: 2024-13-45\n", ["month"]),
        ("? [a]\n: b\n", ["unhashable"]),
        ("a: !!python/object/apply:os.system [exit]\n", ["constructor"]),
        ("a: !!timestamp x\n", ["not valid YAML"]),
        ("a: !!int ''\n", ["not valid YAML"]),
        ("--- 1\n--- 2\n", ["another document"]),
        ("a: \x07\n", ["not valid YAML"]),
    ],
)
def test_a_mistake_is_one_line_within_a_second(text, words, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    start = time.monotonic()
    with pytest.raises(SettingsError) as caught:
        read_yaml(path)
    assert time.monotonic() - start < 1
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500
    assert all(word in message for word in words), message


def test_files_that_are_no_text_or_absurdly_large(tmp_path):
    for name, contents, words in (
        ("utf16.yaml", "a: ä".encode("utf-16"), "not UTF-8"),
        ("large.yaml", b"#" * (MAX_BYTES + 1), "larger than 1 MiB"),
    ):
        (tmp_path / name).write_bytes(contents)
        with pytest.raises(OpenSetError, match=words):
            read_yaml(tmp_path / name)
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / ("x" * 300), "a\0b"):
        with pytest.raises(SettingsError, match="cannot read the configuration file"):
            read_yaml(path)


def test_what_is_right_is_read_as_it_stands():
    text = "﻿base: &base {x: 1}\nuse: {<<: *base, y: 2}\nlist: [*base, *base]\nnone: null\n"
    expected = {"base": {"x": 1}, "use": {"x": 1, "y": 2}, "list": [{"x": 1}, {"x": 1}], "none": None}
    assert parse_yaml(text, "text") == expected
    assert parse_yaml("", "text") is None


def test_plain_data_with_shared_parts_are_counted_unfolded():
    shared: list = ["x"] * 9
    for _ in range(12):
        shared = [shared] * 9
    start = time.monotonic()
    with pytest.raises(SettingsError, match="aliases"):
        check_size({"a": shared}, "configuration")
    assert time.monotonic() - start < 1
    deep: dict = {}
    deep["a"] = deep
    with pytest.raises(SettingsError, match="nested"):
        check_size(deep, "configuration")
    check_size({"a": [1, {"b": 2}]}, "configuration")
