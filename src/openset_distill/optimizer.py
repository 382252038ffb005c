"""Stochastic gradient descent, the one optimizer of the protocol."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class SGD:
    """SGD with momentum and weight decay, update for update what `torch.optim.SGD` computes (a test compares the bits).

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
        """One update from the gradients, which are dropped afterwards. Every parameter must have one."""
        gradients = [parameter.grad for parameter in self.parameters]
        if self.weight_decay:
            torch._foreach_add_(gradients, self.parameters, alpha=self.weight_decay)
        if self.momentum:
            if self.momentum_buffers:
                torch._foreach_mul_(self.momentum_buffers, self.momentum)
                torch._foreach_add_(self.momentum_buffers, gradients)
            else:
                self.momentum_buffers = [gradient.clone() for gradient in gradients]
            if self.nesterov:
                torch._foreach_add_(gradients, self.momentum_buffers, alpha=self.momentum)
            else:
                gradients = self.momentum_buffers
        torch._foreach_add_(self.parameters, gradients, alpha=-learning_rate)
        for parameter in self.parameters:
            parameter.grad = None

    def restore(self, buffers: list[Tensor]) -> None:
        """Puts saved momentum back (none before the first step), in the device and memory layout of the parameters."""
        pairs = zip(self.parameters, buffers, strict=True) if buffers else ()
        self.momentum_buffers = [torch.empty_like(parameter).copy_(buffer) for parameter, buffer in pairs]
