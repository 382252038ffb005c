"""`openset predict` beside a plain torchvision loop and the bare network, on image files of one size.

The same model folder and the same files are given to all three, each in a process of its own: the command as a user
calls it; `ImageFolder` with a `DataLoader` and the same network; and the network alone on pixels that are in memory. It
prints, as JSON, seconds to the first answer, images a second after the start, and the peak of memory for a small and a
large number of images.

    python benchmarks/predict.py --model MODEL --images 10000 --size 64
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import machine
from PIL import Image

FEW = 1000  # images of the small run, which memory is compared with
COMMAND = "from openset_distill.cli import main; main()"


def make_images(folder: Path, images: int, size: int) -> None:
    """Files of smooth random pictures, as JPEG."""
    generator = np.random.default_rng(0)
    (folder / "all").mkdir(parents=True)
    for number in range(images):
        small = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        small.resize((size, size), Image.Resampling.BICUBIC).save(folder / "all" / f"{number:06d}.jpg", quality=90)


def timed(command: list[str]) -> dict[str, float]:
    """Seconds to the first and the last answer of a process that prints one a line, and its peak memory in MiB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    first, answers = 0.0, 0
    for _ in process.stdout:
        answers += 1
        first = first or time.perf_counter() - started
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command[1:4]} ended with status {process.returncode}")
    total = time.perf_counter() - started
    return {
        "first_answer_s": first,
        "total_s": total,
        "answers": answers,
        "images_per_s": answers / (total - first),
        "peak_mib": usage.ru_maxrss / 1024,
    }


def answer_plainly(model: Path, images: Path, bare: bool) -> None:
    """The plain loop , one line an image; for `bare` the network alone, whose rate is printed as JSON."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    from openset_distill import OpenSetClassifier

    classifier = OpenSetClassifier.load(model)
    how, network = classifier.description.preprocessing, classifier.network
    steps = [transforms.Resize(how.image_size), transforms.CenterCrop(how.image_size), transforms.ToTensor()]
    steps.append(transforms.Normalize(how.mean, how.std))
    data = datasets.ImageFolder(images, transforms.Compose(steps))
    batches = DataLoader(data, batch_size=128, num_workers=0 if bare else 2)
    with torch.inference_mode():
        if bare:
            batch = next(iter(batches))[0].to(memory_format=torch.channels_last)
            started = time.perf_counter()
            for _ in range(max(1, len(data) // len(batch))):
                network(batch)
            done = max(1, len(data) // len(batch)) * len(batch)
            print(json.dumps({"images_per_s": done / (time.perf_counter() - started)}))
            return
        for batch, _ in batches:
            for score, label in zip(*network(batch)[1].max(dim=1), strict=True):
                print(score.item(), label.item())
            sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of an RGB model")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=64, help="pixels of the files")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain or arguments.bare:
        answer_plainly(arguments.model, arguments.plain or arguments.bare, bool(arguments.bare))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "many", arguments.images, arguments.size)
        make_images(folder / "few", min(FEW, arguments.images), arguments.size)
        here = [sys.executable, __file__, "--model", str(arguments.model)]
        results = {}
        for label, images in (("few", folder / "few"), ("many", folder / "many")):
            ours = [sys.executable, "-c", COMMAND, "predict", str(arguments.model), str(images), "--jsonl"]
            results[f"openset_predict_{label}"] = timed(ours)
        results["torchvision_loop"] = timed([*here, "--plain", str(folder / "many")])
        bare = subprocess.run([*here, "--bare", str(folder / "many")], capture_output=True, text=True, check=True)
        results["bare_network"] = json.loads(bare.stdout)
    print(
        json.dumps({"machine": machine("torch", "torchvision", "pillow"), "size": arguments.size, **results}, indent=2)
    )


if __name__ == "__main__":
    main()
