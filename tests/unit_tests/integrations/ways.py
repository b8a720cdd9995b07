"""The ways of calling a runnable, and how cases are shared out among them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import combinations, cycle, islice
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


def in_pairs(*dimensions: Iterable[Any]) -> list[tuple[Any, ...]]:
    """As few cases as have each pair of values of any two dimensions at least once.

    Args:
        *dimensions: The values of each dimension.
    """
    listed = [list(one) for one in dimensions]
    places = list(combinations(range(len(listed)), 2))
    left = {(i, j, a, b) for i, j in places for a in listed[i] for b in listed[j]}
    cases: list[tuple[Any, ...]] = []
    while left:
        # A case begins with a pair that is left; each other value is the one that adds most.
        i, j, a, b = min(left, key=repr)
        case = {i: a, j: b}
        for place in range(len(listed)):
            if place not in case:
                case[place] = max(listed[place], key=lambda one: _new({**case, place: one}, left))
        left -= _pairs(case)
        cases.append(tuple(case[place] for place in range(len(listed))))
    return cases


def _pairs(case: dict[int, Any]) -> set[tuple[int, int, Any, Any]]:
    return {(i, j, case[i], case[j]) for i, j in combinations(sorted(case), 2)}


def _new(case: dict[int, Any], left: set[tuple[int, int, Any, Any]]) -> int:
    return len(_pairs(case) & left)


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
