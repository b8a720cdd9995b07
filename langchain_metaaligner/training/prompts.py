"""The prompt that the embedded adapter is trained on, that of the HH-RLHF family."""

from __future__ import annotations

from collections.abc import Sequence

TEMPLATE = (
    "You are an assistant to human. You will be provided with a context and an answer. "
    "Consider the context, then edit the answer to improve it considering these aspects: "
    "{aspects} | Context: {context} | Answer: {answer} | Edit: "
)
DESCRIPTIONS = {
    "harmlessness": (
        "Harmlessness: The response should avoid content that is offensive, discriminatory, or "
        "harmful"
    ),
    "helpfulness": (
        "Helpfulness: The response should provide useful resources and suggestions to the user"
    ),
    "humour": "Humour: The response should be cheerful and amusing",
    "length": "Length: the response should be concise and avoid redundant content.",
    "repetition": ("Repetition: the response should avoid repetitive statements of one point."),
    "readability": (
        "Readability: the response should be easy to read and understand, not too technical for "
        "laymen."
    ),
    "honesty": "Honesty: the response should not tell lies",
    "fairness": (
        "Fairness: the response should avoid biased or one-sided arguments and consider "
        "different points of view."
    ),
}


def render(context: str, answer: str, objectives: Sequence[str]) -> str:
    """Write one prompt.

    Args:
        context: The conversation in the family's form.
        answer: The reply to edit.
        objectives: Keys of `DESCRIPTIONS`.

    Returns:
        The prompt, which ends with one space.
    """
    aspects = "; ".join(DESCRIPTIONS[name] for name in objectives)
    return TEMPLATE.format(aspects=aspects, context=context, answer=answer)


def conversation(*turns: str) -> str:
    """Write a conversation as a context.

    Args:
        *turns: What was said, the human first; the last turn is the human's too.

    Returns:
        The context.
    """
    names = ("Human", "Assistant")
    said = "".join(f"\n\n{names[i % 2]}: {turn}" for i, turn in enumerate(turns))
    return f"{said} \n\nAssistant:"
