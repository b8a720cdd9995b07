"""Prefills an edit's prompt in the background while the answer is still being written."""

from __future__ import annotations

import logging
import threading
from typing import Any

from langchain_metaaligner.aligner import Aligner, Objectives

logger = logging.getLogger(__name__)

_STEP = 128  # characters, some 30 tokens: smaller pieces cost more to start than to compute


class Ahead:
    """Prefills the context at once, and the answer as it grows.

    What was prefilled changes when the edit begins, and nothing else: whatever goes wrong here is
    left to the edit to find out.

    Args:
        aligner: Who will edit.
        context: The context of the edit.
        objectives: Its objectives.
    """

    def __init__(self, aligner: Aligner, context: Any, objectives: Objectives) -> None:
        self._what = aligner, context, objectives
        self._answer = ""
        self._changed = threading.Condition()
        self._gone = threading.Event()
        self._worker = threading.Thread(target=self._work, name="metaaligner-ahead", daemon=True)
        self._worker.start()

    def grow(self, answer: str) -> None:
        """Take note of how far the answer is.

        Args:
            answer: All of it so far.
        """
        with self._changed:
            self._answer = answer
            self._changed.notify()

    def stop(self) -> None:
        """Prefill nothing more; a pass that is under way ends by itself."""
        self._gone.set()
        with self._changed:
            self._changed.notify()

    def _work(self) -> None:
        aligner, context, objectives = self._what
        enough = 0
        while True:
            with self._changed:
                while len(self._answer) < enough and not self._gone.is_set():
                    self._changed.wait()
                answer = self._answer
            if self._gone.is_set():
                return
            try:
                aligner.warm(context, objectives, answer, gone=self._gone)
            except BaseException as error:  # noqa: BLE001 - the edit itself will say what is wrong
                logger.debug("Nothing more is prefilled ahead: %r", error)
                return
            enough = len(answer) + _STEP
