"""`openset predict` beside a plain torchvision loop and the bare network, on image files of one size.

The same model folder and the same files are given to all three, by turns, each in a process of its own: the command as
a user calls it; `ImageFolder` with a `DataLoader` and the same network; and the network alone on pixels that are in
memory. The rates of one round are compared with each other, so that other work on the machine concerns all three.

    python benchmarks/predict.py --model MODEL --images 10000 --size 64 --rounds 3 --json FILE
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import machine
from PIL import Image

FEW = 1000  # images of the small run at most: what the large one needs beyond it is the images', not the start's
BATCH = 128  # images, of `openset predict` at 64 pixels too
COMMAND = "from openset_distill.cli import main; main()"


def make_images(folder: Path, images: int, size: int) -> None:
    """Files of smooth random pictures, as JPEG."""
    generator = np.random.default_rng(0)
    (folder / "all").mkdir(parents=True)
    for number in range(images):
        small = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        small.resize((size, size), Image.Resampling.BICUBIC).save(folder / "all" / f"{number:06d}.jpg", quality=90)


def timed(command: list[str]) -> dict[str, float]:
    """A process that prints one answer a line: seconds to the first one, images a second after the first batch, seconds
    of the processor from start to end, and peak memory in MiB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    times = [time.perf_counter() - started for _ in process.stdout]
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command[1:4]} ended with status {process.returncode}: {said}")
    begun = min(BATCH, len(times) // 2)
    return {
        "first_answer_s": times[0],
        "images_per_s": (len(times) - begun) / (times[-1] - times[begun - 1]),
        "processor_s": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
    }


def answer_plainly(model: Path, images: Path, bare: bool) -> None:
    """The plain loop, one line an image; for `bare` the network alone, whose rate is printed as JSON."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    from openset_distill import OpenSetClassifier

    classifier = OpenSetClassifier.load(model)
    how, network = classifier.description.preprocessing, classifier.network
    steps = [transforms.Resize(how.image_size), transforms.CenterCrop(how.image_size), transforms.ToTensor()]
    steps.append(transforms.Normalize(how.mean, how.std))
    data = datasets.ImageFolder(images, transforms.Compose(steps))
    batches = DataLoader(data, batch_size=BATCH, num_workers=0 if bare else 2)
    with torch.inference_mode():
        if bare:
            batch = next(iter(batches))[0].to(memory_format=torch.channels_last)
            network(batch)
            started, processor = time.perf_counter(), time.process_time()
            for _ in range(max(1, len(data) // len(batch))):
                network(batch)
            done = max(1, len(data) // len(batch)) * len(batch)
            rate, busy = done / (time.perf_counter() - started), (time.process_time() - processor) / done
            print(json.dumps({"images_per_s": rate, "processor_s_per_image": busy}))
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
    parser.add_argument("--rounds", type=int, default=3, help="each is all of them, one after another")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain or arguments.bare:
        answer_plainly(arguments.model, arguments.plain or arguments.bare, bool(arguments.bare))
        return
    few = min(FEW, arguments.images // 4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "many", arguments.images, arguments.size)
        make_images(folder / "few", few, arguments.size)
        here = [sys.executable, __file__, "--model", str(arguments.model)]
        ours = [sys.executable, "-c", COMMAND, "predict", str(arguments.model), "--jsonl"]
        rounds = []
        for _ in range(arguments.rounds):
            bare = subprocess.run([*here, "--bare", str(folder / "many")], capture_output=True, text=True, check=True)
            one = {"bare_network": json.loads(bare.stdout)}
            for kind, command in (("openset_predict", ours), ("torchvision_loop", [*here, "--plain"])):
                one[kind] = timed([*command, str(folder / "many")])
                one[f"{kind}_few"] = timed([*command, str(folder / "few")])
                more = one[kind]["processor_s"] - one[f"{kind}_few"]["processor_s"]
                one[kind]["processor_s_per_image"] = more / (arguments.images - few)
            rounds.append(one)
    result = {
        "machine": machine("torch", "torchvision", "pillow"),
        "backbone": json.loads((arguments.model / "model.json").read_text())["architecture"]["backbone"]["name"],
        "images": arguments.images,
        "few": few,
        "size": arguments.size,
        "load": os.getloadavg()[1],
        "median": summarized(rounds),
        "rounds": rounds,
    }
    text = json.dumps(result, indent=2)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    print(text)


def summarized(rounds: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Medians over the rounds; rates, and seconds of the processor, as multiples of the bare network's in the round."""

    def median(name: str, key: str, relative: bool = False) -> float:
        values = [one[name][key] / (one["bare_network"][key] if relative else 1) for one in rounds]
        return round(statistics.median(values), 3)

    found = {"bare_network_images_per_s": median("bare_network", "images_per_s")}
    for name in ("openset_predict", "torchvision_loop"):
        found[f"{name}_of_bare"] = median(name, "images_per_s", relative=True)
        found[f"{name}_processor_of_bare"] = median(name, "processor_s_per_image", relative=True)
        found[f"{name}_few_processor_s"] = median(f"{name}_few", "processor_s")
        for key in ("first_answer_s", "peak_mib"):
            found[f"{name}_{key}"] = median(name, key)
            found[f"{name}_few_{key}"] = median(f"{name}_few", key)
    return found


if __name__ == "__main__":
    main()
