"""The notebook of the documentation runs, cell by cell, on a folder of images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import REPOSITORY

from openset_distill import OpenSetClassifier

NOTEBOOK = REPOSITORY / "docs" / "notebooks" / "recognition.ipynb"


def test_the_notebook_runs_from_top_to_bottom(packaged, pictures, tmp_path, monkeypatch, capsys):
    for name, place in (("model", packaged), ("known", pictures / "known"), ("unknown", pictures / "unknown")):
        (tmp_path / name).symlink_to(place)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    said = capsys.readouterr().out
    accepted = np.mean(OpenSetClassifier.load(packaged).predict(tmp_path / "known") != "unknown")
    assert f"{accepted:.1%} of the knowns are accepted" in said
    assert "closed-set accuracy" in said
    assert "most confident mistakes" in said
    assert (tmp_path / "threshold.png").stat().st_size > 5000


def test_the_notebook_is_kept_without_outputs():
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
