"""Time and memory of the measures of feature geometry, and of CKA with a teacher, against the number of test images.

    python benchmarks/analysis.py [--json FILE]

A tenth of the images are known in the first two cases, as in Tiny-ImageNet's protocol, and a third in the last, which
has the size of the semantic shift benchmark on ImageNet, with a ResNet-18 and its ResNet-50 teacher. Features are
random: the work depends on how many there are, not on what they are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from measure import REPOSITORY, machine, spread, together

# images, known images, features of the student and of the teacher, classes
CASES = ((10_000, 1_000, 512, 512, 20), (100_000, 10_000, 512, 512, 20), (150_000, 50_000, 512, 2048, 1000))
REPEATS = 3

MEASURES = """
import json, sys, time
import numpy as np
from measure import peak_mib
from openset_distill.analysis.feature_geometry import Reference, groups, measure
n, n_known, width, teacher_width, classes, repeats = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
labels = np.where(np.arange(n) < n_known, rng.integers(0, classes, n), -1)
outputs = {"features": rng.random((n, width), dtype="f4"), "logits": rng.random((n, classes), dtype="f4"),
           "labels": labels}
taught = rng.random((n, teacher_width), dtype="f4")
head = rng.normal(size=(classes, width)).astype("f4")
rows = {name: groups(labels)[name] for name in ("known", "all")}
inputs = peak_mib()
seconds = {"measures": [], "reference": [], "cka": []}
for _ in range(repeats):
    started = time.perf_counter()
    list(measure(outputs, head))
    measured = time.perf_counter()
    reference = Reference(taught, rows)
    prepared = time.perf_counter()
    reference.cka(outputs["features"])
    ended = time.perf_counter()
    for name, took in zip(seconds, (measured - started, prepared - measured, ended - prepared), strict=True):
        seconds[name].append(took)
print(json.dumps({**seconds, "inputs_mib": inputs, "peak_mib": peak_mib()}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(str(REPOSITORY / name) for name in ("benchmarks", "src"))
    result = {"machine": machine("numpy"), "cases": []}
    for case in CASES:
        # one thread, as the workflow's jobs have by default
        (found,) = together([[sys.executable, "-c", MEASURES, *case, REPEATS]], threads=1)
        row = dict(zip(("images", "known", "features", "teacher_features", "classes"), case, strict=True))
        row["seconds"] = {name: spread(found[name], 2) for name in ("measures", "reference", "cka")}
        row |= {name: round(found[name]) for name in ("inputs_mib", "peak_mib")}
        result["cases"].append(row)
        print(row, flush=True)
        # after each case: the last one takes minutes, and what was measured before it should outlive its end
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
