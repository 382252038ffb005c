"""What may be deleted to save space, how large it is, and what its absence costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import OpenSetError
from ..core.files import read_record

# what no process has written to for as long was left by one that was killed
LEFT_SECONDS = 3600
LOCKS = Path(".snakemake/locks")
CACHE = Path(".dvc/cache")
NETWORK = "weights.safetensors"


@dataclass(frozen=True)
class Kind:
    """Files of one purpose.

    Attributes:
        costs: what their absence means.
        find: the files, from the folders of results and of data.
        named_only: whether they are deleted only where they are asked for by name.
    """

    costs: str
    find: Callable[[Path, Path], Iterator[Path]]
    named_only: bool = False


def cached_logits(results: Path, _data: Path) -> Iterator[Path]:
    """Cached teacher logits, where results were gathered after they were made: no student waits for them."""
    for path in sorted(
        path for name in ("teacher_logits", "answers") for path in results.glob(f"*/split*/seed*/{name}_*.safetensors")
    ):
        gathered = path.parents[2] / "tidy" / "headline.json"
        runs = [folder for folder in path.parent.iterdir() if folder.is_dir()]
        complete = all((run / NETWORK).exists() for run in runs)
        if complete and gathered.exists() and gathered.stat().st_mtime >= path.stat().st_mtime:
            yield path


def prepared_archives(_results: Path, data: Path) -> Iterator[Path]:
    """Archives of images of prepared datasets that a URL serves. The record of the download and class lists stay.

    Datasets that are prepared as an index (ImageNet) are read from their archives in every training.
    """
    from ..datasets import catalog  # not where `openset` starts, which reads KINDS

    for name, dataset in catalog.datasets().items():
        manifests = list((data / "prepared" / name).glob("*/manifest.json"))
        if manifests and not any(_is_index(manifest) for manifest in manifests):
            files = [data / "raw" / name / archive.file for archive in dataset.archives if archive.urls]
            yield from (path for path in files if path.is_file())


def _is_index(manifest: Path) -> bool:
    try:
        return read_record(manifest, {"storage": str})["storage"] == "index"
    except OpenSetError:
        return True  # its archives may be needed


def finished_states(results: Path, _data: Path) -> Iterator[Path]:
    """States of trainings whose network is there and newer: one that still runs has none."""
    for path in results.glob("*/split*/seed*/*/state.safetensors"):
        network = path.with_name(NETWORK)
        if network.exists() and network.stat().st_mtime >= path.stat().st_mtime:
            yield path


def half_written(results: Path, data: Path) -> Iterator[Path]:
    """What killed processes were writing."""
    for folder in (results, data):
        for path in folder.rglob(".*.partial"):
            if path.is_file() and time.time() - path.stat().st_mtime > LEFT_SECONDS:
                yield path


def second_copies(_results: Path, _data: Path) -> Iterator[Path]:
    """The versions that DVC keeps."""
    yield from (path for path in CACHE.rglob("*") if path.is_file())


KINDS = {
    "partial": Kind("none: left by killed processes", half_written),
    "states": Kind("none: these trainings are finished", finished_states),
    "logits": Kind("adding a student later retrains the other students of its teacher", cached_logits),
    "raw": Kind("downloaded again if a dataset is prepared again, or at another size", prepared_archives),
    "dvc": Kind("versions that were not pushed are lost", second_copies, named_only=True),
}


def find(results: Path, data: Path) -> dict[str, list[Path]]:
    """Kind -> its files.

    Raises:
        OpenSetError: neither folder is there, or a workflow runs.
    """
    if not results.is_dir() and not data.is_dir():
        raise OpenSetError(
            f"neither {results} nor {data} is a folder here; start in the repository, or give the folders"
        )
    if any(LOCKS.glob("*.lock")):
        raise OpenSetError("a workflow is running here, or was killed: wait for it to end, or see `make doctor`")
    return {name: sorted(kind.find(results, data)) for name, kind in KINDS.items()}


def size(files: list[Path]) -> int:
    """Bytes."""
    return sum(path.stat().st_size for path in files)


def delete(files: list[Path]) -> None:
    """Deletes files; one that is gone already is no error."""
    for path in files:
        path.unlink(missing_ok=True)
