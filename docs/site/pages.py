"""Lays out the sources of the site: README as its front page, the pages that README lists, and the API reference.

    python -m docs.site.pages OPENAPI FOLDER

The menu is README's list under "Read on", in its order: a page that is not listed there is not on the site, and Sphinx
complains about it.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
LISTED = re.compile(r"\(((?:docs/)?[A-Za-z]+\.md)\)")
Schema = dict[str, Any]
NAMED = {"SECURITY": "Report a vulnerability <SECURITY>"}  # docs/security.md has the same title
METHODS = ("get", "put", "post", "delete", "patch")


def menu(readme: str) -> list[str]:
    """The pages that README lists, without their `.md`, each once."""
    return list(dict.fromkeys(path.removesuffix(".md") for path in LISTED.findall(readme.partition("## Read on")[2])))


def toctree(caption: str, names: list[str]) -> str:
    """A part of the menu."""
    lines = "\n".join(names)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"


def lay_out(openapi: Schema, folder: Path) -> None:
    """Write the sources into a folder, which is emptied before."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("site", "*.py", "__pycache__"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("CHANGELOG.md", "SECURITY.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    reference = reference_pages(openapi)
    (folder / "api").mkdir()
    for name, text in reference.items():
        (folder / "api" / f"{name}.md").write_text(text, encoding="utf-8")
    listed = [NAMED.get(name, name) for name in menu(readme)]
    parts = toctree("Documentation", listed) + toctree("API reference", [f"api/{name}" for name in reference])
    (folder / "index.md").write_text(readme + parts, encoding="utf-8")


def reference_pages(openapi: Schema) -> dict[str, str]:
    """A page for each tag of the schema, with its calls, and one with the bodies that they name."""
    calls: dict[str, list[str]] = {}
    for path, methods in openapi["paths"].items():
        for method in METHODS:
            if call := methods.get(method):
                calls.setdefault(call["tags"][0], []).append(_call(method, path, call, openapi))
    pages = {tag: f"# {tag.capitalize()}\n\n{''.join(texts)}" for tag, texts in calls.items()}
    bodies = "".join(_body(name, schema) for name, schema in openapi["components"]["schemas"].items())
    return {**pages, "bodies": f"# Bodies\n\n{bodies}"}


def _call(method: str, path: str, call: Schema, openapi: Schema) -> str:
    text = f"## {method.upper()} {path}\n\n{call.get('description', '')}\n\n"
    parameters = [_resolved(one, openapi) for one in call.get("parameters", ())]
    if parameters:
        text += "| parameter | in | type | |\n| --- | --- | --- | --- |\n"
        for one in parameters:
            needed = "required. " if one.get("required") else ""
            about = needed + _cell(one.get("description", ""))
            text += f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} | {about} |\n"
        text += "\n"
    if body := call.get("requestBody"):
        text += "| body as | is |\n| --- | --- |\n"
        for media, content in _resolved(body, openapi)["content"].items():
            text += f"| `{media}` | {_type(content.get('schema', {}))} |\n"
        text += "\n"
    text += "| answer | is | when |\n| --- | --- | --- |\n"
    for status, told in sorted(call["responses"].items()):
        answer = _resolved(told, openapi)
        kinds = dict.fromkeys(_type(content.get("schema", {})) for content in answer.get("content", {}).values())
        text += f"| {status} | {' or '.join(kinds) or 'no body'} | {_cell(answer.get('description', ''))} |\n"
    return f"{text}\n"


def _body(name: str, schema: Schema) -> str:
    text = f"## {name}\n\n{schema.get('description', '')}\n\n"
    if not (properties := schema.get("properties")):
        return f"{text}{_type(schema)}\n\n"
    text += "| name | type | |\n| --- | --- | --- |\n"
    for field, one in properties.items():
        needed = "required. " if field in schema.get("required", ()) else ""
        text += f"| `{field}` | {_type(one)} | {needed}{_cell(one.get('description', ''))} |\n"
    return f"{text}\n"


def _resolved(one: Schema, openapi: Schema) -> Schema:
    """What a reference to a component leads to."""
    while "$ref" in one:
        kind, name = one["$ref"].split("/")[-2:]
        one = openapi["components"][kind][name]
    return one


def _type(schema: Schema) -> str:
    """A type in a table's cell; a body of its own is a link to it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](bodies.md#{name.lower()})"
    for many in ("oneOf", "anyOf", "allOf"):
        if many in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[many]))
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kinds = schema.get("type", "any")
    kind = " or ".join(kinds) if isinstance(kinds, list) else kinds
    if "array" in kind and (items := schema.get("items")):
        kind = f"array of {_type(items)}"
    limits = [
        f"{word} {schema[name]}"
        for name, word in (("minimum", "from"), ("maximum", "to"), ("maxLength", "at most"), ("maxItems", "at most"))
        if name in schema
    ]
    return " ".join([kind, *([f"({schema['format']})"] if "format" in schema else []), *limits])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    lay_out(yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
