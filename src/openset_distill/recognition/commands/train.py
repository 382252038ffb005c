"""A folder of images becomes a model that answers with a class, or with `unknown`.

FOLDER has one folder of images a class; a fifth of each class is kept to test with, a fifth of the rest to calibrate
the threshold. Or it has train/<class>/ and test/<class>/. What was begun and stopped is continued by the same command.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def positive(text: str) -> float:
    """A finite number above zero, as an argument's type."""
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from error
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and below a million")
    return value


def count(text: str) -> int:
    """A whole number from 1 to a million, as an argument's type."""
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to a million")
    return int(text)


def seed(text: str) -> int:
    """A whole number from 0 on, as an argument's type."""
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 2147483647")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `openset train`."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="your images: FOLDER/<class>/...")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="output: folder of the model")
    parser.add_argument(
        "--unknown", type=Path, metavar="FOLDER", help="images of anything else, to test with; never trained on"
    )
    parser.add_argument(
        "--backbone",
        help="a name of `openset list backbones`, a model of timm, or YAML with settings, such as "
        "'{name: timm, model: vit_small_patch16_224, stem: imagenet, pretrained: true, freeze: true}' "
        "(default: efficientnet_lite0 with trained weights, frozen, where they are installed and the images are "
        "photographs; else a small network from scratch)",
    )
    parser.add_argument("--epochs", type=count, help="passes through the training images (default: by their number)")
    parser.add_argument("--minutes", type=positive, help="time for all of it; decides the epochs, or the image size")
    parser.add_argument("--image-size", type=count, metavar="PIXELS", help="(default: by the images and the backbone)")
    parser.add_argument("--seed", type=seed, default=0, help="of every random draw (default: 0)")
    parser.add_argument("--threads", type=count, help="processor cores (default: all)")
    parser.add_argument(
        "--show-config",
        action="store_true",
        help="print the experiment file that does the same for `snakemake --configfile`, and train nothing; links to "
        "the images are left in MODEL.images",
    )


def run(arguments: argparse.Namespace) -> None:
    """Trains on a folder of images and writes the model, or prints the experiment that would."""
    from ..train import Request, configuration_text, train_folder

    request = Request(
        folder=arguments.folder,
        out=arguments.out,
        unknown=arguments.unknown,
        backbone=arguments.backbone,
        epochs=arguments.epochs,
        minutes=arguments.minutes,
        image_size=arguments.image_size,
        seed=arguments.seed,
        threads=arguments.threads,
    )
    if arguments.show_config:
        print(configuration_text(request), end="")
    else:
        print(train_folder(request))
