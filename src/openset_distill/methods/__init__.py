"""Training objectives by name.

Adding a method: a settings class with `loss(student, teacher, batch)` in a file of its own, and one line in `METHODS`.
`loss` returns the named terms, whose sum is minimised, and named statistics, which are only recorded; all are scalar
tensors on the device of the batch.
"""

from __future__ import annotations

from ..core.registry import Registry
from .arpl import ReciprocalPoints
from .asymmetric_distillation import AsymmetricDistillation
from .base import Batch, Method, Teacher, Terms
from .class_wise_self_distillation import ClassWiseSelfDistillation
from .cross_entropy import CrossEntropy
from .distillation import Distillation
from .logit_matching import LogitMatching
from .placeholders import Placeholders
from .soft_asymmetric_distillation import SoftAsymmetricDistillation

METHODS = Registry(
    "method",
    {
        "cross_entropy": CrossEntropy,
        "arpl": ReciprocalPoints,
        "class_wise_self_distillation": ClassWiseSelfDistillation,
        "distillation": Distillation,
        "logit_matching": LogitMatching,
        "placeholders": Placeholders,
        "asymmetric_distillation": AsymmetricDistillation,
        "soft_asymmetric_distillation": SoftAsymmetricDistillation,
    },
)

__all__ = ["METHODS", "Batch", "Method", "Teacher", "Terms"]
