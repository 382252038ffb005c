"""What a run shows: one line a job, the reason of a failure last, the results also where nothing was to be done."""

from __future__ import annotations

import re

from commands import REPOSITORY
from small_repository import copy_of_the_repository, snakemake

SPLIT = "results/digits/split0/seed0/split.npz"


def test_a_job_is_one_line_and_the_reason_of_a_failure_the_last(tmp_path):
    folder = copy_of_the_repository(tmp_path / "copy")
    done = snakemake(folder, SPLIT)
    assert done.returncode == 0, done.stderr
    own = "choosing classes and images, split 0, seed 0; log: results/digits/logs/split0_seed0_make_split.log"
    progress = r"\[..:..:..\] 2 of 3 done, about \d+ (s|min) left: "
    assert re.search(rf"^{progress}{own}$", done.stderr, re.MULTILINE)
    assert "Finished jobid" not in done.stderr and "reason:" not in done.stderr

    (folder / "data" / "prepared" / "digits" / "8x1" / "manifest.json").write_text("damaged")
    failed = snakemake(folder, SPLIT)
    lines = failed.stderr.splitlines()
    assert failed.returncode == 1
    assert f"failed: {own}" in lines and lines[-1].startswith("error: ") and "manifest.json" in lines[-1]
    assert "Traceback" not in failed.stderr and "CalledProcessError" not in failed.stderr
    assert all(len(line) <= 160 for line in done.stderr.splitlines())

    reference = folder / "config" / "reference" / "protocols.json"
    reference.write_text("damaged")
    refused = snakemake(folder, SPLIT)
    assert refused.returncode == 1 and "protocols.json" in refused.stderr and "Traceback" not in refused.stderr
    reference.write_text((REPOSITORY / "config" / "reference" / "protocols.json").read_text())
    full = snakemake(folder, SPLIT, "--forceall", "--verbose", "--dry-run")
    assert "rule make_split:" in full.stdout + full.stderr
