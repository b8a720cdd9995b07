"""Records what each model run was asked, for as long as the runs around it can use it.

A LangChain step sees what the step before it returned, but not what that step was given. A callback
handler therefore receives the events of every run in the process. It is registered with LangChain
when the first `MetaAlignerRunnable` is made.

Each outermost run gets a handler of its own, a `RunTree`, which the runs inside it inherit. A call
with callbacks of its own inside a run is an outermost one to LangChain, so it gets a tree, too; its
record is linked to that of the run around it. Nothing else refers to a tree, so it lives as long as
one of its runs, or a task that goes on after them, can still be continued. It goes with them too
where they never end: a stream that nobody reads on, or a loop that was closed.

For each pipe, it is also recorded which model's reply goes through the pipe: a step's own reply, or
one that a step has passed on, as a retry, a fallback or an inner pipe does. A function may return
anything, so what it returns counts as a reply only if it is one.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple, cast
from uuid import UUID
from weakref import WeakSet, ref

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.messages import LC_ID_PREFIX, AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import LLMResult

from langchain_metaaligner.engines.processes import Lock
from langchain_metaaligner.integrations._langchain import (
    child_config,
    handlers_around,
    has_streamed,
    register_handlers,
)
from langchain_metaaligner.integrations.asked_format import wants_data

# The tag of an edit's own run.
EDIT = "metaaligner"

# LangChain's tag of a run that is a step of a pipe.
_STEP_OF_PIPE = "seq:step:"

# A long agent run calls its models many times, but an answer comes from one of the last calls. A
# function may ask for a thousand replies before it passes on the first.
_MODEL_RUNS_KEPT = 1024
# A task that a run has started may go on after the run has ended.
_ENDED_RUNS_KEPT = 256
_MODEL_RUNS_KEPT_OF_ENDED = 8
# A shorter text may stand in any reply.
_TELLING = 8
# A text without one may be a router's label or a rewritten question, which may head any reply.
_END_OF_STATEMENT = re.compile(r"[.!…。！।]")
# Only a manager that is kept for many requests can come near this.
_UNFINISHED_RUNS_KEPT = 10_000


class ModelRun:
    """One call of a model.

    Attributes:
        run_id: The run's id.
        parent_run_id: The id of the run around it; `None` if it was called with its own callbacks.
        messages: The messages that the model was sent.
        tags: The run's tags.
        wants_data: Whether the model was asked for structured data, which is not edited.
        graph_namespace: The run's checkpoint namespace in a LangGraph graph; empty outside of
            graphs.
        heard_by: In a graph, the handlers of the run that the model was called in.
        tree: Refers to the tree that the run belongs to.
        reply_id: The id of the reply; `None` before there is one.
        reply_text: The text of the reply; `None` before there is one.
        passed_on: What an inner pipe has made of the reply; `None` if there is none.
        may_be_seen: Whether a consumer may rightly see a message with the reply's id, because one
            had the id before.
        edited_in: The checkpoint namespaces in which the reply was edited before it was seen.
    """

    __slots__ = (
        "__weakref__",
        "edited_in",
        "graph_namespace",
        "heard_by",
        "may_be_seen",
        "messages",
        "parent_run_id",
        "passed_on",
        "reply_id",
        "reply_text",
        "run_id",
        "tags",
        "tree",
        "wants_data",
    )

    def __init__(
        self,
        tree: RunTree,
        run_id: UUID,
        parent_run_id: UUID | None,
        messages: Sequence[BaseMessage],
        tags: Sequence[str] | None,
        metadata: Mapping[str, Any] | None,
        *,
        wants_data: bool,
    ) -> None:
        self.tree = ref(tree)
        self.run_id, self.parent_run_id = run_id, parent_run_id
        self.messages = messages
        self.tags = tags or ()
        self.wants_data = wants_data
        self.graph_namespace = str((metadata or {}).get("langgraph_checkpoint_ns") or "")
        self.heard_by = handlers_around() if self.graph_namespace else ()
        self.reply_id: str | None = None
        self.reply_text: str | None = None
        self.passed_on: str | None = None
        self.may_be_seen = False
        self.edited_in: tuple[str, ...] = ()

    def is_just_before(self, run_manager: Any) -> bool:
        """Whether a step gets what this model returns, with no other step between.

        Args:
            run_manager: The step's run.
        """
        steps = _step_of(self.tags), _step_of(run_manager.tags)
        return self.parent_run_id == run_manager.parent_run_id and 0 < steps[0] == steps[1] - 1

    def replied(self, text: str) -> bool:
        """Whether a text is the whole reply, and not what a step has taken out of it.

        Args:
            text: The text.
        """
        return text.strip() == (self.reply_text or "").strip()

    def made_id(self, message_id: str) -> bool:
        """Whether this run made the message with the given id."""
        return message_id == self.reply_id or str(self.run_id) in message_id


class _Run:
    """A run that may contain model runs."""

    __slots__ = (
        "editing",
        "last_place",
        "models",
        "namespace",
        "parent",
        "place",
        "source_place",
        "sources",
    )

    def __init__(self, parent: _Run | None, namespace: str | None = None, place: int = 0) -> None:
        self.parent = parent
        # The checkpoint namespace of the graph's node that the run belongs to.
        self.namespace = namespace
        # The run's place in its pipe; 0 if it is no step of a pipe.
        self.place = place
        self.models: deque[ModelRun] | None = None
        # In a pipe, the models that the reply may be from which goes on from a step, and the step.
        self.sources: deque[ModelRun] | None = None
        self.source_place = 0
        # The last step that has ended.
        self.last_place = 0
        self.editing: bool = parent is not None and parent.editing

    def asks(self, model: ModelRun, place: int) -> None:
        """Note that a step of this pipe is a model."""
        if place > max(self.source_place, self.last_place):
            self.sources, self.source_place = deque([model], _MODEL_RUNS_KEPT), place
        elif self.sources is not None:
            # What has several runs in one step is a function that LangChain shows no run of.
            self.sources.append(model)

    def step_ended(self, step: _Run, output: Any) -> None:
        """Note whose reply goes on from a step of this pipe."""
        is_first = step.place > max(self.source_place, self.last_place)
        self.last_place = max(self.last_place, step.place)
        if not self.models or step.place < self.source_place:
            return
        if self.sources and not step.models and step.place > self.source_place:
            return
        before, inside = list(self.sources or ()), list(step.models or ())
        made: list[ModelRun] = []
        if step.sources:  # it is a pipe itself
            made = list(step.sources)
            made = made if step.is_changed() else _made(output, made)
        if is_first:
            made = made or _made(output, [*before, *inside] or list(self.models))
            # A function may return anything: what it was given, or what a model in it replied.
            goes_on = made or (_each(before, inside) if before else [])
        elif inside:
            goes_on = _each(before, made or inside) if before else []
        else:
            # What calls a model before its own run shows none of the call either.
            goes_on = _made(output, list(self.models)) or before
        if goes_on:
            self.sources, self.source_place = deque(goes_on, _MODEL_RUNS_KEPT), step.place

    def is_changed(self) -> bool:
        """Whether steps of this pipe came after the models that its output may be from."""
        return 0 < self.source_place < self.last_place

    def ended(self, output: Any) -> None:
        """Note what this run made of a reply, and keep what a task may need that goes on."""
        if self.parent is not None and self.sources and self.is_changed():
            sources = _alike(list(self.sources))
            # The state that a node returns may be a function's, which LangChain shows no run of.
            said = None if isinstance(output, Mapping) else _said(output)
            if said is not None and len(sources) == 1 and said[1].strip():
                sources[0].passed_on = said[1]
        if self.parent is not None and self.place:
            self.parent.step_ended(self, output)
        if self.models is not None and len(self.models) > _MODEL_RUNS_KEPT_OF_ENDED:
            self.models = deque(self.models, maxlen=_MODEL_RUNS_KEPT_OF_ENDED)
        if self.sources is not None and len(self.sources) > _MODEL_RUNS_KEPT_OF_ENDED:
            self.sources = deque(self.sources, maxlen=_MODEL_RUNS_KEPT_OF_ENDED)

    def forget(self, model: ModelRun) -> None:
        """Forget a model run that made no reply."""
        for kept in (self.models, self.sources):
            if kept is not None and model in kept:
                kept.remove(model)


class RunTree(BaseCallbackHandler):
    """What the models below one outermost run were asked.

    It keeps the last 1,024 model runs of every unfinished run, and the last 8 of each of the last
    256 runs that have ended, for tasks that outlive them.
    """

    # Plain attributes, not properties: LangChain reads them at every event of every run.
    run_inline = True
    raise_error = False
    ignore_llm = False
    ignore_chat_model = False
    ignore_chain = False
    ignore_agent = False
    ignore_retriever = True
    ignore_retry = True
    ignore_custom_event = True

    # The handlers of the run around the outermost one, if that was called with its own callbacks.
    around: Sequence[Any] = ()

    # LangChain makes many trees and uses few, so a tree starts as a bare object.

    @cached_property
    def _runs(self) -> dict[UUID, _Run]:
        return {}

    @cached_property
    def _ended(self) -> OrderedDict[UUID, _Run]:
        return OrderedDict()

    @cached_property
    def _models(self) -> dict[UUID, tuple[ModelRun, _Run]]:
        return {}

    def __deepcopy__(self, _memo: dict[int, Any]) -> RunTree:
        return self

    def __copy__(self) -> RunTree:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return RunTree, ()

    def kept(self) -> int:
        """The number of unfinished runs that are kept."""
        return len(self._runs) + len(self._models)

    def known(self, run_id: UUID) -> _Run | None:
        """The record of a run, unfinished or lately ended; `None` if there is none."""
        return self._runs.get(run_id) or self._ended.get(run_id)

    def heard(self, reply_id: str | None, reply_text: str) -> ModelRun | None:
        """A model run that made a reply in a graph's node that has not ended, if there is one.

        Args:
            reply_id: The reply's id, if it has one.
            reply_text: The reply's text.
        """
        # A short text, or one of another model's run, may be said in any request.
        of_run = reply_id is not None and reply_id.startswith(LC_ID_PREFIX)
        by_text = not of_run and len(reply_text.strip()) >= _TELLING
        for run in list(self._runs.values()):
            for model in list(run.models or ()):
                made = (by_text and model.reply_text == reply_text) or (
                    reply_id is not None and model.made_id(reply_id)
                )
                # The run that the model was called in may have ended, but not the node's.
                here = run.namespace == model.graph_namespace
                if made and model.heard_by and (here or model.parent_run_id in self._runs):
                    return model
        return None

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
        if not self._runs:
            capture.watch(self)
        parent = self._run_around() if parent_run_id is None else self.known(parent_run_id)
        metadata = kwargs.get("metadata")
        namespace = metadata.get("langgraph_checkpoint_ns") if metadata else None
        self._runs[run_id] = _Run(parent, namespace, _step_of(kwargs.get("tags") or ()))
        if len(self._runs) > _UNFINISHED_RUNS_KEPT:
            _drop_first(self._runs)

    def _run_around(self) -> _Run | None:
        """The run in which an outermost run is called with callbacks of its own."""
        if self.around and not self._runs:
            # A manager that is kept serves one request after the other.
            self.around = ()
        callbacks = (child_config.get() or {}).get("callbacks")
        if not isinstance(callbacks, BaseCallbackManager) or callbacks.parent_run_id is None:
            return None
        outer = next((one for one in callbacks.handlers if type(one) is RunTree), None)
        if outer is None or outer is self:
            return None
        self.around = callbacks.handlers
        return outer.known(callbacks.parent_run_id)

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
        tags = kwargs.get("tags")
        self.on_chain_start(
            serialized, input_str, run_id=run_id, parent_run_id=parent_run_id, tags=tags
        )

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        invocation_params: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record what the model is asked, for every run around it."""
        parent = self._run_around() if parent_run_id is None else self.known(parent_run_id)
        if (parent_run_id is None and parent is None) or (tags and EDIT in tags):
            # The messages of an edit's own run are not a conversation.
            return
        asked = messages[0] if messages else []
        data = wants_data(serialized or {}, invocation_params or {}, options or {})
        model = ModelRun(self, run_id, parent_run_id, asked, tags, metadata, wants_data=data)
        self._ask(model, parent)

    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        invocation_params: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record what a completion model is asked, as one human turn."""
        parent = self._run_around() if parent_run_id is None else self.known(parent_run_id)
        if parent_run_id is None and parent is None:
            return
        asked = [HumanMessage(prompts[0] if prompts else "")]
        data = wants_data(serialized or {}, invocation_params or {}, options or {})
        model = ModelRun(self, run_id, parent_run_id, asked, tags, metadata, wants_data=data)
        self._ask(model, parent)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Record the model's reply."""
        asked = self._models.pop(run_id, None)
        if asked is None or not response.generations or not response.generations[0]:
            return
        generation = response.generations[0][0]
        message = getattr(generation, "message", None)
        asked[0].reply_id = getattr(message, "id", None)
        if asked[0].heard_by:
            asked[0].may_be_seen = has_streamed(asked[0].heard_by, (asked[0].reply_id,))
        # Of several text blocks, LangChain's generation has only the first.
        if message is None or isinstance(message.content, str):
            asked[0].reply_text = generation.text
        else:
            asked[0].reply_text = str(message.text)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Forget a model run that made no reply."""
        asked = self._models.pop(run_id, None)
        # A consumer that stops reading a stream still has a reply.
        run = None if asked is None or isinstance(error, GeneratorExit) else asked[1]
        while asked is not None and run is not None:
            run.forget(asked[0])
            run = run.parent

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Keep of the run what a task that goes on after it may need."""
        run = self._runs.pop(run_id, None)
        if run is not None:
            run.ended(outputs)
            self._has_ended(run_id, run)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """As when the run ends."""
        self.on_chain_end(None, run_id=run_id)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """As when the run ends."""
        self.on_chain_end(output, run_id=run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """As when the run ends."""
        self.on_chain_end(None, run_id=run_id)

    def _has_ended(self, run_id: UUID, run: _Run) -> None:
        self._ended[run_id] = run
        if len(self._ended) > _ENDED_RUNS_KEPT:
            _drop_first(self._ended)

    def _ask(self, model: ModelRun, parent: _Run | None) -> None:
        if parent is None:
            # A run that ended long ago, or one that this tree was never told of.
            parent = _Run(None)
            self._has_ended(cast("UUID", model.parent_run_id), parent)
        if parent.editing:
            return
        if place := _step_of(model.tags):
            parent.asks(model, place)
        self._models[model.run_id] = (model, parent)
        if len(self._models) > _UNFINISHED_RUNS_KEPT:
            _drop_first(self._models)
        run: _Run | None = parent
        while run is not None:
            if run.models is None:
                inside = model.parent_run_id is None or model.parent_run_id in self._runs
                ended = run is parent and not inside
                run.models = deque(maxlen=_MODEL_RUNS_KEPT_OF_ENDED if ended else _MODEL_RUNS_KEPT)
            run.models.append(model)
            run = run.parent


def _step_of(tags: Iterable[str]) -> int:
    """The place of a run in its pipe, from 1; 0 if it is no step of a pipe."""
    for tag in tags:
        if tag.startswith(_STEP_OF_PIPE):
            return int(tag.removeprefix(_STEP_OF_PIPE))
    return 0


def _drop_first(kept: dict[UUID, Any]) -> None:
    # Another thread may have dropped it already.
    kept.pop(next(iter(kept), UUID(int=0)), None)


CAPTURING: Final = frozenset([RunTree])
"""The types of the handlers with which nobody but the capture gets a run's events."""


class Found(NamedTuple):
    """The model run that made a reply.

    Attributes:
        models: The model run; none if it is not known; several if they were sent different messages
            and nothing tells them apart.
        nearest: The same, but where nothing in the reply tells its model, the model runs of the
            nearest run around the aligner that has any.
    """

    models: Sequence[ModelRun]
    nearest: Sequence[ModelRun]


class Capture:
    """The trees of all runs in the process."""

    get: Final = RunTree
    """Makes a tree. LangChain calls it twice for every run, and gives it to outermost runs only."""

    def __init__(self) -> None:
        self._trees: WeakSet[RunTree] = WeakSet()

    def watch(self, tree: RunTree) -> None:
        """Count a tree in `kept`, as long as it lives."""
        self._trees.add(tree)

    def kept(self) -> int:
        """The number of unfinished runs that are kept."""
        return sum(tree.kept() for tree in list(self._trees))

    def listening(self, handlers: Sequence[Any], model: ModelRun) -> Sequence[Any]:
        """The handlers that a model's run may have been told to, as seen from another run.

        Args:
            handlers: The handlers of the other run.
            model: The model's run.

        Returns:
            The handlers of the run itself or, where it was called with callbacks of its own, those
            of the run around it; none if the model's run was told to others only.
        """
        while True:
            tree = next((one for one in handlers if type(one) is RunTree), None)
            if tree is None or tree is model.tree():
                return handlers
            handlers = tree.around

    def find_unattached(self, *, reply_id: str | None, reply_text: str) -> ModelRun | None:
        """Find the model run of a reply that is edited outside of the run that made it.

        It is no context: it tells only whether the reply has been seen.

        Args:
            reply_id: The reply's id, if it has one.
            reply_text: The reply's text.

        Returns:
            A model run in a graph's node that has not ended; `None` if there is none.
        """
        found = (tree.heard(reply_id, reply_text) for tree in list(self._trees))
        return next((one for one in found if one is not None), None)

    def find(
        self,
        handlers: Iterable[Any],
        parent_run_id: UUID | None,
        *,
        reply_id: str | None,
        reply_text: str,
        editing: UUID | None = None,
    ) -> Found:
        """Find the model run that made a reply.

        The search covers the given run and the runs around it, the nearest first. It looks for
        the reply's id. Then it looks for its text, and for a reply that contains the text or that
        the text contains, because a step in between may have cut it or added to it. If nothing
        matches, a step may have rewritten the reply; then it is the model whose reply goes through
        the pipe, and outside of pipes the only model run of all these runs.

        Nothing gets from before a model in a pipe to a step behind it, so that the search by text
        ends there.

        Args:
            handlers: The handlers of the run that the aligner runs in.
            parent_run_id: That run.
            reply_id: The reply's id, if it has one.
            reply_text: The reply's text.
            editing: The run that will edit the reply. Models below it belong to the aligner, so
                they are not captured.

        Returns:
            The model run, if it is known.
        """
        run: _Run | None = None
        place = 0
        for tree in handlers:
            if type(tree) is not RunTree:
                continue
            if editing is not None and (own := tree.known(editing)) is not None:
                own.editing, place = True, own.place
            if run is None and parent_run_id is not None:
                run = tree.known(parent_run_id)
        if reply_id:
            for around in _outward(run):
                if made := [one for one in list(around.models or ()) if one.made_id(reply_id)]:
                    # A model may use an id twice; the text then tells the replies apart.
                    same = [one for one in made if one.reply_text == reply_text]
                    return _found(same or made)
        scopes = _scopes(run, place)
        if not scopes:
            return _NOBODY
        if made := _said_by(reply_text, scopes) or _changed_from(reply_text, scopes):
            return _found(made)
        if reply_id and reply_id.startswith(LC_ID_PREFIX):
            # The id of another model's run, which is not among these.
            return _NOBODY
        return Found(_alike(_each(*reversed(scopes))), scopes[0])


_NOBODY: Final = Found((), ())


def _found(models: Sequence[ModelRun]) -> Found:
    models = _alike(models)
    return Found(models, models)


def _outward(run: _Run | None) -> Iterator[_Run]:
    while run is not None:
        yield run
        run = run.parent


def _scopes(run: _Run | None, place: int) -> list[list[ModelRun]]:
    """The model runs that a reply may be from, run by run outward.

    Args:
        run: The run that the aligner runs in.
        place: The aligner's place in that run.

    Returns:
        Lists that are not empty. The last is that of a pipe in which a model is known to have made
        the reply, if there is one.
    """
    scopes: list[list[ModelRun]] = []
    for around in _outward(run):
        if around.sources and around.source_place < place:
            return [*scopes, list(around.sources)]
        if around.models:
            scopes.append(list(around.models))
        place = around.place
    return scopes


def _said_by(text: str, scopes: Sequence[Sequence[ModelRun]]) -> list[ModelRun]:
    """The nearest model runs whose reply is a text, exactly or else but for its edges."""
    bare = text.strip()
    for models in scopes:
        made = [one for one in models if text in (one.reply_text, one.passed_on)]
        made = made or [one for one in models if bare in map(str.strip, _texts_of(one))]
        if made:
            return made
    return []


def _changed_from(text: str, scopes: Sequence[Sequence[ModelRun]]) -> list[ModelRun]:
    """The nearest model runs whose reply was cut to a text, and those to whose reply was added."""
    text = text.strip()
    if len(text) < _TELLING:
        return []
    cut: list[ModelRun] = []
    longer: list[ModelRun] = []
    for models in scopes:
        cut = cut or [one for one in models if any(text in said for said in _texts_of(one))]
        longer = longer or _added_to(text, models)
    return _each(cut, longer)


def _added_to(text: str, models: Sequence[ModelRun]) -> list[ModelRun]:
    """The model runs whose reply stands in a text, without those that another one's reply holds."""
    held = [
        (bare, one)
        for one in models
        for said in _texts_of(one)
        if (bare := said.strip()) and _is_telling(bare, text)
    ]
    return [one for bare, one in held if not any(bare != its and bare in its for its, _ in held)]


def _is_telling(reply: str, text: str) -> bool:
    """Whether a text was made by adding to a reply, and does not just have the same words."""
    if len(reply) < _TELLING or reply not in text:
        return False
    at_edge = text.startswith(reply) or text.endswith(reply)
    return 2 * len(reply) >= len(text) or (at_edge and bool(_END_OF_STATEMENT.search(reply)))


def _each(*models: Iterable[ModelRun]) -> list[ModelRun]:
    return list(dict.fromkeys(one for some in models for one in some))


def _texts_of(model: ModelRun) -> list[str]:
    return [text for text in (model.reply_text, model.passed_on) if text is not None]


def _said(output: Any) -> tuple[str | None, str] | None:
    """The id and the text of the reply in a run's output; `None` if it has none."""
    if isinstance(output, Mapping):
        messages = output.get("messages")
        output = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(output, str):
        return None, output
    return (output.id, str(output.text)) if isinstance(output, AIMessage) else None


def _made(output: Any, models: Sequence[ModelRun]) -> list[ModelRun]:
    """The model runs whose reply a run's output is."""
    if (said := _said(output)) is None:
        return []
    reply_id, text = said
    made = [one for one in models if reply_id and one.made_id(reply_id)]
    return made or ([one for one in models if text in _texts_of(one)] if text.strip() else [])


def _alike(models: Sequence[ModelRun]) -> Sequence[ModelRun]:
    """The newest model run if all were sent the same; else all.

    One that was asked for prose goes before one that was asked for data, which is not edited.
    """
    newest = models[-1]
    if all(one.messages == newest.messages for one in models):
        return (next((one for one in reversed(models) if not one.wants_data), newest),)
    return models


capture = Capture()
_installing = Lock()
_installed = False


def install() -> None:
    """Register the capture for every run from now on; a second call does nothing."""
    global _installed  # noqa: PLW0603
    if _installed:
        return
    with _installing:
        if not _installed:
            register_handlers(capture, RunTree)
            _installed = True
