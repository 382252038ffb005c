"""An experiment's settings: strict, typed, and resolved into what each job is given.

`load` turns the configuration (YAML files and command-line overrides, already read into plain data) into an
`Experiment`; every mistake in it is one error that names the key. The workflow then asks the experiment for the
resolved settings of each job, which reach the job as one JSON text. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from ..augment import MULTI_SAMPLE, SINGLE_SAMPLE
from ..core.errors import OpenSetError, SettingsError, nearest
from ..core.files import read_record
from ..core.names import check_distinct
from ..core.settings import validated
from ..core.yaml_files import check_size
from ..datasets import catalog
from ..datasets import protocols as protocols
from ..evaluation.detectors import DETECTORS
from ..evaluation.scores import SCORES
from ..methods import METHODS
from ..models import BACKBONES
from ..report.figures import FIGURES, Context, RunRoles, read_context
from ..report.tables import TABLES, Configured
from ..report.tidy import FAMILIES
from ..report.tidy_tables import TIDY_TABLES
from ..training.run_config import (
    Augmentation,
    ImagesSeen,
    Normalization,
    RunConfig,
    check_frozen,
    fingerprint,
)
from .captions import TITLES, setting, square, with_facts
from .loading import merge, read_configuration
from .renames import with_new_names
from .settings import LISTS_OF_RUNS, USERS_OWN, RunSettings, Settings


def load(
    configuration: Mapping[str, Any], *, stands_alone: bool, default: str | Path = "config/config.yaml"
) -> Experiment:
    """The experiment that a workflow's configuration describes.

    Args:
        configuration: what `--configfile` and `--config` gave.
        stands_alone: a configuration file was named, so only what it `extends` lies beneath it; otherwise the
            configuration is a set of changes to `default`.

    Raises:
        SettingsError: any unknown key, wrong type, value out of range, or reference to something that is not there.
    """
    check_size(configuration, "configuration")
    configuration = with_new_names(configuration)
    base = configuration.pop("extends", None if stands_alone else default)
    if base is not None and not isinstance(base, str | Path):
        raise SettingsError(f"configuration: extends: {base!r} is not the path of one file")
    if base is not None:
        configuration = merge(read_configuration(base), configuration)
    return Experiment(validated(Settings, configuration))


def _checked(where: str, function, *arguments):
    """`function(*arguments)`, its error preceded by the key of the setting at fault."""
    try:
        return function(*arguments)
    except OpenSetError as error:
        raise SettingsError(f"configuration: {where}: {error}") from error


class Run:
    """One configured run, resolved: every name looked up, every default filled in.

    Args:
        usual_epochs: of the experiment's defaults, which a label may compare the run's own with.
    """

    def __init__(self, name: str, settings: RunSettings, usual_epochs: int):
        where = f"runs.{name}"
        self.name = name
        self.backbone = _checked(f"{where}.backbone", BACKBONES.resolve, settings.backbone)
        self.method = _checked(f"{where}.method", METHODS.resolve, settings.method)
        self.single = [
            _checked(f"{where}.augment.{key}", SINGLE_SAMPLE.resolve, one)
            for key in ("single", "added")
            for one in getattr(settings.augment, key)
        ]
        multi = settings.augment.multi
        self.multi = _checked(f"{where}.augment.multi", MULTI_SAMPLE.resolve, multi) if multi is not None else None
        self.multi_until = settings.augment.multi_until
        mixes = self.multi is not None and self.multi["probability"] > 0
        if METHODS.build(settings.method).needs_mixing and not mixes:
            raise SettingsError(
                f"configuration: {where}.method: {self.method['name']} with these settings learns from mixed images, "
                f"and {where}.augment.multi mixes none; name an augmentation there, or choose another method"
            )
        if self.multi_until < 1 and not mixes:
            raise SettingsError(
                f"configuration: {where}.augment.multi_until: the run mixes no images; name an augmentation in "
                "augment.multi, or leave multi_until out"
            )
        _checked(where, check_frozen, self.backbone, self.method, self.augment)
        self.optimization = settings.optimization
        needs_teacher = METHODS[self.method["name"]].needs_teacher
        teachers = (settings.teacher,) if isinstance(settings.teacher, str) else settings.teacher
        self.teachers: tuple[str, ...] = teachers if needs_teacher else ()
        self.cached = needs_teacher and settings.teacher_logits == "cached"
        own = self.backbone["model"] if self.backbone["name"] == "timm" else self.backbone["name"]
        self.network = " ".join([own, "-".join(map(str, self.backbone.get("widths", ())))]).strip()
        self.label = with_facts(
            settings.label or name,
            {
                "epochs": self.optimization.epochs,
                "network": TITLES.get(own, own),
                "times": f"{self.optimization.epochs / usual_epochs:.3g}",
                "unmixed": f"{100 * (1 - self.multi_until):.3g} %",
            },
        )
        self.family = settings.family or self._family()
        if self.family not in FAMILIES:
            raise SettingsError(
                f"configuration: {where}.family: unknown family {self.family!r}; {nearest(self.family, FAMILIES)}"
            )

    @property
    def augment(self) -> Augmentation:
        return Augmentation(single=tuple(self.single), multi=self.multi, multi_until=self.multi_until)

    def normalization(self, mean: Iterable[float], std: Iterable[float]) -> Normalization:
        """Of the images that the run is shown: that of the backbone's trained weights, or else the data's."""
        own = self.backbone.get("mean")
        mean, std = (mean, std) if own is None else (own, self.backbone["std"])
        return Normalization(mean=tuple(mean), std=tuple(std))

    def _family(self) -> str:
        if self.name == "teacher":
            return "teacher"
        return METHODS[self.method["name"]].family or ("cross_entropy" if self.multi is None else "msa")


class Experiment:
    """A validated configuration, and the resolved settings of every job of its workflow."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.name = settings.experiment
        self.splits = self._splits()
        self.seeds = settings.seeds
        usual_epochs = validated(RunSettings, settings.defaults, "defaults").optimization.epochs
        _checked("runs", check_distinct, settings.runs)
        self.runs: dict[str, Run] = {}
        for name, overrides in settings.runs.items():
            merged = merge(settings.defaults, overrides)
            self.runs[name] = Run(name, validated(RunSettings, merged, f"runs.{name}"), usual_epochs)
        self._check_labels()
        self._check_references()

    def _check_labels(self) -> None:
        """Figures and tables tell runs apart by their labels alone."""
        names: dict[str, str] = {}
        for name, run in self.runs.items():
            other = names.setdefault(run.label, name)
            if other != name:
                raise SettingsError(
                    f"configuration: runs.{name}.label: {run.label!r} is the label of {other!r} too; change one of them"
                )

    def _splits(self) -> tuple[int, ...]:
        protocol = self.settings.protocol
        return protocol.splits or _checked("protocol.name", protocols.distinct_splits, protocol.name)

    def _check_references(self) -> None:
        settings = self.settings
        _checked("data.dataset", self._known, "dataset", settings.data.dataset, catalog.datasets())
        for other in settings.data.others:
            _checked("data.others", self._known, "dataset", other, catalog.datasets())
        self._check_data()
        for score in settings.evaluation.scores:
            _checked("evaluation.scores", self._known, "score", score, SCORES)
        if "full" not in settings.evaluation.sampling:
            raise SettingsError("configuration: evaluation.sampling: tables and figures compare runs by 'full'; add it")
        names = [detector["name"] for detector in self.detectors]
        headline, scores = settings.evaluation.headline, (*settings.evaluation.scores, *names)
        if headline not in scores:
            raise SettingsError(
                f"configuration: evaluation.headline: {headline!r} is neither among evaluation.scores nor among "
                f"evaluation.detectors; add it there, or choose one of {', '.join(scores)}"
            )
        for name in names:
            if names.count(name) > 1:
                raise SettingsError(f"configuration: evaluation.detectors: {name} is listed twice; list it once")
        for mixing in settings.analysis.mixing:
            _checked("analysis.mixing", self._known, "multi-sample augmentation", mixing, MULTI_SAMPLE)
        _checked("protocol.name", protocols.PROTOCOLS.resolve, settings.protocol.name)
        for split in self.splits:
            _checked("protocol.splits", protocols.check_number, settings.protocol.name, split)
        for name, run in self.runs.items():
            _checked(f"runs.{name}.family", self._known, "family", run.family, FAMILIES)
            self._check_teachers(name, run)
        self._check_normalization()
        show = settings.show
        for key in ("baseline", "msa", "distillation"):
            if getattr(show, key) is not None:
                _checked(f"show.{key}", self._known, "run", getattr(show, key), self.runs)
        for key in LISTS_OF_RUNS:
            for name in getattr(show, key):
                _checked(f"show.{key}", self._known, "run", name, self.runs)
        for kind, registry in (("figures", FIGURES), ("tables", TABLES)):
            for name in getattr(show, kind) or ():
                _checked(f"show.{kind}", self._known, kind.removesuffix("s"), name, registry)
        for figure in show.figures or ():
            missing = self.lacks(figure)
            if missing:
                raise SettingsError(
                    f"configuration: show.figures: {figure} needs {' and '.join(missing)}, which `runs` lacks; "
                    "add the run, or leave the figure out of show.figures"
                )
        for table in show.tables or ():
            missing = TABLES[table].needs(self.configured)
            if missing:
                raise SettingsError(
                    f"configuration: show.tables: {table} needs {' and '.join(missing)}, which this experiment lacks; "
                    "leave the table out of show.tables"
                )

    def _check_data(self) -> None:
        data = self.settings.data
        for key in ("checksum", "urls"):
            catalog.check_files(f"configuration: data.{key}", getattr(data, key))
        for checksum in data.checksum.values():
            _checked("data.checksum", catalog.parse_checksum, checksum)
        if data.images is None and USERS_OWN in (data.dataset, *data.others):
            raise SettingsError(
                f"configuration: data.images: dataset {USERS_OWN} needs the folder or archive with your images; set it"
            )
        if data.images is not None and USERS_OWN not in (data.dataset, *data.others):
            raise SettingsError(
                f"configuration: data.images is set, but no dataset uses it; use the dataset "
                f"{USERS_OWN}, or remove the key"
            )
        if data.images is not None and not Path(data.images).exists():
            raise SettingsError(f"configuration: data.images: {data.images} does not exist; correct the path")
        channels = self.channels()
        for key in ("mean", "std"):
            count = len(getattr(data, key))
            if count != channels and (channels, count) != (1, 3):
                raise SettingsError(
                    f"configuration: data.{key}: {count} numbers for images of {channels} "
                    f"channel{'s' if channels > 1 else ''}; name one for each"
                )
        if data.image_size is None and catalog.datasets()[data.dataset].size is None:
            raise SettingsError("configuration: data.image_size: images of this dataset differ in size; set one size")
        for name in (data.dataset, *data.others):
            if (data.dataset, *data.others).count(name) > 1:
                raise SettingsError(f"configuration: data.others: {name} is listed twice; remove it from data.others")

    def _check_normalization(self) -> None:
        """Teachers, the mixing scan and Grad-CAM show the same normalised images to several runs."""
        data = self.settings.data
        found = {name: run.normalization(data.mean, data.std) for name, run in self.runs.items()}
        first = next(iter(found))
        for name, own in found.items():
            if own != found[first]:
                raise SettingsError(
                    f"configuration: runs.{name}.backbone: its images have mean {list(own.mean)} and std "
                    f"{list(own.std)}, those of run {first!r} others, and runs of one experiment are shown the same "
                    "images; set data.mean and data.std to those of the trained weights, and backbones of one kind"
                )

    def _check_teachers(self, name: str, run: Run) -> None:
        path, waiting = [], list(run.teachers)
        while waiting:
            teacher = waiting.pop()
            _checked(f"runs.{name}.teacher", self._known, "run", teacher, self.runs)
            path.append(teacher)
            if teacher == name or len(path) > len(self.runs) ** 2:
                raise SettingsError(
                    f"configuration: runs.{name}.teacher: circular reference: {name} would teach itself; choose another"
                )
            waiting += self.runs[teacher].teachers
        if not METHODS.build(run.method).needs_linear_teacher:
            return
        for teacher in run.teachers:
            head = METHODS[self.runs[teacher].method["name"]].head
            if head != "linear":
                raise SettingsError(
                    f"configuration: runs.{name}.method: easy_target: enriched adds up features before a linear head, "
                    f"and the head of its teacher {teacher} is {head}; choose another teacher or easy_target"
                )

    @staticmethod
    def _known(kind: str, name: str, candidates: Iterable[str]) -> None:
        if name not in candidates:
            raise OpenSetError(f"no {kind} is called {name!r}; {nearest(name, candidates)}")

    @cached_property
    def configured(self) -> Configured:
        """What decides which tables the experiment can fill."""
        return Configured(
            families={name: run.family for name, run in self.runs.items()},
            networks={name: run.network for name, run in self.runs.items()},
            groups=protocols.PROTOCOLS.build(self.settings.protocol.name).groups(self.settings.data.others),
        )

    @cached_property
    def tables(self) -> tuple[str, ...]:
        """The tables to write: the configured ones, or all that the experiment can fill."""
        able = tuple(name for name, table in TABLES.items() if not table.needs(self.configured))
        return able if self.settings.show.tables is None else self.settings.show.tables

    @cached_property
    def figures(self) -> tuple[str, ...]:
        """The figures to draw: the configured ones, or all that the experiment can fill."""
        able = tuple(name for name in FIGURES if not self.lacks(name))
        return able if self.settings.show.figures is None else self.settings.show.figures

    @cached_property
    def tidy_tables(self) -> tuple[str, ...]:
        """The tidy tables to gather: all but those of an analysis that no figure or table shows."""
        read = {name for figure in self.figures for name in FIGURES[figure].tables}
        read |= {name for table in self.tables for name in TABLES[table].tables}
        return tuple(name for name, table in TIDY_TABLES.items() if name in read or not table.on_request)

    def lacks(self, figure: str) -> list[str]:
        """What a figure needs and the experiment does not have, in words."""
        return FIGURES[figure].needs(self.configured.families)

    @cached_property
    def teacher_runs(self) -> list[str]:
        """Runs that others learn from and that have no teacher, in configured order."""
        wanted = {teacher for run in self.runs.values() for teacher in run.teachers}
        return [name for name, run in self.runs.items() if name in wanted and not run.teachers]

    @cached_property
    def student_runs(self) -> list[str]:
        """All other runs: baselines and distilled alike."""
        return [name for name in self.runs if name not in self.teacher_runs]

    def resolved(self) -> dict[str, Any]:
        """The whole experiment as plain data: every name looked up, every default filled in."""
        resolved = self.settings.model_dump(mode="json", exclude={"defaults"})
        resolved["protocol"] = {"name": self.protocol, "splits": list(self.splits)}
        resolved["evaluation"]["detectors"] = self.detectors
        resolved["runs"] = {
            name: {
                "label": run.label,
                "family": run.family,
                "backbone": run.backbone,
                "method": run.method,
                "augment": run.augment.plain(),
                "optimization": run.optimization.model_dump(mode="json"),
                "teachers": list(run.teachers),
            }
            for name, run in self.runs.items()
        }
        return resolved

    def run_config(self, run: str, split: int, seed: int) -> RunConfig:
        """All that decides the weights of one run.

        Raises:
            SettingsError: the experiment has no such run, split or seed.
        """
        for kind, wanted, there in (("run", run, self.runs), ("split", split, self.splits), ("seed", seed, self.seeds)):
            if wanted not in there:
                raise SettingsError(
                    f"experiment {self.name} has no {kind} {wanted!r}; {nearest(str(wanted), map(str, there))}"
                )
        resolved, data = self.runs[run], self.settings.data
        return RunConfig(
            experiment=self.name,
            split=split,
            seed=seed,
            run=run,
            backbone=resolved.backbone,
            method=resolved.method,
            augment=resolved.augment,
            optimization=resolved.optimization,
            normalization=resolved.normalization(data.mean, data.std),
        )

    # ------------------------------------------------------------------------------------------ teacher logits

    def teacher_logits_key(self, run: str) -> str:
        """The key in the name of the cached teacher logits that a run reads.

        Runs share one if they have the same teachers and see the same images; each split and seed has its own in its
        own folder.
        """
        seen = self.run_config(run, self.splits[0], self.seeds[0]).images_seen()
        return fingerprint([list(self.runs[run].teachers), seen.plain()])

    @cached_property
    def teacher_logits_keys(self) -> dict[str, str]:
        """Every such key, with the first of the runs that read its file."""
        keys: dict[str, str] = {}
        for name, run in self.runs.items():
            if run.cached:
                keys.setdefault(self.teacher_logits_key(name), name)
        return keys

    def images_seen(self, key: str, split: int, seed: int) -> ImagesSeen:
        """The images that cached teacher logits belong to."""
        return self.run_config(self.teacher_logits_keys[key], split, seed).images_seen()

    # ------------------------------------------------------------------------------------------ data

    def image_size(self) -> int:
        """Height and width to which a dataset is prepared; other datasets take the size of the known one."""
        own = catalog.datasets()[self.settings.data.dataset].size
        size = self.settings.data.image_size or (own and own[0])
        if size is None:
            raise SettingsError("configuration: data.image_size: images of this dataset differ in size; set one size")
        return size

    def channels(self) -> int:
        """Channels to which a dataset is prepared: those of the known one."""
        return catalog.datasets()[self.settings.data.dataset].channels

    def raw(self, dataset: str) -> str:
        """Where a dataset's archives lie."""
        return f"{self.settings.data.folder}/raw/{dataset}"

    def prepared(self, dataset: str) -> str:
        """Where a dataset's prepared arrays lie; two sets of a user's own images have folders of their own."""
        folder = f"{self.settings.data.folder}/prepared/{dataset}{self.own_set(dataset)}"
        return f"{folder}/{self.image_size()}x{self.channels()}"

    def own_set(self, dataset: str) -> str:
        """What tells one set of a user's own images from another in the names of files: `-`, the name of the folder or
        archive, and eight digits that depend on its path. Empty for other datasets."""
        path = self.settings.data.images
        if dataset != USERS_OWN or path is None:
            return ""
        path = os.path.normpath(path)
        stem = re.sub(r"[^A-Za-z0-9_.]+", "_", PurePosixPath(path).name)[:40]
        return f"-{stem}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"

    def check_results(self, results: str | os.PathLike) -> None:
        """Makes sure that an experiment of this name does not replace one on other data.

        Raises:
            SettingsError: `results` holds splits of another dataset, or networks of other images of the user's own.
        """
        data, held = self.settings.data, None
        for description in sorted(Path(results).glob("split*/seed*/split.json"))[:1]:
            with contextlib.suppress(OpenSetError):
                held = read_record(description, {"dataset": str})["dataset"]
        if held not in (None, data.dataset):
            made_of, today, name = held, data.dataset, f"{self.name}_{data.dataset}"
        elif data.dataset == USERS_OWN and (own := _own_images(results)) and own != USERS_OWN + self.own_set(USERS_OWN):
            made_of, today, name = f"other images of your own ({own})", data.images, f"{self.name}_2 or the like"
        else:
            return
        raise SettingsError(
            f"{results} holds results of {made_of}, which those of {today} would replace; to keep both, add "
            f"experiment={name} to --config; to replace them, delete {results}"
        )

    @property
    def has_own_images(self) -> bool:
        """Whether images of the user's own are among those that are tested."""
        return USERS_OWN in (self.settings.data.dataset, *self.settings.data.others)

    @property
    def protocol(self) -> dict[str, Any]:
        """The protocol with every default filled in."""
        return protocols.PROTOCOLS.resolve(self.settings.protocol.name)

    def published_splits(self) -> list[str]:
        """The authors' file of splits, where the protocol is read from one."""
        dataset, release = self.settings.data.dataset, "_winter21" if self.protocol.get("winter21") else ""
        file = f"{self.protocol['name']}_osr_splits{release}.pkl"
        files = [archive.file for archive in catalog.datasets()[dataset].auxiliary]
        return [f"{self.raw(dataset)}/{file}"] if file in files else []

    def images(self, dataset: str) -> list[str]:
        """The user's own images, for the dataset that is made of them."""
        images = self.settings.data.images
        return [images] if dataset == USERS_OWN and images else []

    def download_options(self, dataset: str) -> list[str]:
        """What the download of a dataset is told beyond its name: only what concerns its own files."""
        data = self.settings.data
        files = [archive.file for archive in catalog.find(dataset).files]
        told = ["--mirror", data.mirror] if data.mirror else []
        for file in files:
            if file in data.checksum:
                told += ["--checksum", f"{file}={data.checksum[file]}"]
            for url in data.urls.get(file, ()):
                told += ["--url", f"{file}={url}"]
        if dataset == catalog.published_checkpoints().name:
            for split in self.settings.checkpoint_splits:
                told += ["--only", files[split]]
        return told

    # ------------------------------------------------------------------------------------------ checkpoints

    def published_checkpoints(self) -> list[str]:
        """The published classifiers to evaluate, as SPLIT=PATH."""
        files = [archive.file for archive in catalog.published_checkpoints().archives]
        folder = self.raw(catalog.published_checkpoints().name)
        return [f"{split}={folder}/{files[split]}" for split in self.settings.checkpoint_splits]

    # ------------------------------------------------------------------------------------------ jobs

    @cached_property
    def detectors(self) -> list[dict[str, Any]]:
        """The detectors with every default filled in."""
        where = "evaluation.detectors"
        return [_checked(where, DETECTORS.resolve, detector) for detector in self.settings.evaluation.detectors]

    def evaluation_job(self) -> dict[str, Any]:
        """What the evaluation of every run is given."""
        evaluation = self.settings.evaluation
        return {
            "scores": list(evaluation.scores),
            "headline": evaluation.headline,
            "detectors": self.detectors,
            "sampling": list(evaluation.sampling),
            "bootstrap": evaluation.bootstrap,
            "activation_samples": self.settings.analysis.activation_samples,
        }

    @cached_property
    def highlight(self) -> RunRoles:
        """The runs by the part they play in figures and tables."""
        named = {field.name: getattr(self.settings.show, field.name) for field in dataclasses.fields(RunRoles)}
        given = {part: runs for part, runs in named.items() if runs}
        return RunRoles(**given).filled(self.configured.families)

    @property
    def compared_runs(self) -> list[str]:
        """The runs that figures set side by side: baseline, MSA, asymmetric distillation."""
        parts = self.highlight
        return list(dict.fromkeys(filter(None, [parts.baseline, parts.msa, *parts.asymmetric])))

    @property
    def analyzed_runs(self) -> list[str]:
        """The networks that are scanned over lambda: the compared runs, and the teachers first."""
        return list(dict.fromkeys([*self.teacher_runs, *self.compared_runs]))

    def analysis_job(self) -> dict[str, Any]:
        """What the scan over lambda is given. Its teacher is the first one, or the baseline where there is none."""
        analysis = self.settings.analysis
        steps = analysis.lam_steps - 1
        return {
            "mixing": list(analysis.mixing),
            "lams": [round(step / steps, 6) for step in range(steps + 1)],
            "samples": analysis.mixing_samples,
            "teacher": self.analyzed_runs[0],
        }

    def first(self, folder: str) -> str:
        """A split's folder, with its wildcards, of the first split and seed: the one that pictures are taken from."""
        return folder.replace("{split}", str(self.splits[0])).replace("{seed}", str(self.seeds[0]))

    @cached_property
    def class_sets(self) -> dict[int, str]:
        """Split -> the name of its class set; splits with the same classes have the same."""
        return protocols.class_sets(self.settings.protocol.name, self.splits, dataset=self.settings.data.dataset)

    def layout(self) -> dict[str, Any]:
        """What gathering the results needs to know of the experiment."""
        return {
            "experiment": self.name,
            "dataset": self.settings.data.dataset,
            "protocol": self.protocol["name"],
            "splits": list(self.splits),
            "seeds": list(self.seeds),
            "baseline": self.settings.show.baseline,
            "tables": list(self.tidy_tables),
            "embedded": self.compared_runs,
            "runs": {name: {"label": run.label, "family": run.family} for name, run in self.runs.items()},
            "networks": dict(self.configured.networks),
            "epochs": {name: run.optimization.epochs for name, run in self.runs.items()},
        }

    def context(self) -> Context:
        """What figures and tables say about the experiment."""
        return read_context(
            {
                "experiment": self.name,
                "title": with_facts(self.settings.title, {"size": square(self.image_size())}),
                "dataset_title": catalog.datasets()[self.settings.data.dataset].title,
                "protocol": self.protocol["name"],
                "splits": len(self.splits),
                "seeds": len(self.seeds),
                "class_sets": self.class_sets,
                "score": self.settings.evaluation.headline,
                "setting": setting(self),
                "scale_note": self.settings.scale_note,
                "highlight": dataclasses.asdict(self.highlight),
            }
        )


def _own_images(results: str | os.PathLike) -> str | None:
    """The prepared folder, by name, of the user's own images that a trained network in `results` has seen."""
    for record in sorted(Path(results).glob("split*/seed*/*/provenance.json"))[:1]:
        with contextlib.suppress(OpenSetError):
            for path in read_record(record, {"inputs_sha256": dict})["inputs_sha256"]:
                name = Path(path).parent.parent.name
                if path.endswith("/manifest.json") and name.startswith(f"{USERS_OWN}-"):
                    return name
    return None
