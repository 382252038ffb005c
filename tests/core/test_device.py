"""The device of a job: never silently the CPU, and float32 that is float32."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from openset_distill.core.device import least_taken
from openset_distill.models.from_timm import pool_2x2

PROGRAM = (
    "import torch\n"
    "from openset_distill.core.command import run\n"
    "from openset_distill.core.device import prepare_device\n"
    "def main():\n"
    "    device = prepare_device(1)\n"
    "    print(device, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)\n"
    "run(main)\n"
)


def prepare(**environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("CUDA_VISIBLE_DEVICES", "RANK")}
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_job_that_was_given_a_gpu_and_finds_none_ends_in_one_line():
    done = prepare(CUDA_VISIBLE_DEVICES="0")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "was given a GPU (CUDA_VISIBLE_DEVICES=0)" in done.stderr
    assert "OPENSET_DEVICE=cpu" in done.stderr and torch.__version__ in done.stderr


@pytest.mark.parametrize(
    "environment", [{"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "0", "OPENSET_DEVICE": "cpu"}]
)
def test_without_a_gpu_the_log_says_so_and_float32_is_float32(environment):
    done = prepare(**environment)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "cpu False False\n",
        "device: cpu; precision: float32; threads: 1\n",
    )


def test_a_model_for_prediction_does_not_fall_back_to_the_cpu_either():
    program = (
        "from openset_distill.core.command import run\nfrom openset_distill.core.device import has_gpu\nrun(has_gpu)"
    )
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "0", "OPENSET_DEVICE": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert torch.cuda.is_available() or (done.returncode == 2 and "was given a GPU" in done.stderr)


def test_processes_that_start_together_hold_devices_of_their_own(tmp_path):
    names = ["a", "b", "c", "d"]
    held = "from pathlib import Path; import os, sys; from openset_distill.core.device import least_taken\n"
    held += f"print(*least_taken({names}, Path({str(tmp_path)!r}), int(sys.argv[1])), flush=True)\n"
    # another program takes the place of the first and holds the same devices
    held += "os.execv('/bin/cat', ['cat'])"

    def start(count: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", held, str(count)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    jobs, taken = [], []
    for count in (1, 2, 2):
        jobs.append(start(count))
        taken.append(jobs[-1].stdout.readline().split())
    assert taken == [["0"], ["1", "2"], ["3", "0"]]
    for job in jobs:
        job.communicate(timeout=60)
    assert least_taken(names, tmp_path, 4) == [0, 1, 2, 3]


def test_locks_are_a_users_own_and_links_are_not_followed(tmp_path):
    target = tmp_path / "target"
    (tmp_path / f"openset-device-{os.geteuid()}-a-0.lock").symlink_to(target)
    (tmp_path / "openset-device-4242-b-0.lock").touch(mode=0o600)
    assert least_taken(["a", "b"], tmp_path) == [1]
    assert not target.exists()


@pytest.mark.parametrize("size", [(2, 2), (8, 8), (7, 5), (1, 3)])
def test_the_deterministic_2x2_pool_is_the_adaptive_one(size):
    maps = torch.randn(3, 5, *size, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ours, theirs = pool_2x2(maps), F.adaptive_avg_pool2d(maps, 2).flatten(1)
    torch.testing.assert_close(ours, theirs)
    weight = torch.arange(float(ours.numel())).view_as(ours)
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), maps)[0] for y in (ours, theirs)))
