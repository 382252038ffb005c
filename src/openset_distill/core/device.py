"""The hardware a job runs on: device, precision, threads, determinism, seeds."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from .errors import OpenSetError
from .files import lock

# where a scheduler, a launcher or a user says that this job has GPUs, and the values that say that it has none
GIVEN_GPU = ("CUDA_VISIBLE_DEVICES", "OPENSET_GPUS")
NO_GPU = ("", "-1", "NoDevFiles", "void", "none")


def prepare_device(threads: int, precision: str = "float32") -> torch.device:
    """Picks the GPU if there is one, with deterministic kernels, and sets the number of CPU threads.

    Of several GPUs a process of `torchrun` takes the one of its number among those that `choose_gpus` left visible, any
    other process the one that the fewest others have taken: workflow jobs that run side by side spread over the
    machine, or share its one GPU. Processes of `torchrun` share `threads`.

    Sums of floats depend on the number of threads: the same seed gives the same bits for the same `threads`.
    With `OPENSET_DEVICE=cpu` in the environment the CPU is used although there are GPUs.

    Args:
        precision: of the training, as `autocast_dtype` reads it; the first line of the log has what it means here.

    Raises:
        OpenSetError: the job was given a GPU (`GIVEN_GPU`), and torch finds none that it can use, or the GPU refuses.
    """
    threads = max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(threads)
    keep_freed_memory()
    exact_float32()
    if not has_gpu():
        device = torch.device("cpu")  # its kernels are deterministic; asking for it would import the compiler, a second
        say_device("cpu", precision_name(autocast_dtype(precision, device)), threads)
        return device
    # read by cuBLAS when its first handle is made; without it deterministic algorithms refuse to run
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # deterministic algorithms alone give the same bits; filling every new tensor with NaN only costs kernels
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 (no type knows it)
    number = int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else _free_gpus(1)[0]
    torch.cuda.set_device(number)
    device = torch.device("cuda", number)
    name = f"cuda:{number}, {torch.cuda.get_device_name(number)}"
    try:
        torch.empty(1, device=device)  # the first use: a GPU in exclusive mode that another process holds shows here
    except RuntimeError as error:
        raise OpenSetError(
            f"{name} cannot be used: {str(error).strip().splitlines()[0]}; another process may hold it (`nvidia-smi`), "
            "so ask for another GPU, or one training at a time (--resources gpu=1)"
        ) from error
    say_device(name, precision_name(autocast_dtype(precision, device)), threads)
    return device


def exact_float32() -> None:
    """Makes float32 mean float32 in this process: a GPU would otherwise multiply with ten bits of mantissa (TF32)."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def has_gpu() -> bool:
    """Whether this process computes on a GPU.

    Raises:
        OpenSetError: as `prepare_device`.
    """
    if os.environ.get("OPENSET_DEVICE") == "cpu":
        return False
    if torch.cuda.is_available():
        return True
    require_no_gpu()
    return False


def choose_gpus(count: int) -> dict[str, str]:
    """The environment in which `count` processes that are started together each have a GPU of their own.

    They are those that the fewest other processes hold. This process holds them until it, or the program that takes
    its place, ends. Empty on the CPU.

    Raises:
        OpenSetError: there are fewer GPUs.
    """
    if not has_gpu():
        return {}
    if torch.cuda.device_count() < count:
        raise OpenSetError(
            f"this job sees {torch.cuda.device_count()} GPU(s), but should train on {count}; lower `gpu` in resources, "
            "or ask the scheduler for more"
        )
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    chosen = sorted(_free_gpus(count))
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[number] if visible else str(number) for number in chosen)}


def _free_gpus(count: int) -> list[int]:
    names = [str(torch.cuda.get_device_properties(number).uuid) for number in range(torch.cuda.device_count())]
    return least_taken(names, Path(tempfile.gettempdir()), count)


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
        f"this job was given a GPU ({given}={os.environ[given]}), but PyTorch {torch.__version__} cannot use it: "
        f"{reason} "
        "Update the driver, give the container its GPUs (--nv, --gpus), or set OPENSET_DEVICE=cpu to compute on the CPU"
    )


def say_device(name: str, precision: str, threads: int) -> None:
    """The first line of a job's log; of several processes of one training the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(f"device: {name}; precision: {precision}; threads: {threads}", file=sys.stderr, flush=True)


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


_held: list[int] = []  # open as long as the process lives: the system ends a lock with its process, however it ends


def least_taken(names: Sequence[str], folder: Path, count: int = 1) -> list[int]:
    """The positions of the `count` devices that the fewest of this user's processes hold; this process holds them until
    it ends, or the program that takes its place by `exec`.

    Args:
        names: of the devices, at least `count`, the same in every process.
        folder: where the lock files are, one for each user, device and place on it.
    """
    chosen: list[int] = []
    for place in range(1000):
        for number, name in enumerate(names):
            if number in chosen or not _lock(folder / f"openset-device-{os.geteuid()}-{name}-{place}.lock"):
                continue
            chosen.append(number)
            if len(chosen) == count:
                return chosen
    return [*chosen, *(number for number in range(len(names)) if number not in chosen)][:count]


def _lock(path: Path) -> bool:
    """Whether this process holds a file of locks from now on."""
    try:
        # in a folder that all users write to: a link that somebody put there is not followed
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return False
    if not lock(number):
        os.close(number)
        return False
    os.set_inheritable(number, True)
    _held.append(number)
    return True


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
    can resume from any step without storing the state of a generator.
    """
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_layers(device: torch.device, *parts: str | int) -> None:
    """Seeds the generators of layers that draw without one of their own, such as dropout, by `derive_seed`.

    `torch.manual_seed` would keep a stack trace for each kind of device that this process does not use, at every call.
    """
    seed = derive_seed(*parts)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


def generator(*parts: str | int) -> torch.Generator:
    """A CPU generator seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*parts))
