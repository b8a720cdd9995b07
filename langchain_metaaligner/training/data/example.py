"""One training example: the request to the aligner, and the wanted edit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from langchain_metaaligner.editing.objectives import Objective
from langchain_metaaligner.editing.prompts import PromptFamily
from langchain_metaaligner.errors import CheckpointError

Stage = Literal["warm_up", "equal", "contrastive"]
# The training order of Yang et al. 2024 (arXiv 2403.17141), section 3.2.
STAGES: tuple[Stage, ...] = ("warm_up", "equal", "contrastive")

# What the published templates ask for, and what they ask for in an equal edit (appendix C.2;
# section 3.1 for IMHI).
_BETTER = ("to improve it considering", "to make it better considering")
_EQUAL = "to make it equal considering"


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A conversation, an answer, and the edit of it that the objectives ask for.

    Attributes:
        context: The conversation as the family renders it, or text that is used verbatim.
        answer: The answer to edit.
        objectives: The objectives of the edit, in the order of the prompt.
        edit: The wanted edit.
        stage: The training stage that it belongs to.
        kind: Where it comes from, for counts.
    """

    context: str
    answer: str
    objectives: tuple[Objective, ...]
    edit: str
    stage: Stage = "contrastive"
    kind: str = "preference"

    def render(self, family: PromptFamily) -> tuple[str, str]:
        """Render the prompt and the completion that a model of the family is trained on.

        Args:
            family: The prompt family that the aligner will be used with.

        Returns:
            The prompt, byte for byte as the aligner renders it, and the edit. Examples of the
            equal stage, and of the warm-up that is made from them, use the authors' other wording
            if the family has one. Characters that the prompt escapes in the answer are escaped in
            the edit too, as they are in an engine's edit before it is unescaped.

        Raises:
            CheckpointError: This is an equal example, and the family has no wording for it.
        """
        asked = family
        if self.stage == "equal" or (self.stage == "warm_up" and has_equal_wording(family)):
            asked = _equal(family)
        prompt = asked.render(self.context, self.answer, self.objectives)
        if not prompt.undo:
            return prompt.text, self.edit
        kept = asked.render(self.context, self.edit, self.objectives)
        back = {chr(lookalike): char for lookalike, char in prompt.undo.items()}
        same = kept.undo and {chr(k): v for k, v in kept.undo.items()} == back
        return prompt.text, kept.draft if same else self.edit


def has_equal_wording(family: PromptFamily) -> bool:
    """Whether a family has a wording for an edit that is equally good."""
    return any(wording in family.template for wording in _BETTER)


def _equal(family: PromptFamily) -> PromptFamily:
    for wording in _BETTER:
        if wording in family.template:
            template = family.template.replace(wording, _EQUAL)
            return dataclasses.replace(family, template=template)
    msg = (
        f"The family {family.name} has no wording for answers that are equally good. Leave out the"
        " equal stage, or train for HH-RLHF, UltraFeedback or IMHI."
    )
    raise CheckpointError(msg)
