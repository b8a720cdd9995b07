"""The prompts of the MetaAligner-IMHI checkpoints."""

from __future__ import annotations

from langchain_metaaligner.editing.prompts.base import PromptFamily

# Template and wordings of Yang et al. 2024 (arXiv 2403.17141), as in their scripts.
IMHI = PromptFamily(
    name="IMHI",
    template=(
        "Edit the following Question-Answer pair to make it better considering these aspects"
        ' "{aspects}" | Question: {question} | Answer: {answer} | Edit: '
    ),
    whole_conversation=False,
    objectives={
        "correctness": "Correctness: the explanations should make correct predictions",
        "informativeness": (
            "Informative: the response should express clear logic and provide consistent evidence"
        ),
        "professionalism": (
            "Professional: the response should provide evidence with high quality and reliability"
        ),
    },
)
