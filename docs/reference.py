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

from langchain_metaaligner.options import AlignerSettings

PACKAGE = "langchain_metaaligner"
MODULES = (PACKAGE, f"{PACKAGE}.engines.generation", f"{PACKAGE}.training")
HERE = Path(__file__).parent


def options_table(face: Any) -> str:
    """The options of a face as a Markdown table: they stand in classes that have no page.

    Args:
        face: A pydantic class.

    Returns:
        One row for each field that a caller may give.
    """
    rows = ["| option | default | meaning |", "| --- | --- | --- |"]
    # Pydantic has the inherited first; here what is to be done with an edit comes before the model.
    for name, field in sorted(
        face.model_fields.items(), key=lambda one: one[0] in AlignerSettings.model_fields
    ):
        if field.description:
            default = field.get_default(call_default_factory=True)
            rows.append(f"| `{name}` | `{default!r}` | {field.description} |")
    return "\n".join(rows)


def undocumented(space: pdoc.doc.Namespace[Any]) -> Iterator[str]:
    """Functions and classes of this package on a page that say nothing of themselves.

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
        folder: Where to; made where it is missing.

    Returns:
        What is wrong with them.
    """
    for module in map(import_module, MODULES):
        for name in getattr(module, "__all__", ()):
            # Packages find their names when they are asked for; pdoc sees those there already.
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
    """Build into the folder that is given, or say what is wrong and fail."""
    folder = Path(sys.argv[1])
    if found := build(folder):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
