"""Predicts one of a model's classes, or `unknown`, for each image.

PATH is a file, a folder (searched recursively), a zip or tar archive, a quoted pattern, or `-` for a list on standard
input, one path per line or separated by zero bytes. An image that cannot be read causes one line on standard error; the
other images are still predicted, and the exit status is 2.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

FORMATS = ("table", "csv", "json", "jsonl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `openset predict`."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of the model")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="file, folder, archive, pattern, or - for a list")
    add_operating_point(parser)
    parser.add_argument(
        "--top", type=int, default=3, help="number of classes shown with their probabilities (default: 3)"
    )
    forms = parser.add_mutually_exclusive_group()
    for name in FORMATS[1:]:
        forms.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=f"print {name}")
    parser.add_argument("--out", type=Path, help="output: a file instead of standard output")
    parser.add_argument(
        "--gallery", type=Path, metavar="HTML", help="output: a page of thumbnails that can be sorted and filtered"
    )
    parser.set_defaults(form="table")


def add_operating_point(parser: argparse.ArgumentParser) -> None:
    """The options that choose a threshold."""
    points = parser.add_mutually_exclusive_group()
    points.add_argument("--accept", type=float, metavar="RATE", help="threshold that accepts this rate of knowns")
    points.add_argument(
        "--false-accept", type=float, metavar="RATE", help="threshold that accepts this rate of unknowns"
    )


def listed(paths: list[str]) -> Iterator[str]:
    """The paths, with `-` replaced by the list on standard input."""
    for path in paths:
        if path != "-":
            yield path
            continue
        head = sys.stdin.buffer.readline()
        if b"\0" in head:
            yield from (os.fsdecode(name) for name in (head + sys.stdin.buffer.read()).split(b"\0") if name)
            continue
        while head:
            if name := head.rstrip(b"\r\n"):
                yield os.fsdecode(name)
            head = sys.stdin.buffer.readline()


def run(arguments: argparse.Namespace) -> None:
    """Prints a class, or `unknown`, for every image; an unreadable image causes one line and status 2."""
    from ...core.errors import DataError, SettingsError
    from ...core.files import atomic_write
    from ...core.text import printable
    from ..gallery import THUMBNAIL, Gallery
    from ..images import Failure, find_images
    from ..model import OpenSetClassifier
    from ..writers import FORMATS as WRITERS

    if arguments.top < 1:
        raise SettingsError(f"--top is {arguments.top}; give at least 1")
    model = OpenSetClassifier.load(arguments.model)
    point = model.operating_point(accept=arguments.accept, false_accept=arguments.false_accept)
    classes = model.description.classes
    started, rejected, predicted, broken = time.monotonic(), 0, 0, 0
    with contextlib.ExitStack() as stack:
        if arguments.out:
            partial = stack.enter_context(atomic_write(arguments.out))
            output = stack.enter_context(open(partial, "w", encoding="utf-8", newline=""))
        else:
            output = sys.stdout
        page = None
        if arguments.gallery:
            partial = stack.enter_context(atomic_write(arguments.gallery))
            stream = stack.enter_context(open(partial, "w", encoding="utf-8"))
            page = Gallery(stream.write, classes, model.description.score, point)
        writer = WRITERS[arguments.form](output.write, classes, arguments.top)
        failed: list[Failure] = []

        def note_failures() -> None:
            nonlocal broken
            for failure in failed:
                print(f"failed: {printable(failure.message)}", file=sys.stderr)
                writer.failure(failure)
                if page:
                    page.failure(failure)
            broken += len(failed)
            failed.clear()

        sources = find_images(listed(arguments.paths))
        for outputs in model.stream(sources, failed=failed, thumbnails=THUMBNAIL if page else 0):
            note_failures()
            predictions = model.judge(outputs, point, arguments.top)
            for prediction, decoded in zip(predictions, outputs.decoded, strict=True):
                writer.prediction(prediction)
                if page:
                    page.prediction(prediction, decoded.thumbnail)
                rejected += prediction.rejected
            predicted += len(predictions)
            output.flush()
        note_failures()
        if not predicted and not broken:
            raise DataError("there is no image to predict: the list of paths is empty; give files or folders")
        writer.close()
        if page:
            page.close()
    print(
        f"{predicted} images: {predicted - rejected} known, {rejected} unknown"
        + (f", and {broken} could not be read" if broken else "")
        + f" ({time.monotonic() - started:.1f} s); score {model.description.score}, threshold {point.threshold:.6g}: "
        + point.name,
        file=sys.stderr,
    )
    if broken:
        raise DataError(
            f"{broken} of {predicted + broken} images could not be read (see the lines above); repair or remove them"
        )
