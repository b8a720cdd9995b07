"""How a reply is handled: its objectives, its aligner, and what happens after an error."""

from __future__ import annotations

import functools
import inspect
import logging
import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Self, cast

from langchain_core.messages import AIMessage
from pydantic import Field, field_validator, model_validator

from langchain_metaaligner.editing import telemetry
from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.alignment import METADATA_KEY, Alignment
from langchain_metaaligner.editing.beside_text import reason_beside_text, reason_without_text
from langchain_metaaligner.editing.objectives import (
    Objective,
    Objectives,
    Parsed,
    check_allowed,
    objective_key,
    parse_objectives,
)
from langchain_metaaligner.editing.refusals import EXPLANATIONS
from langchain_metaaligner.editing.reply_message import (
    answer_text,
    blocked,
    left_beside,
    with_text,
)
from langchain_metaaligner.editing.sparing_log import SparingLog
from langchain_metaaligner.engines.base import as_ours, is_interrupt
from langchain_metaaligner.engines.processes import Lock
from langchain_metaaligner.errors import (
    CheckpointError,
    GuardError,
    InputTypeError,
    LeakError,
    MetaAlignerError,
    UnknownObjectiveError,
    is_of_signal,
    mark_begun,
    steers_graph,
    without_quotes,
)
from langchain_metaaligner.integrations.call_config import (
    ConfigKeys,
    not_a_context,
    parse_config_keys,
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
_KEYS = ConfigKeys()
_values_of = operator.itemgetter(*_ALIGNER_OPTIONS)


class SharedAligners:
    """The aligners that an object and its copies share, one for each set of options.

    Attributes:
        log: Where they log what may come with every reply.
    """

    def __init__(self) -> None:
        self.log = SparingLog(logger)
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


def _as_tuple(given: Any, *, may_be_empty: bool = False) -> tuple[str | Objective, ...]:
    if isinstance(given, str | Objective | dict):
        given = [given]
    if not isinstance(given, Iterable):
        return parse_objectives(given)
    kept = tuple(
        one if isinstance(one, str | Objective) else parse_objectives(one)[0] for one in given
    )
    if kept or not may_be_empty:
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
        return None if given is None else _as_tuple(given, may_be_empty=True)

    @field_validator("required_objectives")
    @classmethod
    def _known_required_objectives(cls, given: Any) -> tuple[str | Objective, ...]:
        return () if given is None else _as_tuple(given, may_be_empty=True)

    @field_validator("config_keys")
    @classmethod
    def _known_config_keys(cls, given: Any) -> dict[str, str] | None:
        return parse_config_keys(given)

    @property
    def call_keys(self) -> ConfigKeys:
        """The keys of a call's config that are read."""
        return _KEYS if self.config_keys is None else ConfigKeys(**self.config_keys)

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
    def _required_once(self) -> Self:
        for given in (self.objectives, self.allow_objectives or ()):
            _pursued(self.required_objectives, given)
        return self

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


class Terms(NamedTuple):
    """What one call asks of a reply.

    Attributes:
        text: The text that is edited.
        objectives: The objectives.
        aligner: The aligner that makes the edit.
    """

    text: str
    objectives: tuple[Objective, ...]
    aligner: Aligner


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

    def terms(self, reply: Reply, asked: Objectives | None) -> Terms | None:
        """What one call asks of a reply.

        Args:
            reply: The reply.
            asked: As for `wanted`.

        Returns:
            The terms; `None` if the reply has no text, or is passed through because it calls tools.

        Raises:
            UnknownObjectiveError: As for `wanted`.
        """
        text = self.text_of(reply)
        if not text.strip() or (not isinstance(reply, str) and self.leaves_alone(reply)):
            return None
        return Terms(text, self.wanted(asked), self.aligner)

    def wanted(self, asked: Objectives | None) -> tuple[Objective, ...]:
        """The objectives of one call.

        Args:
            asked: The objectives that the caller asks for; `None` for those in the options.

        Returns:
            The objectives.

        Raises:
            UnknownObjectiveError: An objective is unknown or not on the allow-list, or it has the
                name of a required one with another description.
        """
        options = self.options
        required = tuple(options.required_objectives)
        own = _pursued(required, tuple(options.objectives))
        if asked is None:
            return own
        try:
            wanted = _pursued(required, _as_tuple(asked))
            if options.allow_objectives is not None:
                check_allowed(wanted, (*own, *_pursued((), tuple(options.allow_objectives))))
        except UnknownObjectiveError as error:
            key = options.call_keys.objectives
            graph = f", or in a graph's context as {key}"
            msg = f"{error} {_WHOSE.format(name='objectives', key=key, graph=graph)}"
            raise UnknownObjectiveError(msg) from None
        return wanted

    def text_of(self, reply: Reply) -> str:
        """The text of a reply that is edited.

        Args:
            reply: The reply.
        """
        refusals = self.options.edit_refusals
        content = reply if isinstance(reply, str) else reply.content
        if isinstance(content, str) and not refusals:
            return content
        return answer_text(reply, refusals=refusals)

    def without_text(self, reply: Reply, asked: Objectives | None) -> Alignment | None:
        """The record of a reply without text that a person would read or hear all the same.

        Args:
            reply: The reply.
            asked: The objectives that the caller asked for.

        Returns:
            The record, `skipped`; `None` if there is nothing to read or hear.
        """
        reason = None if isinstance(reply, str) else reason_without_text(reply)
        return None if reason is None else self.left_alone(reply, asked, reason)

    def check_context(self, given: Any) -> None:
        """Refuse a context that a call gives, if it must not give one or it is not one.

        Args:
            given: The context of the call; `None` if it gave none.

        Raises:
            InputTypeError: The context is refused.
        """
        if given is None:
            return
        whose = _WHOSE.format(name="context", key=self.options.call_keys.context, graph="")
        if not self.options.allow_context:
            msg = (
                "This aligner takes no context from a call, because it was made with"
                f" allow_context=False. {whose}"
            )
            raise InputTypeError(msg)
        if (what := not_a_context(given)) is not None:
            msg = f"A context must be a Context, text or a list of messages, not {what}. {whose}"
            raise InputTypeError(msg)

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
        if when is None:
            return None
        try:
            wanted = when(reply, context)
        except Exception:
            raise
        except BaseException as error:
            raise as_ours(error, "The function given as when=") from error
        return None if wanted else self.left_alone(reply, asked, "when")

    def left_alone(self, reply: Reply, asked: Objectives | None, reason: str) -> Alignment:
        """The record of a reply that is not edited.

        Args:
            reply: The reply.
            asked: The objectives that the caller asked for.
            reason: Why it is not edited, in a word or two; it is part of the provenance.

        Returns:
            The record, `skipped`.
        """
        text = self.text_of(reply)
        return self._record(text, text, asked, status="skipped", reason=reason)

    def settle(
        self,
        reply: Reply,
        made: Alignment | Exception,
        asked: Objectives | None,
        *,
        begun: bool = False,
        unrelated: bool = False,
    ) -> Reply:
        """The final reply after its edit, or after the failure of the edit.

        Args:
            reply: The reply, which is not modified.
            made: The record of the edit, or the error.
            asked: The objectives that the caller asked for, for the record of a failure.
            begun: Whether a consumer has read part of the edit. Then an error is always raised,
                because that part can't be replaced any more.
            unrelated: Whether the error is none of the edit's own, and so is always raised.

        Returns:
            The reply for the consumer, of the same class; a message carries its provenance.

        Raises:
            MetaAlignerError: The edit failed, and the policy is to raise the error.
        """
        if isinstance(made, Alignment):
            record = made if self.options.apply else replace(made, status="shadow")
            if made.status == "skipped":
                if not made.text.strip() and made.reason is None:
                    return reply
                record = made
            elif (left := self._left_beside_text(reply)) is not None:
                record = replace(record, reason=left)
        elif steers_graph(made):  # such as an interrupt in `when`
            raise made
        else:
            record = self._failure(reply, made, asked, always_raised=begun or unrelated)
        try:
            final = self._final(reply, record)
        except Exception as failure:  # noqa: BLE001 - the error policy decides
            made = failure
            record = self._failure(reply, failure, asked, always_raised=begun)
            # The reply can't be changed at all, so it can't carry its provenance either.
            final = reply if record.status == "passed" else self._final(reply, record)
        if record.status != "skipped" and "opentelemetry" in sys.modules:
            # Without the module, no provider can have been set.
            telemetry.record(record)
        # Who asks for a reply to be skipped knows of it; of all others an audit must be told.
        if self.options.on_edit is not None and record.reason != "when":
            self._tell(record)
        if record.status == "failed":
            failed = cast("Exception", made)
            if begun:
                mark_begun(failed)
            raise failed
        return final

    def _final(self, reply: Reply, record: Alignment) -> Reply:
        """The reply for the consumer; after a failure that is raised, the reply as it came."""
        if record.status == "failed":
            return reply
        kept = record.status in ("passed", "shadow", "skipped")
        if isinstance(reply, str):
            return record.original if kept else record.text
        told = {METADATA_KEY: record.provenance(keep_original=self.options.keep_original)}
        if kept:
            metadata = {**reply.response_metadata, **told}
            return reply.model_copy(update={"response_metadata": metadata})
        if record.status == "blocked":
            return blocked(reply, record.text, metadata=told)
        refusals = self.options.edit_refusals
        return with_text(reply, record.text, refusals=refusals, metadata=told)

    def left_beside(
        self, settled: AIMessage, reply: AIMessage
    ) -> Callable[[Mapping[str, Any] | None], dict[str, Any] | None]:
        """Make the function that tells what of the model's metadata may stay beside a final reply.

        LangChain puts such metadata into the message again.

        Args:
            settled: The final reply.
            reply: The reply as the model made it.

        Returns:
            A function that takes metadata of the model's answer and returns it without copies of a
            text that was changed, and without the mark of a refusal that has become text; of a
            blocked reply, plain metadata.
        """
        status = settled.response_metadata.get(METADATA_KEY, {}).get("status")
        if status not in ("edited", "unchanged", "blocked"):
            left: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
        else:
            refusals, plain = self.options.edit_refusals, status == "blocked"
            left = left_beside(reply, answer_text(settled), refusals=refusals, plain=plain)
        return lambda given: None if given is None else left(given)

    def _left_beside_text(self, reply: Reply) -> str | None:
        """Why a part of a reply whose text was edited is left alone."""
        if isinstance(reply, str) or not (
            reply.additional_kwargs
            or isinstance(reply.content, list)
            or any(map(reply.response_metadata.get, EXPLANATIONS))
        ):
            return None
        return reason_beside_text(reply, refusals=self.options.edit_refusals)

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
        self, reply: Reply, error: Exception, asked: Objectives | None, *, always_raised: bool
    ) -> Alignment:
        status: Literal["passed", "blocked", "failed"]
        on_error = self.options.on_error
        text = original = self.text_of(reply)
        if is_of_signal(error):
            status = "failed"
        elif not self.options.apply:
            status = "passed"
        elif always_raised or on_error == "raise" or isinstance(error, _ALWAYS_RAISED):
            status = "failed"
        elif on_error == "pass":
            status = "passed"
        else:
            status, text = "blocked", self.options.block_message
        said, name = str(error), type(error).__name__
        if not isinstance(error, MetaAlignerError):  # a user's function may quote the reply
            said = without_quotes(said, original)
        if status != "failed":
            self.options.shared.log.tell(
                f"{status} {name}", f"The reply was not edited ({status}): {said}"
            )
        record = self._record(original, text, asked, status=status, error=f"{name}: {said}")
        if isinstance(error, GuardError):
            record = replace(record, guards={error.guard: {"refused": 1}})
        return record

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
        except BaseException as error:
            if is_interrupt(error):
                raise
            self.options.shared.log.tell(
                f"on_edit {type(error).__name__}",
                "on_edit raised an error; the reply is unaffected",
                error=error,
            )


@functools.lru_cache(maxsize=256)
def _pursued(
    required: tuple[str | Objective, ...], wanted: tuple[str | Objective, ...]
) -> tuple[Objective, ...]:
    """The objectives of an edit: the required ones, then those that are wanted."""
    pursued = _parsed(wanted) if wanted else Parsed()
    if not required:
        return pursued
    first = _parsed(required)
    descriptions = {objective_key(one.name): one.description for one in first}
    for one in pursued:
        if descriptions.get(objective_key(one.name), one.description) != one.description:
            msg = (
                f"The objective {one.name!r} is required by this aligner, and can't be given"
                " another description. Leave it out, or give the other objective another name."
            )
            raise UnknownObjectiveError(msg)
    return Parsed(dict.fromkeys((*first, *pursued)))


_WHOSE = (
    "A call gives its {name} to the aligner as {name}=, or in its config as"
    " configurable[{key!r}]{graph}. If the application uses this key for something else, let the"
    " aligner read another one: config_keys={{{name!r}: ...}}."
)


@functools.lru_cache(maxsize=256)
def _parsed_cached(given: tuple[str | Objective, ...]) -> tuple[Objective, ...]:
    return parse_objectives(given)


def _parsed(given: Sequence[str | Objective]) -> tuple[Objective, ...]:
    return _parsed_cached(tuple(given))
