"""Materials of the attacks, made once, and the counts that the suite prints at its end."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import synthetic_tables
from attacks import ENDS
from commands import job, succeed, train
from PIL import Image

PROPERTY = "attack"


@pytest.fixture(scope="session")
def materials(digits: Path, split: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that cases copy and then damage: images, prepared digits, a split, runs, tidy tables."""
    root = tmp_path_factory.mktemp("materials")
    student = root / "student"
    settings = job("ce")
    settings["optimization"] |= {"epochs": 1}
    succeed(train(student, settings, digits, split))
    (student / "job.json").write_text(json.dumps(settings))
    images = root / "images"
    for part, classes in {"train": ("cat", "dog", "fox"), "test": ("cat", "dog", "fox", "emu")}.items():
        for shade, name in enumerate(classes):
            for number in range(3):
                path = images / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (12, 12), (40 * shade, 60 * number, 100 if part == "train" else 90)).save(path)
    tables = root / "tidy"
    synthetic_tables.write(tables, synthetic_tables.make(splits=2))
    (tables / "context.json").write_text(json.dumps(synthetic_tables.context(splits=2)))
    return {
        "prepared": digits,
        "split": split,
        "teacher": teacher,
        "student": student,
        "images": images,
        "tidy": tables,
    }


def pytest_terminal_summary(terminalreporter) -> None:
    """Cases by end, and what must be zero."""
    ends: Counter[str] = Counter()
    failed = 0
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", ()):
                if name == PROPERTY:
                    ends[value] += 1
                    failed += outcome == "failed"
    if not ends:
        return
    terminalreporter.section("attacks")
    terminalreporter.write_line(
        f"{sum(ends.values())} cases: " + ", ".join(f"{ends[end]} {end.replace('_', ' ')}" for end in ENDS)
    )
    never = {
        "tracebacks": ends["traceback"],
        "defects": ends["defect"],
        "without end": ends["no_end"],
        "without a line": ends["silent"] + ends["lines"],
        "not as the table says": failed,
    }
    terminalreporter.write_line("; ".join(f"{count} {what}" for what, count in never.items()))
