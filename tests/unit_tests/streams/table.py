"""What the unedited reply can be seen on: the table in the README, and what the tests expect.

python -m tests.unit_tests.streams.table --check README.md
python -m tests.unit_tests.streams.table --write README.md
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tests.unit_tests.streams.compositions import COMPOSITIONS, Composition
from tests.unit_tests.streams.surfaces import CHAIN_SURFACES, GRAPH_SURFACES, Surface

CLEAN = "clean"
HUSHED = "clean with `hushed`"
POLICY = "policy's run"
STATE = "state"
STEP = "own step"
REFUSED = "`LeakError`"

BEGIN, END = "<!-- streams:begin -->", "<!-- streams:end -->"
_PLACE = re.compile(f"({re.escape(BEGIN)}\n).*?({re.escape(END)})", re.DOTALL)


def expected(composition: Composition, surface: Surface) -> str:
    """What holds for a composition on a surface; `test_matrix.py` holds it to that."""
    if surface.shows_policy:
        return POLICY
    if composition.in_state and surface.state:
        return STATE
    if composition.in_state and surface.messages:
        return REFUSED
    if composition.keeps_reply and surface.steps_too:
        return STEP
    if composition.hushed is not None and surface.model_runs:
        return HUSHED
    return CLEAN


def surfaces_of(composition: Composition) -> list[Surface]:
    """The surfaces that there are for a composition; a chain is also looked at inside a node."""
    return GRAPH_SURFACES if composition.graph else [*CHAIN_SURFACES, *GRAPH_SURFACES]


_GROUPS = {
    "`invoke`, `batch`": ["`invoke`, `batch`"],
    "`stream` and `transform` of a chain; mode `custom`": ["`stream`", "`transform`", "custom"],
    "modes `values`, `updates`, `tasks`, `debug`, `checkpoints`": [
        "values",
        "updates",
        "tasks",
        "debug",
        "checkpoints",
    ],
    "mode `messages`, all at once, `subgraphs=True`; v3 events": [
        "messages",
        "all modes, `version='v2'`",
        "all modes, `subgraphs=True`",
        "`stream_events`, v3",
        "`stream_events`, v3: `.messages`",
    ],
    "`astream_events` v1, v2; `astream_log`": [
        "`astream_events`, v1",
        "`astream_events`, v2",
        "`astream_log`",
    ],
    "… `include_tags=['metaaligner']`": ["`astream_events`, `include_tags=['metaaligner']`"],
    "… `exclude_tags=['nostream']`: `on_…_stream`": [
        "`astream_events`, `exclude_tags=['nostream']`: `on_…_stream`"
    ],
}


def table() -> str:
    """The table, and what its words mean."""
    lines = ["| | " + " | ".join(_GROUPS) + " |", "| --- |" + " --- |" * len(_GROUPS)]
    for composition in COMPOSITIONS:
        there = surfaces_of(composition)
        cells = []
        for names in _GROUPS.values():
            found = {expected(composition, one) for one in there if one.name in names}
            cells.append(", ".join(sorted(found)))
        name = composition.name.replace("|", "\\|")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _LEGEND]) + "\n"


_LEGEND = """\
Every cell is run by the tests, synchronously and asynchronously where both exist; chains also
inside a node that calls them with `invoke`, `stream`, `batch`, `ainvoke`, `astream`, `abatch`, or
is the chain.

- **clean**: no word of the unedited reply, and the edit exactly once.
- **clean with `hushed`**: so with `hushed` around what calls the model. Without it the aligner
  raises `LeakError` under `stream_mode="messages"`, where tokens have gone out already.
- **policy's run**: LangChain shows every run there, the model's too. With
  `include_tags=["metaaligner"]` only the edit's run is left; with `exclude_tags=["nostream"]`
  every `on_…_stream` event is edited text. The tags do not reach parsers and steps that hand the
  unedited reply on (**own step**).
- **state**: the unedited message is written into the graph's state, and whoever reads that sees
  it. Put both into one node. `LeakError` is what a reader of messages gets."""


def main(arguments: list[str] | None = None) -> int:
    """Check or write the table in a file."""
    parser = argparse.ArgumentParser(description="The table of stream surfaces.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", type=Path, metavar="FILE")
    what.add_argument("--write", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    file: Path = given.check or given.write
    before = file.read_text(encoding="utf-8")
    after = _PLACE.sub(lambda found: found[1] + table() + found[2], before)
    if not _PLACE.search(before):
        sys.stderr.write(f"{file} has no place for the table: {BEGIN} … {END}\n")
        return 1
    if given.write:
        file.write_text(after, encoding="utf-8")
        return 0
    if before != after:
        sys.stderr.write(f"The table in {file} is old; --write writes it anew.\n")
    return int(before != after)


if __name__ == "__main__":
    sys.exit(main())
