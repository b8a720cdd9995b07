"""While the policy writes, the edit's prompt is prefilled, and dropped where nobody wants it."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator

import pytest
from langchain_core._api import LangChainBetaWarning
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_metaaligner import Aligner, ChatMetaAligner, Edit, MetaAlignerRunnable, Request
from tests.unit_tests.scripted import Policy, StreamingPolicy

WORDS = "A fine answer of some length that comes word by word, as answers of models do. " * 6


class Warmed:
    """An engine that notes what it was asked to prefill."""

    def __init__(self) -> None:
        self.prefilled: list[str] = []
        self.wanted: list[threading.Event] = []
        self.edited: list[Request] = []
        self.error: Exception | None = None
        self.asked = threading.Condition()

    def warm(self, prompt, *, templated=False, cancelled=None) -> None:
        with self.asked:
            self.prefilled.append(prompt)
            self.wanted.append(cancelled or threading.Event())
            self.asked.notify_all()
        if self.error is not None:
            raise self.error

    def wait_for_a_prompt(self, count=1) -> None:
        with self.asked:
            assert self.asked.wait_for(lambda: len(self.prefilled) >= count, 30)

    def wait_until_cancelled(self) -> None:
        assert all(one.wait(30) for one in self.wanted)

    def edit(self, requests):
        self.edited += requests
        return [Edit(request.draft) for request in requests]

    async def aedit(self, requests):
        return self.edit(requests)

    def stream(self, request: Request) -> Iterator[str]:
        self.edited.append(request)
        yield request.draft


@pytest.fixture
def engine():
    return Warmed()


class Slow(GenericFakeChatModel):
    """Waits in the middle of its reply until the engine has prefilled what came so far."""

    engine: object = None

    def _stream(self, *args, **kwargs):
        for number, chunk in enumerate(super()._stream(*args, **kwargs)):
            yield chunk
            if number == 2:
                self.engine.wait_for_a_prompt()
            elif number == 100:
                self.engine.wait_for_a_prompt(min(2, len(self.engine.prefilled) + 1))


def chain(engine, **options):
    policy = Slow(messages=iter([AIMessage(WORDS)] * 3), engine=engine)
    return policy | MetaAlignerRunnable(engine=engine, **options)


def joined(chunks) -> str:
    return "".join(chunk.content for chunk in chunks)


def cancelled(engine) -> bool:
    return all(event.is_set() for event in engine.wanted)


def test_context_and_answer_are_prefilled_while_the_policy_writes(engine):
    assert joined(chain(engine).stream("how are you?")) == WORDS
    (request,) = engine.edited
    assert all(request.prompt.startswith(one) for one in engine.prefilled)
    assert "how are you?" in engine.prefilled[0]
    assert len(engine.prefilled[-1]) > request.prompt.index(WORDS) + 100
    assert cancelled(engine)


async def test_so_they_are_in_asynchronous_streams(engine):
    pieces = [chunk async for chunk in chain(engine).astream("how are you?")]
    assert joined(pieces) == WORDS
    assert engine.edited[0].prompt.startswith(engine.prefilled[-1])
    assert cancelled(engine)


def test_it_can_be_switched_off(engine):
    aligner = MetaAlignerRunnable(engine=engine, eager=False)
    policy = GenericFakeChatModel(messages=iter([AIMessage(WORDS)]))
    assert joined((policy | aligner).stream("hi")) == WORDS
    assert engine.prefilled == []


def test_calls_that_do_not_stream_prefill_nothing(engine):
    policy = GenericFakeChatModel(messages=iter([AIMessage(WORDS)]))
    assert (policy | MetaAlignerRunnable(engine=engine)).invoke("hi").content == WORDS
    assert engine.prefilled == []


def test_a_tool_call_stops_it(engine):
    call = {"name": "look", "args": "{}", "id": "1", "index": 0}

    def write(_):
        yield AIMessageChunk(content="Let me look that up.")
        engine.wait_for_a_prompt()
        yield AIMessageChunk(content="", tool_call_chunks=[call])
        engine.wait_until_cancelled()
        yield AIMessageChunk(content=WORDS)

    aligner = MetaAlignerRunnable(engine=engine)
    given = {"configurable": {"context": [("human", "hi")]}}
    list((RunnableLambda(write) | aligner).stream("hi", given))
    assert len(engine.prefilled) == 1


def test_a_policy_that_fails_stops_it(engine):
    def write(_):
        yield AIMessageChunk(content="Let me see.")
        engine.wait_for_a_prompt()
        message = "the line is dead"
        raise ConnectionError(message)

    aligner = MetaAlignerRunnable(engine=engine)
    given = {"configurable": {"context": [("human", "hi")]}}
    with pytest.raises(ConnectionError):
        list((RunnableLambda(write) | aligner).stream("hi", given))
    assert cancelled(engine)
    assert engine.edited == []


def test_an_error_while_prefilling_is_the_edits_business_alone(engine):
    engine.error = MemoryError()
    policy = GenericFakeChatModel(messages=iter([AIMessage(WORDS)]))
    assert joined((policy | MetaAlignerRunnable(engine=engine)).stream("hi")) == WORDS


def chat_model(engine, **options):
    policy = Slow(messages=iter([AIMessage(WORDS)] * 3), engine=engine)
    return ChatMetaAligner(policy=policy, engine=engine, **options)


def test_the_chat_model_prefills_the_context_before_its_policy_has_said_a_word(engine):
    said = joined(chat_model(engine).stream("how are you?"))
    assert said == WORDS
    assert engine.edited[0].prompt.startswith(engine.prefilled[-1])
    assert engine.prefilled[0].rstrip().endswith("Answer:")
    assert cancelled(engine)


async def test_so_it_does_in_asynchronous_streams(engine):
    assert joined([chunk async for chunk in chat_model(engine).astream("how are you?")]) == WORDS
    assert engine.edited[0].prompt.startswith(engine.prefilled[-1])
    assert cancelled(engine)


def test_the_chat_model_prefills_nothing_where_tools_are_bound_or_it_is_switched_off(engine):
    policy = GenericFakeChatModel(messages=iter([AIMessage(WORDS)] * 2))
    off = ChatMetaAligner(policy=policy, engine=engine, eager=False)
    assert joined(off.stream("hi")) == WORDS
    bound = ChatMetaAligner(policy=policy, engine=engine).bind(tools=[{"name": "look"}])
    assert joined(bound.stream("hi")) == WORDS
    assert engine.prefilled == []


def test_where_it_is_asked_for_the_chat_model_prefills_beside_tools_and_without_a_stream(engine):
    def write(messages):
        engine.wait_for_a_prompt()
        return WORDS

    model = ChatMetaAligner(policy=Policy(reply=write), engine=engine, eager=True)
    assert joined(model.bind(tools=[{"name": "look"}]).stream("hi")) == WORDS
    engine.prefilled.clear()
    whole = ChatMetaAligner(policy=Policy(reply=write), engine=engine, eager=True)
    assert whole.invoke("how are you?").content == WORDS
    assert engine.prefilled[0].rstrip().endswith("Answer:")
    assert cancelled(engine)


# -- in an agent ------------------------------------------------------------------------------


def agent(engine, policy, *, tools=(), before=(), after=(), **options):
    from langchain.agents import create_agent

    from langchain_metaaligner import MetaAlignerMiddleware

    aligner = MetaAlignerMiddleware(engine=engine, **options)
    return create_agent(policy, tools=list(tools), middleware=[*before, aligner, *after])


def slow(engine):
    return Slow(messages=iter([AIMessage(WORDS)] * 3), engine=engine)


HOW = {"messages": [("human", "how are you?")]}


def read(target, *, events: bool = False) -> str:
    if events:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LangChainBetaWarning)
            messages = target.stream_events(HOW, version="v3").messages
            return "".join(piece for message in messages for piece in message.text)
    return joined(chunk for chunk, _ in target.stream(HOW, stream_mode="messages"))


@pytest.mark.parametrize("events", [False, True], ids=["messages", "events"])
def test_an_agent_prefills_the_context_at_once_and_the_answer_as_it_grows(engine, events):
    assert read(agent(engine, slow(engine)), events=events) == WORDS
    (request,) = engine.edited
    assert engine.prefilled[0].rstrip().endswith("Answer:")
    assert all(request.prompt.startswith(one) for one in engine.prefilled)
    assert len(engine.prefilled[-1]) > request.prompt.index(WORDS) + 100
    assert cancelled(engine)


async def test_so_does_an_agent_in_asynchronous_streams(engine):
    made = agent(engine, slow(engine))
    pieces = [chunk async for chunk, _ in made.astream(HOW, stream_mode="messages")]
    assert joined(pieces) == WORDS
    assert len(engine.prefilled[-1]) > engine.edited[0].prompt.index(WORDS) + 100
    assert cancelled(engine)


def test_an_agent_in_shadow_mode_prefills_too_and_its_policy_streams_for_itself(engine):
    assert read(agent(engine, slow(engine), apply=False)) == WORDS
    assert len(engine.prefilled[-1]) > engine.edited[0].prompt.index(WORDS) + 100


@pytest.mark.parametrize("eager", [None, False])
def test_an_agent_that_is_not_streamed_prefills_nothing(engine, eager):
    policy = GenericFakeChatModel(messages=iter([AIMessage(WORDS)]))
    agent(engine, policy, eager=eager).invoke(HOW)
    assert engine.prefilled == []


def test_an_agent_prefills_nothing_where_it_is_switched_off(engine):
    policy = GenericFakeChatModel(messages=iter([AIMessage(WORDS)]))
    assert read(agent(engine, policy, eager=False)) == WORDS
    assert engine.prefilled == []


class Tooled(StreamingPolicy):
    """A policy that can be given tools, and says after its first word what it waits for."""

    wait: object = None

    def bind_tools(self, tools, **kwargs):
        return self

    def _stream(self, *args, **kwargs):
        for chunk in super()._stream(*args, **kwargs):
            yield chunk
            self.wait()


@tool
def look(word: str) -> str:
    """Look a word up."""
    return word


def test_an_agent_with_tools_prefills_nothing_unless_it_is_asked_for(engine):
    policy = Tooled(reply=WORDS, wait=lambda: None)
    assert read(agent(engine, policy, tools=[look])) == WORDS
    assert engine.prefilled == []

    policy = Tooled(reply=WORDS, wait=engine.wait_for_a_prompt)
    assert read(agent(engine, policy, tools=[look], eager=True)) == WORDS
    assert engine.prefilled
    assert cancelled(engine)


@pytest.mark.parametrize("events", [False, True], ids=["messages", "events"])
def test_a_tool_call_stops_an_agents_prefilling(engine, events):
    call = {"name": "look", "args": '{"word": "a"}', "id": "1", "index": 0}
    asked = []

    class Calls(Tooled):
        def _stream(self, messages, stop=None, run_manager=None, **kwargs):
            asked.append(messages)
            if len(asked) > 1:
                yield from super()._stream(messages, stop, run_manager, **kwargs)
                return
            for message in (
                AIMessageChunk(content="Let me look that up."),
                AIMessageChunk(content="", tool_call_chunks=[call]),
            ):
                chunk = ChatGenerationChunk(message=message)
                if run_manager is not None:
                    run_manager.on_llm_new_token(message.text, chunk=chunk)
                yield chunk
                engine.wait_for_a_prompt()
            engine.wait_until_cancelled()

    policy = Calls(reply="Well.", wait=lambda: None)
    assert "Well." in read(agent(engine, policy, tools=[look], eager=True), events=events)
    assert len(asked) == 2
    assert cancelled(engine)


def test_a_policy_that_fails_stops_an_agents_prefilling_and_another_goes_on(engine):
    def fail():
        engine.wait_for_a_prompt()
        message = "the line is dead"
        raise ConnectionError(message)

    with pytest.raises(ConnectionError):
        read(agent(engine, Tooled(reply="Let me see.", wait=fail)))
    assert cancelled(engine)
    assert engine.edited == []

    from langchain.agents.middleware import ModelFallbackMiddleware

    engine.prefilled.clear()
    fallback = ModelFallbackMiddleware(slow(engine))
    made = agent(engine, Tooled(reply="Let me see.", wait=fail), after=[fallback])
    assert read(made) == WORDS
    assert len(engine.prefilled[-1]) > engine.edited[0].prompt.index(WORDS) + 100
    assert "Let me see" not in engine.prefilled[-1]


def test_an_answer_in_a_form_that_was_asked_for_is_not_prefilled(engine):
    from langchain.agents import create_agent
    from langchain.agents.structured_output import ProviderStrategy

    from langchain_metaaligner import MetaAlignerMiddleware

    class Form(BaseModel):
        word: str

    policy = Tooled(reply='{"word": "a"}', wait=lambda: None)
    made = create_agent(
        policy,
        tools=[],
        middleware=[MetaAlignerMiddleware(engine=engine, eager=True)],
        response_format=ProviderStrategy(Form),
    )
    assert made.invoke(HOW)["structured_response"] == Form(word="a")
    assert engine.prefilled == []


@pytest.mark.parametrize("edit_refusals", [False, True])
def test_data_in_a_chain_is_not_prefilled_though_it_may_turn_out_a_refusal(engine, edit_refusals):
    aligner = MetaAlignerRunnable(engine=engine, eager=True, edit_refusals=edit_refusals)
    policy = Tooled(reply='{"word": "a"}', wait=lambda: time.sleep(0.02))
    data = policy.bind(response_format={"type": "json_object"})
    assert joined((data | aligner).stream("hi")) == '{"word": "a"}'
    assert engine.prefilled == []


# -- by itself --------------------------------------------------------------------------------


def test_an_aligner_prefills_by_itself_too(engine):
    aligner = Aligner(engine=engine)
    asked = ("how are you?", "harmlessness")
    aligner.warm(*asked)
    aligner.warm(*asked, "A fine answer")
    prompt = aligner.prompt(asked[0], "A fine answer indeed", asked[1])
    assert engine.prefilled == [
        prompt[: prompt.index("A fine")],
        prompt[: prompt.index(" indeed")],
    ]


def test_an_engine_that_cannot_prefill_is_left_alone():
    class Plain:
        def edit(self, requests):
            return [Edit(request.draft) for request in requests]

    Aligner(engine=Plain()).warm("hi", "harmlessness")
    policy = GenericFakeChatModel(messages=iter([AIMessage(WORDS)]))
    assert joined((policy | MetaAlignerRunnable(engine=Plain())).stream("hi")) == WORDS
