"""The middleware of LangChain's agents that edits their final answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig, ensure_config

from langchain_metaaligner.editing.aligner import Item
from langchain_metaaligner.editing.conversation import answer_text
from langchain_metaaligner.integrations.answers import Answer
from langchain_metaaligner.integrations.call_config import (
    asked_objectives,
    given_context,
    hushed_step,
    overheard_by,
)
from langchain_metaaligner.integrations.capture import capture, install
from langchain_metaaligner.integrations.hushing import NOSTREAM, STEP
from langchain_metaaligner.integrations.leaks import check_leak
from langchain_metaaligner.integrations.prefetch import Ahead, Overhearing, What
from langchain_metaaligner.integrations.reply_edit import EditRun, listened_to
from langchain_metaaligner.integrations.reply_policy import ReplySettings

try:
    from langchain.agents.middleware import AgentMiddleware
except ImportError as error:  # pragma: no cover - run where langchain is missing
    msg = (
        "MetaAlignerMiddleware needs langchain and langgraph:"
        " pip install 'langchain-metaaligner[agents]'"
    )
    raise ImportError(msg) from error

if TYPE_CHECKING:
    from langchain.agents.middleware.types import ModelRequest, ModelResponse


class MetaAlignerMiddleware(AgentMiddleware[Any, Any, Any]):
    """Edits an agent's final answer: `create_agent(..., middleware=[MetaAlignerMiddleware()])`.

    Whoever streams the agent reads the edit as it is made, and nothing of the unedited answer.
    Replies that call tools and structured answers pass untouched, and whole: they are not
    streamed, since what a reply will be is not known while it is made.

    Objectives for one run are `context.objectives`, where the agent has a `context_schema`, or
    `config={"configurable": {"objectives": [...]}}`.

    Args:
        objectives: What edits are made towards: names, sentences or `Objective`s.
        edit_tool_text: Whether the text beside tool calls is edited too.
        **options: As for `MetaAlignerRunnable`.

    Raises:
        UnknownObjectiveError: An objective is unknown.
        pydantic.ValidationError: An option is unknown or out of range.
    """

    def __init__(
        self,
        objectives: Any = ("harmlessness", "helpfulness"),
        *,
        edit_tool_text: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.tools = []
        self.settings = ReplySettings(objectives=objectives, **options)
        self.edit_tool_text = edit_tool_text
        install()

    def load(self) -> Self:
        """Load the aligner's weights now, so that no first answer waits for them.

        Returns:
            The same object.

        Raises:
            CheckpointError: The checkpoint can't be had or used.
        """
        self.settings.load()
        return self

    def close(self) -> None:
        """Give up the engine that this middleware opened."""
        self.settings.close()

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Call the model, and edit what it answers.

        Args:
            request: What the model is asked.
            handler: Calls the model, and the middleware nearer to it.

        Returns:
            The response, its final answer edited.

        Raises:
            MetaAlignerError: As `on_error` says; see `Aligner.align` for the kinds.
        """
        turn = _Turn(self.settings, request, edit_tool_text=self.edit_tool_text)
        with turn.calling():
            response = handler(request)
        answers = turn.answers_in(response)
        for answer in answers.values():
            answer.align()
        return turn.settled(response, answers)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Call the model, and edit what it answers, without blocking the event loop.

        Args:
            request: What the model is asked.
            handler: Calls the model, and the middleware nearer to it.

        Returns:
            The response, its final answer edited.

        Raises:
            MetaAlignerError: As `on_error` says; see `Aligner.align` for the kinds.
        """
        turn = _Turn(self.settings, request, edit_tool_text=self.edit_tool_text)
        with turn.calling():
            response = await handler(request)
        answers = turn.answers_in(response)
        for answer in answers.values():
            await answer.aalign()
        return turn.settled(response, answers)


class _Turn:
    """One call of an agent's model."""

    def __init__(
        self, settings: ReplySettings, request: ModelRequest[Any], *, edit_tool_text: bool
    ) -> None:
        self._settings, self._edit_tool_text = settings, edit_tool_text
        self._config = ensure_config()
        self._asked = asked_objectives(self._config)
        if settings.apply:
            # A mistake in the call is told before tools and models are run for it.
            settings.wanted(self._asked)
        system = [] if request.system_message is None else [request.system_message]
        self._messages: Sequence[BaseMessage] = [*system, *request.messages]
        self._eager = settings.eager
        if self._eager is None:  # with tools what comes first may well be no answer to edit
            self._eager = not request.tools and listened_to(_callbacks_of(self._config)[0])
        self._data = request.response_format is not None

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Around the call of the model: hides its words from streams, and prefills meanwhile."""
        with ExitStack() as stack:
            if self._settings.apply:  # in shadow mode the policy streams for itself
                stack.enter_context(hushed_step())
            if self._eager and not self._data:
                ahead = stack.enter_context(Ahead(self._settings.get_aligner, self._find))
                stack.enter_context(overheard_by(Overhearing(ahead)))
                ahead.begin()
            yield

    def _find(self, _: Any) -> What:
        return self._context(), self._settings.wanted(self._asked)

    def _context(self) -> Any:
        given = given_context(self._config)
        return self._messages if given is None else given

    def answers_in(self, response: ModelResponse[Any]) -> dict[int, Answer]:
        """What is to be edited of a response, by its place, each with its edit prepared."""
        replies = {
            place: one for place, one in enumerate(response.result) if isinstance(one, AIMessage)
        }
        calls_tools = any(one.tool_calls for one in replies.values())
        if response.structured_response is not None or (calls_tools and not self._edit_tool_text):
            return {}
        answers = {place: Answer(one) for place, one in replies.items() if answer_text(one).strip()}
        for answer in answers.values():
            with answer.caught():
                self._prepare(answer)
        return answers

    def settled(
        self, response: ModelResponse[Any], answers: Mapping[int, Answer]
    ) -> ModelResponse[Any]:
        """The response with what became of its answers."""
        result = list(response.result)
        for place, answer in answers.items():
            result[place] = answer.settled(self._settings, self._asked)
        return replace(response, result=result)

    def _prepare(self, answer: Answer) -> None:
        reply, settings = answer.reply, self._settings
        handlers, parent_run_id = _callbacks_of(self._config)
        if settings.apply and settings.on_leak == "raise":
            text = answer_text(reply)
            made_by = capture.find(parent_run_id, reply_id=reply.id, reply_text=text)
            # Another middleware may answer in a model's stead; then no model has leaked it.
            if made_by is not None and reply.id and made_by.made_id(reply.id):
                check_leak(handlers, self._config.get("metadata") or {}, made_by)
        item: Item = (self._context(), reply, settings.wanted(self._asked))
        heard = settings.apply and any(one is not capture for one in handlers)
        answer.run = EditRun(
            settings.get_aligner(),
            item,
            reply_id=reply.id,
            config=self._edit_config(reply) if heard else None,
        )
        if heard and not reply.id:
            # Without an id its consumer would get it twice: in pieces, and whole.
            answer.reply = reply.model_copy(update={"id": answer.run.message_id})

    def _edit_config(self, reply: AIMessage) -> RunnableConfig:
        names = [one.name for one in self._settings.wanted(self._asked)]
        config: RunnableConfig = {
            **self._config,
            "metadata": {
                **(self._config.get("metadata") or {}),
                "metaaligner_objectives": names,
                "metaaligner_model": self._settings.model_label(),
            },
        }
        if reply.tool_calls:
            # A stream of the text would stand for the whole message, and the calls be missed.
            config["tags"] = [*(config.get("tags") or ()), NOSTREAM, STEP]
        return config


def _callbacks_of(config: RunnableConfig) -> tuple[Sequence[Any], Any]:
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        return callbacks.handlers, callbacks.parent_run_id
    return callbacks or (), None
