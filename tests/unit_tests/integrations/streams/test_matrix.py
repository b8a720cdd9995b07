"""No word of the unedited reply on any surface, for any way of putting a chain together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from langchain_metaaligner import LeakError, MetaAlignerRunnable
from tests.unit_tests.integrations.streams import table
from tests.unit_tests.integrations.streams.compositions import (
    ASYNC_STYLES,
    COMPOSITIONS,
    SYNC_STYLES,
    Build,
    Composition,
    graph_of,
)
from tests.unit_tests.integrations.streams.scripted import Engine, Policy, seen_raw
from tests.unit_tests.integrations.streams.surfaces import (
    CHAIN_SURFACES,
    GRAPH_SURFACES,
    Surface,
    streamed_texts,
)

EDITED = "editword00 editword01 editword02 editword03 editword04 editword05"

pytestmark = [
    pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning"),
    pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:langchain_core"),
    pytest.mark.filterwarnings("ignore:The model ran unhushed:UserWarning"),
    pytest.mark.filterwarnings("ignore:The unedited reply came from another node:UserWarning"),
]

IN_ALL_MODES = next(one for one in GRAPH_SURFACES if "version='v2'" in one.name)
# One composition for each of the table's words; each is looked at on every surface.
TELLING = [
    next(one for one in COMPOSITIONS if name in one.name)
    for name in (
        "`llm | aligner`",
        "`….assign(x=llm)",
        "a node that calls `llm`",
        "in two nodes",
        "a `@chain` that calls `llm`",
        "a subgraph with `llm | aligner`",
        "`graph | aligner`",
        "a subgraph with `llm` and `aligner`",
    )
]
# What an inner graph's nodes return is seen where inner graphs are read.
INSIDE = [one for one in GRAPH_SURFACES if "subgraphs=True" in one.name]
CELLS = [
    pytest.param(composition, surface, id=f"{composition.name}, {surface.name}, {kind}")
    for composition in COMPOSITIONS
    for surface in table.surfaces_of(composition)
    if composition in TELLING
    or surface is IN_ALL_MODES
    or (composition.in_inner_state and surface in INSIDE)
    for kind in ["alone" if surface in CHAIN_SURFACES else "in a graph"]
]


def read(build: Build, composition: Composition, surface: Surface) -> Iterator[tuple[str, Any]]:
    """All that consumers see, for each way of calling; a `LeakError` comes last."""
    for synchronous in (True, False):
        if synchronous and (surface.read is None or composition.only_async):
            continue
        for style, node in styles(composition, surface, synchronous=synchronous).items():
            aligner = MetaAlignerRunnable(engine=Engine(EDITED))
            target = build(Policy(text="rawword00 rawword01 rawword02"), aligner)
            if node is not None:
                target = graph_of(node(target))
            payloads: list[Any] = []
            try:
                if synchronous:
                    payloads.extend(surface.read(target))
                else:
                    asyncio.run(gather(surface, target, payloads))
            except LeakError as leak:
                payloads.append(leak)
            yield f"{'synchronous' if synchronous else 'asynchronous'} {style}", payloads


async def gather(surface: Surface, target: Any, payloads: list[Any]) -> None:
    async for payload in surface.aread(target):
        payloads.append(payload)  # noqa: PERF401 - what came before an error counts


def styles(composition: Composition, surface: Surface, *, synchronous: bool) -> dict[str, Any]:
    if composition.graph or surface in CHAIN_SURFACES:
        return {"": None}
    all_of_them = SYNC_STYLES if synchronous else ASYNC_STYLES
    if surface is IN_ALL_MODES and composition in TELLING:
        return all_of_them
    return {"the node itself": all_of_them["the node itself"]}


@pytest.mark.parametrize(("composition", "surface"), CELLS)
def test_a_surface_shows_what_the_table_says(composition: Composition, surface: Surface) -> None:
    verdict = table.expected(composition, surface)
    if composition.hushed is not None and verdict == table.INNER:
        clean = list(read(composition.hushed, composition, surface))
    elif verdict == table.HUSHED:
        assert composition.hushed is not None
        bare = [payloads for _, payloads in read(composition.build, composition, surface)]
        assert any(seen_raw(payloads) or refused(payloads) for payloads in bare)
        assert all(refused(payloads) for payloads in bare) or surface.steps_too
        clean = list(read(composition.hushed, composition, surface))
    else:
        clean = list(read(composition.build, composition, surface))
    shown = [seen_raw(payloads) for _, payloads in clean]
    if verdict == table.STEP:
        assert any(shown)
    else:
        assert shown == [verdict not in (table.CLEAN, table.HUSHED)] * len(shown), clean
    for way, payloads in clean:
        if composition.in_state and surface.model_runs and not surface.steps_too:
            assert refused(payloads), way
        else:
            check_the_edit(composition, surface, payloads, way)


def refused(payloads: Any) -> bool:
    return isinstance(payloads[-1], LeakError)


def check_the_edit(composition: Composition, surface: Surface, payloads: Any, way: str) -> None:
    if composition.deeper and "v3" in surface.name:
        assert "editword05" in repr(payloads), way
    elif surface.messages and not composition.in_state:
        texts = list(streamed_texts(payloads).values())
        # A text has no id; the message that somebody makes of it is another one to LangGraph.
        assert texts == [EDITED] or (composition.text and set(texts) == {EDITED}), way
    elif surface.name != "custom":
        assert "editword05" in repr(payloads), way


def test_every_surface_has_its_column_in_the_table() -> None:
    named = [name for names in table.GROUPS.values() for name in names]
    assert sorted(named) == sorted({one.name for one in [*CHAIN_SURFACES, *GRAPH_SURFACES]})
