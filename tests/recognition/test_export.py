"""The ONNX file computes what the model computes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import REPOSITORY

from openset_distill import OpenSetClassifier
from openset_distill.evaluation.scores import SCORES, score
from openset_distill.models import build_classifier
from openset_distill.models.checkpoint import NetworkSpec
from openset_distill.recognition.export import _SCORES, export_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")


def test_every_score_has_its_form_in_onnx():
    assert set(_SCORES) == set(SCORES)
    generator = np.random.default_rng(0)
    features, logits = (generator.normal(size=(20, n)).astype(np.float32) for n in (7, 4))
    for name, of_tensors in _SCORES.items():
        found = of_tensors(torch.from_numpy(features), torch.from_numpy(logits)).numpy()
        np.testing.assert_allclose(found, score(name, features, logits), rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["maximum_logit", "energy", "gradnorm"])
def test_parity_with_torch_for_any_size_of_batch(model, name, tmp_path):
    model = model.with_score(name)
    session = onnxruntime.InferenceSession(export_onnx(model, tmp_path / "model.onnx"))
    for n in (1, 2, 33):
        pixels = np.random.default_rng(n).integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
        found, probabilities, logits = session.run(None, {"images": pixels})
        np.testing.assert_allclose(logits, model.outputs(pixels)[1], atol=1e-4)
        np.testing.assert_allclose(probabilities, model.predict_proba(pixels), atol=1e-4)
        np.testing.assert_allclose(found, model.scores(pixels), atol=1e-4, rtol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(model.classes_)
    assert float(metadata["threshold"]) == model.operating_point().threshold
    assert json.loads(metadata["preprocessing"])["image_size"] == 8


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ({"name": "vgg32"}, "linear"),
        ({"name": "timm", "model": "resnet18", "pool": "flatten_2x2"}, "linear"),
        ({"name": "small_resnet", "widths": [4, 8]}, "reciprocal_points"),
        ({"name": "small_resnet", "widths": [4, 8]}, "placeholders"),
        ({"name": "timm", "model": "test_vit", "stem": "imagenet"}, "linear"),
        ({"name": "timm", "model": "test_resnet", "stem": "imagenet", "input_size": 48}, "linear"),
        # its export takes ten seconds
        pytest.param(
            {"name": "efficientnet_lite0", "freeze": True, "input_size": 64}, "linear", marks=pytest.mark.stories
        ),
    ],
)
def test_parity_of_other_networks(backbone, head, tmp_path):
    torch.manual_seed(0)
    classes = ("a", "b", "c")
    network = build_classifier(backbone, classes=3, channels=3, head=head).eval()
    described = NetworkSpec(backbone, classes, 3, 32, head)
    model = OpenSetClassifier.assemble(network, described, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
    session = onnxruntime.InferenceSession(export_onnx(model, tmp_path / "model.onnx"))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    _, probabilities, logits = session.run(None, {"images": pixels})
    expected = model.outputs(pixels)[1]
    np.testing.assert_allclose(logits, expected, atol=1e-4 * max(1, np.abs(expected).max()))
    np.testing.assert_allclose(probabilities, model.predict_proba(pixels), atol=1e-4)
    assert "threshold" not in session.get_modelmeta().custom_metadata_map


def test_the_consumer_of_the_documentation_needs_no_torch(packaged, pictures, openset, tmp_path):
    assert openset("export", packaged, "--onnx", tmp_path / "model.onnx").returncode == 0
    text = (REPOSITORY / "docs" / "recognition.md").read_text()
    [code] = re.findall(r"```python\n(# answer\.py.*?)```", text, re.DOTALL)
    (tmp_path / "answer.py").write_text(code)
    assert len(code.strip().splitlines()) <= 15
    assert "torch" not in code
    paths = sorted((pictures / "known").glob("*/*.png"))[:20]
    command = [sys.executable, str(tmp_path / "answer.py"), str(tmp_path / "model.onnx"), *map(str, paths)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    answers = [line.split("\t")[1] for line in output.splitlines()]
    assert answers == OpenSetClassifier.load(packaged).predict(paths).tolist()


def test_mistakes(packaged, refused, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused("export", packaged, "--onnx", tmp_path / "file" / "model.onnx")
    assert "unknown score" in refused("export", packaged, "--onnx", tmp_path / "m.onnx", "--score", "magic")
    monkeypatch.setattr("openset_distill.recognition.export.PACKAGES", ("onnx", "no_such_package"))
    assert "openset-distill[export]" in refused("export", packaged, "--onnx", tmp_path / "m.onnx")
    assert [path.name for path in Path(tmp_path).iterdir()] == ["file"]
