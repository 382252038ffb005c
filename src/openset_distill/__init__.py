"""Open-set recognition with asymmetric distillation: the library behind the workflow.

Nothing in this package knows Snakemake, DVC or SLURM; ``workflow_scripts/`` calls it, ``rules/`` calls those.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .recognition.model import OpenSetClassifier as OpenSetClassifier

__all__ = ["OpenSetClassifier"]
__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    # torch is imported by who classifies, not by who parses the workflow
    if name == "OpenSetClassifier":
        from .recognition.model import OpenSetClassifier

        return OpenSetClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
