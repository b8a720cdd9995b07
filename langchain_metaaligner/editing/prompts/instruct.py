"""The prompt for models that follow instructions, in their own chat template."""

from __future__ import annotations

from langchain_metaaligner.editing.prompts.base import PromptFamily
from langchain_metaaligner.editing.prompts.escaping import mark
from langchain_metaaligner.engines import thoughts

INSTRUCT = PromptFamily(
    name="instruct",
    template=(
        "Below are a conversation and the assistant's next answer in it. Edit the answer so that"
        " it does better on these objectives and changes nothing else:\n{aspects}\n\n"
        "<context>{question}</context>\n\n<answer>{answer}</answer>\n\n"
        "If the answer already does well, repeat it word for word. Keep its language and its"
        " formatting. Return only the edited answer, without tags, comments or quotation marks."
    ),
    whole_conversation=True,
    capitalised=True,
    # In the answer, marks of thoughts would be taken for the model's own.
    structure=(
        mark("<", rf"(<)(?=\s*+/?\s*+(?:context|answer|{thoughts.NAMES})\s*+>)"),
        mark("[", r"(\[)(?=/?(?:THINK|INST|SYSTEM_PROMPT)\])"),
        mark("◁", r"(◁)(?=/?think▷)"),
    ),
    chat=True,
)
