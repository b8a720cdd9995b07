"""Runs work in a new daemon thread, which does not keep the process alive."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def start(work: Callable[[], T], name: str) -> Future[T]:
    """Start work in a new thread, with the caller's context variables.

    A thread pool is shared, asyncio's default pool above all. Work that hangs in a pool blocks
    other users of the pool and keeps the process from ending.

    Args:
        work: The function to call.
        name: The thread's name.

    Returns:
        The future result; cancelling it has no effect.
    """
    made: Future[T] = Future()
    made.set_running_or_notify_cancel()
    inside = contextvars.copy_context()

    def run() -> None:
        try:
            made.set_result(inside.run(work))
        except BaseException as error:  # noqa: BLE001 - raised again by `Future.result`
            made.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return made
