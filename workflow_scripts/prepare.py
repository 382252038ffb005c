"""Decodes a downloaded dataset once, into memory-mapped arrays. After an interruption the same command resumes.

    python workflow_scripts/prepare.py --dataset digits --size 8 --train-images out/train_images.npy \\
        --train-labels out/train_labels.npy --test-images out/test_images.npy --test-labels out/test_labels.npy \\
        --manifest out/manifest.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from openset_distill.core.command import run
from openset_distill.core.errors import SettingsError
from openset_distill.datasets.catalog import find
from openset_distill.datasets.prepare import write_prepared
from openset_distill.datasets.prepared import DATA_FILES, MANIFEST
from openset_distill.datasets.readers import READERS

OUTPUTS = (*DATA_FILES, MANIFEST)


def main() -> None:
    """Writes the arrays and the manifest of a prepared dataset, from its archives or from a folder of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="name in the catalog")
    parser.add_argument("--raw", type=Path, help="folder with the downloaded archives, or your own images")
    parser.add_argument("--size", type=int, required=True, help="height and width in pixels")
    parser.add_argument("--channels", type=int, choices=(1, 3), help="1 grey, 3 RGB (default: those of the dataset)")
    parser.add_argument("--workers", type=int, default=1, help="number of decoding processes")
    for name in OUTPUTS:
        option = "--" + name.partition(".")[0].replace("_", "-")
        parser.add_argument(
            option, type=Path, required=True, dest=name, help=f"output: {name}; all outputs in one folder"
        )
    arguments = parser.parse_args()
    outputs = [getattr(arguments, name) for name in OUTPUTS]
    folder = outputs[0].parent
    if outputs != [folder / name for name in OUTPUTS]:
        raise SettingsError(
            f"the outputs must be {', '.join(OUTPUTS)} in one folder; got {', '.join(map(str, outputs))}"
        )
    if arguments.size < 1 or arguments.workers < 1:
        raise SettingsError("--size and --workers must be at least 1")
    dataset = find(arguments.dataset)
    if arguments.raw is None and dataset.archives:
        raise SettingsError(f"{dataset.name} is read from archives; give their folder with --raw")
    reader: Any = READERS[dataset.reader]  # that of the embedded dataset takes no folder
    manifest = write_prepared(
        reader(arguments.raw),
        folder,
        name=dataset.name,
        size=arguments.size,
        channels=arguments.channels,
        workers=arguments.workers,
        licence=dataset.licence,
    )
    counts = manifest["counts"]
    print(f"{dataset.name}: {counts['train']} training and {counts['test']} test images in {folder}")
    for note in manifest.get("notes", ()):  # folders of earlier versions have none
        print(f"{dataset.name}: {note}")
    if manifest["missing_classes"]:
        print(f"{len(manifest['missing_classes'])} of {len(manifest['classes'])} classes have no training images")


if __name__ == "__main__":
    run(main)
