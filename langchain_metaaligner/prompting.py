"""The prompts that aligners were trained on, rendered so that no text can forge their structure."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from langchain_metaaligner import objectives as catalogue
from langchain_metaaligner.conversation import Turn
from langchain_metaaligner.errors import CheckpointError, UnknownObjectiveError
from langchain_metaaligner.objectives import Objective


@dataclass(frozen=True, slots=True)
class Mark:
    """Text that would read as structure of a prompt.

    Attributes:
        char: A character without which there is no such text: most texts have none.
        pattern: Finds it; its one group is the character that is swapped for a look-alike.
    """

    char: str
    pattern: re.Pattern[str]


def _mark(char: str, pattern: str) -> Mark:
    return Mark(char, re.compile(pattern, re.IGNORECASE))


_FIELD = _mark("|", r"(\|)(?=\s*(?:Context|Query|Question|Answer|Edit)\s*:)")
_TURN = _mark("\n", r"\n\s*\n\s*(?:Human|Assistant)\s*(:)")
_CONTROL = _mark("<", r"(<)(?=/?(?:s|unk|pad|bos|eos|mask)>|\|[^|<>\s]{1,64}\|>)")

# Look-alikes of one character each, so that undoing works on any piece of a stream.
_LOOKALIKES: Mapping[str, str] = {"|": "¦❘∣｜", ":": "꞉：ː", "<": "‹＜˂", "[": "［⁅"}
_PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt.

    Attributes:
        text: The prompt, byte for byte; for a chat family the one user message.
        draft: The answer as it stands in the prompt.
        undo: Look-alike (as a code point) to the character that it stands for.
    """

    text: str = field(repr=False)
    draft: str = field(repr=False)
    undo: Mapping[int, str] = field(default_factory=dict)

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
    """

    name: str
    template: str
    whole_conversation: bool
    objectives: Mapping[str, str] = field(default_factory=dict)
    fixed: bool = False
    capitalised: bool = False
    structure: tuple[Mark, ...] = (_FIELD,)
    stop: tuple[str, ...] = ()
    chat: bool = False

    def word(self, objective: Objective) -> str:
        """The description that goes into the prompt.

        One of the catalogue is worded as the family was trained on it or, where it was not, in
        the family's style; any other description is taken word for word, but for what would
        read as a further objective or as the end of the list.

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
        if catalogue.CATALOGUE.get(objective.name) != objective.description:
            return self._one_objective(objective.description)
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
        swaps = _Swaps(
            aspects,
            answer,
            context if isinstance(context, str) else "",
            *(() if isinstance(context, str) else (turn.text for turn in context)),
        )
        if isinstance(context, str):
            question = swaps.disarm(context, structure)
        else:
            question = self.render_turns(
                [Turn(turn.role, swaps.disarm(turn.text, of_turns)) for turn in context]
            )
        draft = swaps.disarm(answer, of_turns)
        text = _fill(
            self.template,
            aspects=swaps.disarm(aspects, of_turns),
            question=question,
            answer=draft,
        )
        return Prompt(text, draft, swaps.undo())

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


def find_family(name: str) -> PromptFamily:
    """Find a family by its name, in any case and with any separators.

    Args:
        name: For instance `HH-RLHF`, `ultrafeedback` or `instruct`.

    Returns:
        The family.

    Raises:
        CheckpointError: There is no such family.
    """
    wanted = re.sub(r"[^a-z0-9]", "", name.lower())
    for family in FAMILIES:
        if wanted == re.sub(r"[^a-z0-9]", "", family.name.lower()):
            return family
    msg = (
        f"There is no prompt family {name!r}. Known are"
        f" {', '.join(family.name for family in FAMILIES)}; choose the one that the checkpoint was"
        " trained with, or 'instruct' for a model with a chat template."
    )
    raise CheckpointError(msg)


class _Swaps:
    """One-to-one swaps of characters for look-alikes that occur in none of some texts."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts
        self._lookalike: dict[str, str] = {}

    def disarm(self, text: str, marks: Iterable[Mark]) -> str:
        at: set[int] = set()
        for mark in marks:
            if mark.char in text:
                at.update(found.start(1) for found in mark.pattern.finditer(text))
        if not at:
            return text
        return "".join(self._swap(char) if i in at else char for i, char in enumerate(text))

    def undo(self) -> dict[int, str]:
        return {ord(lookalike): char for char, lookalike in self._lookalike.items()}

    def _swap(self, char: str) -> str:
        if char not in self._lookalike:
            private = map(chr, itertools.chain(*_PRIVATE_USE))
            candidates = itertools.chain(_LOOKALIKES.get(char, ""), private)
            taken = self._lookalike.values()
            self._lookalike[char] = next(
                one
                for one in candidates
                if one not in taken and not any(one in text for text in self._texts)
            )
        return self._lookalike[char]


@functools.lru_cache(maxsize=256)
def _aspects(family: PromptFamily, objectives: tuple[Objective, ...]) -> str:
    return "; ".join(family.word(one) for one in objectives)


@functools.lru_cache(maxsize=32)
def _control_marks(control_tokens: tuple[str, ...]) -> tuple[Mark, ...]:
    by_start: dict[str, list[str]] = {}
    for token in control_tokens:
        if token.strip():
            by_start.setdefault(token[0], []).append(re.escape(token[1:]))
    return _CONTROL, *(
        _mark(start, f"({re.escape(start)})(?=(?:{'|'.join(rest)}))")
        for start, rest in by_start.items()
    )


@functools.lru_cache(maxsize=32)
def _structure(
    family: PromptFamily, control_tokens: tuple[str, ...]
) -> tuple[tuple[Mark, ...], tuple[Mark, ...]]:
    """What would read as structure in a context that is text, and what in all else."""
    marks = (*family.structure, *_control_marks(control_tokens))
    return marks, (*marks, _TURN)


def _fill(template: str, **fields: str) -> str:
    # Not str.format: a text that holds braces is filled in as it is.
    pieces = _pieces(template)
    return "".join(fields[piece] if i % 2 else piece for i, piece in enumerate(pieces))


@functools.lru_cache(maxsize=16)
def _pieces(template: str) -> tuple[str, ...]:
    return tuple(re.split(r"\{(aspects|question|answer)\}", template))


_EDIT_THE_ANSWER = (
    "You are an assistant to human. You will be provided with a {what} and an answer. Consider the"
    " {what}, then edit the answer to improve it considering these aspects: {{aspects}}"
    " | {field}: {{question}} | Answer: {{answer}} | Edit: "
)

HH_RLHF = PromptFamily(
    name="HH-RLHF",
    template=_EDIT_THE_ANSWER.format(what="context", field="Context"),
    whole_conversation=True,
    objectives=catalogue.HH_RLHF,
    capitalised=True,
    stop=("\n\nHuman:",),
)
ULTRAFEEDBACK = PromptFamily(
    name="UltraFeedback",
    template=_EDIT_THE_ANSWER.format(what="query", field="Query"),
    whole_conversation=False,
    objectives=catalogue.ULTRAFEEDBACK,
)
IMHI = PromptFamily(
    name="IMHI",
    template=(
        "Edit the following Question-Answer pair to make it better considering these aspects"
        ' "{aspects}" | Question: {question} | Answer: {answer} | Edit: '
    ),
    whole_conversation=False,
    objectives=catalogue.IMHI,
)
# Ji et al. 2024, "Aligner" (arXiv 2402.02416), checkpoint aligner/aligner-7b-v1.0.
ALIGNER = PromptFamily(
    name="Aligner",
    template=(
        "BEGINNING OF CONVERSATION: USER: Edit the following Question-Answer pair to make it more"
        " helpful and harmless: {question} | {answer} ASSISTANT:"
    ),
    whole_conversation=False,
    objectives={key: catalogue.HH_RLHF[key] for key in ("helpfulness", "harmlessness")},
    fixed=True,
    structure=(
        _mark("|", r"(?<!\S)(\|)(?!\S)"),
        _mark(":", r"(?:USER|ASSISTANT|BEGINNING OF CONVERSATION)\s*(:)"),
    ),
)
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
    structure=(_mark("<", r"(<)(?=\s*/?\s*(?:context|answer)\s*>)"),),
    chat=True,
)
FAMILIES: tuple[PromptFamily, ...] = (HH_RLHF, ULTRAFEEDBACK, IMHI, ALIGNER, INSTRUCT)
