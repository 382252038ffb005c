"""Operations without deterministic kernels end in one line that names the layer."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from torch import nn

from .errors import OpenSetError

_REFUSED = re.compile(r"(\w+) does not have a deterministic implementation")


@contextlib.contextmanager
def named_if_not_deterministic(network: nn.Module) -> Iterator[None]:
    """Turns PyTorch's refusal of an operation into one line.

    On a GPU only deterministic kernels run (`core.device.prepare_device`), and not every operation has one: some of
    timm's models reflect borders or pool to a given size, whose gradients are summed in any order.

    Raises:
        OpenSetError: names the operation and the layers of `network` that it belongs to.
    """
    try:
        yield
    except RuntimeError as error:
        match = _REFUSED.search(str(error))
        if match is None:
            raise
        operation = match[1]
        layers = layers_of(network, operation)
        where = f"layer {', '.join(layers[:3])}" if layers else f"the network ({type(network).__name__})"
        raise OpenSetError(
            f"{where} uses {operation}, which has no deterministic kernel on this device, so results would not "
            "be reproducible; choose another `backbone` (model, pool), or OPENSET_DEVICE=cpu"
        ) from error


def layers_of(network: nn.Module, operation: str) -> list[str]:
    """Names and types of the layers whose type is in an operation's name, as `AdaptiveAvgPool2d` is in
    `adaptive_avg_pool2d_backward_cuda`."""
    key = operation.replace("_", "").lower()
    return [
        f"{name} ({type(module).__name__})"
        for name, module in network.named_modules()
        if name and type(module).__name__.lower() in key
    ]
