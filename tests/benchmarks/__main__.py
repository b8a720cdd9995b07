"""Runs all benchmarks and writes figures into the pages: `python -m tests.benchmarks --write`.

Every piece is saved as soon as it is measured, so an interrupted run resumes when the command is
repeated. Without `--write` everything is measured anew, printed, and not kept.
"""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

import torch

from tests.benchmarks import labels, pieces, table
from tests.pages import PAGES, with_tables

QUIET = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="save the figures; write the tables")
    parser.add_argument("--anew", action="store_true", help="measure again what is there already")
    parser.add_argument("--count", type=int, default=5, help="pairs for each case")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtypes", nargs="*", default=labels.FORMATS, choices=labels.FORMATS)
    names = [piece.name for piece in pieces.PIECES]
    parser.add_argument("--only", nargs="*", default=names, choices=names, help="which pieces")
    parser.add_argument(
        "--jemalloc", default=pieces.jemalloc(), help="its file, preloaded in the best case"
    )
    given = parser.parse_args()
    about = pieces.about(given.count, given.threads)
    found = _kept(about) if given.write and not given.anew else {}
    for piece in pieces.PIECES:
        for dtype in given.dtypes if piece.per_format else (None,):
            name = f"{piece.name}, {dtype}" if dtype else piece.name
            if piece.name not in given.only or name in found:
                continue
            made = pieces.measure(piece, dtype, given)
            found[name] = {"commit": pieces.commit(), **made}
            print(f"{name}: {made['minutes']} minutes", flush=True)
            if made["others"] > QUIET:
                print(f"  Other programs used {made['others']:.0%} of the processors before it.")
            if given.write:
                _save(about, found)
    if given.write:
        for page in PAGES:
            text = page.read_text(encoding="utf-8")
            page.write_text(with_tables(text, table.TABLES), encoding="utf-8")
        print(f"{table.CPU.name} and the tables in README and docs are written.")
    else:
        print(table.cpu_table({"about": about, "pieces": found}))


def _kept(about: dict[str, Any]) -> dict[str, Any]:
    """Pieces of an earlier run of the same code on the same machine."""
    if not table.CPU.is_file():
        return {}
    held = json.loads(table.CPU.read_text(encoding="utf-8"))
    return dict(held["pieces"]) if held.get("about") == about else {}


def _save(about: dict[str, Any], found: dict[str, Any]) -> None:
    table.RESULTS.mkdir(exist_ok=True)
    text = json.dumps(_rounded({"about": about, "pieces": found}), indent=1, ensure_ascii=False)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda one: re.sub(r"\s+", " ", one[0]), text)
    table.CPU.write_text(text + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    """Four digits that count: more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
