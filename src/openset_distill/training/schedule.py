"""Learning-rate schedules: warm-up, then cosine, linear, step or constant.

A new one needs its formula here and its name in `OptimizationSettings.schedule` (run_config.py).
"""

from __future__ import annotations

import math

from .run_config import OptimizationSettings


def learning_rate(settings: OptimizationSettings, step: int, steps_per_epoch: int) -> float:
    """The rate of one step: `learning_rate * batch / 128`, linear warm-up, then the schedule."""
    peak = settings.learning_rate * settings.batch_size / 128
    total, warmup = settings.epochs * steps_per_epoch, settings.warmup_epochs * steps_per_epoch
    if step < warmup:
        return peak * (step + 1) / warmup
    if settings.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
    if settings.schedule == "linear":
        return peak * (total - step) / max(total - warmup, 1)
    if settings.schedule == "step":
        return peak * settings.decay ** sum(step >= fraction * total for fraction in settings.milestones)
    return peak
