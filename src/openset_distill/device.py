"""The hardware a job runs on: device, precision, threads, determinism, seeds."""

from __future__ import annotations

import hashlib
import os

import torch


def prepare_device(threads: int) -> torch.device:
    """Picks the GPU if there is one, with deterministic kernels, and sets the number of CPU threads.

    Sums of floats depend on the number of threads: the same seed gives the same bits for the same `threads`.
    """
    torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        return torch.device("cpu")  # its kernels are deterministic; asking for it would import the compiler, a second
    # read by cuBLAS when its first handle is made; without it deterministic algorithms refuse to run
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    return torch.device("cuda")


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
