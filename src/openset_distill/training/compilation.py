"""`torch.compile` where it is asked for, and training without it where it fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def compiled(
    network: nn.Module, images: Tensor, report: Callable[[str], None] = print, mode: str | None = None
) -> nn.Module:
    """The network with compiled forward and backward passes, or the network itself if the compiler fails.

    It is tried on one batch, so that a missing C++ compiler or a layer that cannot be compiled shows at once. The trial
    changes no weight and no running statistic.

    Args:
        images: a batch as training will see it.
        mode: of `torch.compile`; `reduce-overhead` launches the kernels of a pass as one CUDA graph.
    """
    started = time.monotonic()
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train()
    try:
        fast: Any = torch.compile(network, mode=mode)  # a module for a module
        fast(images)[1].sum().backward()
        report(f"compiled in {time.monotonic() - started:.0f} s")
    except Exception as error:  # whatever the compiler stumbles over, training does not depend on it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        report(f"torch.compile failed ({reason}); training continues without it, set optimization.compile to false")
        fast = network
    for name, buffer in network.named_buffers():
        buffer.copy_(kept[name])
    for parameter in network.parameters():
        parameter.grad = None
    return fast
