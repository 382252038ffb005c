"""Open-set recognition with asymmetric distillation: the library behind the workflow.

Nothing in this package knows Snakemake, DVC or SLURM; ``workflow_scripts/`` calls it, ``rules/`` calls those.
"""

__version__ = "0.1.0"
