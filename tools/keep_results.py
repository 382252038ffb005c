"""Copies the publishable part of a finished experiment: figures, tables, tidy tables, and the origin of each run.

    python tools/keep_results.py --results results/tinyimagenet_cpu --folder docs/results/tinyimagenet_cpu \\
        --configuration config/experiments/tinyimagenet_cpu.yaml

Weights, outputs and pictures are not copied: most datasets may not be redistributed, not even a few of their images.
`provenance.json` holds the resolved settings of each run and its record of versions, hardware, inputs, time and memory.
`experiment.yaml` redraws the figures and tables from the copied files:
`snakemake --cores all paper_figures --configfile docs/results/tinyimagenet_cpu/experiment.yaml`. It is made from the
configuration file and does not include changes by `--config`: to keep a part of an experiment, extend its file.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import yaml

from openset_distill.config.experiment import load
from openset_distill.config.loading import read_configuration
from openset_distill.core.command import run
from openset_distill.core.errors import OpenSetError
from openset_distill.core.files import read_json, write_json
from openset_distill.core.folders import replaced_folder
from openset_distill.report.figures import FIGURES
from openset_distill.report.tables import TABLES
from openset_distill.report.tidy import CHECKSUMS
from openset_distill.report.tidy_tables import TIDY_TABLES

# the list of all files in a kept folder: only these are ever removed
CONTENTS = ".contents.json"
KEPT = ("figures/*.png", "figures/*.csv", "tables/*.csv", "tables/*.md", "tables/*.tex", "tidy/*")
PICTURES = "pictures"  # the tidy table that holds images of the dataset
# kept also where no figure or table reads them: small, and what a text about the results cites
CITED = {"runs", "history", "features", "networks", "headline", CHECKSUMS}


def main() -> None:
    """Copies figures, tables and provenance of a finished experiment to the folder where they are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, type=Path, help="folder of the finished experiment")
    parser.add_argument(
        "--folder",
        required=True,
        type=Path,
        help="where the copy goes; an earlier copy is replaced, a folder with other files is refused",
    )
    parser.add_argument("--data", default="data", help="folder of the data that the runs used")
    parser.add_argument("--configuration", required=True, type=Path, help="the experiment's configuration file")
    arguments = parser.parse_args()
    experiment = load(read_configuration(arguments.configuration), stands_alone=True)
    show = experiment.settings.show
    figures = [name for name in experiment.figures if PICTURES not in FIGURES[name].tables]
    read = {table for name in figures for table in FIGURES[name].tables}
    read |= {table for name in experiment.tables for table in TABLES[name].tables}
    kept = {"figures": set(figures), "tables": set(experiment.tables), "tidy": read | CITED}
    found = [path for pattern in KEPT for path in sorted(arguments.results.glob(pattern))]
    files = [path for path in found if path.stem in kept[path.parent.name]]
    records = sorted(arguments.results.glob("split*/seed*/*/provenance.json"))
    if not files or not records:
        raise OpenSetError(f"{arguments.results} is not a finished experiment; run the workflow first")
    runs = {
        str(record.parent.relative_to(arguments.results)): {
            "settings": read_json(record.with_name("config.json")),
            "provenance": read_json(record),
        }
        for record in records
    }
    for name, described in runs.items():
        made_as = described["settings"].get("experiment")
        if made_as != experiment.name:
            raise OpenSetError(
                f"{arguments.results}/{name} is of the experiment {made_as!r}, and {arguments.configuration} describes "
                f"{experiment.name!r}; name the configuration that these results were made with"
            )
    # where the folders lay on the machine says nothing to others
    text = json.dumps(runs).replace(str(arguments.results), f"results/{experiment.name}")
    # what is shown is named one by one: figures and tables that come later need tidy tables that are not kept here
    configuration = experiment.settings.model_dump(mode="json", exclude_defaults=True)
    # which splits an experiment without a list of them had must not depend on later code
    configuration["protocol"]["splits"] = list(experiment.splits)
    shown = show.model_dump(mode="json") | {"figures": figures, "tables": list(experiment.tables)}
    place = in_its_repository(arguments.folder)
    configuration |= {"redraw": place, "show": shown}
    with replaced_folder(arguments.folder, tool="keep_results", own=written, apart=[arguments.results]) as folder:
        for path in files:
            target = folder / path.relative_to(arguments.results)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        write_json(folder / "provenance.json", json.loads(text.replace(f"{arguments.data}/", "data/")))
        (folder / "experiment.yaml").write_text(
            f"# Draws these figures and tables again from tidy/: snakemake --cores all paper_figures \\\n"
            f"#   --configfile {place}/experiment.yaml\n\n"
            + yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True, width=120),
            encoding="utf-8",
        )
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        write_json(folder / CONTENTS, names)


def in_its_repository(folder: Path) -> str:
    """The path of a folder as the workflow reads it that runs in the same checkout; as given where there is none."""
    whole = folder.resolve()
    for root in whole.parents:
        if (root / "Snakefile").is_file():
            return whole.relative_to(root).as_posix()
    return folder.as_posix()


def written(folder: Path) -> set[str]:
    """The files of a kept folder that this command wrote, or that were drawn there from its tables.

    Raises:
        OpenSetError: the list of its files is damaged.
    """
    names = {CONTENTS, "provenance.json", "experiment.yaml"}
    # a folder of an earlier version has no list; its files are called after figures and tables, as redrawn ones are
    names |= {f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "pdf", "csv")}
    names |= {f"tables/{name}.{kind}" for name in TABLES for kind in ("md", "tex", "csv", "html")}
    names |= {f"tidy/{name}.{kind}" for name in (*TIDY_TABLES, "headline") for kind in ("csv", "json")}
    names.add(f"tidy/{CHECKSUMS}")
    if (folder / CONTENTS).exists():
        listed = read_json(folder / CONTENTS)
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise OpenSetError(f"{folder / CONTENTS} is not a list of files; choose a new folder")
        names |= set(listed)
    elif not all((folder / name).is_file() for name in ("provenance.json", "experiment.yaml")):
        return set()
    return names


if __name__ == "__main__":
    run(main)
