"""Trains a model that predicts a class, or `unknown`, on a folder of images.

FOLDER has one folder of images per class; a fifth of each class is held out for testing, and a fifth of the rest for
calibrating the threshold. Alternatively it has train/<class>/ and test/<class>/. If it is interrupted, the same command
resumes.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def positive(text: str) -> float:
    """A finite number above zero, as an argument's type."""
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and below a million")
    return value


def count(text: str) -> int:
    """A whole number from 1 to a million, as an argument's type."""
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to a million")
    return int(text)


def seed(text: str) -> int:
    """A whole number from 0 on, as an argument's type."""
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2147483647")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `openset train`."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="your images: FOLDER/<class>/...")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="output: folder of the model")
    parser.add_argument("--unknown", type=Path, metavar="FOLDER", help="images of anything else, used for testing only")
    parser.add_argument(
        "--backbone",
        help="a name from `openset list backbones`, a timm model, or YAML with settings, such as "
        "'{name: timm, model: vit_small_patch16_224, stem: imagenet, pretrained: true, freeze: true}' "
        "(default: frozen efficientnet_lite0 with pretrained weights if they are installed and images have at least 32 "
        "pixels; otherwise a small network trained from scratch)",
    )
    parser.add_argument(
        "--epochs", type=count, help="passes over the training images (default: depends on their number)"
    )
    parser.add_argument(
        "--minutes", type=positive, help="time budget in minutes; determines the epochs, or the image size"
    )
    parser.add_argument(
        "--image-size", type=count, metavar="PIXELS", help="(default: depends on the images and the backbone)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of all random numbers (default: 0)")
    parser.add_argument("--threads", type=count, help="CPU cores to use (default: all)")
    parser.add_argument(
        "--show-config",
        action="store_true",
        help="print the equivalent experiment file for `snakemake --configfile` and train nothing; links to the images "
        "are created in MODEL.images",
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
