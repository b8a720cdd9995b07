"""How a reply is handled: its objectives, its aligner, and what happens after an error."""

from __future__ import annotations

import functools
import inspect
import logging
import operator
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Self, cast

from langchain_core.messages import AIMessage
from pydantic import Field, field_validator, model_validator

from langchain_metaaligner.editing import telemetry
from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.alignment import METADATA_KEY, Alignment
from langchain_metaaligner.editing.conversation import answer_text, with_text, without_thoughts
from langchain_metaaligner.editing.objectives import (
    Objective,
    Objectives,
    check_allowed,
    parse_objectives,
)
from langchain_metaaligner.engines.processes import Lock
from langchain_metaaligner.errors import (
    CheckpointError,
    InputTypeError,
    LeakError,
    MetaAlignerError,
    UnknownObjectiveError,
)
from langchain_metaaligner.options import AlignerOptions, ReplyOptions, given_options
from langchain_metaaligner.pickles import namespace_of

logger = logging.getLogger(__name__)

Reply = AIMessage | str

When = Callable[[Any, Any], bool]
"""Decides whether a reply is edited: takes the reply and its context, which may be `None`."""

# Mistakes in the code or on the machine, not failures of one edit. They are always raised;
# otherwise every reply would be passed through unedited and nobody would notice.
_ALWAYS_RAISED = (CheckpointError, InputTypeError, LeakError, UnknownObjectiveError)

_ALIGNER_OPTIONS = tuple(AlignerOptions.model_fields)
_values_of = operator.itemgetter(*_ALIGNER_OPTIONS)


class SharedAligners:
    """The aligners that an object and its copies share, one for each set of options."""

    def __init__(self) -> None:
        self._made: list[tuple[tuple[Any, ...], Aligner]] = []
        self._making = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedAligners, ()

    def __deepcopy__(self, _memo: dict[int, Any]) -> SharedAligners:
        return self

    def close(self) -> None:
        """Release the engines that these aligners opened."""
        with self._making:
            for _, aligner in self._made:
                aligner.close()

    def get(self, options: AlignerOptions) -> Aligner:
        """The aligner with these options.

        Args:
            options: The options; only those of an aligner count.

        Returns:
            The aligner.
        """
        wanted = _values_of(options.__dict__)
        # Engines that are equal need not be the same; one of them may be closed, for instance.
        for known, aligner in self._made:
            if known == wanted and aligner.options.engine is options.engine:
                return aligner
        with self._making:
            for known, aligner in self._made:
                if known == wanted and aligner.options.engine is options.engine:
                    return aligner
            aligner = Aligner(**{name: getattr(options, name) for name in given_options(options)})
            self._made.append((wanted, aligner))
            return aligner


def _as_tuple(given: Any) -> tuple[str | Objective, ...]:
    if isinstance(given, str | Objective | dict):
        given = [given]
    if not isinstance(given, Iterable):
        return parse_objectives(given)
    kept = tuple(
        one if isinstance(one, str | Objective) else parse_objectives(one)[0] for one in given
    )
    parse_objectives(kept or given)
    return kept


class FaceOptions(ReplyOptions):
    """The options of a face: the runnable, the middleware or the chat model.

    They are checked as far as possible without loading weights or using the network.
    """

    shared: SharedAligners = Field(default_factory=SharedAligners, exclude=True, repr=False)

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """The namespace of the id under which LangChain serialises the class."""
        return namespace_of(cls)

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, given: Any) -> tuple[str | Objective, ...]:
        return _as_tuple(given)

    @field_validator("allow_objectives")
    @classmethod
    def _known_allowed_objectives(cls, given: Any) -> tuple[str | Objective, ...] | None:
        return None if given is None else _as_tuple(given)

    @field_validator("on_edit", "when")
    @classmethod
    def _plain_function(cls, given: Any, info: Any) -> Any:
        name = info.field_name
        if given is not None and not callable(given):
            msg = f"{name} must be a function, not {type(given).__name__}."
            raise ValueError(msg)
        if inspect.iscoroutinefunction(given):
            msg = f"{name} is called, not awaited, so it must be a plain function, not async."
            if name == "on_edit":
                msg += " Let it put the Alignment into a queue that a task of yours reads."
            raise ValueError(msg)
        return given

    @field_validator("aligner")
    @classmethod
    def _an_aligner(cls, given: Any) -> Any:
        if given is not None and not isinstance(given, Aligner):
            msg = (
                f"aligner must be an Aligner, not {type(given).__name__}. Give a checkpoint as"
                " model= and an engine as engine=."
            )
            raise ValueError(msg)
        return given

    @model_validator(mode="after")
    def _one_aligner(self) -> Self:
        given = given_options(self)
        if self.aligner is None:
            self.shared.get(self)
        elif given:
            msg = (
                f"Give either aligner= or options for a new one, not both: got {given}. Put the"
                " options into Aligner(...)."
            )
            raise ValueError(msg)
        return self

    def load(self) -> Self:
        """Load the aligner's weights now, so that the first reply does not wait for them.

        Returns:
            The same object.

        Raises:
            CheckpointError: The checkpoint can't be loaded or used.
        """
        ReplyPolicy(self).aligner.load()
        return self

    def close(self) -> None:
        """Release the engines that this object and its copies opened.

        An aligner or engine that was given stays open; a later reply opens a new engine.
        """
        self.shared.close()


class ReplyPolicy(NamedTuple):
    """How the runnable, the middleware or the chat model handles replies.

    Attributes:
        options: Its options.
    """

    options: FaceOptions

    @property
    def aligner(self) -> Aligner:
        """The aligner that makes the edits."""
        given: Aligner | None = self.options.aligner
        return self.options.shared.get(self.options) if given is None else given

    def terms(self, asked: Objectives | None) -> tuple[tuple[Objective, ...], Aligner]:
        """The objectives and the aligner of one call.

        Args:
            asked: As for `wanted`.

        Returns:
            The objectives and the aligner.

        Raises:
            UnknownObjectiveError: As for `wanted`.
        """
        return self.wanted(asked), self.aligner

    def wanted(self, asked: Objectives | None) -> tuple[Objective, ...]:
        """The objectives of one call.

        Args:
            asked: The objectives that the caller asks for; `None` for those in the options.

        Returns:
            The objectives.

        Raises:
            UnknownObjectiveError: An objective is unknown or not on the allow-list.
        """
        own = _parsed(self.options.objectives)
        if asked is None:
            return own
        wanted = _parsed(_as_tuple(asked))
        if self.options.allow_objectives is not None:
            check_allowed(wanted, (*own, *_parsed(self.options.allow_objectives)))
        return wanted

    def leaves_alone(self, reply: AIMessage) -> bool:
        """Whether a reply is passed through because it calls tools.

        Args:
            reply: The reply.
        """
        return bool(reply.tool_calls) and not self.options.edit_tool_text

    def skipped(self, reply: Reply, context: Any, asked: Objectives | None) -> Alignment | None:
        """Ask `when` whether to edit a reply.

        Args:
            reply: The reply.
            context: The context of the reply; `None` if it is not known.
            asked: The objectives that the caller asked for.

        Returns:
            The record of the skipped reply; `None` if the reply should be edited.
        """
        when: When | None = self.options.when
        if when is None or when(reply, context):
            return None
        return self.left_alone(reply, asked, "when")

    def left_alone(self, reply: Reply, asked: Objectives | None, reason: str) -> Alignment:
        """The record of a reply that is not edited.

        Args:
            reply: The reply.
            asked: The objectives that the caller asked for.
            reason: Why it is not edited, in a word or two; it is part of the provenance.

        Returns:
            The record, `skipped`.
        """
        text = answer_text(reply)
        return self._record(text, text, asked, status="skipped", reason=reason)

    def settle(
        self,
        reply: Reply,
        made: Alignment | Exception,
        asked: Objectives | None,
        *,
        begun: bool = False,
    ) -> Reply:
        """The final reply after its edit, or after the failure of the edit.

        Args:
            reply: The reply, which is not modified.
            made: The record of the edit, or the error.
            asked: The objectives that the caller asked for, for the record of a failure.
            begun: Whether a consumer has read part of the edit. Then an error is always raised,
                because that part can't be replaced any more.

        Returns:
            The reply for the consumer, of the same class; a message carries its provenance.

        Raises:
            MetaAlignerError: The edit failed, and the policy is to raise the error.
        """
        if isinstance(made, Alignment):
            record = made if self.options.apply else replace(made, status="shadow")
            if made.status == "skipped":
                if not made.text.strip():
                    return reply
                record = made
        else:
            record = self._failure(reply, made, asked, begun=begun)
        if record.status != "skipped":
            if "opentelemetry" in sys.modules:  # otherwise no provider can have been set
                telemetry.record(record)
            if self.options.on_edit is not None:
                self._tell(record)
        if record.status == "failed":
            raise cast("Exception", made)
        kept = record.status in ("passed", "shadow", "skipped")
        text = record.original if kept else record.text
        if isinstance(reply, str):
            return text
        provenance = record.provenance(keep_original=self.options.keep_original)
        metadata = {**reply.response_metadata, METADATA_KEY: provenance}
        if record.error is not None and not kept:
            reply = without_thoughts(reply)
        if isinstance(reply.content, str):
            return reply.model_copy(update={"content": text, "response_metadata": metadata})
        return with_text(reply, text, response_metadata=metadata)

    def trace_metadata(self, asked: Objectives | None) -> dict[str, Any]:
        """The metadata of an edit in traces.

        Args:
            asked: The objectives that the caller asks for.

        Returns:
            The names of the objectives and the aligner's model.
        """
        try:
            names = [objective.name for objective in self.wanted(asked)]
        except MetaAlignerError:
            # The same error is raised later, inside the run, where the error policy applies.
            names = []
        return {"metaaligner_objectives": names, "metaaligner_model": self.aligner.model_name}

    def _failure(
        self, reply: Reply, error: Exception, asked: Objectives | None, *, begun: bool
    ) -> Alignment:
        status: Literal["passed", "blocked", "failed"]
        on_error = self.options.on_error
        text = original = answer_text(reply)
        if not self.options.apply:
            status = "passed"
        elif begun or on_error == "raise" or isinstance(error, _ALWAYS_RAISED):
            status = "failed"
        elif on_error == "pass":
            status = "passed"
        else:
            status, text = "blocked", self.options.block_message
        if status != "failed":
            logger.warning("The reply was not edited (%s): %s", status, error)
        return self._record(
            original, text, asked, status=status, error=f"{type(error).__name__}: {error}"
        )

    def _record(
        self,
        original: str,
        text: str,
        asked: Objectives | None,
        *,
        status: Literal["skipped", "passed", "blocked", "failed"],
        error: str | None = None,
        reason: str | None = None,
    ) -> Alignment:
        """The record of a reply without an edit."""
        try:
            names = tuple(objective.name for objective in self.wanted(asked))
        except MetaAlignerError:
            names = ()
        try:
            family = self.aligner.family.name
        except Exception:  # noqa: BLE001 - whatever is wrong with the engine, this is told all the same
            family = self.options.family or ""
        return Alignment(
            original=original,
            text=text,
            objectives=names,
            status=status,
            error=error,
            reason=reason,
            model=self.aligner.model_name,
            family=family,
        )

    def _tell(self, record: Alignment) -> None:
        try:
            self.options.on_edit(record)
        except Exception:
            logger.exception("on_edit raised an error; the reply is unaffected")


@functools.lru_cache(maxsize=256)
def _parsed_cached(given: tuple[str | Objective, ...]) -> tuple[Objective, ...]:
    return parse_objectives(given)


def _parsed(given: Sequence[str | Objective]) -> tuple[Objective, ...]:
    return _parsed_cached(tuple(given))
