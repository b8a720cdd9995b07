"""Writes the faces' signatures from the options: `make format` writes them, `make lint` checks."""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
from pathlib import Path

from langchain_metaaligner import options

PACKAGE = Path(options.__file__).parent
HEADER = '''"""{doc}

Made from `options.py` by `make format`; `make lint` compares the two.
"""

from __future__ import annotations

{imports}

__all__ = ["{name}"]


class {name}({base}, total=False):
    """{words}"""
'''
# Where names in annotations come from, in the order in which the imports stand.
HOMES = {
    "os": "import os",
    "Callable": "from collections.abc import Callable",
    "Mapping": "from collections.abc import Mapping",
    "Any": "from typing import Any",
    "Literal": "from typing import Literal",
    "TypedDict": "from typing import TypedDict",
    "BaseChatModel": "from langchain_core.language_models import BaseChatModel",
    "SecretStr": "from pydantic import SecretStr",
    "Aligner": "from langchain_metaaligner.editing.aligner import Aligner",
    "Objectives": "from langchain_metaaligner.editing.objectives import Objectives",
    "AlignerArguments": (
        "from langchain_metaaligner.editing.aligner_arguments import AlignerArguments"
    ),
    "Alignment": "from langchain_metaaligner.editing.alignment import Alignment",
    "Guards": "from langchain_metaaligner.editing.guards import Guards",
    "Engine": "from langchain_metaaligner.engines.base import Engine",
    "EngineLike": "from langchain_metaaligner.engines.base import EngineLike",
    "When": "from langchain_metaaligner.integrations.reply_policy import When",
}


def main() -> int:
    """Write the files, or with `--check` compare them.

    Returns:
        0, or 1 where a file is not what the options say.
    """
    check = "--check" in sys.argv[1:]
    stale = []
    for file, text in files().items():
        if file.is_file() and file.read_text(encoding="utf-8") == text:
            continue
        stale.append(file)
        if not check:
            file.write_text(text, encoding="utf-8")
    for one in stale if check else ():
        name = one.relative_to(PACKAGE.parent)
        sys.stderr.write(f"{name} is not what options.py says: run `make format`.\n")
    return 1 if check and stale else 0


def files() -> dict[Path, str]:
    """The files with what is to stand in them."""
    aligner = [*_fields("LoadOptions"), *_fields("AlignerOptions")]
    return {
        PACKAGE / "editing" / "aligner_arguments.py": _written(
            "AlignerArguments",
            "TypedDict",
            [one for one in aligner if one[0] != "model"],
            doc="The typed keyword arguments of `Aligner`.",
            words="Options of an aligner.",
        ),
        PACKAGE / "integrations" / "reply_arguments.py": _written(
            "ReplyArguments",
            "AlignerArguments",
            [
                *(one for one in aligner if one[0] == "model"),
                *(one for one in _fields("ReplyOptions") if one[0] != "objectives"),
            ],
            doc="The typed keyword arguments of the runnable, the middleware and the chat model.",
            words="Options of the runnable, the middleware and the chat model.",
        ),
    }


def _written(
    name: str, base: str, fields: list[tuple[str, str, str]], *, doc: str, words: str
) -> str:
    text = "".join(f'\n    {field}: {kind}\n    """{said}"""\n' for field, kind, said in fields)
    used = {
        node.id
        for source in (base, *(kind for _, kind, _ in fields))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Name)
    }
    head = HEADER.format(
        doc=doc,
        imports=_imports([HOMES[one] for one in HOMES if one in used]),
        name=name,
        base=base,
        words=words,
    )
    return head + text


def _imports(lines: list[str]) -> str:
    ours = [one for one in lines if "langchain_metaaligner" in one]
    libraries = [one for one in lines if "pydantic" in one or "langchain_core" in one]
    rest = [one for one in lines if one not in (*ours, *libraries)]
    joined: dict[str, list[str]] = {}
    groups = []
    for group in (rest, libraries, ours):
        joined = {}
        for line in group:
            head, _, what = line.partition(" import ")
            joined.setdefault(head, []).append(what)
        made = [
            f"{head} import {', '.join(sorted(names))}" if names != [""] else head
            for head, names in sorted(
                joined.items(), key=lambda one: (not one[0].startswith("import"), one[0])
            )
        ]
        if made:
            groups.append("\n".join(made))
    return "\n\n".join(groups)


def _fields(kind: str) -> list[tuple[str, str, str]]:
    """The options that a class declares: name, type as a signature has it, words."""
    tree = ast.parse(inspect.getsource(options))
    body = next(one.body for one in tree.body if isinstance(one, ast.ClassDef) and one.name == kind)
    found = []
    for one, after in itertools.pairwise(body):
        match one, after:
            case (
                ast.AnnAssign(ast.Name(name), ast.Subscript(slice=ast.Tuple([known, *metadata]))),
                ast.Expr(ast.Constant(str(words))),
            ):
                found.append((name, _static(known, metadata), words))
    return found


def _static(kind: ast.expr, metadata: list[ast.expr]) -> str:
    for one in metadata:
        match one:
            case ast.Call(ast.Name("Static"), [ast.Constant(str(source))]):
                return source
    return ast.unparse(kind).replace("'", '"')


if __name__ == "__main__":
    sys.exit(main())
