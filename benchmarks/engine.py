"""Times the project's own training, epoch by epoch, the counterpart of `benchmarks/baseline.py`.

    python benchmarks/engine.py --job JOB --prepared FOLDER --split split.npz --description split.json

It calls what `workflow_scripts/train.py` calls, and notes the time whenever the loop asks for a batch. It prints, as
JSON, when the first step was done, the seconds of each epoch and the operations of the student's passes for an image.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import torch
from measure import peak_mib
from torch.utils.flop_counter import FlopCounterMode

from openset_distill.core.device import prepare_device
from openset_distill.methods import Batch
from openset_distill.training.batches import Batches
from openset_distill.training.loop import train
from openset_distill.training.run_config import RunConfig
from openset_distill.training.setup import cache_key, identity, make_batches, make_student, open_split
from openset_distill.training.teachers import CachedTeacher, load_teachers


class Timed:
    """Batches that note when they are asked for: step k is done when batch k + 1 is wanted."""

    def __init__(self, batches: Batches):
        self.batches, self.wanted = batches, []

    def __getattr__(self, name: str):
        return getattr(self.batches, name)

    def __getitem__(self, number: int) -> Batch:
        if self.batches.labels.device.type == "cuda" and number % self.batches.steps_per_epoch in (0, 1):
            torch.cuda.synchronize()
        self.wanted.append(time.time())
        return self.batches[number]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", required=True, help="resolved settings of the run, JSON text")
    parser.add_argument("--prepared", required=True, type=Path, help="folder of the prepared dataset")
    parser.add_argument("--split", required=True, type=Path, help="split.npz")
    parser.add_argument("--description", required=True, type=Path, help="split.json")
    parser.add_argument("--teacher", action="append", default=[], type=Path, help="weights of the teacher")
    parser.add_argument("--teacher-logits", type=Path, help="cached teacher logits")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    config = RunConfig.parse(arguments.job)
    data = open_split(arguments.prepared, [], arguments.split, arguments.description)
    device = prepare_device(arguments.threads)
    teacher = None
    if arguments.teacher_logits:
        teacher = CachedTeacher(arguments.teacher_logits, cache_key(config, data, arguments.teacher, device), device)
    elif arguments.teacher:
        precision = config.optimization.precision
        teacher = load_teachers(arguments.teacher, data.classes, device, precision=precision)
    student = make_student(config, data, device)
    batches = Timed(make_batches(config, data, device))
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state.safetensors"
        train(
            config,
            student,
            teacher,
            batches,
            data.validation(device),
            identity=identity(data, arguments.teacher, arguments.teacher_logits),
            state_path=state,
            report=lambda line: None,
        )
    if device.type == "cuda":
        torch.cuda.synchronize()
    marks = [*batches.wanted[:: batches.steps_per_epoch], time.time()]

    # forward alone, and backward as twice that: the counter takes the gradients of grouped convolutions for dense ones
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student(batches[0].images)
    print(
        json.dumps(
            {
                "first_step": (batches.wanted + marks[-1:])[1],
                "epoch_seconds": [after - before for before, after in itertools.pairwise(marks)],
                "images": batches.steps_per_epoch * batches.size,
                "peak_mib": peak_mib(),
                "gpu_peak_mib": torch.cuda.max_memory_allocated() // 2**20 if device.type == "cuda" else 0,
                "operations_an_image": 3 * counter.get_total_flops() / batches.size,
            }
        )
    )


if __name__ == "__main__":
    main()
