"""Downloads pretrained weights into timm's cache, where jobs on nodes without internet find them."""

from __future__ import annotations

import argparse
from pathlib import Path

from openset_distill.core.command import run


def main() -> None:
    """Downloads the weights of one model into timm's cache, and writes the record that jobs wait for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="name of the timm model")
    parser.add_argument(
        "--record", required=True, type=Path, help="output: the model and the hash of its weights, JSON"
    )
    arguments = parser.parse_args()

    from openset_distill.core.files import write_json
    from openset_distill.models import BACKBONES
    from openset_distill.training.features import weights_hash

    backbone = {"name": "timm", "model": arguments.model, "stem": "imagenet", "pretrained": True}
    encoder = BACKBONES.build(backbone).build(3)
    write_json(arguments.record, {"model": arguments.model, "weights_sha256": weights_hash(encoder)})


if __name__ == "__main__":
    run(main)
