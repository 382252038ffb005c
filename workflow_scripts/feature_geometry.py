"""Measures the geometry of the test features of all runs of a split and seed, from their stored outputs.

python workflow_scripts/feature_geometry.py --run ce=outputs.npz --head ce=weights.safetensors --features features.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from openset_distill.analysis.feature_geometry import Reference, groups, measure
from openset_distill.core.command import named_path, run
from openset_distill.core.errors import CheckpointError, DataError, SettingsError, nearest
from openset_distill.core.files import sha256
from openset_distill.evaluation.evaluate import check_weights, load_outputs
from openset_distill.report.aggregate import write_rows


def main() -> None:
    """Writes one row a run and part of the images, from the outputs and heads of all runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run",
        type=named_path,
        action="append",
        required=True,
        metavar="RUN=PATH",
        help="outputs.npz of a run; repeatable",
    )
    parser.add_argument(
        "--head",
        type=named_path,
        action="append",
        default=[],
        metavar="RUN=PATH",
        help="weights of a run, for nc3; repeatable",
    )
    parser.add_argument("--teacher", help="reference run for CKA")
    parser.add_argument("--features", required=True, type=Path, help="output: run, quantity, group and value, CSV")
    arguments = parser.parse_args()
    runs, heads = dict(arguments.run), dict(arguments.head)
    if len(runs) < len(arguments.run):
        raise SettingsError("--run names a run twice; give each its outputs once")
    if arguments.teacher and arguments.teacher not in runs:
        raise SettingsError(f"--teacher: no --run is called {arguments.teacher!r}; {nearest(arguments.teacher, runs)}")

    reference, labels = None, None
    if arguments.teacher:
        taught = load_outputs(runs[arguments.teacher])
        labels = taught["labels"]
        by_group = groups(labels)
        reference = Reference(taught["features"], {name: by_group[name] for name in ("known", "all")})
    rows = []
    for name, path in runs.items():
        outputs = load_outputs(path)
        if labels is not None and not np.array_equal(outputs["labels"], labels):
            raise DataError(f"{path} holds other test images than those of {arguments.teacher}; train the run again")
        head = read_head(heads[name]) if name in heads else None
        if name in heads:
            check_weights(path, sha256(heads[name]), heads[name])
        compared = reference if name != arguments.teacher else None
        rows += [{"run": name, **row} for row in measure(outputs, head, compared)]
    write_rows(arguments.features, rows)


def read_head(path: str) -> np.ndarray | None:
    """The weight of the linear head, `[classes, d]`, from a file of weights, without the cost of importing torch.

    None if the network has a head of another kind.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stream:
            return stream.get_tensor("head.weight") if "head.weight" in stream.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} has no head that can be read ({error}); train the run again") from error


if __name__ == "__main__":
    run(main)
