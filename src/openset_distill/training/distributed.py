"""One training on several processes, one a device: the same numbers as on one device with the same global batch.

Every process makes the whole batch (augmentation is cheap beside the networks; of images that must be decoded each
decodes its own rows alone, `Batches`), sends its own rows through the network and gathers the logits of all: a loss
that relates samples, or mixes them, sees the whole batch and needs to know nothing of this. Gradients are summed. Only
dropout differs: each process drops units of its own rows.

The processes are started by `launch` or by `torchrun`, whose environment variables are read here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..core.device import choose_gpus
from ..core.errors import CheckpointError, SettingsError

# how long the launcher waits for processes that were told to stop, before it ends them
SHUTDOWN_SECONDS = 300


def started_by_torchrun() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launch(processes: int, command: Sequence[str]) -> NoReturn:
    """Runs a Python command as several processes of one training on this machine, in place of this process.

    Each has a GPU of its own (`core.device.choose_gpus`); without GPUs they compute on the CPU.

    Raises:
        OpenSetError: there are fewer GPUs.
    """
    # the name of a node need not resolve on it
    options = ["--standalone", "--local-addr", "localhost"]
    # a training saves its state before it ends, which may take longer than the launcher's own 30 s; PyTorch before 2.12
    # knows neither the variable nor the option
    wait = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SHUTDOWN_SECONDS)}
    words = [sys.executable, "-m", "torch.distributed.run", *options, "--nproc-per-node", str(processes), *command]
    os.execve(sys.executable, words, os.environ | wait | choose_gpus(processes))


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of one training. `host` is their group for messages between CPUs, which no GPU waits for."""

    rank: int
    size: int
    host: Any

    @classmethod
    def join(cls, device: torch.device) -> ProcessGroup:
        """Waits for the other processes and joins them."""
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def check_batch(self, size: int) -> None:
        """Raises a SettingsError unless the rows of a batch can be shared out evenly."""
        if size % self.size:
            raise SettingsError(f"batch_size {size} cannot be shared by {self.size} processes; choose a multiple of it")

    def share(self, rows: Tensor) -> Tensor:
        """This process's own part of the rows of a batch."""
        return rows.chunk(self.size)[self.rank]

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, of which each has as many."""
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def any(self, *flags: bool) -> list[bool]:
        """Each flag, true if it is so in any process."""
        flag = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.host)
        return flag.bool().tolist()

    def check_same(self, *numbers: int) -> None:
        """Raises a CheckpointError unless each number is the same in every process.

        On several machines each reads the saved state by itself, and a shared folder may show one of them an old file.
        """
        own = torch.tensor(numbers)
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own, group=self.host)
        if any(not torch.equal(own, other) for other in found):
            told = "; ".join(", ".join(map(str, other.tolist())) for other in found)
            raise CheckpointError(
                f"the processes of this training found different saved states (epoch, step: {told}); wait until all "
                "machines see the same file, then start again"
            )

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Adds up the gradients of all processes, in one message."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        for gradient, part in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def leave(self) -> None:
        """Waits until every process is done."""
        dist.barrier(group=self.host)
        dist.destroy_process_group()


class GatheringDataParallel(nn.Module):
    """Data parallel with gathered outputs: each process computes a part of the batch and gets the outputs of all."""

    def __init__(self, network: nn.Module, processes: ProcessGroup):
        super().__init__()
        self.network, self.processes = network, processes

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = self.network(self.processes.share(images))
        if isinstance(outputs, Tensor):
            return _Gather.apply(outputs, self.processes)
        return tuple(_Gather.apply(output, self.processes) for output in outputs)


class _Gather(torch.autograd.Function):
    """The rows of all processes. Each computes the whole loss, so backwards each keeps the gradient of its own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, processes: ProcessGroup) -> Tensor:
        ctx.processes = processes
        return processes.gather(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.processes.share(gradient), None


class _Sum(torch.autograd.Function):
    """The sum over all processes, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


class SynchronizedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the whole batch, on any device.

    torch's and timm's versions run on GPUs only. `drop` and `act` are what timm's layers of this kind bring along.
    """

    def forward(self, x: Tensor) -> Tensor:
        # torch's types allow for layers without running statistics, of which the backbones have none
        running_mean: Any = self.running_mean
        running_variance: Any = self.running_var
        batches_tracked: Any = self.num_batches_tracked
        mean, variance, values = running_mean, running_variance, x.float()
        if self.training:
            count = values.numel() // values.shape[1] * dist.get_world_size()
            mean = _Sum.apply(values.sum(dim=(0, 2, 3))) / count
            variance = _Sum.apply((values - mean[:, None, None]).square().sum(dim=(0, 2, 3))) / count
            with torch.no_grad():
                batches_tracked.add_(1)
                running_mean.lerp_(mean, self.momentum)
                running_variance.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        normal = ((values - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)
        for extra in ("drop", "act"):
            if hasattr(self, extra):
                normal = getattr(self, extra)(normal)
        return normal


def synchronize_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with batch statistics over all processes; the names of its weights stay."""
    if device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm

        return convert_sync_batchnorm(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = SynchronizedBatchNorm
    return network
