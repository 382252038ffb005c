"""Packs a finished experiment as an RO-Crate: files with hashes, runs, workflow, software, licence, citation.

    python tools/crate.py --results results/digits --folder crate

The folder can be archived as it is. It follows the profiles Workflow RO-Crate 1.0 (the Snakefile is the main entity)
and Process Run Crate 0.5 (each training is an action with its inputs, results and times).
"""

from __future__ import annotations

import argparse
import datetime
import zipfile
from pathlib import Path
from typing import Any

import yaml
from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from openset_distill.core.command import run
from openset_distill.core.errors import OpenSetError
from openset_distill.core.files import atomic_write, read_json, sha256
from openset_distill.core.folders import replaced_folder

CODE = (
    "rules/*.smk", "rules/captions/*", "workflow_scripts/*.py", "tools/*.py", "src/openset_distill/**/*.py",
    "src/openset_distill/**/*.yaml", "config/**/*.yaml", "config/reference/*", "profiles/*/config.yaml",
    "pyproject.toml", "requirements.lock", "environment.yml", "LICENSE", "CITATION.cff", "README.md",
)  # fmt: skip
RESULTS = ("figures/*", "tables/*", "tidy/*", "split*/**/*")
TYPES = {
    ".cff": "application/yaml",
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".npz": "application/zip",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".py": "text/x-python",
    ".safetensors": "application/octet-stream",
    ".tex": "application/x-tex",
    ".toml": "application/toml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
SPDX = {"MIT": ("https://spdx.org/licenses/MIT", "MIT License")}
# the RO-Crate that both profiles build on
VERSION = "1.1"
PROCESS_RUN = "https://w3id.org/ro/wfrun/process/0.5"
WORKFLOW = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
TRAINING = Path("workflow_scripts/train.py")
WORKFLOW_NAME = "From images to every figure and table"
METADATA = "ro-crate-metadata.json"
OUTPUTS = ("weights.safetensors", "history.csv", "outputs.npz", "config.json", "provenance.json")


def _plain(values: list[Any]) -> Any:
    """One value stands alone, several as a list: how the metadata are to be written."""
    return values[0] if len(values) == 1 else values


class Crate:
    """The crate while it is put together; every path is relative to the repository's root, in the crate as here."""

    def __init__(self, results: Path):
        self.results = results
        self.records = {path: read_json(path) for path in sorted(results.glob("split*/seed*/*/provenance.json"))}
        if not self.records or not (results / "tidy" / "headline.json").exists():
            raise OpenSetError(
                f"{results} is not a finished experiment; run `snakemake --cores all paper_figures` first"
            )
        self.crate = ROCrate(version=VERSION)
        # a term of the run crates that the context of RO-Crate 1.1 lacks
        self.crate.metadata.extra_terms["sha256"] = "https://w3id.org/ro/terms/workflow-run#sha256"
        self.files: dict[str, Any] = {}

    def build(self) -> ROCrate:
        self._describe()
        self._add_code()
        for pattern in RESULTS:
            for path in sorted(self.results.glob(pattern)):
                # a hidden file, or the state of a training, is not a result
                if path.is_file() and not path.name.startswith(".") and path.name != "state.safetensors":
                    self._add_file(path)
        trainings = [self._add_training(record, provenance) for record, provenance in self.records.items()]
        self.crate.root_dataset["mentions"] = _plain(trainings)
        return self.crate

    def _entity(self, identifier: str, **properties: Any) -> Any:
        known = self.crate.get(identifier)
        return known or self.crate.add(ContextEntity(self.crate, identifier, properties=properties))

    def _add_file(self, path: Path, **more: Any) -> Any:
        name = path.as_posix()
        if name not in self.files:
            properties = {"name": path.name, "contentSize": str(path.stat().st_size), "sha256": sha256(path)}
            properties["encodingFormat"] = TYPES.get(path.suffix, "text/plain")
            self.files[name] = self.crate.add_file(path, name, properties=properties | more)
        return self.files[name]

    def _describe(self) -> None:
        citation = yaml.safe_load(Path("CITATION.cff").read_text(encoding="utf-8"))
        root = self.crate.root_dataset
        ended = max(_ended(record) for record in self.records.values())
        address, title = SPDX[citation["license"]]
        root["name"] = f"{citation['title']}: experiment {self.results.name}"
        root["description"] = citation["abstract"]
        root["keywords"] = ", ".join(citation["keywords"])
        # when its last training ended: packing it again changes nothing
        root["datePublished"] = ended.isoformat()
        root["license"] = self._entity(
            address, **{"@type": "CreativeWork", "name": title, "description": "the licence of this software"}
        )
        authors = [
            self._entity(f"#author-{number}", **{"@type": "Organization", "name": author["name"]})
            for number, author in enumerate(citation["authors"])
        ]
        root["author"], root["publisher"] = _plain(authors), authors[0]
        root["citation"] = _plain([self._article(paper) for paper in citation["references"]])
        root["conformsTo"] = [
            self._entity(PROCESS_RUN, **{"@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}),
            self._entity(WORKFLOW, **{"@type": "CreativeWork", "name": "Workflow RO-Crate", "version": "1.0"}),
        ]

    def _article(self, paper: dict[str, Any]) -> ContextEntity:
        names = [f"{author['given-names']} {author['family-names']}" for author in paper["authors"]]
        return self._entity(
            f"https://doi.org/{paper['doi']}",
            **{
                "@type": "ScholarlyArticle",
                "name": paper["title"],
                "author": ", ".join(names),
                "datePublished": str(paper["year"]),
            },
        )

    def _add_code(self) -> None:
        versions = next(iter(self.records.values()))
        workflow: Any = self.crate.add_workflow("Snakefile", "Snakefile", main=True, lang="snakemake")
        workflow["name"] = WORKFLOW_NAME
        workflow["sha256"] = sha256("Snakefile")
        workflow["encodingFormat"] = "text/plain"
        self._add_file(Path("README.md"), about=self.crate.root_dataset)
        training = self._add_file(
            TRAINING,
            **{
                "@type": ["File", "SoftwareSourceCode"],
                "name": "train",
                "description": "trains one network, teacher or student",
            },
        )
        for pattern in CODE:
            for path in sorted(Path().glob(pattern)):
                if path.is_file():
                    self._add_file(path)
        if versions["git_commit"]:
            training["version"] = versions["git_commit"]
        training["softwareRequirements"] = [
            self._entity(
                f"#{name}-{version}", **{"@type": "SoftwareApplication", "name": name, "softwareVersion": version}
            )
            for name, version in {"python": versions["python"], **versions["packages"]}.items()
            if version
        ]

    def _add_training(self, path: Path, record: dict[str, Any]) -> Any:
        """One training as an action; inputs that are not in the crate (the images) appear with their hash alone."""
        folder = path.parent
        inputs = []
        for name, digest in record["inputs_sha256"].items():
            known = self.files.get(Path(name).as_posix())
            inputs.append(known or self._entity(f"#sha256-{digest}", **{"@type": "CreativeWork", "name": name}))
        measured = {
            name: value
            for name, value in {
                "wall seconds": record["wall_seconds"],
                "peak memory (MiB)": record["peak_memory_mib"],
                "energy of the processors (J)": record["machine_energy_joules"]["processors"],
                "energy of the GPUs (J)": record["machine_energy_joules"]["gpus"],
                "processor": record["processor"],
                "GPUs": ", ".join(record["gpus"]) or None,
                "threads": record["threads"],
            }.items()
            if value is not None
        }
        run_name = folder.relative_to(self.results).as_posix()
        action: Any = self.crate.add_action(
            self.files[TRAINING.as_posix()],
            identifier=f"#train-{run_name.replace('/', '-')}",
            object=_plain(inputs),
            result=[self.files[(folder / name).as_posix()] for name in OUTPUTS],
            properties={
                "name": f"training of {run_name}",
                "description": f"one network, split and seed: {folder.as_posix()}",
                "startTime": _started(record).isoformat(),
                "endTime": _ended(record).isoformat(),
                "actionStatus": "http://schema.org/CompletedActionStatus",
            },
        )
        action["agent"] = self.crate.root_dataset["author"]
        action["additionalProperty"] = [
            self._entity(
                f"{action.id}-{name.replace(' ', '-')}",
                **{"@type": "PropertyValue", "name": name, "value": str(value)},
            )
            for name, value in measured.items()
        ]
        return action


def _started(record: dict[str, Any]) -> datetime.datetime:
    return datetime.datetime.fromisoformat(record["started_utc"])


def _ended(record: dict[str, Any]) -> datetime.datetime:
    return (_started(record) + datetime.timedelta(seconds=record["wall_seconds"])).replace(microsecond=0)


def main() -> None:
    """Writes the RO-Crate of a finished experiment, from its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, type=Path, help="folder of the finished experiment")
    parser.add_argument(
        "--folder",
        required=True,
        type=Path,
        help="where the crate goes; an earlier one is replaced, a folder with other files is refused",
    )
    parser.add_argument("--zip", action="store_true", help="also write FOLDER.zip, to upload to a data repository")
    arguments = parser.parse_args()
    crate = Crate(arguments.results).build()
    with replaced_folder(arguments.folder, tool="crate", own=written, apart=[arguments.results]) as folder:
        crate.write(folder)
    files = sorted(path for path in arguments.folder.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files) / 1e6
    print(f"{arguments.folder}: {len(files)} files, {size:.1f} MB, described in {METADATA}")
    if arguments.zip:
        archive = arguments.folder.with_name(arguments.folder.name + ".zip")
        with atomic_write(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in files:
                packed.write(path, path.relative_to(arguments.folder))
        print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB")


def written(folder: Path) -> set[str]:
    """The files that this command wrote: those that the metadata of a crate of this workflow describe."""
    if not (folder / METADATA).is_file():
        return set()
    graph = read_json(folder / METADATA)
    entities = graph.get("@graph") if isinstance(graph, dict) else None
    described = {one["@id"]: one for one in entities or () if isinstance(one, dict) and isinstance(one.get("@id"), str)}
    if described.get("Snakefile", {}).get("name") != WORKFLOW_NAME:
        return set()
    return {METADATA, *described}


if __name__ == "__main__":
    run(main)
