"""Stochastic gradient descent, the one optimizer of the protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..core.errors import TrainingError


class SGD:
    """SGD with momentum and weight decay, bit for bit `torch.optim.SGD(fused=True)`: one kernel for all parameters.

    It is here because making the first optimizer of `torch.optim` imports the compiler: more than a second in every
    job, as long as a small network trains. Memory layout of the momentum follows the parameters.

    Attributes:
        momentum_buffers: one tensor a parameter, in order; empty before the first step.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, momentum: float = 0.9, weight_decay: float = 0.0, nesterov: bool = False
    ):
        self.parameters = list(parameters)
        self.momentum, self.weight_decay, self.nesterov = momentum, weight_decay, nesterov
        self.momentum_buffers: list[Tensor] = []

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One update from the gradients, which are dropped afterwards.

        Raises:
            TrainingError: a parameter has no gradient.
        """
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if len(gradients) < len(self.parameters):
            shapes = [tuple(parameter.shape) for parameter in self.parameters if parameter.grad is None]
            raise TrainingError(
                f"the loss does not depend on {len(shapes)} weights of the network (shapes {shapes[:3]}); use them in "
                "the loss, or take them out of training with requires_grad_(False)"
            )
        first = not self.momentum_buffers
        if first and self.momentum:
            self.momentum_buffers = [torch.empty_like(parameter) for parameter in self.parameters]
        update: Any = getattr(torch, "_fused_sgd_")  # noqa: B009 (no type knows it)
        update(
            self.parameters,
            gradients,
            self.momentum_buffers,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=learning_rate,
            dampening=0.0,
            nesterov=self.nesterov,
            maximize=False,
            is_first_step=first,
        )
        for parameter in self.parameters:
            parameter.grad = None

    def restore(self, buffers: list[Tensor]) -> None:
        """Puts saved momentum back (none before the first step), in the device and memory layout of the parameters."""
        pairs = zip(self.parameters, buffers, strict=True) if buffers else ()
        self.momentum_buffers = [torch.empty_like(parameter).copy_(buffer) for parameter, buffer in pairs]
