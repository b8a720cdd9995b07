"""The README and the pages of the documentation, as the tests read them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
# Their blocks load a model that no other test of the unit tests loads.
SLOW_PAGES = {"edit_draft_decoding.md"}

_BLOCK = re.compile(
    r"(?:<!-- test: (?P<note>[^\n]*) -->\n)?```python\n(?P<code>.*?)^```",
    re.DOTALL | re.MULTILINE,
)
TABLE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A Python block of a page.

    Attributes:
        path: The page.
        line: The number of lines above its code.
        code: What stands in it.
        note: Why it is compiled only, where it is.
    """

    path: Path
    line: int
    code: str
    note: str | None

    def __str__(self) -> str:
        return f"{self.path.name} line {self.line}"

    def run(self) -> None:
        """Run the code as it stands, or compile it where running would download gigabytes."""
        # Empty lines before it make a traceback point at the page's own line.
        code = compile("\n" * self.line + self.code, str(self.path), "exec")
        if self.note is None:
            exec(code, {"__name__": "page"})


def blocks_of(path: Path) -> Iterator[Block]:
    """The Python blocks of a page.

    Args:
        path: The page.

    Yields:
        Each block, in order.
    """
    text = path.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("code"))
        yield Block(path, line, found["code"], found["note"])


def with_tables(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """A page with its tables made anew.

    Args:
        text: The page.
        tables: What makes each table, by its name; others stay as they are.

    Returns:
        The page.
    """

    def renew(old: re.Match[str]) -> str:
        make = tables.get(old[2])
        return old[0] if make is None else f"{old[1]}{make().strip()}\n{old[4]}"

    return TABLE.sub(renew, text)
