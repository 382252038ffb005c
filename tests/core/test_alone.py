"""A run is trained by one process at a time; what a killed Snakemake left running is named."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from commands import REPOSITORY

from openset_distill.core.errors import OpenSetError
from openset_distill.core.files import alone

HOLD = """
import sys
from openset_distill.core.files import alone
with alone(sys.argv[1], "training ce"):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_for_one_process_until_that_ends_however_it_does(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "ce"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "in\n"
    words = rf"{holder.pid}.*training ce.*already.*kill {holder.pid}"
    with pytest.raises(OpenSetError, match=words) as refused, alone(tmp_path / "ce", "training ce"):
        pass
    assert "\n" not in str(refused.value)
    with alone(tmp_path / "cutmix", "training cutmix"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with alone(tmp_path / "ce", "training ce"):
        assert list((tmp_path / "ce").iterdir()) == []


def test_the_doctor_names_trainings_whose_snakemake_is_gone(tmp_path):
    script = tmp_path / "workflow_scripts" / "train.py"
    script.parent.mkdir()
    script.write_text("import time\ntime.sleep(60)\n")
    weights = "results/digits/split0/seed0/ce/weights.safetensors"
    command = [sys.executable, "workflow_scripts/train.py", "--weights", weights]
    orphan = subprocess.Popen(command, cwd=tmp_path)
    time.sleep(0.2)
    try:
        found = subprocess.run(
            [sys.executable, REPOSITORY / "tools" / "doctor.py"], cwd=tmp_path, capture_output=True, text=True
        )
    finally:
        orphan.kill()
        orphan.wait()
    words = f"process {orphan.pid} still trains results/digits/split0/seed0/ce"
    assert found.returncode == 2
    assert words in found.stderr
    assert f"`kill {orphan.pid}`" in found.stderr
