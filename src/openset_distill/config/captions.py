"""What captions, labels and titles say of an experiment's settings: facts are filled in, never typed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ..datasets import catalog
from ..report.context import counted, listed

if TYPE_CHECKING:
    from .experiment import Experiment, Run

# the paper's own networks and length of training, for images of at most 64 pixels
PAPER_SIZE = 64
PAPER = {"teacher": "resnet50", "students": "resnet18", "epochs": 200}
TITLES = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "wide_resnet50": "Wide ResNet-50",
    "mobilenet_v2": "MobileNetV2",
    "vgg32": "VGG32",
}
SEVERAL = 3  # networks that are listed by name


# what a label or title may name
FACT = re.compile(r"\{(\w+)\}")


def with_facts(text: str, facts: Mapping[str, object]) -> str:
    """A label or title with the facts that it names in braces, so that a changed setting changes the words.

    >>> with_facts("CE, {epochs} epochs of {1}", {"epochs": 20})
    'CE, 20 epochs of {1}'
    """
    return FACT.sub(lambda found: str(facts.get(found[1], found[0])), text)


def setting(experiment: Experiment) -> str:
    """Size of the images, networks and length of training of an experiment in a sentence for captions.

    All of it is read from the resolved settings, so that a changed setting changes the sentence.
    """
    runs, size = experiment.runs, experiment.image_size()
    own = catalog.datasets()[experiment.settings.data.dataset].size
    images = f"Images of {square(size)} pixels"
    if own is not None and own[0] != size:
        images += f" (the dataset's: {square(own[0])})"
    roles = {"teacher": experiment.teacher_runs, "students": experiment.student_runs}
    roles = {role: [runs[name] for name in names] for role, names in roles.items() if names}
    lengths = {role: _span((run.optimization.epochs for run in own), "epoch") for role, own in roles.items()}
    alike = len(set(lengths.values())) == 1
    parts = [
        f"{role if len(roles) > 1 else 'networks'}{'s' if role == 'teacher' and len(own) > 1 else ''} {_networks(own)}"
        + ("" if alike else f" for {lengths[role]}")
        for role, own in roles.items()
    ]
    batches = _span((run.optimization.batch_size for run in runs.values()), "image")
    length = f"{lengths['students']}, " if alike else ""
    text = f"{images}; {', '.join(parts)}; {length}batches of {batches}."
    main = {role: own[0].backbone["name"] for role, own in roles.items()}
    main["epochs"] = roles["students"][0].optimization.epochs
    if size <= PAPER_SIZE and any(PAPER[key] != value for key, value in main.items()):
        text += (
            f" The paper: teacher {TITLES[PAPER['teacher']]}, students {TITLES[PAPER['students']]}, "
            f"{PAPER['epochs']} epochs."
        )
    return text


def square(size: int) -> str:
    """Height and width of square images in words, for captions."""
    return f"{size}\N{MULTIPLICATION SIGN}{size}"


def _span(numbers: Iterable[int], noun: str) -> str:
    numbers = sorted(set(numbers))
    return f"{numbers[0]} to {counted(numbers[-1], noun)}" if len(numbers) > 1 else counted(numbers[0], noun)


def _networks(runs: Iterable[Run]) -> str:
    names = list(dict.fromkeys(map(_network, runs)))
    return listed([*names[:SEVERAL], *([f"{len(names) - SEVERAL} more"] if len(names) > SEVERAL else [])])


def _network(run: Run) -> str:
    """A network's name, its widths, and whether it starts from given weights or keeps them."""
    name, _, widths = run.network.partition(" ")
    how = ["pretrained"] if run.backbone.get("pretrained") or run.backbone.get("weights") else []
    how += ["frozen"] if run.backbone.get("freeze") else []
    return " ".join(filter(None, (TITLES.get(name, name), widths, f"({', '.join(how)})" if how else "")))
