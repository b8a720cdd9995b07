"""The prompt families, one file each; a new family must be listed here."""

from __future__ import annotations

import re

from langchain_metaaligner import checkpoints
from langchain_metaaligner.editing.prompts.base import (
    Objective,
    Prompt,
    PromptFamily,
    parse_conversation,
    render_conversation,
)
from langchain_metaaligner.editing.prompts.hh_rlhf import HH_RLHF
from langchain_metaaligner.editing.prompts.imhi import IMHI
from langchain_metaaligner.editing.prompts.instruct import INSTRUCT
from langchain_metaaligner.editing.prompts.pku_aligner import ALIGNER
from langchain_metaaligner.editing.prompts.ultrafeedback import ULTRAFEEDBACK
from langchain_metaaligner.engines.base import Engine
from langchain_metaaligner.errors import CheckpointError

__all__ = [
    "ALIGNER",
    "FAMILIES",
    "HH_RLHF",
    "IMHI",
    "INSTRUCT",
    "ULTRAFEEDBACK",
    "Objective",
    "Prompt",
    "PromptFamily",
    "family_of",
    "find_family",
    "parse_conversation",
    "render_conversation",
]

FAMILIES: tuple[PromptFamily, ...] = (HH_RLHF, ULTRAFEEDBACK, IMHI, ALIGNER, INSTRUCT)


def find_family(name: str) -> PromptFamily:
    """Find a family by its name, ignoring case and separators.

    Args:
        name: For instance `HH-RLHF`, `ultrafeedback` or `instruct`.

    Returns:
        The family.

    Raises:
        CheckpointError: There is no such family.
    """
    wanted = re.sub(r"[^a-z0-9]", "", name.lower())
    for family in FAMILIES:
        if wanted == re.sub(r"[^a-z0-9]", "", family.name.lower()):
            return family
    msg = (
        f"There is no prompt family {name!r}. Known are"
        f" {', '.join(family.name for family in FAMILIES)}. Choose the family that the checkpoint"
        " was trained with, or 'instruct' for a model with a chat template."
    )
    raise CheckpointError(msg)


def family_of(engine: Engine) -> PromptFamily | None:
    """Tell which prompts an engine's model was trained on.

    Args:
        engine: The engine; its `origin` is read only where its name tells nothing.

    Returns:
        The family; `None` where nothing tells.
    """
    hint = engine.family_hint
    told, own = _told_by(engine.name)
    if told is None and own is None:
        told, own = _told_by(engine.origin)
    # What the engine makes of a name or of a chat template counts less than a family that knows
    # its checkpoints; what a checkpoint's files say outright counts more.
    if own is not None and hint in (None, told, INSTRUCT.name):
        return own
    known = told if hint is None else hint
    return None if known is None else find_family(known)


def _told_by(name: str) -> tuple[str | None, PromptFamily | None]:
    """What the table of published names makes of a name, and the family that knows it itself."""
    own = (one for one in FAMILIES if one.checkpoints and one.checkpoints.search(name))
    return checkpoints.family_of(name, {}), next(own, None)
