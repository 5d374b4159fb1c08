"""Pages that mkdocs takes from elsewhere, so that nothing is written twice (a hook of mkdocs.yml).

============================ =======================================================
page                         made of
============================ =======================================================
reference/cli.md             the commands themselves (``typer ... utils docs``)
changelog.md, benchmarks.md  ``CHANGELOG.md``, ``benchmarks/README.md``
models/rawkit-fast.md        the file of that name beside the weights
============================ =======================================================

In other pages ``<!-- fields of calibration_data/schema.json -->`` becomes the tables of a profile's fields, and
``<!-- section of README.md: NAME -->`` the text under that heading.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "calibration_data" / "schema.json"
FIELDS_MARK = "<!-- fields of calibration_data/schema.json -->"
COPIED = {
    "changelog.md": ROOT / "CHANGELOG.md",
    "benchmarks.md": ROOT / "benchmarks" / "README.md",
    "models/rawkit-fast.md": ROOT / "models" / "rawkit-fast.md",  # where the README's link to it leads
}
GENERATED = ("reference/cli.md", *COPIED)

_SECTION_MARK = re.compile(r"<!-- section of README\.md: (.+) -->")
_FOREIGN = re.compile(
    r"""<(?:(?:script|img|iframe|source)\b[^>]*\bsrc|link\b(?![^>]*rel="?canonical)[^>]*\bhref)=["']?(https?:[^"'\s>]+)"""
)
_KINDS = {"object": "table", "array": "list", "string": "text", "integer": "whole number", "number": "number"}
_BOUNDS = {"exclusiveMinimum": "above {:g}", "minimum": "{:g} or more", "maximum": "{:g} at most"}
_EXIT_CODES = (
    "Exit codes of every command: 0 all done; 1 some files failed; 2 the command cannot be carried out as given; "
    "3 nothing failed, but outputs that exist already were left alone; 130 interrupted."
)


def cli_page() -> str:
    """All commands and their options, as Markdown."""
    command = [sys.executable, "-m", "typer", "rawkit.cli", "utils", "docs", "--name", "rawkit", "--title", "Commands"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    heading, _, body = text.partition("\n")
    return f"{heading}\n\n{_EXIT_CODES}\n{_without_html(_with_whole_summaries(body))}"


def _with_whole_summaries(text: str) -> str:
    """The lists of commands, whose summaries are cut short, with the first words of each command and a link to it."""
    told = dict(re.findall(r"^#{2,3} `rawkit ([^`]+)`\n\n(.+?)(?:\n\n|\n?$)", text, re.MULTILINE | re.DOTALL))
    group = ""
    lines = []
    for line in text.splitlines():
        if (title := re.match(r"#{2,3} `rawkit ([^`]+)`", line)) is not None:
            group = title[1] + " "
        entry = re.match(r"\* `([a-z]+)`: ", line)
        if entry is not None and group + entry[1] in told:
            name = group + entry[1]
            line = f"* [`{entry[1]}`](#rawkit-{name.replace(' ', '-')}): {' '.join(told[name].split())}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _without_html(text: str) -> str:
    """``<`` outside of code, which Markdown would take for the beginning of a tag, written as an entity."""
    parts = re.split(r"(```.*?```|`[^`\n]*`)", text, flags=re.DOTALL)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


@dataclass(frozen=True)
class Field:
    """A field of a JSON Schema; ``table`` names the object that holds it, as ``noise[].details``."""

    table: str
    name: str
    kind: str
    required: bool
    text: str


def schema_fields(schema: dict[str, Any]) -> Iterator[Field]:
    """Every field, those of an object after the object itself."""
    definitions = schema.get("$defs", {})

    def walk(node: dict[str, Any], table: str) -> Iterator[Field]:
        for name, given in node.get("properties", {}).items():
            reference = given.get("$ref")
            child = given if reference is None else {**definitions[reference.rsplit("/", 1)[-1]], **given}
            text = "; ".join(part for part in (child.get("description", ""), _bounds(child)) if part)
            yield Field(table, name, _kind(child), name in node.get("required", ()), text)
            inside = f"{table}.{name}" if table else name
            yield from walk(child, inside)
            yield from walk(child.get("items", {}), inside + "[]")

    yield from walk(schema, "")


def _kind(node: dict[str, Any]) -> str:
    if "const" in node:
        return f"`{node['const']}`"
    if "anyOf" in node:
        return "number or list"
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    inner = node.get("items", {}).get("type")
    names = [f"list of {_KINDS[inner]}s"] if inner else [_KINDS[kind] for kind in kinds if kind != "null"]
    return " or ".join([*names, *(["null"] if "null" in kinds else [])])


def _bounds(node: dict[str, Any]) -> str:
    limits = node.get("items", node)
    return ", ".join(form.format(limits[key]) for key, form in _BOUNDS.items() if key in limits)


def fields_tables() -> str:
    """The fields of a camera profile as Markdown, a table per object; a quantity and its ``_se`` share a row."""
    fields = list(schema_fields(json.loads(SCHEMA.read_text(encoding="utf-8"))))
    names = {(field.table, field.name) for field in fields}
    parts: list[str] = []
    for table in dict.fromkeys(field.table for field in fields):
        parts += ["", f"### In `{table}`" if table else "### At the top", ""]
        parts += ["| field | kind | needed | what it is |", "|---|---|---|---|"]
        for field in (f for f in fields if f.table == table):
            if (table, field.name.removesuffix("_se")) in names and field.name.endswith("_se"):
                continue
            error = f", `{field.name}_se`" if (table, field.name + "_se") in names else ""
            needed = "yes" if field.required else ""
            parts.append(f"| `{field.name}`{error} | {field.kind} | {needed} | {field.text} |")
    return "\n".join(parts)


def readme_section(heading: str) -> str:
    """The text under a heading of README.md, up to the next one of its rank."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0].strip()


def on_files(files: Any, config: Any) -> Any:
    """mkdocs: add the pages that exist nowhere in docs/."""
    from mkdocs.structure.files import File

    contents = (cli_page(), *(path.read_text(encoding="utf-8") for path in COPIED.values()))
    for uri, content in zip(GENERATED, contents, strict=True):
        files.append(File.generated(config, uri, content=content))
    return files


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """mkdocs: refuse a page that would load anything from another place."""
    found = _FOREIGN.search(output)
    if found is not None:
        from mkdocs.exceptions import PluginError

        raise PluginError(f"{page.file.src_uri} loads {found[1]}; everything the site needs must lie in it.")
    return output


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs: put tables and sections where their marks stand."""
    markdown = markdown.replace(FIELDS_MARK, fields_tables())
    return _SECTION_MARK.sub(lambda mark: readme_section(mark[1]), markdown)
