"""Computes Grad-CAM of teacher and students on raw and mixed test images of one split."""

from __future__ import annotations

import argparse
from pathlib import Path

from openset_distill.core.command import natural, positive, run


def main() -> None:
    """Writes the Grad-CAM statistics of pairs of images, and the images of a few pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=positive, default=200, help="maximum number of pairs of known test images")
    parser.add_argument("--shown", type=positive, default=4, help="number of pairs stored with their images")
    parser.add_argument("--seed", type=natural, default=0, help="seed for choosing images and partners and for mixing")
    parser.add_argument("--prepared", required=True, type=Path, help="folder of the prepared dataset")
    parser.add_argument(
        "--other", action="append", default=[], type=Path, help="prepared dataset of unknowns, in order"
    )
    parser.add_argument("--split", required=True, type=Path, help="split.npz")
    parser.add_argument("--description", required=True, type=Path, help="split.json")
    parser.add_argument("--weights", action="append", required=True, type=Path, help="weights of a run (repeatable)")
    parser.add_argument("--config", action="append", required=True, type=Path, help="its resolved settings, same order")
    parser.add_argument(
        "--attention", required=True, type=Path, help="output: one row per run and pair, with maps, CSV"
    )
    parser.add_argument("--pictures", required=True, type=Path, help="output: the images of the shown pairs, CSV")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads")
    arguments = parser.parse_args()

    from openset_distill.analysis.gradcam import Pairs
    from openset_distill.core.device import prepare_device
    from openset_distill.models.checkpoint import load_classifier
    from openset_distill.report.aggregate import write_rows
    from openset_distill.training.run_config import RunConfig
    from openset_distill.training.setup import open_split

    device = prepare_device(arguments.threads)
    data = open_split(arguments.prepared, arguments.other, arguments.split, arguments.description)
    configs = [RunConfig.read(path) for path in arguments.config]
    models = {
        config.run: load_classifier(path, classes=data.classes)[0].to(device)
        for config, path in zip(configs, arguments.weights, strict=True)
    }
    images, labels = data.known_test(arguments.pairs, arguments.seed, device)
    pairs = Pairs(images, labels, seed=arguments.seed)
    write_rows(arguments.attention, pairs.attention(models, data.normalize(configs[0], device), arguments.shown))
    write_rows(arguments.pictures, pairs.pictures(data.classes, arguments.shown))


if __name__ == "__main__":
    run(main)
