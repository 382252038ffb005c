"""Caches the teacher logits of every training batch for all students that see the same images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from openset_distill.core.command import positive, renamed, run


def main() -> None:
    """Writes the teacher's logits, by step, from its weights and the images that its students see."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--job", required=True, help="settings that determine the images its students see: JSON text, or a .json file"
    )
    parser.add_argument("--prepared", required=True, type=Path, help="folder of the prepared dataset")
    parser.add_argument(
        "--other", action="append", default=[], type=Path, help="prepared dataset of unknowns, in order"
    )
    parser.add_argument("--split", required=True, type=Path, help="split.npz")
    parser.add_argument("--description", required=True, type=Path, help="split.json")
    parser.add_argument(
        "--teacher", action="append", required=True, type=Path, help="weights of a teacher (repeatable)"
    )
    parser.add_argument("--teacher-logits", required=True, type=Path, help="output: the cached logits")
    renamed(parser, "--answers", "--teacher-logits")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads")
    arguments = parser.parse_args()

    from openset_distill.core.device import prepare_device
    from openset_distill.training.run_config import ImagesSeen
    from openset_distill.training.setup import cache_key, make_batches, open_split
    from openset_distill.training.teachers import cache_logits, load_teachers

    seen = ImagesSeen.parse(arguments.job)
    data = open_split(arguments.prepared, arguments.other, arguments.split, arguments.description)
    device = prepare_device(arguments.threads, seen.optimization.precision)
    cache_logits(
        arguments.teacher_logits,
        load_teachers(arguments.teacher, data.classes, device, precision=seen.optimization.precision),
        make_batches(seen, data, device),
        cache_key(seen, data, arguments.teacher, device),
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )


if __name__ == "__main__":
    run(main)
