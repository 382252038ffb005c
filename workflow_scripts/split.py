"""Chooses the known and unknown classes of one split, and its training, validation and test images.

    python workflow_scripts/split.py --prepared data/prepared/digits/8x1 --protocol '{"name": "random", "known": 6}' \\
        --split 0 --seed 0 --validation-fraction 0.1 --arrays split.npz --description split.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from openset_distill.core.command import natural, run
from openset_distill.core.errors import SettingsError
from openset_distill.core.files import atomic_write, write_json
from openset_distill.datasets.prepared import open_prepared
from openset_distill.datasets.protocols import Datasets, Resources, class_split, describe, make_split
from openset_distill.datasets.safe_pickle import load

REFERENCE = Path(__file__).resolve().parent.parent / "config" / "reference"


def named_folder(text: str) -> tuple[str, Path]:
    """NAME=FOLDER of the command line as a name and a path."""
    name, separator, folder = text.partition("=")
    if not (name and separator and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER")
    return name, Path(folder)


def specification(text: str) -> str | dict[str, Any]:
    """A protocol's name as it is, or its JSON with settings as a mapping."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from error


def main() -> None:
    """Writes the images of a split and its description, from prepared datasets and a protocol."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, help="prepared folder of the known dataset")
    parser.add_argument(
        "--other", type=named_folder, action="append", default=[], metavar="NAME=FOLDER",
        help="prepared dataset with unknown classes; repeatable",
    )  # fmt: skip
    parser.add_argument("--protocol", type=specification, required=True, help="name, or JSON with settings")
    parser.add_argument("--published", type=Path, help="the authors' file of a semantic shift split (.pkl)")
    parser.add_argument("--reference", type=Path, default=REFERENCE, help="folder with protocols.json")
    parser.add_argument("--split", type=natural, default=0, help="number of the split, from 0")
    parser.add_argument("--seed", type=natural, default=0, help="seed for drawing validation images")
    parser.add_argument(
        "--validation-fraction",
        type=float,
        default=0.1,
        help="fraction of the known training images held out for validation",
    )
    parser.add_argument("--arrays", type=Path, required=True, help="output: image indices and labels (.npz)")
    parser.add_argument("--description", type=Path, required=True, help="output: class names and sources (.json)")
    arguments = parser.parse_args()

    known = open_prepared(arguments.prepared)
    others = {name: open_prepared(folder) for name, folder in arguments.other}
    for name, other in others.items():
        if name == known.name:
            raise SettingsError(f"{name} is the known dataset and cannot be another dataset too; remove --other {name}")
        if other.test.shape != known.test.shape:
            raise SettingsError(
                f"the images of {name} are {shape(other.test.shape)}, those of {known.name} are "
                f"{shape(known.test.shape)}; prepare {name} with the same size and channels"
            )
    datasets = Datasets(
        known.name,
        known.classes,
        {name: other.classes for name, other in others.items()},
        known.manifest["test_only_classes"],
    )
    published = None if arguments.published is None else load(arguments.published)
    split = class_split(arguments.protocol, arguments.split, datasets, Resources(arguments.reference, published))
    arrays = make_split(
        split,
        train_labels=known.train.labels,
        test_labels=known.test.labels,
        other_test_labels={name: other.test.labels for name, other in others.items()},
        classes=known.classes,
        seed=arguments.seed,
        validation_fraction=arguments.validation_fraction,
    )
    description = describe(
        split, datasets, arrays, seed=arguments.seed, validation_fraction=arguments.validation_fraction
    )
    with atomic_write(arguments.arrays) as partial, open(partial, "wb") as stream:
        named: dict[str, Any] = arrays
        np.savez_compressed(stream, **named)
    write_json(arguments.description, description)
    print(
        f"{known.name}, {split.name} split {split.number}: {len(split.known)} known and {split.n_unknown} unknown "
        f"classes, openness {split.openness:.3f}; images: {json.dumps(description['counts'])}"
    )


def shape(of: tuple[int, int, int]) -> str:
    """Height, width and channels in words, for messages."""
    return f"{of[0]}x{of[1]} with {of[2]} channel{'s' if of[2] > 1 else ''}"


if __name__ == "__main__":
    run(main)
