"""Features and logits of many images, streamed."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..core.errors import OpenSetError
from ..datasets.loader import Shown

# images at once; halved where a GPU has no room for so many: 512 of 448 pixels need 20 GiB in a ResNet-50
BATCH = 512


@torch.inference_mode()
def predict(
    model: nn.Module, loader: Shown, normalize: Callable[[Tensor], Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features float32 `[n, d]` and logits float32 `[n, classes]` on the CPU, in the order of the loader.

    Raises:
        OpenSetError: the GPU has no memory for a single image.
    """

    def images(first: int, last: int, end: int) -> torch.Tensor:
        indices, next_indices = torch.arange(first, last), torch.arange(last, end)
        return normalize(loader.batch(indices, next_indices=next_indices if len(next_indices) else None))

    was_training = model.training
    model.eval()
    outputs = in_batches(model, len(loader), images)
    model.train(was_training)
    return outputs


def in_batches(
    model: nn.Module, count: int, images: Callable[[int, int, int], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and logits of `count` images, float32 on the CPU, in batches that the device has memory for.

    Args:
        images: gives those from its first argument up to its second, normalised; up to its third they are asked for
            next.

    Raises:
        OpenSetError: the GPU has no memory for a single image.
    """
    features, logits, first, size = [], [], 0, BATCH
    while first < count:
        last = min(first + size, count)
        try:
            batch_features, batch_logits = model(images(first, last, min(last + size, count)))
            features.append(batch_features.float().cpu())
            logits.append(batch_logits.float().cpu())
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise OpenSetError(
                    "this GPU has no memory for one image in this network; use another GPU, or OPENSET_DEVICE=cpu"
                ) from error
            size //= 2
            print(f"this GPU has no memory for {2 * size} images at once; trying {size}", file=sys.stderr, flush=True)
            continue
        first = last
    return torch.cat(features), torch.cat(logits)


def accuracy(model: nn.Module, loader: Shown, labels: torch.Tensor, normalize: Callable[[Tensor], Tensor]) -> float:
    """Closed-set accuracy in [0, 1] on the images of a loader with int64 labels `[n]`."""
    _, logits = predict(model, loader, normalize)
    return (logits.argmax(dim=1) == labels).double().mean().item()
