"""The device of a job: never silently the CPU, and float32 that is float32."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

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
    assert (done.returncode, done.stdout, done.stderr) == (0, "cpu False False\n", "device: cpu; threads: 1\n")


@pytest.mark.parametrize("size", [(2, 2), (8, 8), (7, 5), (1, 3)])
def test_the_deterministic_2x2_pool_is_the_adaptive_one(size):
    maps = torch.randn(3, 5, *size, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ours, theirs = pool_2x2(maps), F.adaptive_avg_pool2d(maps, 2).flatten(1)
    torch.testing.assert_close(ours, theirs)
    weight = torch.arange(float(ours.numel())).view_as(ours)
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), maps)[0] for y in (ours, theirs)))
