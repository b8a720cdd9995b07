"""Prefills an edit's prompt in the background while the policy is still at work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessageChunk

from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.conversation import answer_text
from langchain_metaaligner.editing.objectives import Objectives

logger = logging.getLogger(__name__)

_STEP = 128  # characters, some 30 tokens: smaller pieces cost more to start than to compute

_TOOL_CALLS = ("tool_call", "tool_call_chunk", "invalid_tool_call", "tool-call-delta")

What = tuple[Any, Objectives]
"""The context of a reply and what its edit is made towards."""


class Prefetch:
    """Prefills what comes before a reply's edit, until the reply is whole or is none to edit.

    What was prefilled changes when the edit begins, and nothing else: whatever goes wrong here is
    left to the edit to find out. It is a context manager that stops at its end.

    Args:
        get_aligner: Gives whoever will edit.
        find: Says in which context and towards what, given the first piece of the reply that
            holds text, or `None` where it is asked before there is any. It gives `None` where
            there will be nothing to edit.

    Attributes:
        over: Whether nothing more will be prefilled, so that nobody needs to tell it anything.
    """

    def __init__(
        self,
        get_aligner: Callable[[], Aligner],
        find: Callable[[str | AIMessageChunk | None], What | None],
    ) -> None:
        self._get_aligner = get_aligner
        self._find: Callable[[Any], What | None] | None = find
        self._text = ""
        self._worker: _Worker | None = None
        self.over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def begin(self, piece: str | AIMessageChunk | None = None) -> None:
        """Prefill the context; once begun, or stopped, it does nothing.

        Args:
            piece: The beginning of the reply, where there is one.
        """
        find, self._find = self._find, None
        if find is None:
            return
        # Whatever is wrong, the edit itself will tell.
        with suppress(Exception):
            aligner = self._get_aligner()
            if aligner.prefills and (what := find(piece)) is not None:
                self._worker = _Worker(aligner, *what)
        self.over = self._worker is None

    def add(self, piece: Any) -> None:
        """Take note of what the policy has said.

        Args:
            piece: The next piece of the reply. One with a tool call ends it, and so does one that
                is no piece of a text: what comes then is no answer to edit.
        """
        if self.over:
            return
        if not is_piece(piece) or getattr(piece, "tool_call_chunks", None):
            self.stop()
            return
        self._text += answer_text(piece)
        if self._text.strip():
            self.begin(piece)
            if self._worker is not None:
                self._worker.grow(self._text)

    def restart(self) -> None:
        """Take note that the reply begins anew: another model makes it, or the same once more."""
        self._text = ""

    def stop(self) -> None:
        """Prefill nothing more; a pass that is under way ends by itself."""
        self._find, self.over = None, True
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


class Overhearing(BaseCallbackHandler):
    """Tells a `Prefetch` what a model says whose stream goes to somebody else.

    Args:
        prefetch: What is told.
    """

    run_inline = True  # in the order in which it was said

    def __init__(self, prefetch: Prefetch) -> None:
        self._prefetch = prefetch
        self._run_id: Any = None
        self._by_events = False

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        """A model begins; where several do, the last is the one to listen to."""
        self._run_id, self._by_events = kwargs.get("run_id"), False
        self._prefetch.restart()

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
        """It says something."""
        if kwargs.get("run_id") == self._run_id and not self._by_events:
            self._prefetch.add(getattr(chunk, "message", token))

    def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        """It says something in LangChain's protocol of events."""
        if kwargs.get("run_id") == self._run_id and isinstance(event, Mapping):
            if not self._by_events:  # some models tell the same as tokens, too
                self._by_events = True
                self._prefetch.restart()
            said = event.get("delta") or event.get("content") or {}
            kind = said.get("type")
            if kind == "block-delta":
                kind = (said.get("fields") or {}).get("type")
            if kind == "text-delta":
                self._prefetch.add(said["text"])
            elif kind in _TOOL_CALLS:
                self._prefetch.stop()


class _Worker:
    """The thread that prefills."""

    def __init__(self, aligner: Aligner, context: Any, objectives: Objectives) -> None:
        self._what = aligner, context, objectives
        self._answer = ""
        self._changed = threading.Condition()
        self._cancelled = threading.Event()
        threading.Thread(target=self._work, name="metaaligner-prefetch", daemon=True).start()

    def grow(self, answer: str) -> None:
        with self._changed:
            self._answer = answer
            self._changed.notify()

    def stop(self) -> None:
        self._cancelled.set()
        with self._changed:
            self._changed.notify()

    def _work(self) -> None:
        aligner, context, objectives = self._what
        answer = ""  # the context alone is first: it is there already
        while True:
            if self._cancelled.is_set():
                return
            try:
                aligner.warm(context, objectives, answer, cancelled=self._cancelled)
            except BaseException as error:  # noqa: BLE001 - the edit itself will say what is wrong
                logger.debug("Nothing more is prefilled ahead: %r", error)
                return
            with self._changed:
                while not self._cancelled.is_set() and not _is_worth(self._answer, answer):
                    self._changed.wait()
                answer = self._answer


def is_piece(reply: Any) -> bool:
    """Whether it is a part of a reply, of which more may come."""
    return isinstance(reply, str | AIMessageChunk)


def _is_worth(answer: str, done: str) -> bool:
    """Whether there is enough to prefill beside what was prefilled already."""
    fresh = len(answer) - (len(done) if answer.startswith(done) else 0)
    return fresh >= _STEP
