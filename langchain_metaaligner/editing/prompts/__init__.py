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


def family_of(name: str) -> PromptFamily | None:
    """Find a checkpoint's family from its name.

    Args:
        name: A hub id, a folder or a file.

    Returns:
        The family; `None` if the name doesn't tell.
    """
    if (known := checkpoints.family_of(name, {})) is not None:
        return find_family(known)
    matching = (
        family for family in FAMILIES if family.checkpoints and family.checkpoints.search(name)
    )
    return next(matching, None)
