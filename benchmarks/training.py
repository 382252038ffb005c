"""Images a second of each method and backbone: the project's engine beside the plain implementation.

    python benchmarks/training.py [--case small_64 ...] [--repeats 3] [--json FILE]

Both train the same job on the same images, in processes of their own, by turns. Each is measured as one process with
all cores and as one process a core, side by side (the workflow trains several networks at a time), and the better of
the two counts, for both. Distillation is measured twice: with a teacher that answers in each training, and with its
recorded answers; the speed of recording, which all students of a teacher share, stands beside them.
The matrix-product ceiling is that of `torch.mm` on this machine, in the type that the engine trains in.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from measure import REPOSITORY, SCRIPTS, machine, python, spread, synthetic, together

from openset_distill.config.experiment import load
from openset_distill.core.device import autocast_dtype
from openset_distill.training.run_config import RunConfig

# long enough that the start of the process does not count
RECORDED_EPOCHS = 10


@dataclass(frozen=True)
class Case:
    student: dict[str, Any]
    teacher: dict[str, Any]
    size: int
    batch: int
    images: int


def small(*widths: int, stem: int = 2) -> dict[str, Any]:
    return {"name": "small_resnet", "widths": list(widths), "depth": 1, "stem_stride": stem}


def fast(*widths: int) -> dict[str, Any]:
    return {"name": "fast_cnn", "widths": list(widths)}


CASES = {
    "digits_8": Case(small(16, 32, stem=1), small(32, 64, stem=1), 8, 64, 1280),
    "small_32": Case(small(32, 64, 128, 256), small(48, 96, 192, 384), 32, 64, 1280),
    "small_64": Case(small(32, 64, 128, 256), small(48, 96, 192, 384), 64, 64, 640),
    "resnet18_32": Case({"name": "resnet18"}, {"name": "resnet50"}, 32, 32, 128),
    "resnet18_64": Case({"name": "resnet18"}, {"name": "resnet50"}, 64, 32, 64),
    "mobilenet_v2_32": Case({"name": "mobilenet_v2"}, {"name": "resnet50"}, 32, 32, 128),
    "fast_32": Case(fast(32, 128, 256), fast(64, 256, 256), 32, 128, 2560),
}
GPU_IMAGES = 6400
METHODS = {
    "cross entropy": ("cross_entropy", None),
    "CutMix": ("cross_entropy", "cutmix"),
    "distillation on CutMix": ("distillation", "cutmix"),
    "asymmetric distillation": ({"name": "asymmetric_distillation", "preset": "as_released"}, "cutmix"),
}


def job(case: Case, method: str, epochs: int) -> dict[str, Any]:
    """The paper's augmentation and optimizer on the case's networks."""
    objective, multi = METHODS[method]
    single = [
        {"name": "random_crop", "padding": min(4, case.size // 8)},
        "horizontal_flip",
        {"name": "randaugment", "num_ops": 1, "magnitude": 9},
    ]
    run = {
        "backbone": case.student,
        "method": objective,
        "augment": {"single": single, "multi": multi, "multi_until": 1.0},
        "optimization": {"epochs": epochs, "batch_size": case.batch, "warmup_epochs": 0, "precision": "auto"},
    }
    show = {"baseline": "student", "figures": [], "tables": []}
    settings = {"experiment": "benchmark", "title": "", "data": {"dataset": "digits"}, "protocol": {"name": "mnist"}}
    runs = {"student": run, "teacher": {"backbone": case.teacher}}
    return load(settings | {"runs": runs, "show": show}, stands_alone=True).run_config("student", 0, 0).plain()


def teacher_job(case: Case, epochs: int) -> dict[str, Any]:
    """The training of the case's teacher."""
    return job(replace(case, student=case.teacher), "cross entropy", epochs)


def ceiling(dtype: torch.dtype, device: str) -> float:
    """Operations a second of a large matrix product, the best of several."""
    n = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best


def rate(results: list[dict[str, Any]]) -> float:
    """Images a second of processes that ran side by side; their first epoch warms up and does not count."""
    return sum(result["images"] / statistics.mean(result["epoch_seconds"][1:]) for result in results)


def measure(case: Case, method: str, files: dict[str, Path], cores: int, epochs: int) -> dict[str, Any]:
    """One round of both implementations: images a second, seconds to the first step, peak memory."""
    text = json.dumps(job(case, method, epochs))
    inputs = [word for name in ("prepared", "split", "description") for word in (f"--{name}", files[name])]
    plain_inputs = ["--images", files["images"], "--split", files["split"]]
    teacher = ["--teacher", files["teacher"]] if "distillation" in method else []
    arrangements = {f"1 x {cores}": (1, cores), f"{cores} x 1": (cores, 1)} if cores > 1 else {"1 x 1": (1, 1)}
    found: dict[str, Any] = {}
    for arrangement, (processes, threads) in arrangements.items():
        engine = python(REPOSITORY / "benchmarks" / "engine.py", "--job", text, *inputs, "--threads", threads)
        commands = {
            "engine": [*engine, *teacher],
            "plain": python(
                REPOSITORY / "benchmarks" / "baseline.py", "--job", text, *plain_inputs, *teacher,
                "--threads", threads, "--workers", 0 if not torch.cuda.is_available() else cores,
            ),
        }  # fmt: skip
        if teacher:
            commands["engine, recorded"] = [*engine, *teacher, "--teacher-logits", files["answers"]]
        for name, command in commands.items():
            results = together([command] * processes, threads)
            found.setdefault(name, {})[arrangement] = {
                "rate": rate(results),
                "first_step": max(result["first_step"] - result["began"] for result in results),
                "peak_mib": max(result["peak_mib"] for result in results),
                "operations_an_image": results[0].get("operations_an_image"),
            }
    return found


def prepare(case: Case, folder: Path, epochs: int, cores: int) -> tuple[dict[str, Path], float]:
    """Files of a case, and images a second of recording the teacher's answers."""
    images = GPU_IMAGES if torch.cuda.is_available() else case.images
    files = synthetic(folder, case.size, images)
    inputs = [word for name in ("prepared", "split", "description") for word in (f"--{name}", files[name])]
    outputs = {n: folder / "teacher" / f"{n}.{k}" for n, k in (("weights", "safetensors"), ("history", "csv"))}
    outputs |= {"outputs": folder / "teacher" / "o.npz", "config": folder / "c.json", "provenance": folder / "p.json"}
    written = [word for name, path in outputs.items() for word in (f"--{name}", path)]
    of_teacher = teacher_job(case, 1)
    together([python(SCRIPTS / "train.py", "--job", json.dumps(of_teacher), *inputs, *written, "--threads", cores)])
    files |= {"teacher": outputs["weights"], "answers": folder / "teacher_logits.safetensors"}
    seconds = {}
    for count in (1, 1 + RECORDED_EPOCHS):
        seen = json.dumps(RunConfig.model_validate(job(case, "asymmetric distillation", count)).images_seen().plain())
        command = python(SCRIPTS / "cache_teacher_logits.py", "--job", seen, *inputs, "--teacher", files["teacher"])
        answers = folder / f"teacher_logits_{count}.safetensors"
        started = time.perf_counter()
        together([[*command, "--teacher-logits", answers, "--threads", cores]])
        seconds[count] = time.perf_counter() - started
    seen = json.dumps(RunConfig.model_validate(job(case, "asymmetric distillation", epochs)).images_seen().plain())
    command = python(SCRIPTS / "cache_teacher_logits.py", "--job", seen, *inputs, "--teacher", files["teacher"])
    together([[*command, "--teacher-logits", files["answers"], "--threads", cores]])
    recorded = RECORDED_EPOCHS * (images // case.batch) * case.batch
    return files, recorded / (seconds[1 + RECORDED_EPOCHS] - seconds[1])


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The better arrangement of each implementation, over all rounds, and the ratios round by round."""
    made: dict[str, Any] = {}
    rates: dict[str, list[float]] = {}
    for name in rounds[0]:
        best = max(rounds[0][name], key=lambda a: statistics.median(r[name][a]["rate"] for r in rounds))
        chosen = [r[name][best] for r in rounds]
        rates[name] = [one["rate"] for one in chosen]
        made[name] = {
            "processes x threads": best,
            "images_a_second": spread(rates[name]),
            "seconds_to_first_step": spread([one["first_step"] for one in chosen]),
            "peak_mib": round(max(one["peak_mib"] for one in chosen)),
            "all_arrangements": {a: spread([r[name][a]["rate"] for r in rounds]) for a in rounds[0][name]},
        }
        if chosen[0]["operations_an_image"]:
            made[name]["student_gflop_an_image"] = round(chosen[0]["operations_an_image"] / 1e9, 3)
    for name in rates:
        if name != "plain":
            ratios = [a / b for a, b in zip(rates[name], rates["plain"], strict=True)]
            made[name]["times_plain"] = spread(ratios, 2)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), help="which networks and image sizes")
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS), help="which methods")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of both implementations")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of a process, of which the first warms up")
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if not torch.cuda.is_available() else 1
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = autocast_dtype("auto", device) or torch.float32
    result = {
        "machine": machine("torch", "torchvision", "timm"),
        "type": str(dtype).removeprefix("torch."),
        "matrix_product_gflops": {
            str(t).removeprefix("torch."): round(ceiling(t, device.type) / 1e9) for t in (torch.float32, dtype)
        },
        "cases": {},
    }
    if arguments.json and arguments.json.exists():
        # what this call does not measure stays
        result["cases"] = json.loads(arguments.json.read_text())["cases"]
    for name in arguments.case:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            files, recording = prepare(case, Path(folder), arguments.epochs, cores)
            row = result["cases"].get(name, {"methods": {}}) | {"recording_images_a_second": round(recording, 1)}
            for method in arguments.method:
                rounds = [measure(case, method, files, cores, arguments.epochs) for _ in range(arguments.repeats)]
                row["methods"][method] = {**summary(rounds), "commit": result["machine"]["commit"]}
                print(
                    name,
                    method,
                    {k: v["images_a_second"]["median"] for k, v in row["methods"][method].items() if k != "commit"},
                    flush=True,
                )
            result["cases"][name] = row
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
