"""Times preparing and opening a dataset, and shows that memory does not grow with what lies on disk.

    OPENSET_MIRROR=FOLDER python benchmarks/data.py --raw data/raw/tinyimagenet [--json FILE]

`--raw` holds the archives of Tiny-ImageNet (`python workflow_scripts/download.py` puts them there).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import machine

from openset_distill.datasets.catalog import find
from openset_distill.datasets.prepare import write_prepared
from openset_distill.datasets.prepared import open_prepared
from openset_distill.datasets.readers import READERS

SIZE, BATCH, BATCHES = 64, 128, 200
# reads random batches from the first `n` training images and says how much memory of its own the process holds
READER = f"""
import sys
import numpy as np, torch
from openset_distill.datasets.prepared import open_prepared
from openset_distill.datasets.loader import ImageLoader
folder, n = sys.argv[1], int(sys.argv[2])
loader = ImageLoader(open_prepared(folder).train, np.arange(n), torch.device("cpu"))
draws = torch.Generator().manual_seed(0)
for _ in range({BATCHES}):
    loader.batch(torch.randint(n, ({BATCH},), generator=draws)).sum()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")))
"""


def own_memory_mib(folder: Path, images: int) -> float:
    """Anonymous memory (MiB) of a process after random reads; mapped pages of files are not its own."""
    process = subprocess.run(
        [sys.executable, "-c", READER, folder, str(images)], capture_output=True, text=True, check=True
    )
    return round(int(process.stdout) / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", required=True, type=Path, help="folder with the archives of Tiny-ImageNet")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode")
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    dataset = find("tinyimagenet")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tinyimagenet"
        started = time.perf_counter()
        raw = READERS[dataset.reader](arguments.raw)
        manifest = write_prepared(raw, folder, name=dataset.name, size=SIZE, workers=arguments.workers)
        prepare = time.perf_counter() - started
        opening = []
        for _ in range(20):
            started = time.perf_counter()
            packed = open_prepared(folder)
            opening.append(time.perf_counter() - started)
        images = len(packed.train)
        memory = {str(n): own_memory_mib(folder, n) for n in (images // 16, images // 4, images)}
        size = sum(path.stat().st_size for path in folder.iterdir())
    result = {
        "machine": machine("numpy", "pillow"),
        "images": manifest["counts"],
        "prepared_mib": round(size / 2**20),
        "prepare_seconds": round(prepare, 1),
        "open_milliseconds_median": round(1000 * statistics.median(opening), 2),
        "own_memory_mib_by_images_read_from": memory,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
