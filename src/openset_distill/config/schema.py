"""The JSON schema of an experiment's configuration file, by which editors complete and check it while it is written.

A YAML file names it in its first line: `# yaml-language-server: $schema=PATH`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pydantic

from ..augment import MULTI_SAMPLE, SINGLE_SAMPLE
from ..core.registry import Registry
from ..datasets import catalog
from ..datasets.protocols import PROTOCOLS
from ..evaluation.detectors import DETECTORS
from ..evaluation.scores import SCORES
from ..methods import METHODS
from ..models import BACKBONES
from ..report.figures import FIGURES
from ..report.tables import TABLES
from .settings import RunSettings, Settings

# key within a definition -> the registry that its value is looked up in
REGISTRIES: dict[tuple[str, str], Registry] = {
    ("RunSettings", "backbone"): BACKBONES,
    ("RunSettings", "method"): METHODS,
    ("AugmentSettings", "single"): SINGLE_SAMPLE,
    ("AugmentSettings", "added"): SINGLE_SAMPLE,
    ("AugmentSettings", "multi"): MULTI_SAMPLE,
    ("ProtocolSettings", "name"): PROTOCOLS,
    ("EvaluationSettings", "detectors"): DETECTORS,
}
# the same for names that have no settings
NAMES: dict[tuple[str, str], Iterable[str]] = {
    ("DataSettings", "dataset"): catalog.datasets(),
    ("DataSettings", "others"): catalog.datasets(),
    ("EvaluationSettings", "scores"): SCORES,
    ("EvaluationSettings", "headline"): [*SCORES, *DETECTORS],
    ("AnalysisSettings", "mixing"): MULTI_SAMPLE,
    ("ShowSettings", "figures"): FIGURES,
    ("ShowSettings", "tables"): TABLES,
}


def configuration_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a configuration file: every key, and every name with the settings that it has.

    Nothing is required, since a file may `extends` another; what a whole experiment lacks is found when it is loaded.
    """
    schema = Settings.model_json_schema()
    definitions = schema["$defs"]
    of_runs = RunSettings.model_json_schema()
    definitions |= of_runs.pop("$defs") | {"RunSettings": of_runs}
    for (owner, key), registry in REGISTRIES.items():
        kind = registry.kind.replace(" ", "_")
        definitions[kind] = _specification(registry)
        _replace(definitions[owner]["properties"], key, {"$ref": f"#/$defs/{kind}"})
    for (owner, key), names in NAMES.items():
        _replace(definitions[owner]["properties"], key, {"enum": list(names)})
    for definition in definitions.values():
        if "properties" in definition:
            definition.pop("required", None)
    run = {"anyOf": [{"$ref": "#/$defs/RunSettings"}, {"type": "null"}]}
    schema["properties"] |= {
        "extends": {"type": "string", "description": "the configuration file beneath this one, from the repository"},
        "defaults": {"$ref": "#/$defs/RunSettings"},
        "runs": {"type": "object", "additionalProperties": run},
    }
    schema.pop("required", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _specification(registry: Registry) -> dict[str, Any]:
    """A bare name, or a mapping with a name and the settings of that name."""
    mappings = []
    for name, cls in registry.items():
        own = pydantic.TypeAdapter(cls).json_schema()
        # settings of a setting: written out where they are used
        properties = {key: _inline(value, own.get("$defs", {})) for key, value in own.get("properties", {}).items()}
        properties["name"] = {"const": name}
        if presets := getattr(cls, "presets", {}):
            properties["preset"] = {"enum": list(presets)}
        described = {"description": cls.__doc__} if cls.__doc__ else {}
        mappings.append(
            {
                "type": "object",
                "properties": properties,
                "required": ["name"],
                "additionalProperties": False,
                **described,
            }
        )
    return {"anyOf": [{"enum": list(registry)}, *mappings]}


def _inline(value: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        if "$ref" in value:
            return _inline(definitions[value["$ref"].rpartition("/")[2]], definitions)
        return {key: _inline(one, definitions) for key, one in value.items()}
    return [_inline(one, definitions) for one in value] if isinstance(value, list) else value


def _replace(properties: dict[str, Any], key: str, entry: dict[str, Any]) -> None:
    """Puts `entry` in the place of a key's text: the key itself, or each entry of its list; null stays allowed."""
    old = properties[key]
    kept = {name: old[name] for name in ("default", "description") if name in old}
    kinds = old.get("anyOf", [old])
    if any(kind.get("type") == "array" for kind in kinds):
        entry = {"type": "array", "items": entry}
    if any(kind.get("type") == "null" for kind in kinds):
        entry = {"anyOf": [entry, {"type": "null"}]}
    properties[key] = kept | entry
