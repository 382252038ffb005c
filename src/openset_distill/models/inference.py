"""Features and logits of many images, streamed."""

from __future__ import annotations

import torch

from ..datasets.loader import Feed, Normalize
from .classifier import Classifier

BATCH = 512


@torch.inference_mode()
def predict(model: Classifier, feed: Feed, normalize: Normalize) -> tuple[torch.Tensor, torch.Tensor]:
    """Features float32 `[n, d]` and logits float32 `[n, classes]` on the CPU, in the order of the feed."""
    was_training = model.training
    model.eval()
    features, logits = [], []
    for positions in torch.arange(len(feed)).split(BATCH):
        batch_features, batch_logits = model(normalize(feed.batch(positions)))
        features.append(batch_features.float().cpu())
        logits.append(batch_logits.float().cpu())
    model.train(was_training)
    return torch.cat(features), torch.cat(logits)


def accuracy(model: Classifier, feed: Feed, labels: torch.Tensor, normalize: Normalize) -> float:
    """Closed-set accuracy in [0, 1] on the images of a feed with int64 labels `[n]`."""
    _, logits = predict(model, feed, normalize)
    return (logits.argmax(dim=1) == labels).double().mean().item()
