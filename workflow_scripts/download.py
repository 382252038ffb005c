"""Downloads and verifies the archives of one dataset, and records their sources."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from openset_distill.core.command import renamed, run
from openset_distill.core.files import write_json
from openset_distill.datasets import catalog, download


def main() -> None:
    """Fetches the archives that the catalog names for a dataset, and writes the record of the download."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="name in the catalog, or published_checkpoints")
    parser.add_argument("--folder", required=True, type=Path, help="folder for the archives, for example data/raw/NAME")
    parser.add_argument("--record", required=True, type=Path, help="JSON file to write: files, sources, checksums")
    parser.add_argument(
        "--mirror", type=Path, help="folder to search before downloading (default: that of the variable OPENSET_MIRROR)"
    )
    parser.add_argument(
        "--checksum",
        action="append",
        default=[],
        metavar="FILE=ALGORITHM:DIGITS",
        help="checksum of a re-packed archive that you trust, used instead of the official one; repeatable",
    )
    parser.add_argument(
        "--url",
        action="append",
        default=[],
        metavar="FILE=ADDRESS",
        help="URL of a file, used instead of the official ones; repeatable",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="FILE", help="download only this file; repeatable"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    renamed(parser, "--address", "--url")
    arguments = parser.parse_args()

    dataset = catalog.find(arguments.dataset)
    checksums = {file: checksum for file, _, checksum in (text.partition("=") for text in arguments.checksum)}
    urls: dict[str, list[str]] = {}
    for text in arguments.url:
        file, _, url = text.partition("=")
        urls.setdefault(file, []).append(url)
    origins = download.fetch_dataset(
        dataset,
        arguments.folder,
        mirror=arguments.mirror,
        checksums=checksums,
        urls=urls,
        only=arguments.only,
        progress=not arguments.quiet,
    )
    write_json(
        arguments.record,
        {
            "dataset": dataset.name,
            "title": dataset.title,
            "licence": dataset.licence,
            "citation": dataset.citation,
            "files": [asdict(origin) for origin in origins],
        },
    )


if __name__ == "__main__":
    run(main)
