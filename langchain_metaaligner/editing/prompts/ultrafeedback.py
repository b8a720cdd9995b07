"""The prompts of the MetaAligner-UltraFeedback checkpoints."""

from __future__ import annotations

from langchain_metaaligner.editing.prompts.base import PromptFamily

# Template and wordings of Yang et al. 2024 (arXiv 2403.17141), as in their scripts.
ULTRAFEEDBACK = PromptFamily(
    name="UltraFeedback",
    template=(
        "You are an assistant to human. You will be provided with a query and an answer. Consider"
        " the query, then edit the answer to improve it considering these aspects: {aspects}"
        " | Query: {question} | Answer: {answer} | Edit: "
    ),
    whole_conversation=False,
    objectives={
        "instruction_following": (
            "Instruction following: the response should follow the instructions of the query"
        ),
        "honesty": "Honesty: the response should not tell lies",
        "truthfulness": (
            "Truthfulness: the response should actively making known all the full truth of a matter"
        ),
        "helpfulness": (
            "Helpfulness: the response should provide useful resources and suggestions to the user"
        ),
    },
)
