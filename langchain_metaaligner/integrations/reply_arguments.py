"""The typed keyword arguments of the runnable, the middleware and the chat model.

Made from `options.py` by `make format`; `make lint` compares the two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Literal

from langchain_core.language_models import BaseChatModel

from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.aligner_arguments import AlignerArguments
from langchain_metaaligner.editing.alignment import Alignment
from langchain_metaaligner.editing.objectives import Objectives
from langchain_metaaligner.integrations.reply_policy import When

__all__ = ["ReplyArguments"]


class ReplyArguments(AlignerArguments, total=False):
    """Options of the runnable, the middleware and the chat model."""

    model: str | os.PathLike[str] | BaseChatModel | None
    """Hub id or folder of the checkpoint, address of a server, a GGUF file (its path, or
    `hub_id:file.gguf`), or a LangChain chat model, which is asked to edit. `None` uses the
    environment variable `METAALIGNER_MODEL`, or the embedded aligner if it is not set."""

    aligner: Aligner | None
    """An existing `Aligner` to use, instead of options for a new one."""

    on_error: Literal["raise", "pass", "block"]
    """What to do when an edit fails: raise the error, pass the original through, or block it and
    return a fixed message."""

    block_message: str
    """The text that replaces a blocked answer."""

    on_leak: Literal["raise", "ignore"]
    """What to do when tokens of the unedited reply have already reached a consumer: raise
    `LeakError`, or ignore it."""

    keep_original: bool
    """Keep the original text in the message's metadata."""

    apply: bool
    """`False` is shadow mode: edit and report, but return the original."""

    allow_objectives: Objectives | None
    """Objectives that a call may ask for, besides the aligner's own; `None` allows any."""

    required_objectives: Objectives
    """Objectives that every edit pursues, whatever a call asks for. They come first."""

    allow_context: bool
    """Whether a call may replace the context by its config; if not, that is an error."""

    config_keys: Mapping[str, str] | None
    """Other names for the keys `objectives` and `context` in a call's config, where an
    application uses these names for something else."""

    edit_tool_text: bool
    """Also edit text that comes with tool calls."""

    edit_refusals: bool
    """Also edit the refusals that providers mark as such, which then become text. Otherwise their
    status is `skipped`."""

    when: When | None
    """`when(reply, context) -> bool` decides whether a reply is edited; if not, its status is
    `skipped`. `reply` is the message or text; `context` is what it answers (messages, a `Context`
    or text), or `None` if that is not known."""

    on_edit: Callable[[Alignment], object] | None
    """A function that is called with the `Alignment` of each edit or failure; `EditRecords` writes
    them to a file."""
