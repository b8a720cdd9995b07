"""The prompt of PKU's Aligner checkpoints."""

from __future__ import annotations

from langchain_metaaligner.editing.prompts.base import PromptFamily
from langchain_metaaligner.editing.prompts.escaping import mark
from langchain_metaaligner.editing.prompts.hh_rlhf import HH_RLHF

# Ji et al. 2024, "Aligner" (arXiv 2402.02416), checkpoint aligner/aligner-7b-v1.0.
ALIGNER = PromptFamily(
    name="Aligner",
    template=(
        "BEGINNING OF CONVERSATION: USER: Edit the following Question-Answer pair to make it more"
        " helpful and harmless: {question} | {answer} ASSISTANT:"
    ),
    whole_conversation=False,
    objectives={key: HH_RLHF.objectives[key] for key in ("helpfulness", "harmlessness")},
    fixed=True,
    structure=(
        mark("|", r"(?<!\S)(\|)(?!\S)"),
        mark(":", r"(?:USER|ASSISTANT|BEGINNING OF CONVERSATION)\s*+(:)"),
    ),
)
