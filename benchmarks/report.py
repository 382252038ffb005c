"""Puts the results in docs/benchmarks/*.json into the tables of docs/benchmarks.md, between its markers.

python benchmarks/report.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from measure import REPOSITORY

PAGE = REPOSITORY / "docs" / "benchmarks.md"
CASES = {
    "digits_8": "the digits' network, 8x8, batch 64",
    "small_32": "small residual network, 32x32, batch 64",
    "small_64": "small residual network, 64x64, batch 64",
    "resnet18_32": "ResNet-18, 32x32, batch 32",
    "resnet18_64": "ResNet-18, 64x64, batch 32",
    "mobilenet_v2_32": "MobileNetV2, 32x32, batch 32",
    "fast_32": "fast network, 32x32, batch 128, AMX",
}


# training_fast is from another machine, a processor with AMX
TRAININGS = ("training_small", "training", "training_fast")

# of the experiments here: distillation on CutMix, both presets of asymmetric distillation, three rows of the ablation
STUDENTS_OF_A_RECORDING = 6


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, [":--"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def load(name: str) -> dict[str, Any]:
    path = REPOSITORY / "docs" / "benchmarks" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def shown(value: dict[str, Any], digits: int = 0) -> str:
    return f"{value['median']:.{digits}f}"


def with_spread(value: dict[str, Any], digits: int = 1) -> str:
    return f"{value['median']:.{digits}f} ({value['min']:.{digits}f} to {value['max']:.{digits}f})"


def training() -> str:
    rows, n = [], []
    for result in map(load, TRAININGS):
        for case, measured in result.get("cases", {}).items():
            for method, found in measured["methods"].items():
                for name in ("engine", "engine, recorded"):
                    if name not in found:
                        continue
                    rows.append(
                        [
                            f"{CASES[case]}: {method}{', cached teacher logits' if name != 'engine' else ''}",
                            shown(found["plain"]["images_a_second"]),
                            shown(found[name]["images_a_second"]),
                            with_spread(found[name]["times_plain"]) if "times_plain" in found[name] else "",
                        ]
                    )
                    n.append(found[name]["images_a_second"]["n"])
            recording = measured["recording_images_a_second"]
            rate = f"{recording:.0f}" if recording else "not measured"
            rows.append([f"{CASES[case]}: caching teacher logits", "", rate, ""])
            found = measured["methods"]["asymmetric distillation"]
            if recording:
                seconds = (
                    1 / found["engine, recorded"]["images_a_second"]["median"] + 1 / recording / STUDENTS_OF_A_RECORDING
                )
                plain = found["plain"]["images_a_second"]["median"]
                rows.append(
                    [
                        f"{CASES[case]}: asymmetric distillation, with a sixth of the caching (computed)",
                        f"{plain:.0f}",
                        f"{1 / seconds:.0f}",
                        f"{1 / seconds / plain:.1f}",
                    ]
                )
    head = ["images per second", "plain", "engine", "times plain (min to max)"]
    return table(head, rows) + f"\n\nn = {min(n)} or more alternating rounds of both implementations."


def engine() -> str:
    rows = []
    for result in map(load, TRAININGS):
        for case, measured in result.get("cases", {}).items():
            found = measured["methods"].get("cross entropy")
            if not found:
                continue
            fast, plain = found["engine"], found["plain"]
            gflops = fast["images_a_second"]["median"] * fast["student_gflop_an_image"]
            ceiling = (result["matrix_product_gflops"] or {}).get(result["type"])
            arrangements = fast["all_arrangements"]
            rows.append(
                [
                    CASES[case],
                    f"{gflops:.0f} ({100 * gflops / ceiling:.0f}%)" if ceiling else f"{gflops:.0f} (not measured)",
                    ", ".join(f"{name}: {shown(value)}" for name, value in arrangements.items()),
                    f"{shown(fast['seconds_to_first_step'], 1)} / {shown(plain['seconds_to_first_step'], 1)}",
                    f"{fast['peak_mib']} / {plain['peak_mib']}",
                ]
            )
    head = [
        "cross entropy",
        "GFLOP/s (of the ceiling)",
        "images per second by processes x threads",
        "seconds to the first step, engine / plain",
        "peak MiB per process, engine / plain",
    ]
    return table(head, rows)


def quality() -> str:
    rows = []
    for result in (load("quality"), load("quality_small")):
        for method, found in result.get("methods", {}).items():
            for implementation, row in found.items():
                seconds = f"{row['seconds_a_network']:.0f}"
                if "seconds_of_recording_a_network" in row:
                    seconds += f" + {row['seconds_of_recording_a_network']:.0f} caching"
                name = f"{CASES[result['case']]}: {method}, {implementation}"
                rows.append([name, with_spread(row["accuracy"]), with_spread(row["auroc"]), seconds])
    return table(["", "accuracy (%)", "AUROC (%)", "seconds per network"], rows)


def scale() -> str:
    result, rows = load("scale"), []
    for count, found in result.get("metrics", {}).items():
        seconds = found["seconds"]
        evaluation = [result["evaluation"].get(f"{count}, {resamples} resamples") for resamples in (0, 1000)]
        rows.append(
            [
                f"{int(count):,}",
                *(f"{1000 * seconds[name]['median']:.0f} ms" for name in ("auroc", "oscr", "fpr_at_tpr", "openauc")),
                *(f"{one['seconds']:.1f} s, {one['peak_mib']} MiB" if one else "" for one in evaluation),
            ]
        )
    head = ["test images", "AUROC", "OSCR", "FPR95", "OpenAUC", "whole evaluation", "with 1,000 resamples"]
    return table(head, rows)


def analysis() -> str:
    rows = []
    for case in load("analysis").get("cases", []):
        seconds = case["seconds"]
        rows.append(
            [
                f"{case['images']:,} ({case['known']:,} known) x {case['features']:,}, {case['classes']:,} classes; "
                f"teacher {case['teacher_features']:,}",
                *(f"{shown(seconds[name], 1)} s" for name in ("measures", "reference", "cka")),
                f"{case['inputs_mib']} / {case['peak_mib']}",
            ]
        )
    head = ["test images", "all measures", "the teacher, once", "CKA of a student", "MiB of the inputs / peak"]
    return table(head, rows)


def gpu() -> str:
    found = load("gpu")
    if not found:
        return "Not measured: no GPU was available. `python benchmarks/gpu.py` fills these rows in ten minutes."
    rows = []
    for key, row in found["rows"].items():
        case, method, precision, count = key.rsplit(", ", 3)
        busy = "" if row["busy_percent"] is None else f"{row['busy_percent']:.0f} %"
        rows.append(
            [f"{CASES[case]}: {method}, {precision}", count, f"{row['images_a_second']:.0f}", busy,
             f"{row['gpu_peak_mib']} MiB"]
        )  # fmt: skip
    head = [f"on {', '.join(found['machine']['gpus'])}", "at once", "images per second", "busy", "memory of each"]
    return table(head, rows)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, make in {
        "training": training,
        "engine": engine,
        "quality": quality,
        "scale": scale,
        "analysis": analysis,
        "gpu": gpu,
    }.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        after = rest.partition("<!-- end -->")[2]
        text = f"{before}<!-- {name} -->\n{make()}\n<!-- end -->{after}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
