"""Evaluates the VGG32 classifiers published by Vaze et al. 2022 on Tiny-ImageNet, as an external check.

    python workflow_scripts/published_checkpoints.py --prepared data/prepared/tinyimagenet/64x3 \\
        --checkpoint 0=data/raw/published_checkpoints/vgg32_tinyimagenet_split0.pth \\
        --published config/reference/published_results.csv --csv table.csv --markdown table.md

All test images of a split are used, 1,000 known and 9,000 unknown, in float32; the score is the maximum logit.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openset_distill.core.command import positive, run

if TYPE_CHECKING:
    import torch

    from openset_distill.datasets.prepared import PreparedDataset

PROTOCOL = "tinyimagenet"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
METRICS = {"accuracy": "Accuracy", "auroc": "AUROC", "oscr": "OSCR"}
METHOD, BACKBONE = "MLS (Vaze et al. 2022)", "VGG32"
CAPTION = (
    "Published VGG32 classifiers of Vaze et al. 2022 on the splits of Tiny-ImageNet, evaluated here: all test images "
    "of known and unknown classes, 64x64, float32, maximum logit. In percent."
)


def numbered_path(text: str) -> tuple[int, Path]:
    """SPLIT=PATH of the command line as a number and a path."""
    number, separator, path = text.partition("=")
    if not (number.isdigit() and separator and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not SPLIT=PATH")
    return int(number), Path(path)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", required=True, type=Path, help="folder of the prepared Tiny-ImageNet, 64x64")
    parser.add_argument(
        "--checkpoint",
        required=True,
        action="append",
        type=numbered_path,
        metavar="SPLIT=PATH",
        help="checkpoint of a split; repeatable",
    )
    parser.add_argument("--published", required=True, type=Path, help="numbers from the literature, CSV")
    parser.add_argument("--reference", type=Path, default=Path("config/reference"), help="folder with protocols.json")
    parser.add_argument("--csv", required=True, type=Path, help="output: the numbers")
    parser.add_argument("--markdown", required=True, type=Path, help="output: the table, Markdown")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads")
    return parser.parse_args()


def evaluate(path: Path, split: int, data: PreparedDataset, reference: Path, device: torch.device) -> dict[str, Any]:
    """Accuracy, AUROC and OSCR (fractions) of one checkpoint on its split, with the numbers of images."""
    import torch

    from openset_distill.datasets import protocols as protocol
    from openset_distill.datasets.loader import ImageLoader, Normalize
    from openset_distill.evaluation import metrics
    from openset_distill.models.inference import predict
    from openset_distill.models.published import load_vgg32

    datasets = protocol.Datasets(data.name, data.classes, {})
    classes = protocol.class_split(PROTOCOL, split, datasets, protocol.Resources(reference))
    test = protocol.test_images(classes, data.test.labels)
    model = load_vgg32(path, classes=len(classes.known)).to(device)
    loader = ImageLoader(data.test, test["test_index"], device)
    _, logits = predict(model, loader, Normalize(MEAN, STD, 3, device))
    scores, guesses = (answer.numpy() for answer in torch.max(logits, dim=1))
    known = test["test_label"] != protocol.UNKNOWN_LABEL
    correct = guesses[known] == test["test_label"][known]
    return {
        "split": split,
        "n_known": int(known.sum()),
        "n_unknown": int((~known).sum()),
        "accuracy": metrics.accuracy(correct),
        "auroc": metrics.auroc(scores[known], scores[~known]),
        "oscr": metrics.oscr(scores[known], scores[~known], correct),
    }


def main() -> None:
    """Writes the table that compares the authors' checkpoints with the numbers that they report."""
    arguments = parse()
    # heavy imports wait until the command line is known to be right
    import pandas as pd

    from openset_distill.core.device import prepare_device
    from openset_distill.core.errors import DataError
    from openset_distill.core.files import atomic_write
    from openset_distill.datasets.prepared import open_prepared
    from openset_distill.report.tables import DASH, Block, Cell, Table, read_published, to_markdown

    data = open_prepared(arguments.prepared)
    if data.test.shape != (64, 64, 3):
        raise DataError(f"{arguments.prepared} is not 64x64 RGB; prepare Tiny-ImageNet with --size 64 --channels 3")
    device = prepare_device(arguments.threads)
    rows = []
    for split, path in sorted(arguments.checkpoint):
        row = evaluate(path, split, data, arguments.reference, device)
        print(", ".join(f"{key} {value:.6g}" for key, value in row.items()), file=sys.stderr, flush=True)
        rows.append(row)

    published = read_published(arguments.published)
    published = published[
        (published["dataset"] == PROTOCOL) & (published["method"] == METHOD) & (published["backbone"] == BACKBONE)
    ].set_index("metric")
    table = pd.DataFrame(rows)
    table[[*METRICS]] *= 100
    mean = {"split": "mean", **table[[*METRICS]].mean()}
    theirs = {"split": "mean reported by the authors", **published["value"].to_dict()}
    table = pd.concat([table.astype({"split": str}), pd.DataFrame([mean, theirs])], ignore_index=True)
    table = table.astype({"n_known": "Int64", "n_unknown": "Int64"})

    body = [
        [
            Cell(f"Split {row['split']}" if row["split"].isdigit() else row["split"].capitalize()),
            *(Cell(DASH if pd.isna(row[name]) else f"{row[name]:.2f}") for name in METRICS),
            *(Cell(DASH if pd.isna(row[name]) else str(row[name])) for name in ("n_known", "n_unknown")),
        ]
        for row in table.to_dict("records")
    ]
    header = ["", *METRICS.values(), "Known images", "Unknown images"]
    note = (
        f"The mean is over {len(rows)} of the protocol's splits; the authors' is over all five, and they draw as many "
        f"unknown images as known ones. {DASH}: not reported."
    )
    block = Block(header, body, note=note)
    with atomic_write(arguments.csv) as partial:
        table.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
    with atomic_write(arguments.markdown) as partial:
        partial.write_text(to_markdown(Table("published_checkpoints", CAPTION, [block], table)), encoding="utf-8")


if __name__ == "__main__":
    run(main)
