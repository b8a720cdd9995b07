"""Builds the reference of all public names from their docstrings: `make docs`."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pdoc
import pdoc.doc
import pdoc.render

from langchain_metaaligner.options import AlignerOptions

PACKAGE = "langchain_metaaligner"
MODULES = (
    PACKAGE,
    f"{PACKAGE}.engines.generation",
    f"{PACKAGE}.testing",
    f"{PACKAGE}.training",
)
HERE = Path(__file__).parent


def options_table(face: Any) -> str:
    """The options of a face as a Markdown table, because their own classes have no page.

    Args:
        face: A pydantic class.

    Returns:
        One row for each field that a caller may give.
    """
    rows = ["| option | default | meaning |", "| --- | --- | --- |"]
    # Pydantic puts inherited fields first; here what becomes of a reply comes before the model.
    for name, field in sorted(
        face.model_fields.items(), key=lambda one: one[0] in AlignerOptions.model_fields
    ):
        if field.description:
            default = field.get_default(call_default_factory=True)
            meaning = field.description.replace("\n", " ")
            rows.append(f"| `{name}` | `{default!r}` | {meaning} |")
    return "\n".join(rows)


def undocumented(space: pdoc.doc.Namespace[Any]) -> Iterator[str]:
    """Functions and classes of this package on a page that have no docstring.

    Args:
        space: A module or a class.

    Yields:
        Their full names.
    """
    for member in space.members.values():
        ours = member.taken_from[0].startswith(PACKAGE)
        if not ours or member.name.startswith("_"):
            continue
        if isinstance(member, pdoc.doc.Class | pdoc.doc.Function) and not member.docstring:
            yield member.fullname
        if isinstance(member, pdoc.doc.Class):
            yield from undocumented(member)


def build(folder: Path) -> list[str]:
    """Write the pages.

    Args:
        folder: Where to write them; created if it is missing.

    Returns:
        What is wrong with them.
    """
    for module in map(import_module, MODULES):
        for name in getattr(module, "__all__", ()):
            # Packages import their names on demand, and pdoc sees only what has been imported.
            getattr(module, name)
    face = import_module(PACKAGE).MetaAlignerRunnable
    face.__doc__ = f"{inspect.getdoc(face)}\n\n{options_table(face)}\n"
    pdoc.render.configure(
        docformat="google",
        template_directory=HERE / "templates",
        footer_text=PACKAGE,
        show_source=False,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pdoc.pdoc(*MODULES, output_directory=folder)
        silent = [
            f"no docstring: {name}"
            for module in MODULES
            for name in undocumented(pdoc.doc.Module.from_name(module))
        ]
    return [f"{one.category.__name__}: {one.message}" for one in caught] + silent


def main() -> None:
    """Build into the given folder, or say what is wrong and fail."""
    folder = Path(sys.argv[1])
    if found := build(folder):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
