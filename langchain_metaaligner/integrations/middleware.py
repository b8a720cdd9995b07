"""The agent middleware that edits final answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig, ensure_config

from langchain_metaaligner.editing.objectives import Objectives
from langchain_metaaligner.integrations._langchain import streams
from langchain_metaaligner.integrations.call_config import (
    asked_objectives,
    given_context,
    overheard_by,
)
from langchain_metaaligner.integrations.capture import CAPTURING, capture, install
from langchain_metaaligner.integrations.edit_run import EditRun
from langchain_metaaligner.integrations.hushing import NOSTREAM, STEP, hushed_inside
from langchain_metaaligner.integrations.prefetch import Overhearing, Prefetch, What
from langchain_metaaligner.integrations.reply_edit import (
    Async,
    Flow,
    Mode,
    ReplyEdit,
    Sync,
    answers_with_data,
    arun,
    check_leaks,
    run,
)
from langchain_metaaligner.integrations.reply_policy import FaceOptions, ReplyPolicy
from langchain_metaaligner.options import check_names
from langchain_metaaligner.pickles import reduce_at_root

try:
    from langchain.agents.middleware import AgentMiddleware, TracePolicy, omit_payload
except ImportError as error:  # pragma: no cover - run where langchain is missing
    msg = (
        "MetaAlignerMiddleware needs langchain and langgraph, which are not installed. Run"
        " pip install 'langchain-metaaligner[agents]'."
    )
    raise ImportError(msg) from error

if TYPE_CHECKING:
    from langchain.agents.middleware import ModelRequest, ModelResponse

    from langchain_metaaligner.integrations.reply_arguments import ReplyArguments


class MetaAlignerMiddleware(AgentMiddleware[Any, Any, Any]):
    """Edits an agent's final answer: `create_agent(..., middleware=[MetaAlignerMiddleware()])`.

    A stream of the agent contains the edit as it is generated, and nothing of the unedited answer.
    Structured answers and replies that call tools are passed through unchanged (text that comes
    with tool calls too, unless `edit_tool_text=True`). They are not streamed, because the kind of a
    reply is known only at its end.

    To choose objectives for one run, set `context.objectives` if the agent has a `context_schema`,
    or use `config={"configurable": {"objectives": [...]}}`.

    Args:
        objectives: What edits should improve: names, sentences or `Objective`s.
        **options: See `ReplyOptions` in `langchain_metaaligner.options`, and docs/options.md.

    Attributes:
        options: All options, after validation.

    Raises:
        UnknownObjectiveError: An objective is unknown.
        CheckpointError: The model can't be used, as far as can be told without loading it.
        pydantic.ValidationError: An option is unknown or out of range.
    """

    # In traces, this middleware's run would repeat the conversation, which the model's run has.
    trace_policy = TracePolicy(process_inputs=omit_payload)

    def __init__(
        self,
        objectives: Objectives = ("harmlessness", "helpfulness"),
        **options: Unpack[ReplyArguments],
    ) -> None:
        super().__init__()
        check_names(FaceOptions, options, face=type(self).__name__)
        self.tools = []
        given: dict[str, Any] = {"objectives": objectives, **options}
        self.options = FaceOptions(**given)
        install()

    __reduce_ex__ = reduce_at_root

    def __getstate__(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if name != "options"}
        return {**own, **self.options.__getstate__()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = dict(state)
        # 0.1 called the options settings.
        given = own.pop("given", None) or own.pop("settings").__getstate__()["given"]
        MetaAlignerMiddleware.__init__(self, **given)
        vars(self).update(own)

    def load(self) -> Self:
        """Load the aligner's weights now, so that the first answer does not wait for them.

        Returns:
            The middleware itself.

        Raises:
            CheckpointError: The checkpoint can't be loaded or used.
        """
        self.options.load()
        return self

    def close(self) -> None:
        """Release the engine that this middleware opened.

        An aligner or engine that was given stays open; a later answer opens a new engine.
        """
        self.options.close()

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Call the model and edit its answer.

        Args:
            request: The request to the model.
            handler: Calls the model, including any middleware closer to it.

        Returns:
            The response, with its final answer edited.

        Raises:
            MetaAlignerError: If `on_error` says so; see `Aligner.align` for the kinds.
        """
        return run(self._flow(request, handler, Sync))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Call the model and edit its answer, without blocking the event loop.

        Args:
            request: The request to the model.
            handler: Calls the model, including any middleware closer to it.

        Returns:
            The response, with its final answer edited.

        Raises:
            MetaAlignerError: If `on_error` says so; see `Aligner.align` for the kinds.
        """
        return await arun(self._flow(request, handler, Async))

    def _flow(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any], mode: Mode
    ) -> Flow[ModelResponse[Any]]:
        turn = _Turn(self.options, request)
        with turn.calling():
            response: ModelResponse[Any] = yield partial(handler, request)
        edits = turn.edits_of(response)
        for edit in edits.values():
            yield from edit.flow(mode)
        result = list(response.result)
        for place, edit in edits.items():
            settled = edit.settled()
            if isinstance(settled, AIMessage):
                result[place] = settled
        return replace(response, result=result)


class _Turn:
    """One call of an agent's model."""

    def __init__(self, options: FaceOptions, request: ModelRequest[Any]) -> None:
        self._options, self._policy = options, ReplyPolicy(options)
        self._config = ensure_config()
        self._asked = asked_objectives(self._config, options.call_keys)
        self._given = given_context(self._config, options.call_keys)
        if options.apply:
            # Report a mistake in the call before any model runs.
            self._policy.check_context(self._given)
            self._policy.wanted(self._asked)
        system = [] if request.system_message is None else [request.system_message]
        self._messages: Sequence[BaseMessage] = [*system, *request.messages]
        self._eager = options.eager
        if self._eager is None:  # with tools, the first reply is often a tool call
            self._eager = not request.tools and streams(_callbacks_of(self._config)[0])
        self._data = request.response_format is not None

    @contextmanager
    def calling(self) -> Iterator[None]:
        """While the model is called: hide its tokens from streams, and prefill the edit."""
        with ExitStack() as stack:
            if self._options.apply:  # in shadow mode, the policy's own tokens are streamed
                stack.enter_context(hushed_inside(NOSTREAM, STEP))
            if self._eager and not self._data:
                prefetch = stack.enter_context(Prefetch(lambda: self._policy.aligner, self._find))
                stack.enter_context(overheard_by(Overhearing(prefetch)))
                prefetch.begin()
            yield

    def _find(self, _: Any) -> What:
        return self._context(), self._policy.wanted(self._asked)

    def _context(self) -> Any:
        self._policy.check_context(self._given)
        return self._messages if self._given is None else self._given

    def edits_of(self, response: ModelResponse[Any]) -> Mapping[int, ReplyEdit]:
        """Prepare the edits of a response's messages, by the position of the message."""
        replies = {
            place: one for place, one in enumerate(response.result) if isinstance(one, AIMessage)
        }
        data = response.structured_response is not None
        if not data and any(self._policy.leaves_alone(reply) for reply in replies.values()):
            return {}
        edits = {place: ReplyEdit(self._policy, one, self._asked) for place, one in replies.items()}
        for place, edit in edits.items():
            try:
                if data and not self._is_beside_data(replies[place]):
                    edit.made = self._policy.left_alone(replies[place], self._asked, "data")
                else:
                    self._prepare(edit, replies[place])
            except Exception as error:  # noqa: BLE001 - the error policy decides
                edit.made = error
        return edits

    def _is_beside_data(self, reply: AIMessage) -> bool:
        """Whether a reply calls a tool with the data, so that its text is none."""
        calls = bool(reply.tool_calls) and not self._policy.leaves_alone(reply)
        return calls and bool(self._policy.text_of(reply).strip())

    def _prepare(self, edit: ReplyEdit, reply: AIMessage) -> None:
        text = self._policy.text_of(reply)
        if not text.strip():
            edit.made = self._policy.without_text(reply, self._asked)
            return
        handlers, parent_run_id = _callbacks_of(self._config)
        found = capture.find(handlers, parent_run_id, reply_id=reply.id, reply_text=text)
        # Another middleware may have answered instead of a model.
        if reply.id and any(one.made_id(reply.id) for one in found.models):
            if answers_with_data(found, text):
                edit.made = self._policy.left_alone(reply, self._asked, "data")
                return
            if self._options.apply and self._options.on_leak == "raise":
                check_leaks(handlers, self._config.get("metadata") or {}, found, reply.id)
        context, wanted = self._context(), self._policy.wanted(self._asked)
        if (skipped := self._policy.skipped(reply, context, self._asked)) is not None:
            edit.made = skipped
            return
        edit.item = (context, text, wanted)
        if self._options.apply and not CAPTURING.issuperset(map(type, handlers)):
            edit.run = EditRun(
                self._edit_config(), reply=reply, objectives=wanted, aligner=self._policy.aligner
            )
            if not reply.id:
                # Without an id, a consumer would get the reply twice: in pieces and whole.
                edit.reply = reply.model_copy(update={"id": edit.run.message_id})

    def _edit_config(self) -> RunnableConfig:
        told = self._policy.trace_metadata(self._asked)
        return {**self._config, "metadata": {**(self._config.get("metadata") or {}), **told}}


def _callbacks_of(config: RunnableConfig) -> tuple[Sequence[Any], Any]:
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        return callbacks.handlers, callbacks.parent_run_id
    return callbacks or (), None
