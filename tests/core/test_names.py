"""Names, paths and text that users write: what becomes a file name or a pattern, and how text is shown."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openset_distill.core.errors import SettingsError
from openset_distill.core.names import any_of, check_distinct, check_name, check_path
from openset_distill.core.text import check_line, printable, rst_escape, spreadsheet_cell

FEW = settings(max_examples=200, deadline=None, derandomize=True)


@pytest.mark.parametrize("name", ["c++", "con", "split0", "tidy", "none", "null", "lr0.1", "a-b", "9", "nan", "x" * 64])
def test_names_that_work(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "-a", "+a", "a b", "a.", "features.csv", "A.CSV", "answers_1.safetensors", "x" * 65, "é",
     "a\n", "{a}", "$a", "a\0", "a'b", 'a"b', "a\\b", "a%b", "a#b", "\udce9", "\u202eab"],
)  # fmt: skip
def test_names_that_are_refused_by_name(name):
    with pytest.raises(SettingsError) as caught:
        check_name(name)
    assert "\n" not in str(caught.value)
    assert "cannot name a folder" in str(caught.value)
    str(caught.value).encode()


def test_names_that_share_a_folder_on_some_file_systems():
    check_distinct(["ce", "cutmix"])
    with pytest.raises(SettingsError, match="'CE' and 'ce' would share a folder"):
        check_distinct(["CE", "ce"])


@FEW
@given(st.lists(st.text(min_size=1, max_size=5), max_size=4), st.text(max_size=5))
def test_a_pattern_matches_its_names_and_nothing_else(names, other):
    pattern = re.compile(f"(?P<run>{any_of(names)})")
    assert all(pattern.fullmatch(name) for name in names)
    assert bool(pattern.fullmatch(other)) == (other in names)


@pytest.mark.parametrize(("path", "plain"), [("results/", "results"), ("./a//b", "a/b"), ("/a/ü $x'", "/a/ü $x'")])
def test_paths_come_in_their_plain_form(path, plain):
    assert check_path(path) == plain


@pytest.mark.parametrize(
    "path", ["", " ", "a{b}", "a}", "a\nb", "-a", "a\0", "\udcff", "x" * 201, "a/" * 1500, "é" * 101]
)
def test_paths_that_the_workflow_cannot_hand_on(path):
    with pytest.raises(SettingsError, match=r"^the path "):
        check_path(path)


def test_a_line_of_text():
    assert check_line("  folded\n  text \n") == "folded text"
    assert check_line("no\u00a0break 日本 {x} $y$ 👩\u200d🔬") == "no\u00a0break 日本 {x} $y$ 👩\u200d🔬"
    for text in ("a\x07b", "\u202eabc", "x" * 201, "a\udce9"):
        with pytest.raises(SettingsError):
            check_line(text)


@FEW
@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_printable_text_is_one_line_of_utf8_and_stays_as_it_is(text):
    shown = printable(text)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown


def test_bytes_that_are_no_utf8_are_shown_as_such():
    assert printable(b"caf\xe9.png".decode("utf-8", "surrogateescape")) == "caf\\xe9.png"


def test_text_for_spreadsheets_and_reports():
    assert [spreadsheet_cell(text) for text in ("=1", "+ CutMix", "-1.5", "+2", "@a", "a=b", "")] == [
        "'=1", "'+ CutMix", "-1.5", "+2", "'@a", "a=b", "",
    ]  # fmt: skip
    assert rst_escape("a*b_ `c` |d|") == r"a\*b\_ \`c\` \|d\|"
