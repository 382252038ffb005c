"""Generates environment.yml, the conda version of the pinned stack, or checks that it is up to date.

    python tools/write_environment.py --write
    python tools/write_environment.py --check

pyproject.toml lists the dependencies and requirements.lock their pinned versions; environment.yml repeats both.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from pathlib import Path

from openset_distill.core.command import run
from openset_distill.core.errors import OpenSetError

HEADER = """\
# The same versions as requirements.lock, for users of conda: conda env create --file environment.yml
# Written by `python tools/write_environment.py --write`; do not edit by hand.
name: openset-distill
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - pip:
"""
# no part of the workflow's environment: who wants one of these installs it
UNLOCKED = {"tensorboard"}


def environment() -> str:
    """The text of environment.yml: every direct dependency, of locked extras too, with its locked version."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(one for name, extra in extras.items() if name not in UNLOCKED for one in extra),
    ]
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", Path("requirements.lock").read_text(encoding="utf-8"), re.M)
    locked = {_plain(name): version for name, version in pins}
    lines = []
    for requirement in wanted:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        if _plain(name) not in locked:
            raise OpenSetError(f"requirements.lock does not pin {name}; run `make lock`")
        lines.append(f"      - {name}=={locked[_plain(name)]}\n")
    return HEADER + "".join(lines)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Writes environment.yml from pyproject.toml and requirements.lock, or compares it with them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write environment.yml")
    action.add_argument("--check", action="store_true", help="fail if environment.yml differs")
    parser.add_argument(
        "--file", type=Path, default=Path("environment.yml"), help="the file (default: environment.yml)"
    )
    arguments = parser.parse_args()
    text = environment()
    if arguments.write:
        arguments.file.write_text(text, encoding="utf-8")
    elif not arguments.file.exists() or arguments.file.read_text(encoding="utf-8") != text:
        raise OpenSetError(
            f"{arguments.file} is out of date with pyproject.toml and requirements.lock; "
            "run `python tools/write_environment.py --write`"
        )


if __name__ == "__main__":
    run(main)
