"""The ways of calling a runnable, and how cases are shared out among them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import cycle, islice
from typing import Any

WAYS = ("invoke", "ainvoke", "batch", "abatch", "stream", "astream")


def by_turns(*dimensions: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Cases that take turns: each value of each dimension at least once, and no product.

    Args:
        *dimensions: The values of each dimension.
    """
    listed = [tuple(one) for one in dimensions]
    turns = zip(*[cycle(one) for one in listed], strict=True)
    return list(islice(turns, max(map(len, listed))))


def run(runnable: Any, given: Any, way: str = "invoke", config: Any = None, **options: Any) -> Any:
    """The output, whichever way it is asked for; the pieces of a stream are merged.

    Args:
        runnable: What is called.
        given: Its input.
        way: One of `WAYS`.
        config: The call's config.
        **options: The call's keyword arguments.
    """
    if way == "invoke":
        return runnable.invoke(given, config, **options)
    if way == "batch":
        return runnable.batch([given], config, **options)[0]
    if way == "stream":
        return merged(list(runnable.stream(given, config, **options)))

    async def call() -> Any:
        if way == "ainvoke":
            return await runnable.ainvoke(given, config, **options)
        if way == "abatch":
            return (await runnable.abatch([given], config, **options))[0]
        return merged([piece async for piece in runnable.astream(given, config, **options)])

    return asyncio.run(call())


def merged(pieces: list[Any]) -> Any:
    """The pieces of a stream as a whole."""
    whole = pieces[0]
    for piece in pieces[1:]:
        whole = whole + piece
    return whole
