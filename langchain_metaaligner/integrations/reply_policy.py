"""What every face does with a reply around its edit: whose objectives, which error policy."""

from __future__ import annotations

import functools
import inspect
import logging
import operator
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from langchain_metaaligner.editing import telemetry
from langchain_metaaligner.editing.aligner import Aligner, Objectives
from langchain_metaaligner.editing.alignment import METADATA_KEY, Alignment
from langchain_metaaligner.editing.conversation import answer_text, with_text, without_thoughts
from langchain_metaaligner.editing.objectives import (
    Objective,
    check_allowed,
    parse_objectives,
)
from langchain_metaaligner.editing.pending_edit import model_name
from langchain_metaaligner.editing.prompts import find_family
from langchain_metaaligner.errors import (
    InputTypeError,
    LeakError,
    MetaAlignerError,
    UnknownObjectiveError,
)
from langchain_metaaligner.options import AlignerSettings

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

    Reply = AIMessage | str

logger = logging.getLogger(__name__)

# Mistakes in the code around the aligner, not failures of an edit: no policy hides them.
_ALWAYS_RAISED = (InputTypeError, UnknownObjectiveError, LeakError)


def _as_tuple(given: Any) -> Any:
    if given is None:
        return None
    if isinstance(given, str | Objective | dict):
        given = [given]
    if not isinstance(given, Iterable):
        return parse_objectives(given)
    kept = tuple(
        one if isinstance(one, str | Objective) else parse_objectives(one)[0] for one in given
    )
    parse_objectives(kept or given)
    return kept


ObjectivesField = Annotated[tuple[str | Objective, ...], BeforeValidator(_as_tuple)]


class _Aligners:
    """The aligners that an instance and its copies share, one for each set of options."""

    def __init__(self) -> None:
        self._made: list[tuple[tuple[Any, ...], Aligner]] = []
        self._making = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Aligners, ()

    def __deepcopy__(self, _memo: dict[int, Any]) -> _Aligners:
        return self

    def close(self) -> None:
        with self._making:
            for _, aligner in self._made:
                aligner.close()

    def get(self, options: tuple[Any, ...]) -> Aligner:
        for known, aligner in self._made:
            if known == options:
                return aligner
        with self._making:
            for known, aligner in self._made:
                if known == options:
                    return aligner
            aligner = Aligner(**dict(zip(_ALIGNER_OPTIONS, options, strict=True)))
            self._made.append((options, aligner))
            return aligner


_ALIGNER_OPTIONS = tuple(AlignerSettings.model_fields)
_values_of = operator.itemgetter(*_ALIGNER_OPTIONS)


class ReplySettings(AlignerSettings):
    """The options that say how replies are treated; shared by all faces."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    objectives: ObjectivesField = Field(
        default=("harmlessness", "helpfulness"),
        description="What edits are made towards: names, sentences or Objectives.",
    )
    aligner: Aligner | None = Field(
        default=None, description="An Aligner to share, instead of options for one."
    )
    on_error: Literal["raise", "pass", "block"] = Field(
        default="raise",
        description=(
            "When an edit fails: raise the error, pass the original on, or block it with a fixed"
            " message."
        ),
    )
    block_message: str = Field(
        default="I can't show this answer, because it could not be checked. Please try again.",
        min_length=1,
        description="What takes a blocked answer's place.",
    )
    on_leak: Literal["raise", "ignore"] = Field(
        default="raise",
        description="When tokens of the unedited reply have reached a consumer already.",
    )
    keep_original: bool = Field(
        default=False, description="Whether the message carries its original text with it."
    )
    apply: bool = Field(
        default=True, description="False is shadow mode: edit, report, return the original."
    )
    allow_objectives: ObjectivesField | None = Field(
        default=None,
        description="What a caller may ask for beyond this aligner's own; None is everything.",
    )
    on_edit: Callable[[Alignment], Any] | None = Field(
        default=None, exclude=True, description="Called with the record of each edit or failure."
    )

    shared: _Aligners = Field(default_factory=_Aligners, exclude=True, repr=False)

    @field_validator("on_edit")
    @classmethod
    def _plain_function(cls, on_edit: Any) -> Any:
        if inspect.iscoroutinefunction(on_edit):
            msg = (
                "on_edit is called, not awaited, so it has to be a plain function. Have it put"
                " the Alignment into a queue that a task of yours reads."
            )
            raise ValueError(msg)
        return on_edit

    @model_validator(mode="after")
    def _one_aligner(self) -> Self:
        if self.family is not None:
            # Told here, not with the first reply.
            find_family(self.family)
        given = [
            name
            for name, field in AlignerSettings.model_fields.items()
            if getattr(self, name) != field.get_default(call_default_factory=True)
        ]
        if self.aligner is not None and given:
            msg = (
                f"Give either aligner= or options for a new one, not both: got {given}. Put the"
                " options into Aligner(...)."
            )
            raise ValueError(msg)
        return self

    def get_aligner(self) -> Aligner:
        """The aligner that makes the edits, made with the first call."""
        if self.aligner is not None:
            return self.aligner
        return self.shared.get(_values_of(self.__dict__))

    def load(self) -> Self:
        """Load the aligner's weights now, so that no first reply waits for them.

        Returns:
            The same object.

        Raises:
            CheckpointError: The checkpoint can't be had or used.
        """
        self.get_aligner().load()
        return self

    def close(self) -> None:
        """Give up the engines that this object and its copies opened.

        An aligner or engine that was given stays open; a later reply opens a new one.
        """
        self.shared.close()

    def wanted(self, asked: Objectives | None) -> tuple[Objective, ...]:
        """The objectives of one call.

        Args:
            asked: What the caller asks for; `None` for the aligner's own.

        Returns:
            The objectives.

        Raises:
            UnknownObjectiveError: One of them is unknown or not on the allow-list.
        """
        own = _parsed(self.objectives)
        if asked is None:
            return own
        wanted = _parsed(_as_tuple(asked))
        if self.allow_objectives is not None:
            check_allowed(wanted, (*own, *_parsed(self.allow_objectives)))
        return wanted

    def settle(
        self,
        reply: Reply,
        made: Alignment | Exception,
        asked: Objectives | None,
        *,
        begun: bool = False,
    ) -> Reply:
        """What becomes of a reply after its edit, or after the edit's failure.

        Args:
            reply: The reply; it is not changed.
            made: The record of the edit, or the error that took its place.
            asked: The objectives that the caller asked for, for the record of a failure.
            begun: Whether a consumer has read a part of the edit, which nothing can replace.

        Returns:
            What goes on to the consumer: of the same class as the reply, a message with its
            provenance.

        Raises:
            MetaAlignerError: The error, where the policy says so.
        """
        if isinstance(made, Alignment):
            if made.status == "skipped":
                return reply
            if not self.apply:
                made = replace(made, status="shadow")
            self._report(made)
            return self._carry(reply, answer_text(reply) if not self.apply else made.text, made)
        failure, raised = self._failure(reply, made, asked, begun=begun)
        self._report(failure)
        if raised:
            raise made
        return self._carry(reply, failure.text, failure)

    def _failure(
        self, reply: Reply, error: Exception, asked: Objectives | None, *, begun: bool
    ) -> tuple[Alignment, bool]:
        status: Literal["passed", "blocked", "failed"]
        text = original = answer_text(reply)
        if not self.apply:
            status = "passed"
        elif begun or self.on_error == "raise" or isinstance(error, _ALWAYS_RAISED):
            status = "failed"
        elif self.on_error == "pass":
            status = "passed"
        else:
            status, text = "blocked", self.block_message
        if status != "failed":
            logger.warning("The reply was not edited (%s): %s", status, error)
        try:
            names = tuple(one.name for one in self.wanted(asked))
        except MetaAlignerError:
            names = ()
        model, family = self.describe()
        return Alignment(
            original=original,
            text=text,
            objectives=names,
            status=status,
            error=f"{type(error).__name__}: {error}",
            model=model,
            family=family,
        ), status == "failed"

    def describe(self) -> tuple[str, str]:
        """The names of model and family, as far as they are known."""
        try:
            return self.model_label(), self.get_aligner().family.name
        except MetaAlignerError:
            return self.model_label(), self.family or ""

    def model_label(self) -> str:
        """The name of the model, as far as it is known without loading anything."""
        try:
            return model_name(self.get_aligner().engine)
        except MetaAlignerError:
            return self.model or "embedded"

    def _report(self, alignment: Alignment) -> None:
        telemetry.record(alignment)
        if self.on_edit is None:
            return
        try:
            self.on_edit(alignment)
        except Exception:
            logger.exception("on_edit failed; the reply goes on as it is")

    def _carry(self, reply: Reply, text: str, alignment: Alignment) -> Reply:
        if isinstance(reply, str):
            return text
        provenance = alignment.provenance(keep_original=self.keep_original)
        metadata = {**reply.response_metadata, METADATA_KEY: provenance}
        if alignment.status == "blocked":
            reply = without_thoughts(reply)
        return with_text(reply, text, response_metadata=metadata)


@functools.lru_cache(maxsize=256)
def _parsed_cached(given: tuple[str | Objective, ...]) -> tuple[Objective, ...]:
    return parse_objectives(given)


def _parsed(given: Sequence[str | Objective]) -> tuple[Objective, ...]:
    return _parsed_cached(tuple(given))
