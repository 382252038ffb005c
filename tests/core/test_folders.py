"""Folders that are replaced as a whole: only what the same command wrote goes, once the new one is complete."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import REPOSITORY

from openset_distill.core.errors import OpenSetError
from openset_distill.core.folders import replaced_folder


def make(folder: Path, text: str, fail: bool = False, **options) -> None:
    with replaced_folder(folder, tool="test", own=lambda _: {"a.txt", "sub/b.txt"}, **options) as new:
        (new / "sub").mkdir()
        (new / "a.txt").write_text(text)
        if fail:
            raise KeyboardInterrupt
        (new / "sub" / "b.txt").write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "deep" / "out"
    make(folder, "1")
    assert contents(folder) == {"a.txt": "1", "sub/b.txt": "1"}
    with pytest.raises(KeyboardInterrupt):
        make(folder, "2", fail=True)
    assert contents(folder) == {"a.txt": "1", "sub/b.txt": "1"}
    make(folder, "3")
    assert contents(folder) == {"a.txt": "3", "sub/b.txt": "3"}
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty", "4")
    assert contents(tmp_path / "empty")["a.txt"] == "4"


def test_what_a_killed_process_left_is_cleared_and_the_old_folder_comes_back(tmp_path):
    folder = tmp_path / "out"
    make(folder, "1")
    folder.rename(tmp_path / ".out.test.old")
    (tmp_path / ".out.test.new").mkdir()
    with pytest.raises(KeyboardInterrupt):
        make(folder, "2", fail=True)
    assert contents(folder) == {"a.txt": "1", "sub/b.txt": "1"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_error_of_the_block_is_not_blamed_on_the_folder(tmp_path):
    def fill(_new: Path) -> None:
        (tmp_path / "absent.txt").read_text()

    def overflow(_new: Path) -> None:
        raise OSError(28, "No space left on device")  # writing names no file

    def misplace(new: Path) -> None:
        (new / "a" / "b").mkdir()

    for block, kind, words in (
        (fill, FileNotFoundError, "absent.txt"),
        (overflow, OpenSetError, "cannot write the folder .*out: No space left"),
        (misplace, OpenSetError, "cannot write the folder .*out: No such file"),
    ):
        with (
            pytest.raises(kind, match=words),
            replaced_folder(tmp_path / "out", tool="test", own=lambda _: {"a.txt"}) as new,
        ):
            block(new)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", ["notes.md", "sub/c.txt", ".hidden", "link"])
def test_a_folder_that_holds_anything_else_is_refused_and_kept(other, tmp_path):
    folder = tmp_path / "out"
    make(folder, "1")
    if other == "link":
        (folder / other).symlink_to(tmp_path / "nowhere")
    else:
        (folder / other).write_text("mine")
    before = contents(folder)
    with pytest.raises(OpenSetError, match=r"holds 1 files that test did not write") as caught:
        make(folder, "2")
    assert other in str(caught.value)
    assert contents(folder) == before


def test_places_that_must_stay_are_refused(tmp_path, monkeypatch):
    results = tmp_path / "results" / "digits"
    results.mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "results")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    around = tmp_path / "results" / ".." / "results" / "digits"
    odd = ("", ".", "..", "/", tmp_path / "file", tmp_path / "link")
    for folder in (results, results / "kept", tmp_path / "results", tmp_path, around, *odd):
        with pytest.raises(OpenSetError):
            make(Path(folder), "1", apart=[results])
    assert results.is_dir()
    assert not any(results.iterdir())
    make(tmp_path / "results" / "kept", "1", apart=[results])


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OpenSetError, match="cannot write the folder"):
        make(tmp_path / "file" / "out", "1")


# ------------------------------------------------------------------------------------- the commands that use it


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """As much of a finished experiment as the commands that pass it on look at."""
    results = tmp_path / "results" / "digits"
    run = results / "split0" / "seed0" / "ce"
    run.mkdir(parents=True)
    (run / "weights.safetensors").write_text("weights")
    (run / "config.json").write_text('{"experiment": "digits"}')
    (run / "provenance.json").write_text("{}")
    for name in ("figures/two_sides.png", "tables/benchmark.md", "tidy/runs.csv"):
        path = results / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return results


def keep(results: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    words = ["--results", results, "--folder", folder, "--configuration", "config/config.yaml"]
    command = [sys.executable, "tools/keep_results.py", *map(str, words)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


def test_results_of_another_experiment_are_not_kept_under_this_name(finished, tmp_path):
    (finished / "split0" / "seed0" / "ce" / "config.json").write_text('{"experiment": "try"}')
    process = keep(finished, tmp_path / "kept")
    assert process.returncode == 2
    assert "of the experiment 'try', and config/config.yaml describes 'digits'" in process.stderr
    assert not (tmp_path / "kept").exists()


def test_kept_results_name_their_place_in_their_own_checkout(finished, tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "Snakefile").touch()
    assert keep(finished, checkout / "docs" / "mine").returncode == 0
    text = (checkout / "docs" / "mine" / "experiment.yaml").read_text()
    assert yaml.safe_load(text)["redraw"] == "docs/mine"
    assert str(tmp_path) not in text


def test_results_are_kept_beside_what_others_wrote_and_never_over_it(finished, tmp_path):
    kept = tmp_path / "kept"
    for _ in range(2):
        process = keep(finished, kept)
        assert process.returncode == 0, process.stderr
    listed = json.loads((kept / ".contents.json").read_text())
    assert listed == ["experiment.yaml", "figures/two_sides.png", "provenance.json", "tables/benchmark.md",
                      "tidy/runs.csv"]  # fmt: skip
    # redrawn beside the tables, or kept by an earlier version, which wrote no list
    (kept / "figures" / "two_sides.pdf").write_text("redrawn")
    (kept / ".contents.json").unlink()
    assert keep(finished, kept).returncode == 0
    (kept / "thesis.md").write_text("mine")
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.md").write_text("mine")
    before = contents(tmp_path)
    for folder in (kept, own, finished, finished.parent, finished / "figures", tmp_path):
        process = keep(finished, folder)
        assert process.returncode == 2 and process.stderr.startswith("error: "), (folder, process.stderr)
        assert contents(tmp_path) == before
