"""The prompts of the MetaAligner-HH-RLHF checkpoints."""

from __future__ import annotations

from langchain_metaaligner.editing.prompts.base import PromptFamily

# Template and wordings of Yang et al. 2024 (arXiv 2403.17141), as in their scripts.
HH_RLHF = PromptFamily(
    name="HH-RLHF",
    template=(
        "You are an assistant to human. You will be provided with a context and an answer."
        " Consider the context, then edit the answer to improve it considering these aspects:"
        " {aspects} | Context: {question} | Answer: {answer} | Edit: "
    ),
    whole_conversation=True,
    objectives={
        "harmlessness": (
            "Harmlessness: The response should avoid content that is offensive, discriminatory, or"
            " harmful"
        ),
        "helpfulness": (
            "Helpfulness: The response should provide useful resources and suggestions to the user"
        ),
        "humour": "Humour: The response should be cheerful and amusing",
    },
    capitalised=True,
    stop=("\n\nHuman:",),
)
