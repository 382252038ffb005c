"""The fast network: its shapes, its weights, its gradients, and the same bits from the same seed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openset_distill.models import build_classifier


def network(seed: int = 0, **settings: object) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_classifier({"name": "fast_cnn", **settings}, classes=6, channels=3)


def test_it_has_two_million_weights_and_the_features_of_its_last_width():
    model = network()
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_971_774
    features, logits = model(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, 256)
    assert logits.shape == (2, 6)


@pytest.mark.parametrize(("side", "channels"), [(32, 3), (64, 3), (28, 1)])
def test_any_size_and_number_of_channels(side, channels):
    torch.manual_seed(0)
    model = build_classifier({"name": "fast_cnn", "widths": [8, 16]}, classes=3, channels=channels)
    features, logits = model(torch.randn(2, channels, side, side))
    assert features.shape == (2, 16)
    assert logits.shape == (2, 3)


def test_the_same_seed_gives_the_same_bits_and_every_weight_a_gradient():
    images, labels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3])
    gradients = []
    for _ in range(2):
        model = network(widths=[8, 16, 16])
        F.cross_entropy(model(images)[1], labels).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    assert all(gradient.abs().max() > 0 for gradient in gradients[0].values())


def test_bfloat16_stays_in_the_encoder_and_close_to_float32():
    model = network(widths=[8, 16, 16]).eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    exact = model(images)[1]
    model.precision = torch.bfloat16
    rounded = model(images)[1]
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05 * exact.abs().max().clamp(min=1)
