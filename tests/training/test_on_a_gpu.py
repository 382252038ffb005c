"""Training, analysis and recognition on a GPU, without one: see `fake_cuda`.

By construction all of the registries: a new augmentation, mixing, method or backbone that puts tensors on two devices,
makes a GPU's host wait in a step, loses the memory format, or has no deterministic kernel fails here.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import job, typed
from fake_cuda import CUDA, LIST, FakeCuda, HostWaits, Operations, fake_cuda
from torch import nn

from openset_distill.analysis.gradcam import Pairs, grad_cam
from openset_distill.analysis.mixing_scan import mixing_response
from openset_distill.augment import MULTI_SAMPLE, SINGLE_SAMPLE
from openset_distill.datasets import loader
from openset_distill.datasets.prepared import Images
from openset_distill.methods import METHODS
from openset_distill.models import BACKBONES, build_classifier
from openset_distill.models.checkpoint import NetworkSpec, save_classifier
from openset_distill.models.inference import predict
from openset_distill.training.optimizer import SGD
from openset_distill.training.setup import SplitData, cache_key, make_batches, make_student
from openset_distill.training.state import Progress
from openset_distill.training.teachers import CachedTeacher, TeacherEnsemble, cache_logits, load_teachers

CPU = torch.device("cpu")
CLASSES = tuple("abcd")
SMALL = BACKBONES.resolve({"name": "small_resnet", "widths": [4, 8]})
MIXED = {**MULTI_SAMPLE.resolve("cutmix"), "probability": 1.0}


def data(channels: int = 3, size: int = 16) -> SplitData:
    rng, n = np.random.default_rng(0), 24
    pixels = rng.integers(0, 256, (n, size, size, channels), dtype=np.uint8)
    labels = np.arange(n) % len(CLASSES)
    images = Images(pixels, labels)
    index, no = np.arange(n), np.zeros(0, np.int64)
    arrays = {"train_index": index, "train_label": labels, "validation_index": no, "validation_label": no}
    arrays |= {"test_index": index, "test_label": labels, "test_source": 0 * index, "test_group": 0 * index}
    return SplitData(images, (images,), arrays, CLASSES, ("known",), ("hash",))


def settings(
    method: object = "cross_entropy",
    *,
    backbone: dict | None = None,
    single: tuple = ("random_crop", "horizontal_flip"),
    multi: dict | None = None,
    precision: str = "float32",
) -> dict:
    made = job("ce", backbone=backbone or SMALL, method=METHODS.resolve(method))
    made["augment"] = {"single": [SINGLE_SAMPLE.resolve(one) for one in single], "multi": multi, "multi_until": 1.0}
    made["normalization"] = {"mean": [0.5] * 3, "std": [0.25] * 3}
    made["optimization"] |= {"batch_size": 4, "epochs": 1, "precision": precision}
    return made


def classifier(device: torch.device, channels: int = 3) -> nn.Module:
    return build_classifier(SMALL, classes=len(CLASSES), channels=channels).to(device).eval()


def train_two_steps(made: dict, split: SplitData, device: torch.device, teacher, gpu: FakeCuda | None = None) -> None:
    """What `loop.train` does in a step, twice. On a fake GPU the gradients are tensors like the parameters, and nothing
    may wait; what is done once, before the first step, may."""
    config = typed(made)
    student, batches = make_student(config, split, device).train(), make_batches(config, split, device)
    student.precision = None if made["optimization"]["precision"] == "float32" else torch.bfloat16
    method, progress = METHODS.build(made["method"]), Progress()
    optimizer = SGD((p for p in student.parameters() if p.requires_grad), nesterov=True)
    batches[0]  # sends the order of the epoch
    with gpu.without_waiting() if gpu else contextlib.nullcontext():
        for number in (0, 1):
            batch = batches[number]
            terms, statistics = method.loss(student, teacher, batch)
            loss = sum(terms.values())
            assert loss.dtype == torch.float32
            if gpu:
                assert batch.images.device == batch.labels.device == loss.device == CUDA
                mixed = [batch.mixed.images] if batch.mixed else []
                for images in (batch.images, *mixed) if split.channels > 1 else ():
                    assert images.is_contiguous(memory_format=torch.channels_last)
                for parameter in optimizer.parameters:
                    parameter.grad = torch.empty_like(parameter)
            else:
                loss.backward()
            optimizer.step(0.1)
            progress.add({"train_loss": loss, **terms, **statistics})


def check_step(made: dict, channels: int = 3, size: int = 16, *, teacher: bool = False) -> None:
    """Two steps on a fake GPU; and with their backward passes on the CPU, for the operations."""
    split = data(channels, size)
    with fake_cuda() as gpu:
        train_two_steps(made, split, CUDA, TeacherEnsemble([classifier(CUDA, channels)]) if teacher else None, gpu)
    assert not gpu.nondeterministic, gpu.nondeterministic
    if made["optimization"]["precision"] != "float32":
        return  # the operations are the same
    with Operations() as on_cpu:
        train_two_steps(made, split, CPU, TeacherEnsemble([classifier(CPU, channels)]) if teacher else None)
    assert not on_cpu.nondeterministic, on_cpu.nondeterministic
    assert any("backward" in name for name in on_cpu.counts)


# ------------------------------------------------------------------------------------------------- the instrument


def test_the_list_is_that_of_the_installed_pytorch():
    text = torch.use_deterministic_algorithms.__doc__.partition("operations will throw a\n")[2].partition(
        "In addition"
    )[0]
    documented = set(re.findall(r"`torch\.([\w.]+)`", text)) - {"RuntimeError"}
    assert documented and documented <= set(LIST["operations"]), documented - set(LIST["operations"])


def test_the_instrument_finds_what_it_is_for():
    with fake_cuda() as gpu:
        x = torch.ones(4, 3, 8, 8, device=CUDA)
        with pytest.raises(RuntimeError, match="two different devices"):
            x + torch.ones(8)
        assert x.sum().item() == 0
        assert gpu.waits == ["a number that the host reads"]
        for slip in (
            lambda: x.sum().item(), lambda: x.cpu(), lambda: torch.ones(8).to(CUDA), lambda: bool((x > 0).any()),
            lambda: torch.tensor([1.0], device=CUDA), lambda: x[:, 0].copy_(torch.ones(8)),
        ):  # fmt: skip
            with gpu.without_waiting(), pytest.raises(HostWaits):
                slip()
        with pytest.raises(Exception, match="nonzero"):
            x[x > 0]
        with gpu.without_waiting():
            assert torch.ones(8).pin_memory().to(CUDA, non_blocking=True).device == CUDA
        assert not gpu.nondeterministic
        x.cumsum(0)
    assert gpu.nondeterministic == {"cumsum"}
    with Operations() as operations:
        nn.ReflectionPad2d(1)(torch.ones(1, 1, 4, 4, requires_grad=True)).sum().backward()
    assert operations.nondeterministic == {"reflection_pad2d_backward"}


# ------------------------------------------------------------------------------------------------------- training


def readings() -> dict[str, object]:
    """Every method, and every preset of it."""
    made: dict[str, object] = {}
    for name in METHODS:
        made[name] = name
        made |= {
            f"{name}-{preset}": {"name": name, "preset": preset} for preset in getattr(METHODS[name], "presets", {})
        }
    return made


@pytest.mark.parametrize("mixing", [None, MIXED], ids=["raw", "mixed"])
@pytest.mark.parametrize("reading", readings())
def test_a_step_of_every_method(reading, mixing):
    made = settings(readings()[reading], multi=mixing)
    method = METHODS.build(made["method"])
    if method.needs_mixing and mixing is None:
        made["augment"]["multi"] = {**MIXED, "probability": 0.0}
    check_step(made, teacher=method.needs_teacher)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SINGLE_SAMPLE)
def test_a_step_with_every_augmentation(name, channels):
    check_step(settings(single=(name,)), channels)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", MULTI_SAMPLE)
def test_a_step_with_every_mixing(name, per_sample):
    check_step(settings(multi={**MULTI_SAMPLE.resolve(name), "probability": 1.0, "per_sample": per_sample}))


BACKBONE_CASES = {name: {"name": name} for name in BACKBONES if name not in ("timm", "efficientnet_lite0")} | {
    "timm": {"name": "timm", "model": "resnet10t", "stem": "imagenet"},
    "timm_resized": {"name": "timm", "model": "resnet10t", "stem": "imagenet", "input_size": 32},
    "efficientnet_lite0": {"name": "efficientnet_lite0", "pretrained": False},
    "released_head": {"name": "resnet18", "pool": "flatten_2x2"},
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", BACKBONE_CASES)
def test_a_step_of_every_backbone(name, precision):
    check_step(settings(backbone=BACKBONES.resolve(BACKBONE_CASES[name]), precision=precision), size=32)


@pytest.mark.parametrize("mixing", [None, MIXED], ids=["raw", "mixed"])
def test_a_step_with_images_that_do_not_fit_the_gpu(mixing, monkeypatch):
    monkeypatch.setattr(loader, "RESIDENT_BYTES", 0)
    check_step(settings(multi=mixing))


@pytest.mark.parametrize(("gib", "resident"), [(80, True), (4, False)])
def test_images_stay_on_a_gpu_whose_memory_is_large_enough(gib, resident, monkeypatch):
    # as large as a test can be: 1.1 GiB of images, of which none is ever written
    images = Images(
        np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (400_000, 32, 32, 3), (0, 0, 0, 0)), np.zeros(1)
    )
    monkeypatch.setattr(Images, "batch", lambda self, index: np.zeros((1, 32, 32, 3), np.uint8))
    with fake_cuda():
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=gib * 2**30)
        )
        made = loader.ImageLoader(images, np.arange(400_000), CUDA)
    assert (made.resident is not None) == resident
    assert loader.RESIDENT_BYTES == 8 * 2**30


@pytest.mark.parametrize("mixing", [None, MIXED], ids=["raw", "mixed"])
def test_a_step_with_cached_teacher_logits(mixing, tmp_path: Path):
    made, split = settings("distillation", multi=mixing), data()
    save_classifier(tmp_path / "t.safetensors", classifier(CPU), NetworkSpec(SMALL, CLASSES, 3, 16, "linear"))
    teachers = [tmp_path / "t.safetensors"]
    networks = load_teachers(teachers, CLASSES, CPU)
    wanted = cache_key(typed(made), split, teachers, CPU)
    cache_logits(tmp_path / "teacher_logits.safetensors", networks, make_batches(typed(made), split, CPU), wanted)
    with fake_cuda() as gpu:
        teacher = CachedTeacher(
            tmp_path / "teacher_logits.safetensors", cache_key(typed(made), split, teachers, CUDA), CUDA
        )
        train_two_steps(made, split, CUDA, teacher, gpu)


# ------------------------------------------------------------------------------------------ analysis, recognition


@pytest.mark.parametrize("mixing", MULTI_SAMPLE)
def test_the_mixing_scan(mixing):
    with fake_cuda() as gpu:
        images, labels = data().known_test(12, 0, CUDA)
        normalize = data().normalize(typed(settings()), CUDA)
        rows = mixing_response(
            {"t": classifier(CUDA)}, "t", normalize(images), labels, mixing=mixing, lams=[0.0, 0.5], seed=0
        )
        assert len(list(rows)) == 8
    assert not gpu.nondeterministic


@pytest.mark.parametrize("backbone", [SMALL, BACKBONES.resolve({"name": "resnet18", "pool": "flatten_2x2"})])
def test_grad_cam(backbone):
    split, made = data(), settings(backbone=backbone)
    with fake_cuda():
        images, labels = split.known_test(6, 0, CUDA)
        pairs = Pairs(images, labels, seed=0)
        assert pairs.views["mixed"].device == CUDA
        assert len(list(pairs.pictures(CLASSES, 2))) == 8
    with Operations() as operations:
        images = split.normalize(typed(made), CPU)(split.known_test(6, 0, CPU)[0])
        grad_cam(make_student(typed(made), split, CPU).eval(), images)
    assert not operations.nondeterministic
    assert "upsample_bilinear2d" in operations.counts


def test_outputs_of_the_test_images():
    split = data()
    with fake_cuda() as gpu:
        (loader,) = split.test(CUDA)
        features, logits = predict(classifier(CUDA), loader, split.normalize(typed(settings()), CUDA))
    assert features.shape == (24, 8)
    assert logits.shape == (24, 4)
    assert not gpu.nondeterministic


def test_recognition():
    from openset_distill.recognition.model import OpenSetClassifier

    with fake_cuda():
        described = NetworkSpec(SMALL, CLASSES, 3, 16, "linear")
        model = OpenSetClassifier.assemble(classifier(CPU), described, mean=[0.5] * 3, std=[0.25] * 3)
        model = OpenSetClassifier(model.network, model.description, CUDA)
        features, logits = model.forward(np.zeros((5, 16, 16, 3), np.uint8))
    assert features.shape == (5, 8)
    assert logits.shape == (5, 4)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
