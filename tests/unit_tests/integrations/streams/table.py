"""What the unedited reply can be seen on: the table in docs/streams.md, and what tests expect."""

from __future__ import annotations

from tests.unit_tests.integrations.streams.compositions import COMPOSITIONS, Composition
from tests.unit_tests.integrations.streams.surfaces import CHAIN_SURFACES, GRAPH_SURFACES, Surface

CLEAN = "clean"
HUSHED = "clean with `hushed`"
POLICY = "policy's run"
STATE = "state"
STEP = "own step"
REFUSED = "`LeakError`"
INNER = "inner state"


def expected(composition: Composition, surface: Surface) -> str:
    """What holds for a composition on a surface; `test_matrix.py` holds it to that."""
    if surface.shows_policy:
        return POLICY
    if composition.in_state and surface.state:
        return STATE
    if composition.in_state and surface.messages:
        return REFUSED
    if composition.in_inner_state and surface.inner_state:
        return INNER
    if composition.keeps_reply and surface.steps_too:
        return STEP
    if composition.hushed is not None and surface.model_runs:
        return HUSHED
    return CLEAN


def surfaces_of(composition: Composition) -> list[Surface]:
    """The surfaces that there are for a composition; a chain is also looked at inside a node."""
    return GRAPH_SURFACES if composition.graph else [*CHAIN_SURFACES, *GRAPH_SURFACES]


GROUPS = {
    "`invoke`, `batch`": ["`invoke`, `batch`"],
    "`stream` and `transform` of a chain; mode `custom`": ["`stream`", "`transform`", "custom"],
    "modes `values`, `updates`, `tasks`, `debug`, `checkpoints`": [
        "values",
        "updates",
        "tasks",
        "debug",
        "checkpoints",
    ],
    "mode `messages`, also with `subgraphs=True`; v3 `.messages`": [
        "messages",
        "messages, `subgraphs=True`",
        "all modes, `version='v2'`",
        "`stream_events`, v3: `.messages`",
    ],
    "all modes with `subgraphs=True`; v3 events": [
        "all modes, `subgraphs=True`",
        "`stream_events`, v3",
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
    lines = ["| | " + " | ".join(GROUPS) + " |", "| --- |" + " --- |" * len(GROUPS)]
    for composition in COMPOSITIONS:
        there = surfaces_of(composition)
        cells = []
        for names in GROUPS.values():
            found = {expected(composition, one) for one in there if one.name in names}
            cells.append(", ".join(sorted(found)))
        name = composition.name.replace("|", "\\|")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _LEGEND]) + "\n"


_LEGEND = """\
The tests read every row in all modes of a graph at once, and one row of each kind on every column,
synchronously and asynchronously where both exist. Chains also run inside a node: one that calls
them with `invoke`, `stream`, `batch`, `ainvoke`, `astream` or `abatch`, and one that is the chain
itself.

- **clean**: no word of the unedited reply, and the edit exactly once.
- **clean with `hushed`**: clean if `hushed` wraps what calls the model. Without it, the aligner
  raises `LeakError` under `stream_mode="messages"`, because tokens have already gone out.
- **policy's run**: LangChain shows every run here, including the model's (the policy's). With
  `include_tags=["metaaligner"]` you see only the run of the edit; with `exclude_tags=["nostream"]`
  every `on_…_stream` event is edited text. These tags do not reach parsers and steps that pass on
  the unedited reply (**own step**).
- **state**: the unedited message is written into the graph's state, where anybody who reads the
  state sees it. Put model and aligner into one node. A reader of messages gets a `LeakError`.
- **inner state**: an inner graph, such as an agent, writes the unedited message into its own state.
  Only those see it who read the state of inner graphs. Messages stay clean."""
