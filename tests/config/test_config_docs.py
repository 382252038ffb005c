"""config/README.md against the models that read the configuration."""

import re
from collections.abc import Iterator

import pydantic
import pytest
from commands import REPOSITORY

from openset_distill.config import settings
from openset_distill.datasets.catalog import datasets, find, published_checkpoints

PAGE = (REPOSITORY / "config" / "README.md").read_text(encoding="utf-8")
# heading of the page -> the model whose keys its table lists
MODELS = {
    "The experiment": settings.Settings,
    "`data`": settings.DataSettings,
    "`protocol`": settings.ProtocolSettings,
    "A run (`defaults`, and each of `runs`)": settings.RunSettings,
    "`augment` of a run": settings.AugmentSettings,
    "`optimization` of a run": settings.OptimizationSettings,
    "`evaluation`": settings.EvaluationSettings,
    "`analysis`": settings.AnalysisSettings,
    "`show`": settings.ShowSettings,
    "`resources`": settings.ResourceSettings,
    "Each kind of job in `resources`": settings.JobResources,
}


def table_under(heading: str) -> dict[str, tuple[str, str, str]]:
    """key -> (type, default, meaning) of the table under a heading."""
    assert f"## {heading}\n" in PAGE
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = tuple(cells[1:])
    return rows


def models(model: type[pydantic.BaseModel]) -> Iterator[type[pydantic.BaseModel]]:
    """A model, and those that its fields are."""
    yield model
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, pydantic.BaseModel):
            yield from models(field.annotation)


def test_every_model_has_its_table() -> None:
    assert set(MODELS.values()) == {*models(settings.Settings), *models(settings.RunSettings)}


@pytest.mark.parametrize("heading", MODELS)
def test_the_table_has_every_key_and_no_other(heading: str) -> None:
    rows = table_under(heading)
    assert list(rows) == list(MODELS[heading].model_fields)
    assert all(all(row) for row in rows.values())


@pytest.mark.parametrize("heading", MODELS)
def test_the_defaults_are_those_of_the_code(heading: str) -> None:
    for key, (_, default, _) in table_under(heading).items():
        field = MODELS[heading].model_fields[key]
        if field.is_required():
            assert default == "required", key
        elif isinstance(field.default, pydantic.BaseModel):
            assert default == "see below", key
        else:
            assert default == f"`{as_yaml(field.get_default(call_default_factory=True))}`", key


def as_yaml(value: object) -> str:
    """A default as one writes it in the configuration."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, str):
        return value or '""'
    return str(value)


def test_the_page_on_datasets_names_every_dataset_and_file() -> None:
    page = (REPOSITORY / "docs" / "datasets.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert set(rows) == {*datasets(), published_checkpoints().name}
    for name, row in rows.items():
        files = {archive.file for archive in find(name).files}
        assert set(row.rpartition(" | ")[2].split("`")[1::2]) == files, name
        by_itself = files and not any(archive.by_hand for archive in find(name).files)
        assert ("downloaded" in row) == bool(by_itself), name
