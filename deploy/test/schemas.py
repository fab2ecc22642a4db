"""Schemas of what deploy/kubernetes/ uses: `python -m deploy.test.schemas DEFINITIONS CRD…` writes tests/tools/kubernetes.json.

DEFINITIONS is the strict `_definitions.json` of a release in the PyPI package kubernetes-validate (108 MB, so it is no
dependency), each CRD a custom resource's definition, as KEDA has them in `config/crd/bases`. What is kept: the schemas that
KINDS reach, without their descriptions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

PAGE = Path(__file__).resolve().parents[2] / "tests" / "tools" / "kubernetes.json"
KINDS = (
    "ConfigMap",
    "DaemonSet",
    "Deployment",
    "Job",
    "Namespace",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Service",
    "StatefulSet",
)
_REF = "#/$defs/"


def reached(definitions: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """These definitions, and all that they refer to."""
    found: dict[str, Any] = {}
    while names:
        if (name := names.pop()) not in found:
            found[name] = without_texts(definitions[name])
            names += [part.partition('"')[0] for part in json.dumps(found[name]).split(f'"$ref": "{_REF}')[1:]]
    return found


def without_texts(schema: Any) -> Any:
    """Without descriptions and the notes of Kubernetes' own (`x-…`)."""
    if isinstance(schema, list):
        return [without_texts(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: without_texts(value)
        for key, value in schema.items()
        if not (key.startswith("x-") or (key == "description" and isinstance(value, str)))
    }


def closed(schema: Any) -> Any:
    """A CRD's schema that takes no other names than it has, as the API server prunes them silently."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    return found | ({"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {})


def main(definitions: str, *crds: str) -> None:
    known = json.loads(Path(definitions).read_text(encoding="utf-8"))["$defs"]
    names = {
        f"{kind['group']}/{kind['version']}".lstrip("/") + f" {kind['kind']}": name
        for name, schema in known.items()
        for kind in schema.get("x-kubernetes-group-version-kind", ())
        if kind["kind"] in KINDS and kind["version"] == "v1"
    }
    found = {"$defs": reached(known, list(names.values()))}
    kinds = {kind: {"$ref": f"{_REF}{name}"} for kind, name in names.items()}
    for text in (Path(crd).read_text(encoding="utf-8") for crd in crds):
        spec = yaml.safe_load(text)["spec"]
        for version in spec["versions"]:
            schema = closed(without_texts(version["schema"]["openAPIV3Schema"]))
            schema["properties"]["metadata"] = {"type": "object"}
            kinds[f"{spec['group']}/{version['name']} {spec['names']['kind']}"] = schema
    PAGE.write_text(json.dumps(found | {"kinds": kinds}, sort_keys=True, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
