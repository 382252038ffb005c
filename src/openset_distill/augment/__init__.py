"""Data augmentation of whole batches, on the device that holds them, from a seeded generator.

`SINGLE_SAMPLE` (SSA) changes each image by itself; `MULTI_SAMPLE` (MSA) mixes images of a batch and says in which
shares. Both registries can be read without loading torch, so the workflow can check a configuration at no cost.
"""

from __future__ import annotations

from .base import SingleSample
from .multi_sample import MULTI_SAMPLE, Mixed, MultiSample
from .single_sample import SINGLE_SAMPLE

__all__ = ["MULTI_SAMPLE", "SINGLE_SAMPLE", "Mixed", "MultiSample", "SingleSample"]
