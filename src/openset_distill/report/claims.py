"""Claims judged by a written rule: what is claimed of two runs, from the tidy tables of one or several experiments.

A file of claims names, before anybody looks at results, the runs that a claim compares, the outcome, the data and the
rule. Each claim becomes a paired difference over distinct class sets with Student's t interval, and a verdict that
follows from the interval and the margin alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, Literal

import pydantic

from ..core.errors import DataError, SettingsError, nearest
from ..core.files import read_json
from ..core.registry import settings_class
from ..core.yaml_files import read_yaml
from ..evaluation.metrics import METRICS
from ..evaluation.statistics import PairedDifference, Unit, paired_difference
from . import tidy
from .context import SCORE_TITLES, listed

Expected = Literal["higher", "lower", "same", "not_lower"]
Points = Annotated[float, pydantic.Field(ge=0, le=100)]
Family = Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
Split = Annotated[int, pydantic.Field(ge=0, le=999_999)]
CONFIRMED, CONTRADICTED = "confirmed", "contradicted"
NO_DIFFERENCE, UNDECIDED = "no difference within the margin", "undecided"
# of a training's settings, what differs between the units of one run by design
OF_UNIT = ("experiment", "split", "seed", "run")
# how pydantic names the members of a union in the place of an error; users know no such names
UNION_LABELS = ("Folder", "str", "tuple[", "function-wrap[")
# borders are compared in points up to rounding
DIGITS = 9


@settings_class
class Folder:
    """The results of one experiment: `tidy/runs.csv`, and the settings of each run.

    `runs` are the runs that it holds, where they are not all that are claimed about; `leave_out` are splits that are no
    evidence, for example because settings were chosen by them.
    """

    folder: str
    runs: tuple[str, ...] = ()
    leave_out: tuple[Split, ...] = ()


@settings_class
class Evidence:
    """Experiments on one dataset, joined over their class sets, and the `settings` that every run there has.

    A key of the file's `runs` goes before the same key of `settings`, and one of these `runs` before both; it replaces
    the other one whole. `earlier` puts the data into a page's second table, that of earlier studies.
    """

    folders: Annotated[tuple[Folder | str, ...], pydantic.Field(min_length=1)]
    settings: dict[str, Any] = pydantic.Field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = pydantic.Field(default_factory=dict)
    earlier: bool = False

    def listed(self) -> list[Folder]:
        return [one if isinstance(one, Folder) else Folder(folder=one) for one in self.folders]


@settings_class
class Claim:
    """What is claimed: that the `outcome` of `run` is `expected` to be higher (...) than that `against` another run.

    `data` names the data, all of them without it (`on` would be true in YAML). `keeps_accuracy`: the claim also
    says that accuracy is not lower by more than the file's `accuracy_loss`. `less` turns the outcome into what the
    deciding score has over this one. Several runs are a family, which is averaged within each class set and seed.
    """

    claim: str
    run: Family | str
    against: Family | str
    expected: Expected
    outcome: str = "auroc"
    data: tuple[str, ...] = ()
    margin: Points | None = None
    keeps_accuracy: bool = False
    less: str = ""

    @property
    def sides(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The runs that are claimed about, and those that they are compared with."""
        run, against = ((side,) if isinstance(side, str) else side for side in (self.run, self.against))
        return run, against

    @property
    def all_runs(self) -> tuple[str, ...]:
        """The runs of both sides."""
        return self.sides[0] + self.sides[1]


@settings_class
class ClaimsFile:
    """The rule, the data, the runs and the claims.

    `scores`: the first decides, the others are printed beside it. `margin`: points below which a difference does not
    matter. `runs`: what the settings of each run must say, as far as it is written; it goes before the data's.
    `baseline`: the run that the table of runs compares the others with.
    """

    scores: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    margin: Points
    accuracy_loss: Points
    data: Annotated[dict[str, Evidence], pydantic.Field(min_length=1)]
    runs: dict[str, dict[str, Any]]
    baseline: str
    claims: Annotated[tuple[Claim, ...], pydantic.Field(min_length=1)]


@dataclass(frozen=True)
class Judged:
    """A claim on one dataset by one score; differences in points."""

    claim: Claim
    data: str
    score: str
    decides: bool
    margin: float
    found: PairedDifference
    accuracy: PairedDifference | None
    verdict: str


def verdict(expected: Expected, low: float, high: float, margin: float) -> str:
    """What an interval of a difference, in points, says of a claim.

    - An interval that lies within the margin, its borders included, is no difference: for `same` that confirms.
    - `higher` is confirmed by an interval above 0 and contradicted by one below 0, `lower` the other way round.
    - `not_lower` is confirmed by an interval not below minus the margin, and contradicted by one wholly below it.
    - `same` is contradicted by an interval wholly beyond the margin.
    - Everything else, and a missing interval, is undecided.

    >>> verdict("higher", 0.2, 2.0, 1.0), verdict("higher", 0.2, 0.9, 1.0), verdict("lower", 0.2, 2.0, 1.0)
    ('confirmed', 'no difference within the margin', 'contradicted')
    """
    if math.isnan(low) or math.isnan(high):
        return UNDECIDED
    low, high, margin = (round(value, DIGITS) for value in (low, high, margin))
    if expected == "not_lower":
        return CONFIRMED if low >= -margin else CONTRADICTED if high < -margin else UNDECIDED
    within = -margin <= low and high <= margin
    if expected == "same":
        return CONFIRMED if within else CONTRADICTED if low > margin or high < -margin else UNDECIDED
    if within:
        return NO_DIFFERENCE
    above, below = (low > 0, high < 0) if expected == "higher" else (high < 0, low > 0)
    return CONFIRMED if above else CONTRADICTED if below else UNDECIDED


def with_accuracy(of_outcome: str, of_accuracy: str) -> str:
    """The verdict of a claim that also says that accuracy is kept, from those of its two halves."""
    if CONTRADICTED in (of_outcome, of_accuracy):
        return CONTRADICTED
    if of_outcome == CONFIRMED:
        return of_accuracy
    return of_outcome


# ---------------------------------------------------------------------------------------------------- files


def read_claims(path: str | os.PathLike) -> ClaimsFile:
    """Reads and checks a file of claims.

    Raises:
        SettingsError: an unknown or missing key, a wrong value, or a claim about data or a run that the file does not
            describe.
        OpenSetError: the file is missing or is not YAML.
    """
    content = read_yaml(path, "the file of claims")
    if not isinstance(content, dict):
        raise SettingsError(f"the file of claims {path} must hold a mapping of settings")
    try:
        claims = pydantic.TypeAdapter(ClaimsFile).validate_python(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"]]
        where = ".".join(part for part in parts if not part.startswith(UNION_LABELS))
        raise SettingsError(f"the file of claims {path}: {where}: {first['msg']}") from error
    worded: set[tuple[str, str]] = set()
    for number, claim in enumerate(claims.claims, start=1):
        where = f"the file of claims {path}: claim {number} ({claim.claim})"
        for name in claim.data:
            _known(where, "data", name, claims.data)
        for name in claim.data or claims.data:
            if (claim.claim, name) in worded:
                raise SettingsError(f"{where} has the words of another claim on {name}; word it otherwise")
            worded.add((claim.claim, name))
        for side in claim.sides:
            for name in side:
                _known(where, "run", name, claims.runs)
                if side.count(name) > 1:
                    raise SettingsError(f"{where} averages {name!r} twice; name it once")
        _known(where, "outcome", claim.outcome, ["accuracy", *METRICS])
        for name in set(claim.sides[0]) & set(claim.sides[1]):
            raise SettingsError(f"{where} compares {name!r} with itself; name another run")
        if claim.less and claim.outcome == "accuracy":
            raise SettingsError(f"{where}: accuracy has no score that another could be taken from; remove `less`")
    for name, evidence in claims.data.items():
        for run in evidence.runs:
            _known(f"the file of claims {path}: data.{name}.runs", "run", run, claims.runs)
    _known(f"the file of claims {path}: baseline", "run", claims.baseline, claims.runs)
    for name in (*claims.scores, *(claim.less for claim in claims.claims if claim.less)):
        _known(f"the file of claims {path}: scores", "score", name, SCORE_TITLES)
    return claims


def _known(where: str, kind: str, name: str, candidates) -> None:
    if name not in candidates:
        raise SettingsError(f"{where}: there is no {kind} {name!r}; {nearest(name, candidates)}")


class Results:
    """The results folder of one experiment: a kept one, or one of the workflow."""

    def __init__(self, described: Folder):
        self.described = described
        self.folder = Path(described.folder)
        table = tidy.read_tidy("runs", self.folder / "tidy" / "runs.csv")
        self.runs = table[~table["split"].isin(described.leave_out)]
        if self.runs.empty:
            raise DataError(f"the results in {self.folder} have no split that is not left out; correct leave_out")
        self.dataset = str(table["dataset"].iloc[0])
        self.class_sets = {int(s): c for s, c in zip(self.runs["split"], self.runs["class_set"], strict=True)}
        kept = self.folder / "provenance.json"
        self._kept = read_json(kept) if kept.is_file() else None

    def holds(self, run: str) -> bool:
        """Whether these results are to be asked for a run, and have it."""
        return run in (self.described.runs or set(self.runs["run"])) and run in set(self.runs["run"])

    @property
    def units(self) -> list[tuple[str, int, int]]:
        """(class set, split, seed) of every trained network of a run."""
        found = self.runs[tidy.UNIT].drop_duplicates()
        return [(name, int(split), int(seed)) for name, split, seed in found.itertuples(index=False)]

    def settings(self, run: str, split: int, seed: int) -> dict[str, Any]:
        """The resolved settings that a network was trained with.

        Raises:
            DataError: they are not recorded.
        """
        name = f"split{split}/seed{seed}/{run}"
        if self._kept is None:
            return read_json(self.folder / name / "config.json")
        if name not in self._kept:
            raise DataError(f"{self.folder}/provenance.json lacks {name}; keep the results again")
        return self._kept[name]["settings"]

    def values(self, run: str, metric: str, score: str, claim: str) -> dict[Unit, float]:
        """(class set, folder, split, seed) -> a metric in percent, of every unit.

        Raises:
            DataError: the folder does not hold the run, the score, or the run for every split and seed.
        """
        if run not in set(self.runs["run"]):
            raise DataError(
                f"the results in {self.folder} have no run {run!r}, which the claim {claim!r} compares; "
                "add it there, or list the folder's `runs` in the file of claims"
            )
        rows = self.runs[self.runs["run"] == run]
        chosen = tidy.metric_rows(rows, metric, score=score)
        found = {
            (name, str(self.folder), int(split), int(seed)): 100 * value
            for name, split, seed, value in chosen[[*tidy.UNIT, "value"]].itertuples(index=False)
        }
        for name, split, seed in self.units:
            if (name, str(self.folder), split, seed) not in found:
                what = "accuracy" if metric == "accuracy" else f"{metric} of the score {score!r}"
                raise DataError(
                    f"the results in {self.folder} have no {what} of the run {run!r} for split {split} and seed "
                    f"{seed}; evaluate it, or leave it out of the file of claims"
                )
        return found


# ------------------------------------------------------------------------------------------------- judgement


def judge(claims: ClaimsFile) -> tuple[list[Judged], dict[str, list[Results]]]:
    """Every claim on each of its data by each score, and the results behind them.

    Raises:
        DataError: results are missing or damaged; runs are of other settings than the file names, or than the same run
            of another class set; a claim's class sets are all twins of one another.
    """
    results = {name: [Results(folder) for folder in evidence.listed()] for name, evidence in claims.data.items()}
    for name, of_data in results.items():
        _check_joined(name, of_data)
    judged = []
    for claim in claims.claims:
        for data in claim.data or tuple(claims.data):
            needed = set(claim.all_runs)
            used = [one for one in results[data] if not one.described.runs or needed <= set(one.described.runs)]
            if not used:
                raise DataError(
                    f"no results on {data} hold all of {listed(sorted(needed))}, which the claim "
                    f"{claim.claim!r} compares; add a folder, or leave {data} out of its `data`"
                )
            judged += _judge_on(claim, data, used, claims)
    for data, of_data in results.items():
        # earlier studies have no table of runs
        compared = dict.fromkeys(
            run for one in claims.claims if not one.data or data in one.data for run in one.all_runs
        )
        for run in claims.runs if not claims.data[data].earlier else compared:
            _check_settings(run, data, [one for one in of_data if one.holds(run)], claims)
    return judged, results


def _judge_on(claim: Claim, data: str, used: Sequence[Results], claims: ClaimsFile) -> Iterator[Judged]:
    units = [unit for results in used for unit in results.units]
    if len(units) > 1 and len({name for name, _, _ in units}) == 1 and len({split for _, split, _ in units}) > 1:
        splits = sorted({split for _, split, _ in units})
        raise DataError(
            f"the splits {listed(splits)} of {data} have the same classes, so that the claim {claim.claim!r} has one "
            "class set and no interval; add results on other classes"
        )

    def compared(metric: str, score: str) -> PairedDifference:
        own, other = (_family_values(side, used, metric, score, claim) for side in claim.sides)
        if claim.less and metric != "accuracy":
            for values, side in zip((own, other), claim.sides, strict=True):
                of_less = _family_values(side, used, metric, claim.less, claim)
                values.update({unit: values[unit] - value for unit, value in of_less.items()})
        return paired_difference(own, other)

    margin = claims.margin if claim.margin is None else claim.margin
    accuracy = compared("accuracy", "") if claim.keeps_accuracy else None
    scores = ("",) if claim.outcome == "accuracy" else claims.scores[:1] if claim.less else claims.scores
    for score in scores:
        found = compared(claim.outcome, score)
        said = verdict(claim.expected, found.low, found.high, margin)
        if accuracy is not None:
            said = with_accuracy(said, verdict("not_lower", accuracy.low, accuracy.high, claims.accuracy_loss))
        yield Judged(claim, data, score, score == scores[0], margin, found, accuracy, said)


def _family_values(
    family: Sequence[str], used: Sequence[Results], metric: str, score: str, claim: Claim
) -> dict[Unit, float]:
    """A metric of every unit in percent, the mean of some runs."""
    of_runs = [
        {unit: value for results in used for unit, value in results.values(run, metric, score, claim.claim).items()}
        for run in family
    ]
    return {unit: mean(values[unit] for values in of_runs) for unit in of_runs[0]}


def _check_joined(name: str, of_data: Sequence[Results]) -> None:
    folders = [str(one.folder) for one in of_data]
    for folder in folders:
        if folders.count(folder) > 1:
            raise SettingsError(f"the data {name} name the folder {folder} twice; name it once")
    for one in of_data if len(of_data) > 1 else ():
        if any(class_set.startswith("split ") for class_set in one.class_sets.values()):
            raise DataError(
                f"the table of runs of {one.folder} is from before class sets had names, so that nobody knows which "
                "of them other results share; make them again with the rule aggregate"
            )
    datasets = {one.dataset: one.folder for one in of_data}
    if len(datasets) > 1:
        parts = "; ".join(f"{folder} is of {dataset}" for dataset, folder in datasets.items())
        raise DataError(f"the data {name} join results on different datasets ({parts}); give each a name of its own")


def _check_settings(run: str, data: str, of_data: Sequence[Results], claims: ClaimsFile) -> None:
    """A run has the settings that the file names, and the same ones for every class set and seed."""
    first: tuple[str, dict[str, Any]] | None = None
    evidence = claims.data[data]
    wanted = evidence.settings | claims.runs[run] | evidence.runs.get(run, {})
    for results in of_data:
        for _, split, seed in results.units:
            where = f"{results.folder}, split {split}, seed {seed}, run {run!r}"
            found = results.settings(run, split, seed)
            for key, (should, is_) in _contradictions(wanted, found):
                raise DataError(
                    f"{where}: {key} is {is_!r}, and the file of claims names {should!r}; these are results of "
                    "another training"
                )
            own = {key: value for key, value in found.items() if key not in OF_UNIT}
            if first is None:
                first = (where, own)
            for key, (other, here) in (*_contradictions(first[1], own), *_contradictions(own, first[1])):
                if key == "optimization.precision" and "auto" in (other, here):
                    continue  # older records have what was asked for, not what the processor could do
                raise DataError(
                    f"{where}: {key} differs from {first[0]} ({here!r} and {other!r}); runs of different settings are "
                    "not averaged"
                )


ABSENT = "nothing"


def _contradictions(wanted: Any, found: Any, key: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The keys at which `found` does not say what `wanted` does; a name stands for a mapping with that name."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for name, value in wanted.items():
            yield from _contradictions(value, found.get(name, ABSENT), f"{key}.{name}" if key else str(name))
    elif isinstance(wanted, str) and isinstance(found, Mapping):
        if found.get("name") != wanted:
            yield key, (wanted, found.get("name"))
    elif wanted != found:
        yield key, (wanted, found)


def of_today(claims: ClaimsFile, results: Mapping[str, list[Results]]) -> dict[str, list[Results]]:
    """The results on the data that are not of earlier studies."""
    return {name: of_data for name, of_data in results.items() if not claims.data[name].earlier}


def class_sets(of_data: Sequence[Results]) -> int:
    """How many distinct class sets results have together."""
    return len({class_set for one in of_data for class_set in one.class_sets.values()})
