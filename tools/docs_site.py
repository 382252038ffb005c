"""Collects the pages of the documentation site, and generates those made from code.

    python tools/docs_site.py --folder build/docs    # then `mkdocs build --strict`; `make docs` does both

Markdown files are copied with the repository's layout, so that their links work. Two kinds of pages are generated: the
keys of a configuration file, from the schema that checks it, and one page per package, from the library's docstrings.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openset_distill.config.schema import configuration_schema
from openset_distill.core.command import run
from openset_distill.core.folders import replaced_folder

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "config/README.md")
# of results: what pages show, not the tables that figures are redrawn from
TREES = {
    "docs": ("*.md", "notebooks/*.ipynb", "results/*.md", "results/*.csv", "results/*.yaml"),
    "docs/results": ("*/figures/*.png", "*/tables/*.md"),
}
# packages of the library that others import; the first line is what a page says of itself
LIBRARY = {
    "methods": "Training methods and their losses",
    "augment": "Augmentations of single images, and mixing",
    "evaluation": "Scores, metrics, statistics",
    "recognition": "A trained classifier that can say none of these",
    "models": "Networks and heads",
    "datasets": "Datasets, splits and protocols",
    "training": "Training",
    "analysis": "What is measured on trained networks",
}
CONFIGURATION = "docs/configuration.md"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def main() -> None:
    """Writes the pages of the site to a folder, from the Markdown files, the schema and the library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path, help="where the pages go; an earlier copy is replaced")
    arguments = parser.parse_args()
    with replaced_folder(arguments.folder, tool="docs_site", own=gathered) as folder:
        gather(folder)


def gathered(folder: Path) -> list[str]:
    """The files of an earlier copy: all of them, where the folder has a page that only this tool writes."""
    if not (folder / CONFIGURATION).is_file():
        return []
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def gather(folder: Path) -> None:
    """All pages of the site, below `folder`."""
    files = [ROOT / name for name in PAGES]
    files += [path for tree, patterns in TREES.items() for one in patterns for path in sorted((ROOT / tree).glob(one))]
    for path in files:
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    write(folder / CONFIGURATION, configuration_page(configuration_schema()))
    for package, title in LIBRARY.items():
        write(folder / f"docs/library/{package}.md", library_page(package, title))
    for path in sorted(folder.rglob("*.ipynb")):
        write(path.with_suffix(".md"), notebook_page(json.loads(path.read_text())))
    for path in sorted(folder.rglob("*.md")):
        write(path, within_site(path, folder))


def write(path: Path, text: str) -> None:
    """Writes a page, in folders that are made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def within_site(path: Path, folder: Path) -> str:
    """A page's text, in which a link to a file of the repository that is no page is its words alone.

    A file that is missing in the repository too stays a link, so that the strict build fails on it.
    """

    def link(match: re.Match[str]) -> str:
        image, words, address = match.groups()
        if re.match(r"[a-z]+:|#", address):
            return match[0]
        target = Path(os.path.normpath(path.parent / address.partition("#")[0]))
        if target.suffix == ".ipynb" and target.exists():
            return f"{image}[{words}]({address.removesuffix('.ipynb')}.md)"
        if target.is_file() or not (ROOT / target.relative_to(folder)).exists():
            return match[0]
        return words

    return LINK.sub(link, path.read_text())


def notebook_page(notebook: Mapping[str, Any]) -> str:
    """The cells of a notebook as Markdown."""
    cells = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        cells.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join(cells) + "\n"


def library_page(package: str, title: str) -> str:
    """One section a module of a package; the site's generator fills it from the docstrings."""
    source = ROOT / "src" / "openset_distill" / package
    names = [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for path in sorted(source.rglob("*.py"))
        if not path.name.startswith("_") and path.read_text().startswith('"""')
    ]
    own = ast.parse((source / "__init__.py").read_text())
    defines = any(isinstance(node, ast.ClassDef | ast.FunctionDef) for node in own.body)
    # what a package only passes on stands below, in the module that defines it
    package_itself = f"::: openset_distill.{package}" + ("" if defines else "\n    options: {members: false}")
    return "\n\n".join([f"# {title}", package_itself, *(f"::: {name}" for name in names)]) + "\n"


def configuration_page(schema: Mapping[str, Any]) -> str:
    """A table of keys for the top of a file and for each mapping and each named choice within it."""
    definitions = schema["$defs"]
    parts = [
        "# Keys of a configuration file",
        "Generated from the schema that checks every file (`openset config --schema`). What the keys mean together: "
        "[the configuration](../config/README.md).",
        "## The file",
        _table(schema["properties"]),
    ]
    for name, definition in sorted(definitions.items()):
        parts.append(f"## {_title(name)}")
        if "properties" in definition:
            parts += [_text(definition), _table(definition["properties"])]
            continue
        for choice in definition["anyOf"]:
            if properties := choice.get("properties"):
                settings = {key: value for key, value in properties.items() if key != "name"}
                parts += [f"### `{properties['name']['const']}` {{ #{_anchor(name)}-{properties['name']['const']} }}"]
                parts += [_text(choice), _table(settings) if settings else "No settings."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _title(name: str) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " ").replace("-", " ")).lower()
    return words[0].upper() + words[1:]


def _anchor(name: str) -> str:
    return _title(name).lower().replace(" ", "-")


def _text(entry: Mapping[str, Any]) -> str:
    return re.sub(r"\n(?=\S)", " ", " ".join(entry.get("description", "").split("\n\n")[0].split()))


def _table(properties: Mapping[str, Any]) -> str:
    rows = ["| key | value | default |", "|:--|:--|:--|"]
    for key, entry in properties.items():
        default = f"`{json.dumps(entry['default'])}`" if "default" in entry else ""
        # a pipe ends a cell, also within code
        cells = [f"`{key}`", ", ".join(dict.fromkeys(_kinds(entry))), default if len(default) < 80 else "see below"]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _kinds(entry: Mapping[str, Any]) -> Iterator[str]:
    """What a key takes, in words."""
    if "$ref" in entry:
        name = entry["$ref"].rpartition("/")[2]
        yield f"[{_title(name).lower()}](#{_anchor(name)})"
    elif "anyOf" in entry or "oneOf" in entry:
        for one in entry.get("anyOf", entry.get("oneOf")):
            yield from _kinds(one)
    elif "enum" in entry or "const" in entry:
        yield ", ".join(f"`{value}`" for value in entry.get("enum", [entry.get("const")]))
    elif entry.get("type") == "array":
        kinds = entry.get("prefixItems") or [entry.get("items", {})]
        yield "list of " + " and ".join(dict.fromkeys(", ".join(_kinds(kind)) for kind in kinds))
    elif entry.get("type") == "object":
        kind = entry.get("additionalProperties")
        yield f"mapping of names to {', '.join(_kinds(kind))}" if isinstance(kind, Mapping) else "mapping"
    else:
        signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
        limits = [" and ".join(f"{sign} {entry[limit]}" for limit, sign in signs.items() if limit in entry)]
        words = {"string": "text", "null": "nothing (`null`)", "boolean": "`true`, `false`"}
        kind = entry.get("type", "anything")
        yield " ".join([str(words.get(kind, kind)), *limits]).strip()


if __name__ == "__main__":
    run(main)
