"""The plain way to train the paper's method, to measure the project's engine against.

Written from the method's description as most published code does it: images are opened and augmented one by one in a
`DataLoader`, everything is float32 in the default memory layout, the teacher answers with a graph, once to raw and once
to mixed images, and on a mixed batch the student also answers to the raw images, for nothing. Networks, data,
hyperparameters and objective are those of the job that it is given, so that both can be compared number by number.

    python benchmarks/baseline.py --job JOB --images FOLDER --split split.npz --outputs outputs.npz

`--images` is what `benchmarks/export_images.py` writes: `train/<number>.png` and `test/<number>.png`. It prints, as
JSON, when the first step was done and the seconds of each epoch.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import peak_mib
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from openset_distill.models import build_classifier
from openset_distill.models.checkpoint import load_classifier
from openset_distill.training.run_config import OptimizationSettings
from openset_distill.training.schedule import learning_rate

# name -> the per-image version
TRANSFORMS = {
    "random_crop": lambda size, one: transforms.RandomCrop(size, padding=one["padding"]),
    "horizontal_flip": lambda size, one: transforms.RandomHorizontalFlip(),
    "randaugment": lambda size, one: transforms.RandAugment(one["num_ops"], one["magnitude"]),
}


class Files(Dataset):
    """Images that are opened whenever they are asked for."""

    def __init__(self, folder: Path, index: np.ndarray, labels: np.ndarray, transform):
        self.folder, self.index, self.labels, self.transform = folder, index, labels, transform

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        with Image.open(self.folder / f"{self.index[position]}.png") as image:
            return self.transform(image.convert("RGB")), int(self.labels[position])


def dist_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """DIST with beta = gamma = tau = 1: one minus the mean correlation of rows, and the same of columns."""
    p, q = student.softmax(dim=1), teacher.softmax(dim=1)

    def correlation(a: Tensor, b: Tensor) -> Tensor:
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)

    return 2 - correlation(p, q).mean() - correlation(p.t(), q.t()).mean()


def cutmix(images: Tensor, lam: float) -> tuple[Tensor, Tensor, float]:
    """The mixed batch, the permutation of partners, and the share that each image keeps of itself."""
    height, width = images.shape[-2:]
    partner = torch.randperm(len(images))
    tall, wide = int(height * (1 - lam) ** 0.5), int(width * (1 - lam) ** 0.5)
    y, x = np.random.randint(height), np.random.randint(width)
    top, bottom = max(y - tall // 2, 0), min(y + tall // 2, height)
    left, right = max(x - wide // 2, 0), min(x + wide // 2, width)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[partner][..., top:bottom, left:right]
    return mixed, partner, 1 - (bottom - top) * (right - left) / (height * width)


def loss_of(job: dict, student, teacher, images: Tensor, labels: Tensor) -> Tensor:
    """The loss of one batch: cross entropy, distillation or asymmetric distillation as released."""
    name, multi = job["method"]["name"], job["augment"]["multi"]
    mix = multi is not None and np.random.rand() < multi["probability"]
    if name == "asymmetric_distillation":
        on_raw, answer = student(images)[1], teacher(images)[1]
        if not mix:
            return F.cross_entropy(on_raw, labels) + dist_loss(on_raw, answer)
        mixed, partner, lam = cutmix(images, np.random.beta(multi["alpha"], multi["alpha"]))
        logits, answer_mixed = student(mixed)[1], teacher(mixed)[1]
        top = answer_mixed.argmax(dim=1)
        hard = (top != labels) & (top != labels[partner])
        loss = lam * dist_loss(logits, answer) + (1 - lam) * dist_loss(logits, answer[partner])
        if (~hard).sum() > 1:
            loss = loss + dist_loss(logits[~hard], answer[~hard])
        if hard.any():
            loss = loss + lam * F.cross_entropy(logits[hard], labels[hard])
            loss = loss + (1 - lam) * F.cross_entropy(logits[hard], labels[partner][hard])
        return loss
    lam, partner = 1.0, torch.arange(len(labels))
    if mix:
        images, partner, lam = cutmix(images, np.random.beta(multi["alpha"], multi["alpha"]))
    logits = student(images)[1]
    loss = lam * F.cross_entropy(logits, labels) + (1 - lam) * F.cross_entropy(logits, labels[partner])
    return loss + dist_loss(logits, teacher(images)[1]) if name == "distillation" else loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", required=True, help="resolved settings of the run, JSON text")
    parser.add_argument("--images", required=True, type=Path, help="folder with train/*.png and test/*.png")
    parser.add_argument("--split", required=True, type=Path, help="split.npz")
    parser.add_argument("--teacher", type=Path, help="weights of the teacher")
    parser.add_argument("--workers", type=int, default=2, help="processes that load images")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of the network")
    parser.add_argument("--outputs", type=Path, help="output: logits and labels of the test images, npz")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    job = json.loads(arguments.job)
    settings, split = job["optimization"], np.load(arguments.split)
    rates = OptimizationSettings.model_validate(settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(job["seed"])
    np.random.seed(job["seed"])

    size = Image.open(arguments.images / "train" / f"{split['train_index'][0]}.png").size[0]
    plain = [transforms.ToTensor(), transforms.Normalize(**job["normalization"])]
    augmented = transforms.Compose([TRANSFORMS[one["name"]](size, one) for one in job["augment"]["single"]] + plain)
    train = Files(arguments.images / "train", split["train_index"], split["train_label"], augmented)
    test = Files(arguments.images / "test", split["test_index"], split["test_label"], transforms.Compose(plain))
    options = {"num_workers": arguments.workers, "batch_size": settings["batch_size"]}
    loader = DataLoader(train, shuffle=True, drop_last=True, **options)

    student = build_classifier(job["backbone"], classes=int(split["train_label"].max()) + 1, channels=3).to(device)
    teacher = load_classifier(arguments.teacher)[0].to(device) if arguments.teacher else None
    optimizer = torch.optim.SGD(
        student.parameters(), lr=0.1, momentum=settings["momentum"], weight_decay=settings["weight_decay"]
    )
    first_step, seconds = 0.0, []
    for epoch in range(settings["epochs"]):
        student.train()
        started = time.perf_counter()
        for step, (images, labels) in enumerate(loader):
            loss = loss_of(job, student, teacher, images.to(device), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = learning_rate(rates, epoch * len(loader) + step, len(loader))
            optimizer.step()
            loss.item()  # printed step by step in the usual script
            first_step = first_step or time.time()
        seconds.append(time.perf_counter() - started)

    if arguments.outputs:
        student.eval()
        with torch.no_grad():
            logits = torch.cat([student(images.to(device))[1].cpu() for images, _ in DataLoader(test, **options)])
        np.savez(arguments.outputs, logits=logits.numpy(), labels=test.labels)
    images = len(loader) * loader.batch_size
    print(json.dumps({"first_step": first_step, "epoch_seconds": seconds, "images": images, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
