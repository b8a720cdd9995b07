"""Prompt families: the prompts of their checkpoints, with user text escaped."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from langchain_metaaligner.editing.conversation import Turn
from langchain_metaaligner.editing.prompts.escaping import (
    FIELD,
    TURN,
    TURN_IN_LINE,
    Found,
    Mark,
    control_marks,
    escape,
    finder,
    restore,
)
from langchain_metaaligner.engines.readings import AS_ANY, Readings
from langchain_metaaligner.errors import UnknownObjectiveError
from langchain_metaaligner.pickles import reduce_at_root

# More words than this before a colon are part of the sentence, not a name.
_WORDS_OF_A_NAME = 3
_REMEMBERED = 1 << 14  # characters of objectives; longer lists are worded each time


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective: what the edited answer should do better.

    Attributes:
        name: Short name, for provenance and allow-lists.
        description: The sentence that goes into the prompt. The published models were trained on
            sentences of the form `Name: The response should …`; if the name is missing, it is put
            in front.
    """

    name: str
    description: str
    # Whether the objective is from the catalogue; each family uses the wording it was trained on.
    catalogued: bool = field(default=False, kw_only=True, compare=False, repr=False)

    __reduce_ex__ = reduce_at_root

    def __setstate__(self, state: Sequence[str]) -> None:
        # Pickles of 0.1 contain the values of the fields that version had.
        name, description = state
        Objective.__init__(self, name, description)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt.

    Attributes:
        text: The prompt, byte for byte; for a chat family, the single user message.
        draft: The answer as written in the prompt.
        undo: Maps each look-alike (as a code point) to the character that it replaced.
        draft_at: Offset of the answer's first character in the text, if known.
        templated: Whether the text was written by the model's chat template.
    """

    text: str = field(repr=False)
    draft: str = field(repr=False)
    undo: Mapping[int, str] = field(default_factory=dict)
    draft_at: int | None = None
    templated: bool = False

    def in_template(self, text: str) -> Prompt:
        """The same prompt as written by the model's chat template, which may trim the message.

        Args:
            text: The output of the chat template.

        Returns:
            The prompt, with the answer's offset in the new text.
        """
        place = text.find(said := self.text.strip())
        if place < 0 or self.draft_at is None:
            return replace(self, text=text, draft_at=None, templated=True)
        before = self.draft_at - self.text.index(said)
        return replace(self, text=text, draft_at=place + before, templated=True)

    def restore(self, piece: str) -> str:
        """Undo the escaping in a piece of the edit, which can be of any length."""
        return restore(piece, self.undo)


@dataclass(frozen=True, eq=False)
class PromptFamily:
    """The prompt that the checkpoints of one family were trained on.

    Attributes:
        name: The family's name.
        template: The prompt with the fields `{aspects}`, `{question}` and `{answer}`.
        whole_conversation: Whether the context is the whole conversation, or only the last human
            turn.
        objectives: The wordings that the family was trained on, by the catalogue's keys.
        fixed: Whether the template itself names its objectives, so that no others can be used.
        capitalised: Whether descriptions continue with a capital after the colon ("Humour: The …").
        structure: Text that the model would read as structure of this template.
        stop: Texts at which an edit ends, because the model would continue with an invented turn.
        chat: Whether the prompt is a user message for the model's own chat template.
        checkpoints: Matches the names of the family's checkpoints, for checkpoints that are not
            listed in `checkpoints.py`. It takes precedence over that list.
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

    def word(self, objective: Objective, readings: Readings = AS_ANY) -> str:
        """The description that goes into the prompt.

        An objective from the catalogue gets the wording that the family was trained on or, if it
        was not trained on it, the family's style. Any other description is used word for word,
        with its name in front if it lacks one. Only characters that the model would read as
        another objective or as the end of the list are replaced.

        Args:
            objective: The objective.
            readings: What the model's tokenizer reads each character as.

        Returns:
            One line of text without `;`, or anything that the tokenizer reads so.

        Raises:
            UnknownObjectiveError: The family's template doesn't support this objective.
        """
        if self.fixed and objective.name not in self.objectives:
            msg = (
                f"The checkpoints of the family {self.name} support"
                f" {' and '.join(self.objectives)} only, not {objective.name!r}. Choose one of"
                " these objectives, or a checkpoint of another family."
            )
            raise UnknownObjectiveError(msg)
        if not objective.catalogued:
            return self._one_objective(_named(objective), readings)
        trained = self.objectives.get(objective.name)
        return trained if trained is not None else self._restyled(objective.description)

    def render(
        self,
        context: str | Sequence[Turn],
        answer: str,
        objectives: Sequence[Objective],
        *,
        control_tokens: Iterable[str] = (),
        readings: Readings = AS_ANY,
    ) -> Prompt:
        """Write the prompt.

        Args:
            context: Text, used as it is, or turns.
            answer: The answer to edit.
            objectives: The objectives of the edit; at least one.
            control_tokens: Control tokens of the model's tokenizer, besides the common ones.
            readings: What the model's tokenizer reads each character as.

        Returns:
            The prompt. If the context, the answer or an objective contains field marks of the
            template, turn markers or control tokens, or what the tokenizer reads as such, one
            character of each is replaced by a look-alike that occurs nowhere in these texts. So
            is half of a surrogate pair, which no tokenizer takes.

        Raises:
            UnknownObjectiveError: The family's template doesn't support one of the objectives.
        """
        aspects = _aspects(self, tuple(objectives), readings)
        structure, of_turns, find = _structure(self, tuple(control_tokens), readings)
        if isinstance(context, str):
            # Text is used as it is, so its turn markers are real; those inside a turn are not.
            texts = [(context, structure)]
        else:
            texts = [(turn.text, of_turns) for turn in context]
        texts += [(answer, of_turns), (aspects, of_turns)]
        undo: Mapping[int, str] = {}
        found = [find(text) for text, _ in texts]
        if any(found):
            escaped, undo = escape(texts, readings, found)
            *said, answer, aspects = escaped
        else:
            said = [text for text, _ in texts[:-2]]
        if isinstance(context, str):
            question = said[0]
        else:
            pairs = zip(context, said, strict=True)
            question = self.render_turns([Turn(turn.role, text) for turn, text in pairs])
        fields = {"aspects": aspects, "question": question}
        # Not str.format, because texts may contain braces.
        before, after = (
            "".join(fields[piece] if i % 2 else piece for i, piece in enumerate(part))
            for part in _around_answer(self.template)
        )
        return Prompt(f"{before}{answer}{after}", answer, undo, len(before))

    def render_turns(self, turns: Sequence[Turn]) -> str:
        """Render turns as the family's context, without escaping.

        Args:
            turns: The turns, oldest first.

        Returns:
            The whole conversation or the last human turn, as `whole_conversation` says.
        """
        if self.whole_conversation:
            return render_conversation(turns)
        return next((turn.text for turn in reversed(turns) if turn.role == "human"), "")

    def _restyled(self, description: str) -> str:
        name, _, rest = description.partition(": ")
        first = rest[0].upper() if self.capitalised else rest[0].lower()
        return f"{name}: {first}{rest[1:]}"

    def _one_objective(self, description: str, readings: Readings) -> str:
        ends = {";": ","}
        if '"{aspects}"' in self.template:
            ends['"'] = "'"
        for char, reading in (*zip(ends, ends, strict=True), *readings.of(description).items()):
            for end in ends.keys() & set(reading):
                description = description.replace(char, ends[end])
        while (found := readings.in_context(description)) is not None:
            read, origin = found
            places = {origin(match.start()) for match in re.finditer(f"[{''.join(ends)}]", read)}
            kept = (" " if at in places else char for at, char in enumerate(description))
            before, description = description, "".join(kept)
            if description == before:
                break
        return " ".join(description.split())


def _named(objective: Objective) -> str:
    """The description with its name in front, as the models were trained."""
    name, description = objective.name.replace("_", " ").strip(), objective.description.strip()
    head, colon, _ = description.partition(":")
    names_itself = colon and (
        head.casefold() == name.casefold() or len(head.split()) <= _WORDS_OF_A_NAME
    )
    if names_itself or description.casefold() == name.casefold():
        return description
    return f"{name[:1].upper()}{name[1:]}: {description}"


def render_conversation(turns: Sequence[Turn]) -> str:
    r"""Render turns as in the HH-RLHF data: `\n\nHuman: …\n\nAssistant: … \n\nAssistant:`."""
    spoken = "".join(
        f"\n\n{'Human' if turn.role == 'human' else 'Assistant'}: {turn.text}" for turn in turns
    )
    return f"{spoken} \n\nAssistant:"


def parse_conversation(text: str) -> list[Turn] | None:
    """Parse text in the format of `render_conversation`; `None` if it has another format."""
    if not text.startswith("\n\nHuman: ") or not text.endswith(" \n\nAssistant:"):
        return None
    pieces = re.split(r"\n\n(Human|Assistant): ", text.removesuffix(" \n\nAssistant:"))[1:]
    turns = [
        Turn("human" if who == "Human" else "assistant", said)
        for who, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    return turns if render_conversation(turns) == text else None


def _aspects(family: PromptFamily, objectives: tuple[Objective, ...], readings: Readings) -> str:
    length = sum(len(objective.description) for objective in objectives)
    joined = _joined if length <= _REMEMBERED else _joined.__wrapped__
    return joined(family, objectives, readings)


@functools.lru_cache(maxsize=256)
def _joined(family: PromptFamily, objectives: tuple[Objective, ...], readings: Readings) -> str:
    return "; ".join(family.word(objective, readings) for objective in objectives)


@functools.lru_cache(maxsize=32)
def _structure(
    family: PromptFamily, control_tokens: tuple[str, ...], readings: Readings
) -> tuple[tuple[Mark, ...], tuple[Mark, ...], Callable[[str], Found | None]]:
    """The marks to escape in a context given as text and in all other texts, and their finder."""
    marks = (*family.structure, *control_marks(control_tokens, readings))
    of_turns = (*marks, TURN if readings["\n"] == "\n" else TURN_IN_LINE)
    return marks, of_turns, finder(of_turns, readings)


@functools.lru_cache(maxsize=16)
def _around_answer(template: str) -> tuple[Sequence[str], Sequence[str]]:
    """The template before and after the answer; every second piece is the name of a field."""
    before, after = template.split("{answer}")
    fields = re.compile(r"\{(aspects|question)\}")
    return fields.split(before), fields.split(after)
