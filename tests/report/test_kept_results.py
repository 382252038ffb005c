"""The results that are kept in docs/results: each is redrawn from its tidy tables, to the numbers that lie there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import REPOSITORY
from small_repository import copy_of_the_repository, jobs, snakemake

pytestmark = pytest.mark.stories

KEPT = sorted(path.parent.name for path in (REPOSITORY / "docs" / "results").glob("*/experiment.yaml"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_of_the_repository(tmp_path_factory.mktemp("kept"))
    shutil.copytree(REPOSITORY / "docs" / "results", folder / "docs" / "results")
    return folder


def test_there_are_kept_results():
    assert KEPT


@pytest.mark.parametrize("name", KEPT)
def test_figures_and_tables_are_redrawn_to_the_kept_numbers_without_training(repository, name):
    kept = repository / "docs" / "results" / name
    before = {path: path.read_bytes() for kind in ("csv", "md", "tex") for path in sorted(kept.glob(f"*/*.{kind}"))}
    configuration = ["--configfile", f"docs/results/{name}/experiment.yaml"]
    done = jobs(snakemake(repository, "paper_figures", "paper_tables", "--forceall", *configuration))
    assert not {"download_dataset", "make_split", "train_teacher", "train_student", "aggregate"} & set(done)
    differing = [path.name for path, content in before.items() if path.read_bytes() != content]
    assert before
    assert not differing
    assert len(list((kept / "figures").glob("*.png"))) == len(list((kept / "figures").glob("*.pdf"))) > 0
