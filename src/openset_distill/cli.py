"""Train and use open-set classifiers; list, resolve and estimate the experiments of the workflow."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from . import __version__
from .core.command import run
from .core.errors import SettingsError, nearest
from .report import clean
from .report.clean import KINDS

if TYPE_CHECKING:
    from rich.console import Console

    from .config.experiment import Experiment
    from .config.settings import JobResources

# Where the output is a file or a pipe there is no width to fit: rows stay whole.
WIDE = 400

# A command's name -> what it does. Its module in `recognition.commands` has `add_arguments(parser)` and
# `run(arguments)`; one that is added here needs nothing else.
MODEL_COMMANDS = {
    "train": "train a model on a folder of images",
    "package": "turn a finished run of the workflow into a model folder",
    "predict": "predict a class, or unknown, for images",
    "evaluate": "measure how good a model is, or logits or scores from any program",
    "export": "export a model to ONNX",
    "calibrate": "set a model's thresholds on images it was not trained on",
}

# name, settings, description
Entry = tuple[str, str, str]


def main() -> None:
    """The entry point: status 0, or 2 with `error: ...` on standard error."""
    run(_main)


def _main(words: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(words)
    arguments.command(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="openset", description=__doc__)
    parser.add_argument("--version", action="version", version=f"openset-distill {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for name, words in MODEL_COMMANDS.items():
        module = importlib.import_module(f".recognition.commands.{name}", __package__)
        command = commands.add_parser(name, help=words, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(command=module.run)

    datasets = commands.add_parser("datasets", help="list the datasets, and which of them are available locally")
    datasets.add_argument("--folder", type=Path, default=Path("data"), help="folder of the data (default: data)")
    datasets.set_defaults(command=show_datasets)

    listing = commands.add_parser("list", help="list the names that a configuration may use, with their settings")
    listing.add_argument("kind", choices=LISTINGS, nargs="?", help="what to list (default: the names of every kind)")
    listing.set_defaults(command=show_list)

    cleaning = commands.add_parser("clean", help="list files that can be deleted, with sizes; delete them on request")
    cleaning.add_argument("kinds", nargs="*", metavar="KIND", help="delete these kinds: " + ", ".join(KINDS))
    cleaning.add_argument("--yes", action="store_true", help="delete all kinds except dvc, which must be named")
    cleaning.add_argument("--results", type=Path, default=Path("results"), help="folder of results (default: results)")
    cleaning.add_argument("--data", type=Path, default=Path("data"), help="folder of the data (default: data)")
    cleaning.set_defaults(command=show_clean)

    trace = commands.add_parser(
        "trace", help="show the runs, settings and commits behind a number of a figure or table"
    )
    trace.add_argument("shown", type=Path, help="a figure or table, such as results/digits/figures/two_sides.png")
    trace.add_argument("run", help="name or label of a run")
    trace.add_argument("metric", nargs="?", default="auroc", help="accuracy, auroc, fpr95, oscr ... (default: auroc)")
    trace.add_argument(
        "--score", default="maximum_logit", help="score of the metric; not used for accuracy (default: maximum_logit)"
    )
    trace.set_defaults(command=show_trace)

    cost = commands.add_parser("cost", help="estimate time, memory and disk of an experiment before it is started")
    cost.add_argument("experiment", nargs="?", help="YAML file, or name in config/experiments (default: the digits)")
    _add_changes(cost)
    cost.add_argument(
        "--gflops",
        type=_above_zero,
        help="GFLOP/s of a training on your hardware, instead of one measured core (python benchmarks/training.py)",
    )
    cost.set_defaults(command=show_cost)

    config = commands.add_parser(
        "config", help="print a configuration as JSON, with all names resolved and all defaults filled in"
    )
    config.add_argument(
        "--schema", action="store_true", help="print the JSON schema of configuration files (for editors) instead"
    )
    config.add_argument("--configfile", type=Path, help="YAML file of an experiment (default: config/config.yaml)")
    _add_changes(config)
    config.add_argument("--run", help="print the run configuration that the training of this run receives")
    config.add_argument("--split", type=int, help="split of that run (default: the first)")
    config.add_argument("--seed", type=int, help="seed of that run (default: the first)")
    config.set_defaults(command=show_config)
    return parser


def _add_changes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change settings, for example protocol.splits=[0] defaults.optimization.epochs=5; values are YAML",
    )


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


# ------------------------------------------------------------------------------------------------ datasets


def show_datasets(arguments: argparse.Namespace) -> None:
    """Prints a line for each dataset of the catalog: name, here / partial / missing, size, licence."""
    from .datasets.download import status

    colours = {"here": "green", "partial": "yellow", "missing": "dim"}
    rows = [
        (row.name, f"[{colours[row.state]}]{row.state}", _megabytes(row.size), row.licence)
        for row in status(arguments.folder / "raw")
    ]
    rows.append(("image_folder", "yours", "", "your own images, named by data.images"))
    _print_table(("dataset", "archives", "size", "licence"), rows)


def show_clean(arguments: argparse.Namespace) -> None:
    """Prints a row for each kind of file that can be deleted; deletes those named, or with --yes all harmless ones."""
    for name in arguments.kinds:
        if name not in KINDS:
            raise SettingsError(f"openset clean: unknown kind {name!r}; {nearest(name, KINDS)}")
    found = clean.find(arguments.results, arguments.data)
    harmless = {name for name, kind in KINDS.items() if not kind.named_only}
    chosen = set(arguments.kinds) or (harmless if arguments.yes else set())
    rows = []
    for name, files in found.items():
        room = f"{clean.size(files) / 1e6:,.1f} MB"
        if name in chosen:
            clean.delete(files)
        done = "deleted" if name in chosen and files else ""
        rows.append((name, str(len(files)), room, done, _plain(KINDS[name].costs)))
    _print_table(("kind", "files", "size", "", "consequence of deleting it"), rows)
    if not chosen:
        _console().print(
            "nothing was deleted; `openset clean KIND ...` deletes these kinds, `openset clean --yes` all but dvc"
        )


def show_trace(arguments: argparse.Namespace) -> None:
    """Prints a number, one row for each network behind it, and their settings."""
    from .report.trace import trace

    found = trace(arguments.shown, arguments.run, arguments.metric, arguments.score)
    spread = f" ± {100 * found.number.std:.1f}" if found.number.n > 1 else ""
    of = "" if arguments.metric == "accuracy" else f" of {arguments.score}"
    console = _console()
    console.print(_plain(f"{found.label}, {arguments.metric}{of}: {100 * found.number.mean:.1f}{spread} percent"))
    rows = []
    for one in found.origins:
        record = one.provenance
        commit = (record.get("git_commit") or "unknown")[:12] + ("+changes" if record.get("git_changed") else "")
        about = (f"{100 * one.value:.2f}", one.folder, commit, record.get("started_utc"), record.get("device"))
        rows.append([_plain(str(cell)) for cell in about])
    _print_table(("percent", "run", "commit", "started", "device"), rows)
    varying = ("split", "seed")
    settings = [{key: value for key, value in one.settings.items() if key not in varying} for one in found.origins]
    same = all(one == settings[0] for one in settings)
    console.print(f"settings{'' if same else ' of the first run (others differ)'}:")
    console.print(_plain(json.dumps(settings[0])), soft_wrap=True)


def _megabytes(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 1e6:,.1f} MB" if size else "no download"


# ---------------------------------------------------------------------------------------------------- list


def show_list(arguments: argparse.Namespace) -> None:
    """Prints a line for each name of a kind: the name, its settings, a description; or without a kind all names."""
    if arguments.kind is None:
        names = [(kind, ", ".join(entry[0] for entry in entries())) for kind, entries in LISTINGS.items()]
        _print_table(("kind", "names"), names)
        return
    rows = [tuple(_plain(text) for text in entry) for entry in LISTINGS[arguments.kind]()]
    _print_table(("name", "settings", "description"), rows)


def _augmentations() -> list[Entry]:
    from .augment import MULTI_SAMPLE, SINGLE_SAMPLE

    return [
        (name, settings, f"{part}: {text}")
        for part, registry in (("single", SINGLE_SAMPLE), ("multi", MULTI_SAMPLE))
        for name, settings, text in _entries(registry)
    ]


def _methods() -> list[Entry]:
    from .methods import METHODS

    return _entries(METHODS)


def _backbones() -> list[Entry]:
    from .models import BACKBONES

    return _entries(BACKBONES)


def _protocols() -> list[Entry]:
    from .datasets.protocols import PROTOCOLS

    return _entries(PROTOCOLS)


def _scores() -> list[Entry]:
    from .evaluation import scores

    # many are registered as a lambda around the function of the same name, which has the docstring
    return [(name, "", _first_line(getattr(scores, name, score))) for name, score in scores.SCORES.items()]


def _detectors() -> list[Entry]:
    from .evaluation.detectors import DETECTORS

    return _entries(DETECTORS)


LISTINGS: Mapping[str, Callable[[], list[Entry]]] = {
    "augmentations": _augmentations,
    "methods": _methods,
    "backbones": _backbones,
    "scores": _scores,
    "detectors": _detectors,
    "protocols": _protocols,
}


def _entries(registry: Mapping[str, type]) -> list[Entry]:
    entries = []
    for name, cls in registry.items():
        settings = [_setting(field) for field in dataclasses.fields(cls)]
        presets = getattr(cls, "presets", {})
        if presets:
            settings.insert(0, f"preset={'|'.join(presets)}")
        entries.append((name, ", ".join(settings), _first_line(cls)))
    return entries


def _setting(field: dataclasses.Field) -> str:
    """`name=default`, or `name` alone if the setting is required."""
    if field.default is not dataclasses.MISSING:
        default = field.default
    elif field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        return field.name
    return f"{field.name}={json.dumps(default, default=str)}"


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]


# -------------------------------------------------------------------------------------------------- config


def show_config(arguments: argparse.Namespace) -> None:
    """Prints the resolved experiment, or the resolved settings of one run, as JSON."""
    if arguments.schema:
        from .config.schema import configuration_schema

        print(json.dumps(configuration_schema(), indent=2))
        return
    experiment = _experiment(arguments.configfile, arguments.set)
    if arguments.run is None:
        if arguments.split is not None or arguments.seed is not None:
            raise SettingsError("--split and --seed need --run RUN")
        resolved = experiment.resolved()
    else:
        split = experiment.splits[0] if arguments.split is None else arguments.split
        seed = experiment.seeds[0] if arguments.seed is None else arguments.seed
        resolved = experiment.run_config(arguments.run, split, seed).plain()
    print(json.dumps(resolved, indent=2))


def _experiment(file: str | Path | None, changes: Sequence[str]) -> Experiment:
    from .config.experiment import load
    from .config.loading import merge, read_configuration

    configuration = read_configuration(file) if file is not None else {}
    for text in changes:
        configuration = merge(configuration, _change(text))
    return load(configuration, stands_alone=file is not None)


def _change(text: str) -> dict[str, Any]:
    """`a.b=value` as nested mappings."""
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise SettingsError(f"--set {text!r} is not KEY=VALUE, for example protocol.splits=[0]")
    try:
        change = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {key}: {value!r} is not valid YAML ({error})") from error
    for part in reversed(key.split(".")):
        change = {part: change}
    return change


# ---------------------------------------------------------------------------------------------------- cost

EXPERIMENTS = Path("config/experiments")


def show_cost(arguments: argparse.Namespace) -> None:
    """Prints a row for each kind of job, and time, memory and disk of the whole experiment."""
    from .config.cost import RATES, cost

    experiment = _experiment(_named_experiment(arguments.experiment), arguments.set)
    found, grid = cost(experiment, arguments.gflops), f"{len(experiment.splits)} x {len(experiment.seeds)}"
    console = _console()
    console.print(
        f"{experiment.name}: {len(experiment.runs)} runs, {grid} splits and seeds; {found.train_images:,} training "
        f"images per split, {found.images_seen / 1e6:,.1f} million images seen"
    )
    rows = [(jobs.kind, f"{jobs.count:,}", _asks(jobs.asks), _hours(jobs.hours)) for jobs in found.jobs]
    rows.append(("total", f"{sum(jobs.count for jobs in found.jobs):,}", "", _hours(found.hours)))
    unit = "core-hours" if arguments.gflops is None else "hours"
    _print_table(("jobs", "number", "each requests", unit), rows)
    run, hours, asks = found.longest
    line = f"longest training: {run}, {_hours(hours)} {unit}"
    if arguments.gflops or not asks.gpu:
        wall, limit = hours / (1 if arguments.gflops else asks.threads), asks.runtime_min / 60
        late = "; longer than its time limit, so raise resources.train_*.runtime_min" if wall > limit else ""
        line += f" of the {limit:,.1f} h that its job requests{late}"
    console.print(line)
    memory, run = found.gpu_bytes
    console.print(f"GPU memory of one training, including its images: at most about {_size(memory)} ({run})")
    parts = ", ".join(f"{name} {_size(size)}" for name, size in found.disk.items())
    console.print(f"disk: {_size(sum(found.disk.values()))} ({parts})")
    for sentence in found.unknown:
        console.print(f"not counted: {_plain(sentence)}")
    measured = f"{RATES['dense']:.0f} GFLOP/s per core (depthwise networks {RATES['depthwise']:.0f})"
    console.print(
        f"An estimate: operations divided by {measured}, measured on an AMD EPYC in bfloat16 (docs/benchmarks.md). "
        "No GPU was measured; give the rate of yours with --gflops."
        if arguments.gflops is None
        else f"An estimate: operations divided by {arguments.gflops:,g} GFLOP/s, as given."
    )


def _named_experiment(text: str | None) -> Path | None:
    if text is None or Path(text).suffix in (".yaml", ".yml"):
        return text if text is None else Path(text)
    path = EXPERIMENTS / f"{text}.yaml"
    if not path.is_file():
        names = [found.stem for found in sorted(EXPERIMENTS.glob("[!_]*.yaml"))]
        raise SettingsError(f"unknown experiment {text!r} in {EXPERIMENTS}; {nearest(text, names)}")
    return path


def _asks(job: JobResources) -> str:
    gpus = f", {job.gpu} GPU{'s' if job.gpu > 1 else ''}" if job.gpu else ""
    cores = f"{job.threads} core{'s' if job.threads > 1 else ''}"
    return f"{cores}, {job.memory_mb * max(1, job.gpu) / 1000:,g} GB, {job.runtime_min:,} min{gpus}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:,.1f}" if hours >= 1 else f"{hours:.2f}"


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


# ------------------------------------------------------------------------------------------------- tables


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(*header, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)
