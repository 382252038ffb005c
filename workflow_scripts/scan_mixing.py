"""Records the outputs of teacher and students for mixed images of one split as lambda goes from 0 to 1."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from openset_distill.core.command import natural, positive, run


def main() -> None:
    """Writes how the networks of a split answer to mixed images at each lambda, from their weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON: mixing, lams, samples, teacher")
    parser.add_argument("--seed", type=natural, default=0, help="seed of the images and their partners")
    parser.add_argument("--prepared", required=True, type=Path, help="folder of the prepared dataset")
    parser.add_argument(
        "--other", action="append", default=[], type=Path, help="prepared dataset of unknowns, in order"
    )
    parser.add_argument("--split", required=True, type=Path, help="split.npz")
    parser.add_argument("--description", required=True, type=Path, help="split.json")
    parser.add_argument("--weights", action="append", required=True, type=Path, help="weights of a run (repeatable)")
    parser.add_argument("--config", action="append", required=True, type=Path, help="its resolved settings, same order")
    parser.add_argument("--mixing", required=True, type=Path, help="output: one row per run, lambda and quantity, CSV")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads")
    arguments = parser.parse_args()

    from openset_distill.analysis.mixing_scan import mixing_response
    from openset_distill.core.device import prepare_device
    from openset_distill.models.checkpoint import load_classifier
    from openset_distill.report.aggregate import write_rows
    from openset_distill.training.run_config import RunConfig
    from openset_distill.training.setup import open_split

    settings = json.loads(arguments.settings)
    device = prepare_device(arguments.threads)
    data = open_split(arguments.prepared, arguments.other, arguments.split, arguments.description)
    configs = [RunConfig.read(path) for path in arguments.config]
    models = {
        config.run: load_classifier(path, classes=data.classes)[0].to(device)
        for config, path in zip(configs, arguments.weights, strict=True)
    }
    images, labels = data.known_test(settings["samples"], arguments.seed, device)
    images = data.normalize(configs[0], device)(images)
    rows = [
        row
        for mixing in settings["mixing"]
        for row in mixing_response(
            models,
            settings["teacher"],
            images,
            labels,
            mixing=mixing,
            lams=settings["lams"],
            seed=arguments.seed,
        )
    ]
    write_rows(arguments.mixing, rows)


if __name__ == "__main__":
    run(main)
