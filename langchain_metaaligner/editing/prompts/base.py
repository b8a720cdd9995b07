"""A family of prompts: how its checkpoints want to be asked, rendered so that no text forges it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from langchain_metaaligner.editing.conversation import Turn
from langchain_metaaligner.editing.prompts.escaping import FIELD, TURN, Mark, control_marks, escape
from langchain_metaaligner.errors import UnknownObjectiveError
from langchain_metaaligner.pickles import reduce_at_root

# A longer head before a colon is a part of the sentence.
_WORDS_OF_A_NAME = 3


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective: what the edited answer should do better.

    Attributes:
        name: Short name, for provenance and allow-lists.
        description: The sentence that goes into the prompt. The published models know sentences of
            the form `Name: The response should …`; one without its name in front gets it there.
    """

    name: str
    description: str
    # Whether it is one of the catalogue, which each family words as it was trained on it.
    catalogued: bool = field(default=False, kw_only=True, compare=False, repr=False)

    __reduce_ex__ = reduce_at_root

    def __setstate__(self, state: Sequence[str]) -> None:
        # Pickles of 0.1 hold the values of that version's fields.
        name, description = state
        Objective.__init__(self, name, description)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt.

    Attributes:
        text: The prompt, byte for byte; for a chat family the one user message.
        draft: The answer as it stands in the prompt.
        undo: Look-alike (as a code point) to the character that it stands for.
        draft_at: Offset of the answer's first character in the text, where it is known.
        templated: Whether the model's chat template has written the text.
    """

    text: str = field(repr=False)
    draft: str = field(repr=False)
    undo: Mapping[int, str] = field(default_factory=dict)
    draft_at: int | None = None
    templated: bool = False

    def in_template(self, text: str) -> Prompt:
        """The same prompt as the model's chat template has written it; some trim messages."""
        place = text.find(said := self.text.strip())
        if place < 0 or self.draft_at is None:
            return replace(self, text=text, draft_at=None, templated=True)
        before = self.draft_at - self.text.index(said)
        return replace(self, text=text, draft_at=place + before, templated=True)

    def restore(self, piece: str) -> str:
        """Undo in a piece of the edit what was done to the answer; pieces can be of any length."""
        return piece.translate(self.undo) if self.undo else piece


@dataclass(frozen=True, eq=False)
class PromptFamily:
    """How the checkpoints of one family want to be asked.

    Attributes:
        name: The family's name.
        template: The prompt with the fields `{aspects}`, `{question}` and `{answer}`.
        whole_conversation: Whether the context is the whole conversation or its last human turn.
        objectives: The wordings that the family was trained on, by the catalogue's keys.
        fixed: The template names its objectives itself; others can't be asked for.
        capitalised: Whether descriptions go on with a capital ("Humour: The …") after the colon.
        structure: What would read as structure of this template.
        stop: Texts at which an edit ends, since the model goes on with an invented turn.
        chat: The prompt is a user message for the model's own chat template.
        checkpoints: Finds the family's checkpoints by their names, for families whose checkpoints
            are not among the published ones of `checkpoints.py`; it goes before those.
    """

    name: str
    template: str
    whole_conversation: bool
    objectives: Mapping[str, str] = field(default_factory=dict)
    fixed: bool = False
    capitalised: bool = False
    structure: tuple[Mark, ...] = (FIELD,)
    stop: tuple[str, ...] = ()
    chat: bool = False
    checkpoints: re.Pattern[str] | None = None

    def word(self, objective: Objective) -> str:
        """The description that goes into the prompt.

        One of the catalogue is worded as the family was trained on it or, where it was not, in
        the family's style; any other description is taken word for word, with its name in front
        where it does not name itself, but for what would read as a further objective or as the
        end of the list.

        Args:
            objective: The objective to word.

        Returns:
            One line of text without `;`.

        Raises:
            UnknownObjectiveError: The family's template can't name this objective.
        """
        if self.fixed and objective.name not in self.objectives:
            msg = (
                f"The checkpoints of the family {self.name} edit towards"
                f" {' and '.join(self.objectives)} only, not {objective.name!r}. Choose among"
                " those, or a checkpoint of another family."
            )
            raise UnknownObjectiveError(msg)
        if not objective.catalogued:
            return self._one_objective(_named(objective))
        trained = self.objectives.get(objective.name)
        return trained if trained is not None else self._restyled(objective.description)

    def render(
        self,
        context: str | Sequence[Turn],
        answer: str,
        objectives: Sequence[Objective],
        *,
        control_tokens: Iterable[str] = (),
    ) -> Prompt:
        """Write the prompt.

        Args:
            context: Text, used as it is, or turns.
            answer: The answer to edit.
            objectives: What the edit is made towards; at least one.
            control_tokens: What the model's tokenizer would read as control tokens, beyond the
                common ones.

        Returns:
            The prompt. Where the context, the answer or an objective holds the template's own
            field marks, turn markers or control tokens, one character of each is swapped for a
            look-alike that occurs in none of them.

        Raises:
            UnknownObjectiveError: The family's template can't name one of the objectives.
        """
        aspects = _aspects(self, tuple(objectives))
        structure, of_turns = _structure(self, tuple(control_tokens))
        if isinstance(context, str):
            # It is used as it is, so its turn markers are meant; those inside a turn are not.
            texts = [(context, structure)]
        else:
            texts = [(turn.text, of_turns) for turn in context]
        texts += [(answer, of_turns), (aspects, of_turns)]
        undo: dict[int, str] = {}
        escaped = [text for text, _ in texts]
        if any(mark.char in text for text, marks in texts for mark in marks):
            escaped, undo = escape(texts)
        *said, draft, aspects = escaped
        if isinstance(context, str):
            question = said[0]
        else:
            pairs = zip(context, said, strict=True)
            question = self.render_turns([Turn(turn.role, text) for turn, text in pairs])
        fields = {"aspects": aspects, "question": question}
        # Not str.format: a text that holds braces is filled in as it is.
        before, after = (
            "".join(fields[piece] if i % 2 else piece for i, piece in enumerate(part))
            for part in _around_answer(self.template)
        )
        return Prompt(f"{before}{draft}{after}", draft, undo, len(before))

    def render_turns(self, turns: Sequence[Turn]) -> str:
        """Render turns as the family's context, with nothing disarmed."""
        if self.whole_conversation:
            return render_conversation(turns)
        return next((turn.text for turn in reversed(turns) if turn.role == "human"), "")

    def _restyled(self, description: str) -> str:
        name, _, rest = description.partition(": ")
        first = rest[0].upper() if self.capitalised else rest[0].lower()
        return f"{name}: {first}{rest[1:]}"

    def _one_objective(self, description: str) -> str:
        line = " ".join(description.replace(";", ",").split())
        return line.replace('"', "'") if '"{aspects}"' in self.template else line


def _named(objective: Objective) -> str:
    """The description with its name in front, the form that the models were trained on."""
    name, description = objective.name.replace("_", " ").strip(), objective.description.strip()
    head, colon, _ = description.partition(":")
    names_itself = colon and (
        head.casefold() == name.casefold() or len(head.split()) <= _WORDS_OF_A_NAME
    )
    if names_itself or description.casefold() == name.casefold():
        return description
    return f"{name[:1].upper()}{name[1:]}: {description}"


def render_conversation(turns: Sequence[Turn]) -> str:
    r"""Render turns as the HH-RLHF data do: `\n\nHuman: …\n\nAssistant: … \n\nAssistant:`."""
    spoken = "".join(
        f"\n\n{'Human' if turn.role == 'human' else 'Assistant'}: {turn.text}" for turn in turns
    )
    return f"{spoken} \n\nAssistant:"


def parse_conversation(text: str) -> list[Turn] | None:
    """Read text in the form that `render_conversation` writes; `None` if it is in any other."""
    if not text.startswith("\n\nHuman: ") or not text.endswith(" \n\nAssistant:"):
        return None
    pieces = re.split(r"\n\n(Human|Assistant): ", text.removesuffix(" \n\nAssistant:"))[1:]
    turns = [
        Turn("human" if who == "Human" else "assistant", said)
        for who, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    return turns if render_conversation(turns) == text else None


@functools.lru_cache(maxsize=256)
def _aspects(family: PromptFamily, objectives: tuple[Objective, ...]) -> str:
    return "; ".join(family.word(one) for one in objectives)


@functools.lru_cache(maxsize=32)
def _structure(
    family: PromptFamily, control_tokens: tuple[str, ...]
) -> tuple[tuple[Mark, ...], tuple[Mark, ...]]:
    """What would read as structure in a context that is text, and what in all else."""
    marks = (*family.structure, *control_marks(control_tokens))
    return marks, (*marks, TURN)


@functools.lru_cache(maxsize=16)
def _around_answer(template: str) -> tuple[Sequence[str], Sequence[str]]:
    """What stands before the answer and behind it, every second piece the name of a field."""
    before, after = template.split("{answer}")
    fields = re.compile(r"\{(aspects|question)\}")
    return fields.split(before), fields.split(after)
