"""Every case of the tables in `cases/`, run for real: bad and hostile input ends in one clear line, or is right."""

from __future__ import annotations

from pathlib import Path

import pytest
from attacks import Case, judged, read_cases, run, set_up, surroundings

pytestmark = pytest.mark.attacks
CASES = read_cases()


@pytest.mark.parametrize("case", CASES, ids=[f"{case.family}: {case.name}" for case in CASES])
def test_case(case: Case, materials: dict[str, Path], tmp_path: Path, record_property: pytest.FixtureRequest):
    folder = tmp_path / "case"
    folder.mkdir()
    with surroundings(case, folder):
        set_up(case, folder, materials)
        outcome = run(case, folder)
    record_property("attack", outcome.end)
    wrong = judged(case, outcome)
    assert not wrong, f"{wrong}\n{case.run}\n{outcome.output[-1500:]}\n{outcome.errors[-3000:]}"
    left = [name for name in case.absent if (folder / name).exists()]
    assert not left, f"left behind: {left}"
