"""Grad-CAM against a transcription of its definition, and the shares of the maps on each source."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import script, succeed
from PIL import Image

from openset_distill.analysis.gradcam import Pairs, grad_cam, last_map, picture
from openset_distill.models import build_classifier
from openset_distill.report.aggregate import read_rows


def network(backbone, classes: int = 3, channels: int = 1):
    torch.manual_seed(0)
    return build_classifier(backbone, classes=classes, channels=channels).eval()


def decoded(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_grad_cam_agrees_with_its_definition():
    model = network({"name": "small_resnet", "widths": [4, 6]})
    images = torch.rand(5, 1, 8, 8)
    maps, classes = grad_cam(model, images)
    activations = model.encoder.blocks(model.encoder.stem(images)).detach().requires_grad_()
    logits = model.head(activations.mean(dim=(2, 3)))
    assert classes.tolist() == logits.argmax(dim=1).tolist()
    (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), activations)
    weighted = F.relu((gradient.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1, keepdim=True))
    expected = F.interpolate(weighted, size=(8, 8), mode="bilinear")[:, 0]
    assert maps.shape == (5, 8, 8)
    assert maps.max() > 0
    torch.testing.assert_close(maps, expected.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        ({"name": "small_resnet", "widths": [4, 6], "depth": 2}, "blocks"),
        ("vgg32", "bn9"),
        ("mobilenet_v2", "body"),
        ({"name": "resnet18", "pool": "flatten_2x2"}, "body"),
    ],
)
def test_every_backbone_has_a_last_map(backbone, name):
    model = network(backbone)
    layer = last_map(model, torch.rand(2, 1, 32, 32))
    assert layer is getattr(model.encoder, name) or layer in list(getattr(model.encoder, name).modules())
    maps, _ = grad_cam(model, torch.rand(2, 1, 32, 32))
    assert maps.shape == (2, 32, 32)
    assert maps.min() >= 0


class Corner(torch.nn.Module):
    """Looks at the upper left quarter alone, and says how bright it is: class 0, 1 or 2."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Conv2d(1, 1, 1, bias=False)
        self.encoder.weight.data.fill_(1.0)

    def forward(self, images):
        quarter = self.encoder(images)[:, :, :4, :4].mean(dim=(1, 2, 3))
        # the largest logit of class c is where the brightness is near c
        levels = torch.arange(3.0)
        return quarter[:, None], 10 * (2 * levels * quarter[:, None] - levels**2)


def test_pairs_know_their_sources_pixel_by_pixel():
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 1, 2])
    images = (labels[:, None, None, None] * torch.ones(8, 1, 8, 8)).to(torch.uint8)
    pairs = Pairs(images, labels, seed=3)
    assert all(a != b for a, b in zip(pairs.labels["a"], pairs.labels["b"], strict=True))
    for i in range(8):
        place = pairs.pasted[i]
        assert (pairs.views["mixed"][i, 0][place] == pairs.labels["b"][i]).all()
        assert (pairs.views["mixed"][i, 0][~place] == pairs.labels["a"][i]).all()
    assert 0 < pairs.pasted.double().mean() < 0.8

    rows = list(pairs.attention({"corner": Corner().eval()}, lambda part: part.float(), 2))
    assert [(row["view"], row["pair"]) for row in rows] == [
        *[("a", 0), ("a", 1), ("b", 0), ("b", 1)],
        *[("mixed", pair) for pair in range(8)],
    ]
    assert all(row["predicted"] == row["view"] and row["on_b"] is None for row in rows[:4])
    for row in rows[4:]:
        share = pairs.pasted[row["pair"]].double().mean().item()
        assert row["area_b"] == pytest.approx(share)
        brightness = pairs.views["mixed"][row["pair"], 0, :4, :4].double().mean()
        source = {pairs.labels[name][row["pair"]]: name for name in "ab"}
        assert row["predicted"] == source.get(round(brightness.item()), "neither")
    # a map of ones times the pixels' values: its share on b is that of b's brightness
    shares = {
        row["pair"]: row["on_b"] for row in rows[4:] if row["predicted"] != "neither" and row["on_b"] == row["on_b"]
    }
    assert shares
    for pair, share in shares.items():
        pixels = pairs.views["mixed"][pair, 0].double()
        assert share == pytest.approx((pixels[pairs.pasted[pair]].sum() / pixels.sum()).item(), rel=1e-5)


def test_pictures_are_what_they_show():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    assert (decoded(picture(grey)) == grey[:, :, 0]).all()
    colour = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert (decoded(picture(colour)) == colour).all()
    assert decoded(picture(np.zeros((224, 160, 3), dtype=np.uint8))).shape == (64, 46, 3)


def test_the_command_explains_a_network(tmp_path, digits, split, teacher):
    files = ["--split", split / "split.npz", "--description", split / "split.json", "--prepared", digits]
    files += ["--weights", teacher / "weights.safetensors", "--config", teacher / "config.json"]
    made = ["--attention", tmp_path / "attention.csv", "--pictures", tmp_path / "pictures.csv"]
    succeed(script("gradcam.py", *files, *made, "--pairs", 12, "--shown", 2))
    rows = read_rows(tmp_path / "attention.csv")
    assert {row["run"] for row in rows} == {"teacher"}
    assert len(rows) == 12 + 2 * 2
    assert all(0 < float(row["area_b"]) < 1 for row in rows if row["view"] == "mixed")
    assert decoded(next(row["map"] for row in rows if row["pair"] == "0" and row["view"] == "mixed")).shape == (8, 8)
    assert not any(row["map"] for row in rows if row["pair"] == "7")
    pictures = {(row["pair"], row["view"]): row for row in read_rows(tmp_path / "pictures.csv")}
    assert len(pictures) == 2 * 4
    assert pictures["0", "a"]["class"] != pictures["0", "b"]["class"]
    place = decoded(pictures["0", "pasted"]["picture"]) > 127
    a, b, mixed = (decoded(pictures["0", view]["picture"]) for view in ("a", "b", "mixed"))
    assert (mixed == np.where(place, b, a)).all()

    again = ["--attention", tmp_path / "again.csv", "--pictures", tmp_path / "again_pictures.csv"]
    succeed(script("gradcam.py", *files, *again, "--pairs", 12, "--shown", 2))
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "attention.csv").read_bytes()
