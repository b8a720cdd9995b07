"""Edits any number of items with a bounded number in flight, and yields results as they come."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import TypeVar

from langchain_metaaligner.engines.threads import Pool

T = TypeVar("T")
R = TypeVar("R")


def as_completed(
    edit: Callable[[list[T]], Sequence[R]],
    items: Iterable[T],
    *,
    batch_size: int,
    max_concurrency: int,
) -> Iterator[tuple[int, R]]:
    """Edit items in threads, a batch in each.

    Args:
        edit: Edits one batch; must return a result for each item.
        items: The items, read as they are needed.
        batch_size: How many items a batch has.
        max_concurrency: How many batches are edited at the same time.

    Yields:
        The number of an item, from 0, and its result.

    Raises:
        Exception: What reading the items raised, once the results of those read before are out.
    """
    pool = Pool("metaaligner-batch", max_concurrency)
    given, number = iter(items), 0
    running: dict[Future[Sequence[R]], int] = {}
    broken: Exception | None = None
    ended = False
    try:
        while running or not ended:
            while not ended and len(running) < max_concurrency:
                batch: list[T] = []
                try:
                    while len(batch) < batch_size:
                        batch.append(next(given))
                except StopIteration:
                    ended = True
                except Exception as error:  # noqa: BLE001 - raised when what was read is done
                    ended, broken = True, error
                if batch:
                    running[pool.submit(partial(edit, batch))] = number
                    number += len(batch)
            if not running:
                continue
            for made in wait(running, return_when=FIRST_COMPLETED).done:
                yield from enumerate(made.result(), running.pop(made))
    finally:
        for made in running:
            made.cancel()
        pool.end()  # its threads would wait for more work, and many short runs make many of them
    if broken is not None:
        raise broken


async def aas_completed(
    edit: Callable[[list[T]], Awaitable[Sequence[R]]],
    items: Iterable[T] | AsyncIterable[T],
    *,
    batch_size: int,
    max_concurrency: int,
) -> AsyncIterator[tuple[int, R]]:
    """Edit items in tasks, a batch in each; as `as_completed`."""
    given = aiter(items) if isinstance(items, AsyncIterable) else _awaited(items)
    number = 0
    running: dict[asyncio.Future[Sequence[R]], int] = {}
    broken: Exception | None = None
    ended = False
    try:
        while running or not ended:
            while not ended and len(running) < max_concurrency:
                batch: list[T] = []
                try:
                    while len(batch) < batch_size:
                        batch.append(await anext(given))
                except StopAsyncIteration:
                    ended = True
                except Exception as error:  # noqa: BLE001 - raised when what was read is done
                    ended, broken = True, error
                if batch:
                    running[asyncio.ensure_future(edit(batch))] = number
                    number += len(batch)
            if not running:
                continue
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for made in done:
                for result in enumerate(made.result(), running.pop(made)):
                    yield result
    finally:
        for task in running:
            task.cancel()
    if broken is not None:
        raise broken


async def _awaited(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item
