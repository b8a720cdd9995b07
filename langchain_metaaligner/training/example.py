"""One training example: what the aligner is asked, and the edit that is wanted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.objectives import Objective
from langchain_metaaligner.prompting import PromptFamily

Stage = Literal["warm_up", "equal", "contrastive"]
# The order of training in Yang et al. 2024 (arXiv 2403.17141), section 3.2.
STAGES: tuple[Stage, ...] = ("warm_up", "equal", "contrastive")

_IMPROVE = "to improve it considering these aspects"
# The wording of the authors' training scripts for pairs that are equally good.
_EQUAL = "to make it equal considering these aspects"


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A conversation, an answer, and the edit of it that the objectives ask for.

    Attributes:
        context: The conversation as the family renders it, or text that is used as it is.
        answer: The answer to edit.
        objectives: What the edit is made towards, in the order of the prompt.
        edit: The wanted edit.
        stage: The step of training that it belongs to.
        kind: Where it comes from, for counting.
    """

    context: str
    answer: str
    objectives: tuple[Objective, ...]
    edit: str
    stage: Stage = "contrastive"
    kind: str = "preference"

    def render(self, family: PromptFamily) -> tuple[str, str]:
        """Write the prompt and the completion that a model of the family is trained on.

        Args:
            family: The prompts that the aligner will be asked with.

        Returns:
            The prompt, byte for byte as the engines render it (of the equal stage: with the
            authors' other wording), and the edit. What the prompt disarms of the answer is
            disarmed in the edit too: so is what an engine's edit holds before it is restored.

        Raises:
            CheckpointError: The family has no wording for the equal stage.
        """
        asked = _equal(family) if self.stage == "equal" else family
        prompt = asked.render(self.context, self.answer, self.objectives)
        if not prompt.undo:
            return prompt.text, self.edit
        kept = asked.render(self.context, self.edit, self.objectives)
        back = {chr(lookalike): char for lookalike, char in prompt.undo.items()}
        same = kept.undo and {chr(k): v for k, v in kept.undo.items()} == back
        return prompt.text, kept.draft if same else self.edit


def _equal(family: PromptFamily) -> PromptFamily:
    if _IMPROVE not in family.template:
        msg = (
            f"The family {family.name} has no wording for answers that are equally good. Leave"
            " out the equal stage, or train for HH-RLHF or UltraFeedback."
        )
        raise CheckpointError(msg)
    return dataclasses.replace(family, template=family.template.replace(_IMPROVE, _EQUAL))
