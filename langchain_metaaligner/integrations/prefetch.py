"""Prefills an edit's prompt in the background while the policy is still generating."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessageChunk

from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.objectives import Objectives
from langchain_metaaligner.editing.reply_message import answer_text
from langchain_metaaligner.engines.processes import Lock
from langchain_metaaligner.engines.threads import Pool

logger = logging.getLogger(__name__)

# Characters, about 30 tokens: with smaller steps, starting a pass costs more than computing it.
_STEP = 128

# Prefilling is of use only if it is ahead of the edits, and then a few threads are enough.
_POOL = Pool("metaaligner-prefetch", 16)

_TOOL_CALLS = ("tool_call", "tool_call_chunk", "invalid_tool_call", "tool-call-delta")

What = tuple[Any, Objectives]
"""The context and the objectives of a reply's edit."""


class Prefetch:
    """Prefills the prompt of an edit until the reply is complete or turns out not to be edited.

    Prefilling only makes the edit start sooner; it never changes the text. Errors are ignored
    here, because the edit will meet and report them. A `Prefetch` is a context manager that stops
    at its end.

    Args:
        get_aligner: Returns the aligner that will make the edit.
        find: Returns the context and the objectives, or `None` if there will be nothing to edit.
            It is called with the first piece of the reply that contains text, or with `None` before
            there is any.

    Attributes:
        over: Whether nothing more will be prefilled, so that no more pieces need to be added.
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
        """Start to prefill the context; does nothing if it has already started or stopped.

        Args:
            piece: The beginning of the reply, if there is one.
        """
        find, self._find = self._find, None
        if find is None:
            return
        # The edit itself reports any error.
        with suppress(Exception):
            aligner = self._get_aligner()
            if aligner.prefills and (what := find(piece)) is not None:
                self._worker = _Worker(aligner, *what)
        self.over = self._worker is None

    def add(self, piece: Any) -> None:
        """Add a piece of the policy's reply.

        Args:
            piece: The next piece. A tool call, or anything that is not a message chunk or text,
                stops the prefill, because such a reply is not edited.
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
        """Discard the reply so far, because another model or another attempt starts it again."""
        self._text = ""

    def stop(self) -> None:
        """Stop; a forward pass that is running ends by itself."""
        self._find, self.over = None, True
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


class Overhearing(BaseCallbackHandler):
    """Passes the tokens of a model to a `Prefetch` when the stream itself goes elsewhere.

    Args:
        prefetch: The `Prefetch` that gets the tokens.
    """

    run_inline = True  # so that tokens arrive in order

    def __init__(self, prefetch: Prefetch) -> None:
        self._prefetch = prefetch
        self._run_id: Any = None
        self._by_events = False

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        """Follow the model that has started last."""
        self._run_id, self._by_events = kwargs.get("run_id"), False
        self._prefetch.restart()

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
        """Add a token."""
        if kwargs.get("run_id") == self._run_id and not self._by_events:
            self._prefetch.add(getattr(chunk, "message", token))

    def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        """Add a piece of text from LangChain's stream event protocol."""
        if kwargs.get("run_id") == self._run_id and isinstance(event, Mapping):
            if not self._by_events:  # some models report the same text as tokens too
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
    """Prefills in a thread of the pool, which it leaves while there is nothing to prefill."""

    def __init__(self, aligner: Aligner, context: Any, objectives: Objectives) -> None:
        self._what = aligner, context, objectives
        self._answer = ""
        self._done = ""
        self._changed = Lock()
        self._cancelled = threading.Event()
        self._busy = True
        self._working = _POOL.submit(self._work)

    def grow(self, answer: str) -> None:
        with self._changed:
            self._answer = answer
            if self._busy or not _is_worth(answer, self._done):
                return
            self._busy = True
        self._working = _POOL.submit(self._work)

    def stop(self) -> None:
        self._cancelled.set()
        self._working.cancel()

    def _work(self) -> None:
        aligner, context, objectives = self._what
        answer = self._done  # at first empty: the context alone, which is already known
        while not self._cancelled.is_set():
            try:
                aligner.warm(context, objectives, answer, cancelled=self._cancelled)
            except BaseException as error:  # noqa: BLE001 - the edit itself reports the error
                logger.debug("Prefilling stopped after an error: %r", error)
                return
            with self._changed:
                self._done, answer = answer, self._answer
                if not _is_worth(answer, self._done):
                    self._busy = False
                    return


def is_piece(reply: Any) -> bool:
    """Whether an object is a piece of a streamed reply.

    Args:
        reply: The object.
    """
    return isinstance(reply, str | AIMessageChunk)


def _is_worth(answer: str, done: str) -> bool:
    """Whether an answer has enough text that is not prefilled yet."""
    fresh = len(answer) - (len(done) if answer.startswith(done) else 0)
    return fresh >= _STEP
