"""Refuses to edit a reply that a consumer has already seen."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from langchain_metaaligner.errors import LeakError
from langchain_metaaligner.integrations._langchain import has_streamed, streams_messages
from langchain_metaaligner.integrations.capture import ModelRun
from langchain_metaaligner.integrations.hushing import NOSTREAM


def check_leak(
    handlers: Iterable[Any],
    metadata: Mapping[str, Any],
    model_run: ModelRun,
    reply_id: str | None = None,
    *,
    whole: bool = True,
) -> None:
    """Refuse to edit a reply of a model in a graph that a LangGraph consumer has seen.

    Args:
        handlers: The handlers of the aligner's run.
        metadata: The metadata of the aligner's run. It says where in the graph the aligner is, and
            nothing else rests on it.
        model_run: The model run in a graph that made the reply.
        reply_id: The reply's id, if it has one. A step in between may have given it another one.
        whole: Whether the reply is complete, so that it will be edited now.

    Raises:
        LeakError: A consumer of `stream_mode="messages"` has seen the unedited reply.
    """
    handlers = list(handlers)
    here, there = str(metadata.get("langgraph_checkpoint_ns") or ""), model_run.graph_namespace
    elsewhere = not (here.startswith(there) or there.startswith(here))
    hushed = NOSTREAM in model_run.tags
    if not hushed and streams_messages(handlers):
        raise LeakError(_LEAKED_STATE if elsewhere else _LEAKED)
    # The message that a node returns is seen even where its tokens were hushed. Where another
    # aligner has edited the same reply here, what was seen under its id is that edit.
    edited_in = model_run.edited_in
    if here not in (there, *edited_in) and has_streamed(handlers, (reply_id, model_run.reply_id)):
        raise LeakError(_LEAKED_STATE)
    rightly = model_run.may_be_seen or edited_in
    if not rightly and has_streamed(handlers, (model_run.reply_id,)):
        raise LeakError(_LEAKED_MESSAGE)
    if whole:
        model_run.edited_in = (*edited_in, here)
    if (elsewhere or not hushed) and "langgraph_node" in metadata:
        _warn_once(_WOULD_LEAK)


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=2)


_REMEDY = (
    " Put the model and the aligner into one pipe (llm | aligner), or wrap the node that calls"
    " both: hushed(node). on_leak='ignore' turns this check off."
)
_LEAKED = (
    "Tokens of the unedited reply have already reached a consumer of stream_mode='messages',"
    " because the model ran unhushed in this graph." + _REMEDY
)
_LEAKED_STATE = (
    "The unedited reply came from another node or graph, so consumers of its state and of"
    " stream_mode='messages' have seen it." + _REMEDY
)
_LEAKED_MESSAGE = (
    "The node itself has shown the unedited reply to consumers of stream_mode='messages', with"
    " push_message for instance. Show the edited message instead. on_leak='ignore' turns this check"
    " off."
)
_WOULD_LEAK = (
    "The model ran unhushed in this graph: with stream_mode='messages', consumers would see the"
    " unedited reply." + _REMEDY
)
