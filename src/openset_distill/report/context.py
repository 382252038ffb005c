"""What a figure or table must know beside its tidy tables: whose experiment it shows, and which runs to point out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import pydantic

from ..core.errors import SettingsError, nearest
from ..core.files import read_json
from ..core.registry import settings_class
from ..datasets.protocols import twins

Counted = Annotated[int, pydantic.Field(ge=1, le=1_000_000)]
Split = Annotated[int, pydantic.Field(ge=0, le=999_999)]
# which runs a figure or table misses among the configured ones (run -> family), a phrase each
Needs = Callable[[Mapping[str, str]], list[str]]


@settings_class
class RunRoles:
    """Runs by the part they play. A part that is left empty is filled from the families of the runs in the table."""

    baseline: str = ""  # plain cross entropy
    msa: str = ""  # the multiple-sample augmentation whose harm is repaired, for example CutMix
    distillation: str = ""  # plain distillation
    asymmetric: tuple[str, ...] = ()  # asymmetric distillation, the best known variant first
    ablation: tuple[str, ...] = ()  # rows of the ablation in order; the first is what the others are compared with
    dynamics: tuple[str, ...] = ()  # curves of the training; empty: those of the other parts, but for the ablation

    def filled(self, families: Mapping[str, str]) -> RunRoles:
        """With the empty parts filled from `families`: run -> family, in the order in which runs are preferred.

        >>> RunRoles(baseline="plain").filled({"ce": "cross_entropy", "cutmix": "msa", "mixup": "msa"})
        RunRoles(baseline='plain', msa='cutmix', distillation='', asymmetric=(), ablation=(), dynamics=())
        """

        def of_family(*names: str) -> tuple[str, ...]:
            return tuple(run for run, family in families.items() if family in names)

        distillation = of_family("distillation")[:1]
        return RunRoles(
            baseline=self.baseline or "".join(of_family("cross_entropy")[:1]),
            msa=self.msa or "".join(of_family("msa")[:1]),
            distillation=self.distillation or "".join(distillation),
            asymmetric=self.asymmetric or of_family("asymmetric"),
            ablation=self.ablation or (*distillation, *of_family("ablation", "asymmetric")),
            dynamics=self.dynamics,
        )


# score or detector -> its title
SCORE_TITLES = {
    "maximum_logit": "Maximum logit",
    "msp": "Maximum softmax probability",
    "energy": "Energy",
    "negative_entropy": "Entropy of the softmax",
    "feature_norm": "Feature norm",
    "gradnorm": "GradNorm",
    "openmax": "OpenMax",
    "vim": "ViM",
    "knn": "Nearest neighbours (KNN)",
    "mahalanobis": "Mahalanobis distance",
    "react": "ReAct",
}


NAMES = ("gradnorm", "openmax", "vim", "mahalanobis", "react")  # written as they are, also within a sentence


def score_words(score: str) -> str:
    """A score's title within a sentence.

    >>> score_words("maximum_logit"), score_words("knn"), score_words("vim")
    ('maximum logit', 'nearest neighbours (KNN)', 'ViM')
    """
    title = SCORE_TITLES.get(score, score)
    return title if score in NAMES else title[:1].lower() + title[1:]


@settings_class
class Context:
    """The experiment behind a figure or table.

    `class_sets` says which splits have the same classes: split -> the name of its class set. Without it no two have.
    """

    experiment: str
    title: str
    dataset_title: str
    protocol: str  # whose known/unknown class splits
    splits: Counted  # number of known/unknown splits
    seeds: Counted  # number of seeds for each split
    class_sets: dict[Split, str] = pydantic.Field(default_factory=dict)
    score: str = "maximum_logit"  # the score that runs are compared by
    setting: str = ""  # images, networks and length of training, from the resolved configuration (`config.setting`)
    scale_note: str = ""  # what the configuration adds in words of its own
    highlight: RunRoles = RunRoles()

    def scale(self) -> str:
        """Protocol, and number of splits and seeds in words that a line break does not part; twins are named."""
        words = f"{counted(self.splits, 'split')} \N{MULTIPLICATION SIGN} {counted(self.seeds, 'seed')}"
        scale = f"protocol {self.protocol}, " + words.replace(" ", "\N{NO-BREAK SPACE}")
        return f"{scale}: {self.twin_words()}" if self.twins else scale

    @property
    def twins(self) -> list[tuple[int, ...]]:
        """The splits that have the same classes, one group a class set."""
        return twins(self.class_sets)

    def twin_words(self) -> str:
        """How many class sets there are, and which splits share theirs; empty where every split has its own.

        >>> known = {"experiment": "e", "title": "t", "dataset_title": "d", "protocol": "p", "splits": 3, "seeds": 1}
        >>> Context(**known, class_sets={0: "a", 1: "a", 2: "b"}).twin_words()
        '2 class sets (splits 0 and 1 have the same classes)'
        """
        if not self.twins:
            return ""
        groups = "; ".join(f"splits {listed(group)} have the same classes" for group in self.twins)
        return f"{counted(len(set(self.class_sets.values())), 'class set')} ({groups})"

    def about(self) -> str:
        """Setting and scale note as sentences."""
        return " ".join(filter(None, map(sentence, (self.setting, self.scale_note))))

    def in_words(self) -> dict[str, str]:
        """What a figure or table is of, for readers: part -> words."""
        parts = {
            "experiment": self.title,
            "dataset": self.dataset_title,
            "protocol": self.scale().removeprefix("protocol "),
            "setting": self.about(),
            "compared_by": score_words(self.score),
        }
        return {part: words for part, words in parts.items() if words}

    def words(self) -> dict[str, str]:
        """What a caption template may name."""
        return {
            "experiment": self.experiment,
            "title": self.title,
            "dataset": self.dataset_title,
            "scale": self.scale(),
            "setting": self.about(),
            "score": score_words(self.score),
        }


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "seed"), counted(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(items: Iterable[object]) -> str:
    """
    >>> listed([0, 1]), listed([3]), listed([0, 1, 4])
    ('0 and 1', '3', '0, 1 and 4')
    """
    words = list(map(str, items))
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def sentence(text: str) -> str:
    """`text` with a full stop at its end, where it has none; empty stays empty."""
    text = text.strip()
    return text if not text or text[-1] in ".!?" else text + "."


def read_context(source: str | Mapping[str, Any]) -> Context:
    """A context from JSON text, from the path of a JSON file, or from plain data.

    Raises:
        SettingsError: an unknown or missing field, or a value of the wrong type.
        OpenSetError: the file is missing or is not JSON.
    """
    if isinstance(source, str) and source.lstrip().startswith("{"):
        try:
            data = json.loads(source)
        except ValueError as error:
            raise SettingsError(f"the figure context is not valid JSON ({error})") from error
    else:
        data = read_json(source) if isinstance(source, str) else dict(source)
    if not isinstance(data, dict):
        raise SettingsError("the figure context must be a JSON object with at least " + ", ".join(_required()))
    _refuse_unknown("the figure context", data, Context)
    if isinstance(data.get("highlight"), dict):
        _refuse_unknown("highlight in the figure context", data["highlight"], RunRoles)
    missing = [name for name in _required() if name not in data]
    if missing:
        raise SettingsError(f"the figure context lacks {', '.join(missing)}; add it to the JSON given by --context")
    try:
        return Context(**data)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"the figure context: {where}: {first['msg']}") from error


def _required() -> list[str]:
    return ["experiment", "title", "dataset_title", "protocol", "splits", "seeds"]


def _refuse_unknown(what: str, data: Mapping[str, Any], cls: type) -> None:
    fields = [field.name for field in dataclasses.fields(cls)]
    for key in data:
        if key not in fields:
            raise SettingsError(f"{what} has no field {key!r}; {nearest(key, fields)}")


def needs_families(*alternatives: tuple[str, ...]) -> Needs:
    """A check of the configured runs (run -> family): one run of any family of each alternative must be there.

    >>> needs_families(("cross_entropy",), ("ssa", "msa"))({"ce": "cross_entropy"})
    ["a run of the family 'ssa' or 'msa'"]
    """

    def missing(run_families: Mapping[str, str]) -> list[str]:
        present = set(run_families.values())
        return [
            "a run of the family " + " or ".join(repr(family) for family in families)
            for families in alternatives
            if not present.intersection(families)
        ]

    return missing
