"""Accuracy, AUROC and training time of both implementations on real images: speed must not be bought with quality.

    python benchmarks/quality.py [--json FILE]
    python benchmarks/quality.py --case small_64 --prepared data/prepared/tinyimagenet/64x3 --split FOLDER/split.npz

Without a prepared dataset it takes split 0 of the digits that ship inside scikit-learn. For each method and seed both
implementations train the same job. The teacher is trained once, by the engine. Trainings run side by side, one a core,
as the workflow has them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import REPOSITORY, SCRIPTS, exported, machine, prepared_with_split, python, spread, together
from training import CASES, METHODS, job, teacher_job

from openset_distill.evaluation.metrics import accuracy, auroc
from openset_distill.training.run_config import RunConfig

COMPARED = ("cross entropy", "asymmetric distillation")


def quality(outputs: Path) -> dict[str, float]:
    """Accuracy and AUROC of the maximum logit, in percent."""
    with np.load(outputs) as archive:
        logits, labels = archive["logits"], archive["labels"]
    known, score = labels >= 0, logits.max(axis=1)
    right = logits[known].argmax(axis=1) == labels[known]
    return {"accuracy": 100 * accuracy(right), "auroc": 100 * auroc(score[known], score[~known])}


def side_by_side(commands: list[list[object]], cores: int) -> list[float]:
    """Seconds that each batch of `cores` commands took, shared out among its commands."""
    seconds = []
    for start in range(0, len(commands), cores):
        batch = commands[start : start + cores]
        began = time.perf_counter()
        together(batch, threads=1)
        seconds += [(time.perf_counter() - began) / len(batch)] * len(batch)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="digits_8", help="networks, image size and batch size")
    parser.add_argument("--prepared", type=Path, help="folder of a prepared dataset")
    parser.add_argument("--split", type=Path, help="its split.npz; split.json lies beside it")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of each training")
    parser.add_argument("--seeds", type=int, default=4, help="trainings of each method and implementation")
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    case = CASES[arguments.case]
    result: dict[str, Any] = {
        "machine": machine("torch", "torchvision"),
        "epochs": arguments.epochs,
        "case": arguments.case,
        "methods": {},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.prepared:
            prepared, split = arguments.prepared.resolve(), arguments.split.resolve()
        else:
            prepared, split = prepared_with_split(folder, "digits", case.size, "mnist")
        images = exported(prepared, split, folder / "png")
        inputs = ["--prepared", prepared, "--split", split, "--description", split.with_suffix(".json")]

        def engine(run: str, settings: dict[str, Any], *more: object) -> list[object]:
            files = {"weights": "w.safetensors", "history": "h.csv", "outputs": "o.npz", "config": "c.json"}
            files["provenance"] = "p.json"
            outputs = [word for key, file in files.items() for word in (f"--{key}", folder / run / file)]
            return python(SCRIPTS / "train.py", "--job", json.dumps(settings), *inputs, *outputs, *more)

        together([engine("teacher", teacher_job(case, arguments.epochs), "--threads", cores)])
        teacher = ["--teacher", folder / "teacher" / "w.safetensors"]
        for method in COMPARED:
            taught = teacher if METHODS[method][0] != "cross_entropy" else []
            of_seed = [job(case, method, arguments.epochs) | {"seed": seed} for seed in range(arguments.seeds)]
            commands: dict[str, list[list[object]]] = {"engine": [], "plain": []}
            recording = 0.0
            for seed, settings in enumerate(of_seed):
                answers = []
                if taught:
                    answers = ["--teacher-logits", folder / f"teacher_logits_{seed}.safetensors"]
                    record = python(
                        SCRIPTS / "cache_teacher_logits.py",
                        "--job",
                        json.dumps(RunConfig.model_validate(settings).images_seen().plain()),
                        *inputs,
                    )
                    began = time.perf_counter()
                    together([[*record, *taught, *answers, "--threads", cores]])
                    recording += time.perf_counter() - began
                commands["engine"].append(engine(f"engine_{seed}", settings, *taught, *answers))
                (folder / f"plain_{seed}").mkdir(exist_ok=True)
                commands["plain"].append(
                    python(
                        REPOSITORY / "benchmarks" / "baseline.py", "--job", json.dumps(settings), "--images", images,
                        "--split", split, *taught, "--outputs", folder / f"plain_{seed}" / "o.npz",
                        "--workers", 0, "--threads", 1,
                    )
                )  # fmt: skip
            rows = {}
            for implementation, made in commands.items():
                seconds = statistics.mean(side_by_side(made, cores))
                found = [quality(folder / f"{implementation}_{seed}" / "o.npz") for seed in range(arguments.seeds)]
                rows[implementation] = {
                    "seconds_a_network": round(seconds, 1),
                    **{key: spread([one[key] for one in found], 2) for key in ("accuracy", "auroc")},
                    "by_seed": found,
                }
                print(method, implementation, rows[implementation], flush=True)
            if taught:
                # nobody else reads these recordings here: the whole of their time is the student's
                rows["engine"]["seconds_of_recording_a_network"] = round(recording / arguments.seeds, 1)
            result["methods"][method] = rows
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
