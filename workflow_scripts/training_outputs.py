"""Records a network's outputs for its training images, without augmentation; detectors are fitted to them."""

from __future__ import annotations

import argparse
from pathlib import Path

from openset_distill.core.command import positive, run


def main() -> None:
    """Writes features and logits of training images, from the weights of a run and its split."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", required=True, type=Path, help="folder of the prepared dataset")
    parser.add_argument(
        "--other", action="append", default=[], type=Path, help="prepared dataset of unknowns, in order"
    )
    parser.add_argument("--split", required=True, type=Path, help="split.npz")
    parser.add_argument("--description", required=True, type=Path, help="split.json")
    parser.add_argument("--weights", required=True, type=Path, help="weights of the run")
    parser.add_argument("--config", required=True, type=Path, help="resolved settings of the run")
    parser.add_argument(
        "--samples",
        type=positive,
        default=50_000,
        help="maximum number of training images, drawn evenly from the classes",
    )
    parser.add_argument("--training", required=True, type=Path, help="output: features, logits, labels and the head")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads")
    arguments = parser.parse_args()

    from openset_distill.core.device import prepare_device
    from openset_distill.models.checkpoint import load_classifier
    from openset_distill.training.run_config import RunConfig
    from openset_distill.training.setup import open_split, save_training_outputs

    config = RunConfig.read(arguments.config)
    data = open_split(arguments.prepared, arguments.other, arguments.split, arguments.description)
    device = prepare_device(arguments.threads)
    model = load_classifier(arguments.weights, classes=data.classes)[0].to(device)
    save_training_outputs(arguments.training, model, data, config, device, samples=arguments.samples)


if __name__ == "__main__":
    run(main)
