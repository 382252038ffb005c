"""What the package needs without its extras: an import hook refuses every package that only an extra names."""

from __future__ import annotations

from bare import bare


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
