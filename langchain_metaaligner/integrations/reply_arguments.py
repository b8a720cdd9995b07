"""The keyword arguments that every face in LangChain takes, typed.

Made from `options.py` by `make format`; `make lint` compares the two.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.aligner_arguments import AlignerArguments
from langchain_metaaligner.editing.alignment import Alignment
from langchain_metaaligner.editing.objectives import Objectives
from langchain_metaaligner.integrations.reply_policy import When

__all__ = ["ReplyArguments"]


class ReplyArguments(AlignerArguments, total=False):
    """Options of a face."""

    model: str | os.PathLike[str] | None
    """Hub id or folder of the checkpoint. `None` is the environment variable `METAALIGNER_MODEL`,
    else the embedded aligner."""

    aligner: Aligner | None
    """An `Aligner` to share, instead of options for a new one."""

    on_error: Literal["raise", "pass", "block"]
    """When an edit fails: raise the error, pass the original on, or block it with a fixed
    message."""

    block_message: str
    """What takes a blocked answer's place."""

    on_leak: Literal["raise", "ignore"]
    """When tokens of the unedited reply have already reached a consumer."""

    keep_original: bool
    """Keep the original text in the message's metadata."""

    apply: bool
    """`False` is shadow mode: edit, report, return the original."""

    allow_objectives: Objectives | None
    """What a caller may ask for beyond this aligner's own objectives; `None` is everything."""

    edit_tool_text: bool
    """Edit the text beside tool calls too."""

    when: When | None
    """`when(reply, context) -> bool` decides whether a reply is edited at all; otherwise it is
    `skipped`. `reply` is the message or text, `context` what it answers (messages, a `Context` or
    text), `None` if that is not known."""

    on_edit: Callable[[Alignment], object] | None
    """Called with the record of each edit or failure."""
