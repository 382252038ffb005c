"""An operation without a deterministic kernel ends in one line that names the layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from openset_distill.core.determinism import layers_of, named_if_not_deterministic
from openset_distill.core.errors import OpenSetError


class Put(nn.Module):
    """A layer with an operation that PyTorch refuses on every device once only deterministic ones are allowed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone().put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)


def test_the_layer_and_the_operation_are_named():
    network = nn.Sequential(nn.Linear(2, 2), Put())
    torch.use_deterministic_algorithms(True)
    try:
        named = r"^layer 1 \(Put\) uses put_, which .*; choose another `backbone`"
        with pytest.raises(OpenSetError, match=named), named_if_not_deterministic(network):
            network(torch.zeros(2, 2))
        unnamed = r"^the network \(Linear\) uses put_"
        with pytest.raises(OpenSetError, match=unnamed), named_if_not_deterministic(nn.Linear(2, 2)):
            network(torch.zeros(2, 2))
    finally:
        torch.use_deterministic_algorithms(False)
    # any other error stays what it is
    with pytest.raises(RuntimeError, match="size"), named_if_not_deterministic(network):
        torch.zeros(2) + torch.zeros(3)


def test_layers_are_found_by_the_names_of_cudas_kernels():
    network = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(2), nn.Upsample(4))
    assert layers_of(network, "adaptive_avg_pool2d_backward_cuda") == ["2 (AdaptiveAvgPool2d)"]
    assert layers_of(network, "reflection_pad2d_backward_cuda") == ["0 (ReflectionPad2d)"]
    assert layers_of(network, "upsample_bilinear2d_backward_out_cuda") == ["3 (Upsample)"]
