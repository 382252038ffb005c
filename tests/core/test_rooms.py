"""The rooms of the library: who may import from whom. Read from the imports, the late ones and those for types too."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from commands import REPOSITORY

LIBRARY = REPOSITORY / "src" / "openset_distill"

# A room imports from itself and from rooms below it. Rooms of one line stand side by side and do not know each other.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("recognition",),
    ("config",),
    ("report", "analysis", "training"),
    ("evaluation",),
    ("methods",),
    ("models",),
    ("datasets",),
    ("augment",),
    ("core",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
SIBLINGS = {"report.figures", "report.tables"}


def modules() -> dict[str, Path]:
    """Dotted names below the package, with their files; a package has the name of its folder."""
    found = {}
    for path in sorted(LIBRARY.rglob("*.py")):
        parts = path.relative_to(LIBRARY).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(name: str) -> set[str]:
    """The library's modules that one module imports, wherever in its file."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    targets = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            elif node.module and node.module.split(".")[0] == "openset_distill":
                base = node.module.split(".")[1:]
            else:
                continue
            for alias in node.names:
                full = ".".join([*base, alias.name])
                targets.add(full if full in MODULES else ".".join(base))
        elif isinstance(node, ast.Import):
            targets |= {
                alias.name.removeprefix("openset_distill.")
                for alias in node.names
                if alias.name.startswith("openset_distill.")
            }
    assert targets <= set(MODULES), targets - set(MODULES)
    return targets - {name}


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_module_stands_in_a_room():
    assert {room(name) for name in MODULES} - {""} == set(FLOOR)


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_a_room_imports_from_rooms_below_it_only(name):
    for target in imported(name) - {""}:
        own, other = room(name), room(target)
        assert own == other or FLOOR[own] < FLOOR[other], f"{name} imports {target}"
        for first, second in (SIBLINGS, tuple(SIBLINGS)[::-1]):
            assert not (name.startswith(first) and target.startswith(second)), f"{name} imports {target}"


def test_there_is_no_circle_of_modules():
    state: dict[str, int] = {}

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert state.get(name) != 1, " -> ".join((*way, name))
        if name in state:
            return
        state[name] = 1
        for target in at_import(name):
            visit(target, (*way, name))
        state[name] = 2

    for name in MODULES:
        if name:
            visit(name, ())


def at_import(name: str) -> set[str]:
    """As `imported`, but only what is imported when the module is: neither late imports nor those for types."""
    path = MODULES[name]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    targets = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                full = ".".join([*base, alias.name])
                targets.add(full if full in MODULES else ".".join(base))
    return targets - {"", name}


def test_every_script_of_the_workflow_belongs_to_a_rule():
    """What no rule runs or imports stands in tools/."""
    rules = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "rules").glob("*.smk"))
    for script in (REPOSITORY / "workflow_scripts").glob("*.py"):
        run = f"workflow_scripts/{script.name}" in rules
        imported = re.search(rf"^\s*(import|from) {script.stem}\b", rules, re.MULTILINE)
        assert run or imported, f"no rule runs or imports {script.name}; move it to tools/"
