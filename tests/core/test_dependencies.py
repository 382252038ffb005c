"""The version, and what the package needs without its extras: an import hook refuses what only an extra names."""

from __future__ import annotations

import re
import tomllib

import yaml
from bare import bare
from commands import REPOSITORY

import openset_distill


def test_every_place_states_the_same_version():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.search(r"^## (\d\S+) - (\d{4}-\d\d-\d\d)$", changes, re.MULTILINE)
    assert released, "CHANGELOG.md has no section of a released version with its date"
    assert re.search(r"^## Unreleased$", changes[: released.start()], re.MULTILINE)
    assert {project["version"], citation["version"], openset_distill.__version__} == {released[1]}
    assert str(citation["date-released"]) == released[2]


def test_the_hook_refuses():
    process = bare("import pandas")
    assert process.returncode != 0
    assert "refused: pandas" in process.stderr


def test_losses_metrics_and_methods_need_no_extra():
    process = bare(
        """
        import numpy as np, torch
        from openset_distill.evaluation import metrics, scores
        from openset_distill.methods import METHODS
        from openset_distill.methods.losses import dist
        from openset_distill.models import build_classifier
        logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        assert abs(dist(logits, logits).item()) < 1e-6
        for name in METHODS:
            if not METHODS[name].needs_teacher:
                METHODS.build(name)
        features, logits = build_classifier("fast_cnn", classes=3, channels=3).eval()(torch.zeros(2, 3, 32, 32))
        assert logits.shape == (2, 3)
        print("fine")
        """
    )
    assert process.stdout.strip() == "fine", process.stderr
