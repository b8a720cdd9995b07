"""Runs work in a daemon thread of its own, which nobody has to wait for."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def start(work: Callable[[], T], name: str) -> Future[T]:
    """Begin work in a new thread, with the caller's context variables.

    Pools are shared, asyncio's default one most of all: work that hangs there takes the place of
    everybody else's, and holds up the end of the process.

    Args:
        work: What to do.
        name: The thread's name.

    Returns:
        The result to come; cancelling it does nothing.
    """
    made: Future[T] = Future()
    made.set_running_or_notify_cancel()
    inside = contextvars.copy_context()

    def run() -> None:
        try:
            made.set_result(inside.run(work))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            made.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return made
