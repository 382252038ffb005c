"""A GPU that has no hardware: tensors with PyTorch's device `cuda` that have shapes and types, and no numbers.

PyTorch's fake tensors choose the operations of CUDA and refuse tensors of two devices. Tensors on the CPU stay real, so
that random draws and labels are what they are. Whatever would make a GPU's host wait is noted, and an error inside
`without_waiting`. Backward passes cannot run so: PyTorch's engine wants a real device.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda", 0)
LIST = json.loads((Path(__file__).parent / "nondeterministic_cuda.json").read_text())
REFUSED = {name for names in LIST["operations"].values() for name in names}
# refused for some types only, which `nondeterministic` looks at
OF_FLOATS = {"cumsum", "cumsum_"}


class HostWaits(AssertionError):
    """The host would wait for the GPU."""


class Operations(TorchDispatchMode):
    """Notes the name of every operation, and those that PyTorch has no deterministic CUDA kernel for."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.nondeterministic: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.note(func, args)
        return func(*args, **(kwargs or {}))

    def note(self, func: Any, args: Any) -> None:
        name, overload = func.overloadpacket.__name__, func._overloadname
        self.counts[name] += 1
        refused = name in REFUSED or f"{name}.{overload}" in REFUSED
        if name in OF_FLOATS:
            refused = args[0].is_floating_point()
        if refused:
            self.nondeterministic.add(name)


class FakeCuda(Operations):
    """Runs what touches the GPU on fake tensors, and everything else for real."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.strict = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        on_gpu = any(isinstance(leaf, FakeTensor) for leaf in leaves)
        wanted = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if not on_gpu and wanted != "cuda":
            with _disable_current_modes():
                return func(*args, **kwargs)
        if func.namespace == "aten" and torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), "CompositeImplicitAutograd"
        ):
            with self:  # in inference mode they come here whole
                return func.decompose(*args, **kwargs)
        self.note(func, args)
        name = func.overloadpacket.__name__
        if name == "_fused_sgd_":  # has no kernel for fake tensors; it changes them in place
            devices = {tensor.device for tensor in tree_leaves(args) if isinstance(tensor, torch.Tensor)}
            assert devices == {CUDA}, devices
            return None
        if name == "_to_copy" and on_gpu and wanted == "cpu":
            self.wait("a copy to the CPU")
            return real_zeros(args[0], kwargs.get("dtype"))
        if name == "_local_scalar_dense":
            self.wait("a number that the host reads")
            return 0
        if name in ("_to_copy", "copy_") and moves_up(name, args, wanted) and not waits_not(name, args, kwargs):
            self.wait("a copy to the GPU without non_blocking=True")
        return func(*args, **kwargs)

    def wait(self, what: str) -> None:
        self.waits.append(what)
        if self.strict:
            raise HostWaits(what)

    @contextlib.contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Inside, whatever makes the host wait is an error."""
        self.strict = True
        try:
            yield
        finally:
            self.strict = False


def moves_up(name: str, args: Any, wanted: str | None) -> bool:
    """Whether a real tensor with memory on the CPU goes to the GPU."""
    source = args[0] if name == "_to_copy" else args[1]
    return not isinstance(source, FakeTensor) and (wanted == "cuda" or name == "copy_")


def waits_not(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    return bool(kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))


def real_zeros(tensor: FakeTensor, dtype: torch.dtype | None) -> torch.Tensor:
    with _disable_current_modes():
        return torch.zeros(tensor.shape, dtype=dtype or tensor.dtype)


def _apply(self: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:  # noqa: ARG001 (torch names it)
    """`Module.to` with new parameters in place of the old ones, which fake tensors cannot be swapped with."""
    for module in self.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(fn(parameter.detach()), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fn(buffer)
    return self


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Inside, the device `cuda` is fake."""
    patches = [
        mock.patch.object(nn.Module, "_apply", _apply),
        mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor),
        mock.patch.object(torch.cuda, "is_bf16_supported", return_value=True),
        mock.patch.object(torch.cuda, "get_device_properties", return_value=SimpleNamespace(total_memory=16 * 2**30)),
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
    ]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(FakeCuda())
