"""The device of a job: never silently the CPU, and float32 that is float32."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from openset_distill.core.device import derive_seed, least_taken, seed_layers
from openset_distill.core.files import lock
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
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "was given a GPU (CUDA_VISIBLE_DEVICES=0)" in done.stderr
    assert "OPENSET_DEVICE=cpu" in done.stderr
    assert torch.__version__ in done.stderr


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


# torch.cuda of a machine with four GPUs, as far as a device is chosen by it
FOUR_GPUS = """
from types import SimpleNamespace
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 4
torch.cuda.get_device_name = lambda number: "GPU of a test"
torch.cuda.get_device_properties = lambda number: SimpleNamespace(uuid=f"uuid-{number}")
torch.cuda.is_bf16_supported = lambda including_emulation: True
torch.cuda.set_device = lambda number: print("set", number)
torch.empty = lambda size, device: None
"""


def test_a_gpu_is_deterministic_fills_no_new_tensor_and_is_named_first():
    more = (
        "    print(torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory)\n"
    )
    program = PROGRAM.replace("import torch\n", f"import torch\n{FOUR_GPUS}", 1).replace(
        "run(main)", f"{more}run(main)"
    )
    program = program.replace("prepare_device(1)", "prepare_device(4, 'auto')")
    # one of two processes of a launcher: its own GPU, half the threads, and only the first speaks
    for rank, told in (("0", "device: cuda:0, GPU of a test; precision: bfloat16; threads: 2\n"), ("1", "")):
        environment = os.environ | {"LOCAL_RANK": rank, "RANK": rank, "LOCAL_WORLD_SIZE": "2", "OPENSET_DEVICE": ""}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.stdout.splitlines() == [f"set {rank}", f"cuda:{rank} False False", "True False"], done.stderr
        assert done.stderr == told


def test_a_gpu_that_another_process_holds_alone_ends_in_one_line():
    # the words of CUDA for a device in exclusive mode
    refuses = (
        "def refuse(size, device):\n"
        "    raise RuntimeError('CUDA error: CUDA-capable device(s) is/are busy or unavailable\\nCUDA kernel errors')\n"
        "torch.empty = refuse\n"
    )
    program = PROGRAM.replace("import torch\n", f"import torch\n{FOUR_GPUS}{refuses}", 1)
    environment = os.environ | {"LOCAL_RANK": "1", "OPENSET_DEVICE": ""}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "cuda:1, GPU of a test cannot be used: CUDA error: CUDA-capable device(s) is/are busy" in done.stderr


def test_a_launcher_takes_free_gpus_among_those_that_are_visible(tmp_path):
    program = "import torch\n" + FOUR_GPUS + (
        "from openset_distill.core.command import run\nfrom openset_distill.core.device import choose_gpus\n"
        "import sys\n"
        "def main():\n"
        "    print(choose_gpus(3), flush=True)\n"
        "    choose_gpus(5)\n"
        "run(main)\n"
    )  # fmt: skip
    (tmp_path / f"openset-device-{os.geteuid()}-uuid-1-0.lock").touch()
    with open(tmp_path / f"openset-device-{os.geteuid()}-uuid-1-0.lock", "r+") as held:
        assert lock(held.fileno())
        for visible, chosen in (("4,5,6,7", "4,6,7"), ("", "0,2,3")):
            environment = os.environ | {"TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": visible, "OPENSET_DEVICE": ""}
            command = [sys.executable, "-c", program]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
            assert done.stdout == f"{{'CUDA_VISIBLE_DEVICES': '{chosen}'}}\n", done.stderr
            assert done.returncode == 2
            assert "sees 4 GPU(s), but should train on 5" in done.stderr


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


def test_layers_draw_as_after_manual_seed_and_no_call_keeps_anything():
    kept = len(torch.cuda._queued_calls)
    seed_layers(torch.device("cpu"), 1, "dropout", 2)
    drawn = torch.rand(5)
    assert len(torch.cuda._queued_calls) == kept
    torch.manual_seed(derive_seed(1, "dropout", 2))
    assert torch.equal(drawn, torch.rand(5))
