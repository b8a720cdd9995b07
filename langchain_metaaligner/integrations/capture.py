"""Records what each model run was asked, until the runs around it end.

A LangChain step sees what the step before it returned, but not what that step was given. This
callback handler therefore receives the events of every run in the process. It is registered by
LangChain's `register_configure_hook` when the first `MetaAlignerRunnable` is made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.outputs import LLMResult

from langchain_metaaligner.engines.processes import Lock
from langchain_metaaligner.integrations._langchain import register_configure_hook

# The tag of an edit's own run.
EDIT = "metaaligner"

# A long agent run calls its models many times, but an answer comes from one of the last calls. A
# function may ask for a thousand replies before it passes on the first.
_MODEL_RUNS_KEPT = 1024


class ModelRun:
    """One call of a model.

    Attributes:
        run_id: The run's id.
        messages: The messages that the model was sent.
        tags: The run's tags.
        graph_namespace: The run's checkpoint namespace in a LangGraph graph; empty outside of
            graphs.
        reply_id: The id of the reply; `None` before there is one.
        reply_text: The text of the reply; `None` before there is one.
    """

    __slots__ = ("graph_namespace", "messages", "reply_id", "reply_text", "run_id", "tags")

    def __init__(
        self,
        run_id: UUID,
        messages: Sequence[BaseMessage],
        tags: Sequence[str] | None,
        metadata: Mapping[str, Any] | None,
    ) -> None:
        self.run_id = run_id
        self.messages = messages
        self.tags = tags or ()
        self.graph_namespace = str((metadata or {}).get("langgraph_checkpoint_ns") or "")
        self.reply_id: str | None = None
        self.reply_text: str | None = None

    def made_id(self, message_id: str) -> bool:
        """Whether this run made the message with the given id."""
        return message_id == self.reply_id or message_id.endswith(str(self.run_id))


class _Run:
    """A run that may contain model runs."""

    __slots__ = ("below", "editing", "models", "parent")

    def __init__(self, parent: _Run | None) -> None:
        self.parent = parent
        # The unfinished runs below the root. All runs of a root share one set, because threads
        # can use a set without a lock.
        self.below: set[UUID] = set() if parent is None else parent.below
        self.models: deque[ModelRun] | None = None
        self.editing: bool = parent is not None and parent.editing


class Capture(BaseCallbackHandler):
    """Keeps, for every run that has not ended, what the models below it were asked."""

    run_inline = True
    # Plain attributes, not properties: LangChain reads them at every event of every run.
    raise_error = False
    ignore_llm = False
    ignore_chat_model = False
    ignore_chain = False
    ignore_agent = False
    ignore_retriever = True
    ignore_retry = True
    ignore_custom_event = True

    def __init__(self) -> None:
        self._runs: dict[UUID, _Run] = {}
        self._models: dict[UUID, tuple[ModelRun, _Run]] = {}

    def kept(self) -> int:
        """The number of runs that are kept."""
        return len(self._runs) + len(self._models)

    def __deepcopy__(self, _memo: dict[int, Any]) -> Capture:
        return self

    def __copy__(self) -> Capture:
        return self

    def find(
        self,
        parent_run_id: UUID | None,
        *,
        reply_id: str | None,
        reply_text: str,
        editing: UUID | None = None,
    ) -> ModelRun | None:
        """Find the model run that made a reply.

        The search covers the given run and the runs around it, the nearest first. It looks for
        the reply's id, then for its text. In the nearest run with any model run, it then looks for
        a reply that contains the text, because a step in between may have cut or trimmed it. If
        nothing matches, it takes that run's newest model run.

        Args:
            parent_run_id: The run that the aligner runs in.
            reply_id: The reply's id, if it has one.
            reply_text: The reply's text.
            editing: The run that will edit the reply. Models below it belong to the aligner, so
                they are not captured.

        Returns:
            The model run; `None` if no model ran.
        """
        if editing is not None and (own := self._runs.get(editing)) is not None:
            own.editing = True
        scopes: list[list[ModelRun]] = []
        run = None if parent_run_id is None else self._runs.get(parent_run_id)
        while run is not None:
            if run.models:
                scopes.append(list(run.models))
            run = run.parent
        by_id: ModelRun | None = None
        if reply_id:
            for models in scopes:
                for model in reversed(models):
                    if model.made_id(reply_id):
                        # A model may use an id twice; the text then tells the replies apart.
                        if model.reply_text == reply_text:
                            return model
                        by_id = by_id or model
        if by_id is not None:
            return by_id
        for models in scopes:
            for model in reversed(models):
                if model.reply_text == reply_text:
                    return model
        for model in reversed(scopes[0] if scopes else ()):
            if reply_text.strip() in (model.reply_text or ""):
                return model
        return scopes[0][-1] if scopes else None

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the run and its parent."""
        parent = None if parent_run_id is None else self._runs.get(parent_run_id)
        self._runs[run_id] = run = _Run(parent)
        if parent is not None:
            run.below.add(run_id)

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the run and its parent."""
        self.on_chain_start(serialized, input_str, run_id=run_id, parent_run_id=parent_run_id)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record what the model is asked, for every run around it."""
        if tags and EDIT in tags:
            # The run of an edit: its messages are not a conversation.
            return
        asked = messages[0] if messages else []
        self._ask(parent_run_id, ModelRun(run_id, asked, tags, metadata))

    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record what a completion model is asked, as one human turn."""
        asked = [HumanMessage(prompts[0] if prompts else "")]
        self._ask(parent_run_id, ModelRun(run_id, asked, tags, metadata))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Record the model's reply."""
        asked = self._answered(run_id)
        if asked is None or not response.generations or not response.generations[0]:
            return
        generation = response.generations[0][0]
        message = getattr(generation, "message", None)
        asked[0].reply_id = getattr(message, "id", None)
        asked[0].reply_text = generation.text

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Forget a model run that made no reply."""
        asked = self._answered(run_id)
        # A consumer that stops reading a stream still has a reply.
        run = None if asked is None or isinstance(error, GeneratorExit) else asked[1]
        while asked is not None and run is not None:
            if run.models is not None and asked[0] in run.models:
                run.models.remove(asked[0])
            run = run.parent

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Forget the run."""
        run = self._runs.pop(run_id, None)
        if run is None:
            return
        if run.parent is not None:
            run.below.discard(run_id)
            return
        # Runs that have not ended by now never will, or are not needed any more.
        for one in list(run.below):
            self._runs.pop(one, None)
            self._models.pop(one, None)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Forget the run."""
        self.on_chain_end(None, run_id=run_id)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Forget the run."""
        self.on_chain_end(None, run_id=run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Forget the run."""
        self.on_chain_end(None, run_id=run_id)

    def _ask(self, parent_run_id: UUID | None, model: ModelRun) -> None:
        parent = None if parent_run_id is None else self._runs.get(parent_run_id)
        if parent is None or parent.editing:
            return
        self._models[model.run_id] = (model, parent)
        parent.below.add(model.run_id)
        run: _Run | None = parent
        while run is not None:
            if run.models is None:
                run.models = deque(maxlen=_MODEL_RUNS_KEPT)
            run.models.append(model)
            run = run.parent

    def _answered(self, run_id: UUID) -> tuple[ModelRun, _Run] | None:
        asked = self._models.pop(run_id, None)
        if asked is not None:
            asked[1].below.discard(run_id)
        return asked


capture = Capture()
_hook: ContextVar[Capture | None] = ContextVar("metaaligner_capture", default=capture)
_installing = Lock()
_installed = False


def install() -> None:
    """Register the capture for every run from now on; a second call does nothing."""
    global _installed  # noqa: PLW0603
    if _installed:
        return
    with _installing:
        if not _installed:
            register_configure_hook(_hook, inheritable=True)
            _installed = True
