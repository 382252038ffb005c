"""Time and memory of metrics, evaluation and inference against the number of test images.

    python benchmarks/scale.py [--json FILE]

Scores and logits are random: the work depends on how many there are, not on what they are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from measure import REPOSITORY, machine, spread, together

COUNTS = (10_000, 100_000, 1_000_000)
CLASSES, FEATURES = 20, 512

# a tenth of the images are known, as in Tiny-ImageNet's protocol; single precision, as networks give them
METRICS = """
import json, sys, time
import numpy as np
from measure import peak_mib
from openset_distill import metrics
n = int(sys.argv[1])
rng = np.random.default_rng(0)
known, unknown = rng.normal(1, 1, n // 10).astype("f4"), rng.normal(0, 1, n - n // 10).astype("f4")
correct = rng.random(n // 10) < 0.8
calls = {
    "auroc": lambda: metrics.auroc(known, unknown),
    "oscr": lambda: metrics.oscr(known, unknown, correct),
    "fpr_at_tpr": lambda: metrics.fpr_at_tpr(known, unknown),
    "openauc": lambda: metrics.openauc(known, unknown, correct),
}
seconds = {}
for name, call in calls.items():
    seconds[name] = []
    for _ in range(5):
        started = time.perf_counter()
        call()
        seconds[name].append(time.perf_counter() - started)
print(json.dumps({**seconds, "peak_mib": peak_mib()}))
"""

EVALUATION = """
import json, sys, time
import numpy as np
from measure import peak_mib
from openset_distill.evaluation.evaluate import evaluate
n, bootstrap, classes, width = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
labels = np.where(np.arange(n) < n // 10, rng.integers(0, classes, n), -1)
outputs = {
    "features": rng.random((n, width), dtype="f4"), "logits": rng.random((n, classes), dtype="f4"), "labels": labels,
    "group": (labels < 0).astype(int), "group_names": np.array(["known", "unknown"]),
}
started = time.perf_counter()
evaluate(outputs, scores=["maximum_logit", "msp", "energy", "feature_norm"], sampling=["full", "balanced"],
         bootstrap=bootstrap, seed=0)
print(json.dumps({"seconds": time.perf_counter() - started, "peak_mib": peak_mib()}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = str(REPOSITORY / "benchmarks")
    result = {"machine": machine("numpy"), "metrics": {}, "evaluation": {}}
    for count in COUNTS:
        (found,) = together([[sys.executable, "-c", METRICS, count]])
        seconds = {name: spread(found[name], 4) for name in ("auroc", "oscr", "fpr_at_tpr", "openauc")}
        result["metrics"][count] = {"seconds": seconds, "peak_mib": round(found["peak_mib"])}
        print(count, result["metrics"][count], flush=True)
        for bootstrap in (0, 1000):
            if bootstrap and count > 100_000:
                continue
            (found,) = together([[sys.executable, "-c", EVALUATION, count, bootstrap, CLASSES, FEATURES]])
            row = {"seconds": round(found["seconds"], 2), "peak_mib": round(found["peak_mib"])}
            result["evaluation"][f"{count}, {bootstrap} resamples"] = row
            print(count, bootstrap, row, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
