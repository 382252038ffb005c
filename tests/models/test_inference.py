"""Outputs of many images: in batches that the device has memory for, in order."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from commands import job
from torch import Tensor, nn

from openset_distill.core.errors import OpenSetError
from openset_distill.datasets.loader import ImageLoader, Normalize
from openset_distill.datasets.prepared import Images
from openset_distill.models.inference import predict
from openset_distill.training.setup import open_split

CPU = torch.device("cpu")


class Small(nn.Module):
    """A network on a device that has memory for `most` images, as PyTorch reports it."""

    def __init__(self, most: int):
        super().__init__()
        self.most, self.seen = most, []

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        self.seen.append(len(images))
        means = images.mean(dim=(1, 2, 3))
        return means[:, None], torch.stack([means, -means], dim=1)


def loader(n: int) -> ImageLoader:
    pixels = np.arange(n, dtype=np.uint8)[:, None, None, None].repeat(2, axis=1).repeat(2, axis=2)
    return ImageLoader(Images(pixels, np.zeros(n, np.int64)), np.arange(n)[::-1].copy(), CPU)


def test_a_batch_is_halved_until_it_fits_and_no_image_is_lost(capsys):
    network = Small(70)
    features, logits = predict(network, loader(200), Normalize([0.0], [1.0], 1, CPU))
    torch.testing.assert_close(features[:, 0] * 255, torch.arange(199.0, -1.0, -1.0))
    assert logits.shape == (200, 2)
    assert network.seen == [64, 64, 64, 8]
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"this GPU has no memory for {2 * size} images at once; trying {size}" for size in (256, 128, 64)]


def test_no_memory_for_one_image_is_an_error():
    with pytest.raises(OpenSetError, match="no memory for one image"):
        predict(Small(0), loader(3), Normalize([0.0], [1.0], 1, CPU))


def test_images_that_must_be_fetched_are_fetched_while_the_network_works(monkeypatch):
    pixels = (np.arange(1200) % 256).astype(np.uint8)[:, None, None, None].repeat(2, axis=1).repeat(2, axis=2)
    images, normalize = Images(pixels, np.zeros(1200, np.int64)), Normalize([0.0], [1.0], 1, CPU)
    at_once, ahead = (ImageLoader(images, np.arange(1200), CPU) for _ in range(2))
    assert not at_once.reads_ahead  # an array that is mapped from a disk
    ahead.reads_ahead = True
    expected, threads, batch = predict(Small(1000), at_once, normalize), [], Images.batch
    monkeypatch.setattr(
        Images, "batch", lambda self, index: threads.append(threading.current_thread().name) or batch(self, index)
    )
    found = predict(Small(1000), ahead, normalize)
    assert len(threads) == 3
    assert [name.startswith("read-ahead") for name in threads] == [False, True, True]
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_a_choice_of_test_images_reads_no_others(digits, split, monkeypatch):
    data, read = open_split(digits, [], split / "split.npz", split / "split.json"), []
    whole, batch = data.test(CPU)[0], Images.batch
    monkeypatch.setattr(Images, "batch", lambda self, indices: read.append(len(indices)) or batch(self, indices))
    images, labels = data.known_test(5, job("ce")["seed"], CPU)
    assert read == [5]
    assert len(images) == 5
    # the same images as before, by their labels' place among all
    known = np.flatnonzero(data.arrays["test_label"] >= 0)
    everything = whole.batch(torch.from_numpy(known))
    for image, label in zip(images, labels, strict=True):
        same = (everything == image).all(dim=(1, 2, 3)).nonzero().flatten()
        assert label in data.arrays["test_label"][known[same.numpy()]]
