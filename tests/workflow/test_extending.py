"""docs/extending.md, applied to a copy of the repository as it stands and run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from commands import REPOSITORY
from small_repository import copy_of_the_repository, jobs, snakemake

PAGE = REPOSITORY / "docs" / "extending.md"
STEP = re.compile(r"^(?:(Above|In) `(\w+)` in|A new file) `([^`]+)`:\n\n```python\n(.*?)```$", re.MULTILINE | re.DOTALL)


def apply(folder: Path) -> int:
    """Does what the page says to the sources in a folder, and says how many steps that took."""
    steps = STEP.findall(PAGE.read_text())
    for where, name, file, code in steps:
        path = folder / file
        if not where:
            path.write_text(code)
            continue
        text = path.read_text()
        definition = re.search(rf"^{name}\b[^\n]*= [^{{]*{{\n", text, re.MULTILINE)
        assert definition, f"{file} defines no registry {name}"
        place = definition.start() if where == "Above" else definition.end()
        gap = "\n\n" if where == "Above" else ""
        path.write_text(text[:place] + code + gap + text[place:])
    return len(steps)


@pytest.mark.stories
@pytest.mark.workflow
def test_the_examples_of_the_page_run_and_show_up(tmp_path: Path) -> None:
    folder = copy_of_the_repository(tmp_path)
    assert apply(folder) == PAGE.read_text().count("```python") == 7
    commands = [shlex.split(text) for text in re.findall(r"^```sh\n(.*?)\n```$", PAGE.read_text(), re.MULTILINE)]
    assert len(commands) == 3
    results = folder / "results" / "mine"
    for run, command in zip(("stripemix", "logit_norm", None), commands, strict=True):
        assert command[:3] == ["snakemake", "--cores", "all"]
        done = jobs(snakemake(folder, *command[3:]))
        if run is None:
            assert done["evaluate"] == 10
            assert "train_student" not in done
            continue
        assert done["train_student"] == (10 if run == "stripemix" else 2)
        for table in ("benchmark", "significance"):
            assert f"{run}," in (results / "tables" / f"{table}.csv").read_text()
        assert f"{run}," in (results / "figures" / "two_sides.csv").read_text()
    assert ",margin," in (results / "tables" / "scores.csv").read_text()
    job = json.loads((results / "split0" / "seed0" / "logit_norm" / "config.json").read_text())
    assert job["method"] == {"name": "logit_norm", "tau": 0.1}
