"""Writes the images of a prepared dataset as PNG files, one an image: what the plain implementation reads.

    python benchmarks/export_images.py --prepared data/prepared/tinyimagenet/64x3 --split split.npz --images FOLDER

PNG keeps every pixel, so both implementations train on the same images; it takes about as long to decode as JPEG.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from openset_distill.datasets.prepared import open_prepared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", required=True, type=Path, help="folder of the prepared dataset")
    parser.add_argument("--split", required=True, type=Path, help="split.npz: only its images are written")
    parser.add_argument("--images", required=True, type=Path, help="output folder")
    arguments = parser.parse_args()
    dataset, split = open_prepared(arguments.prepared), np.load(arguments.split)
    for part, images in (("train", dataset.train), ("test", dataset.test)):
        folder = arguments.images / part
        folder.mkdir(parents=True, exist_ok=True)
        for number in split[f"{part}_index"]:
            pixels = images.batch(np.array([number]))[0]
            Image.fromarray(pixels.squeeze()).save(folder / f"{number}.png")


if __name__ == "__main__":
    main()
