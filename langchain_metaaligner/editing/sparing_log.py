"""Keeps warnings that may come with every reply from filling the log."""

from __future__ import annotations

import logging
import time

from langchain_metaaligner.engines.processes import Lock

_SECONDS = 60.0
_KINDS = 64  # enough for all statuses and errors of a face; a limit, because errors have any class


class SparingLog:
    """Logs one message of each kind a minute, and how many others were left out.

    Args:
        logger: Where the messages go.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = Lock()
        # When a message of each kind was logged last, and how many were left out since then.
        self._kinds: dict[str, tuple[float, int]] = {}

    def __reduce__(self) -> tuple[type[SparingLog], tuple[logging.Logger]]:
        return SparingLog, (self._logger,)

    def tell(self, kind: str, message: str, *, error: BaseException | None = None) -> None:
        """Log a warning, unless one of its kind was logged within the last minute.

        Args:
            kind: What counts as the same.
            message: The message.
            error: An error to log with its traceback; the message then is an error, too.
        """
        now = time.monotonic()
        with self._lock:
            last, left_out = self._kinds.get(kind, (-_SECONDS, 0))
            if now - last < _SECONDS:
                self._kinds[kind] = (last, left_out + 1)
                return
            if len(self._kinds) >= _KINDS:
                self._kinds.clear()
            self._kinds[kind] = (now, 0)
        more = f" ({left_out} more like this were not logged)" if left_out else ""
        level = logging.WARNING if error is None else logging.ERROR
        self._logger.log(level, "%s%s", message, more, exc_info=error)
