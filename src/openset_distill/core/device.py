"""The hardware a job runs on: device, precision, threads, determinism, seeds."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import torch

from .errors import OpenSetError

# where a scheduler, a launcher or a user says that this job has GPUs, and the values that say that it has none
GIVEN_GPU = ("CUDA_VISIBLE_DEVICES", "OPENSET_GPUS")
NO_GPU = ("", "-1", "NoDevFiles", "void", "none")


def prepare_device(threads: int) -> torch.device:
    """Picks the GPU if there is one, with deterministic kernels, and sets the number of CPU threads.

    Of several GPUs a process of `torchrun` takes the one of its number, any other process the one that the fewest
    others have taken: workflow jobs that run side by side spread over the machine, or share its one GPU.

    Sums of floats depend on the number of threads: the same seed gives the same bits for the same `threads`.
    With `OPENSET_DEVICE=cpu` in the environment the CPU is used although there are GPUs.

    Raises:
        OpenSetError: the job was given a GPU (`GIVEN_GPU`), and torch finds none that it can use.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    # float32 means float32: convolutions would otherwise multiply with ten bits of mantissa on Ampere and newer
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    on_cpu = os.environ.get("OPENSET_DEVICE") == "cpu"
    if not on_cpu and not torch.cuda.is_available():
        require_no_gpu()
    if on_cpu or not torch.cuda.is_available():
        say_device("cpu", threads)
        return torch.device("cpu")  # its kernels are deterministic; asking for it would import the compiler, a second
    # read by cuBLAS when its first handle is made; without it deterministic algorithms refuse to run
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # deterministic algorithms alone give the same bits; filling every new tensor with NaN only costs kernels
    torch.utils.deterministic.fill_uninitialized_memory = False
    if "LOCAL_RANK" in os.environ:
        number = int(os.environ["LOCAL_RANK"])
    else:
        names = [str(torch.cuda.get_device_properties(number).uuid) for number in range(torch.cuda.device_count())]
        number = least_taken(names, Path(tempfile.gettempdir()))
    torch.cuda.set_device(number)
    say_device(f"cuda:{number}, {torch.cuda.get_device_name(number)}", threads)
    return torch.device("cuda", number)


def require_no_gpu() -> None:
    """Raises an OpenSetError with torch's own reason if this job was given a GPU: torch has found none."""
    given = next((name for name in GIVEN_GPU if os.environ.get(name, "") not in NO_GPU), None)
    if given is None:
        return
    try:
        torch.cuda.init()
        reason = "it sees no device"
    except (RuntimeError, AssertionError) as error:  # the latter from a build without CUDA
        reason = " ".join(str(error).split())
    raise OpenSetError(
        f"this job was given a GPU ({given}={os.environ[given]}), and PyTorch {torch.__version__} cannot use it: "
        f"{reason} "
        "Update the driver, give the container its GPUs (--nv, --gpus), or set OPENSET_DEVICE=cpu to compute on the CPU"
    )


def say_device(name: str, threads: int) -> None:
    """The first line of a job's log; of several processes of one training the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(f"device: {name}; threads: {threads}", file=sys.stderr, flush=True)


def keep_freed_memory() -> None:
    """Asks the C library to keep what is freed for the next allocation instead of giving it back to the system.

    A training step frees and allocates the same few hundred megabytes; taking them from the system each time costs a
    tenth of the step on a CPU. Nothing happens where the C library is not glibc.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD (its largest value), as malloc.h numbers them
        for parameter, size in ((-1, 2**31 - 1), (-2, 64 * 2**20), (-3, 32 * 2**20)):
            library.mallopt(parameter, size)


_held: list[IO[str]] = []  # open as long as the process lives: the system ends a lock with its process, however it ends


def least_taken(names: Sequence[str], folder: Path) -> int:
    """The position of the device that the fewest processes hold; this process holds it until it ends.

    Args:
        names: of the devices, the same in every process.
        folder: where the lock files lie, one for each device and place on it.
    """
    for place in range(1000):
        for number, name in enumerate(names):
            path = folder / f"openset-device-{name}-{place}.lock"
            try:
                stream = open(path, "a")  # noqa: SIM115 - must outlive this function
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # held by another process, or made by another user
                continue
            _held.append(stream)
            return number
    return 0


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of automatic mixed precision, or None for float32.

    Args:
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 where the hardware multiplies matrices in it.
    """
    if precision == "float32":
        return None
    if precision == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else None


def precision_name(dtype: torch.dtype | None) -> str:
    """What `autocast_dtype` found, as text: `float32` or `bfloat16`, never `auto`, which differs from node to node."""
    return str(dtype or torch.float32).removeprefix("torch.")


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed from what the random draw is for, e.g. `derive_seed(seed, split, "order", epoch)`.

    Draws that have nothing in common but the seed number are independent, and a draw needs no history: training
    can go on from any step without storing the state of a generator.
    """
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: str | int) -> torch.Generator:
    """A CPU generator seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*parts))
