"""While the policy writes, the edit's prompt is prefilled, and dropped where nobody wants it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableLambda

from langchain_metaaligner import Aligner, ChatMetaAligner, Edit, MetaAlignerRunnable, Request

WORDS = "A fine answer of some length that comes word by word, as answers of models do. " * 6


class Warmed:
    """An engine that notes what it was asked to prefill."""

    def __init__(self) -> None:
        self.prefilled: list[str] = []
        self.wanted: list[threading.Event] = []
        self.edited: list[Request] = []
        self.error: Exception | None = None
        self.came = threading.Event()

    def warm(self, prompt, *, templated=False, gone=None) -> None:
        self.prefilled.append(prompt)
        self.wanted.append(gone or threading.Event())
        self.came.set()
        if self.error is not None:
            raise self.error

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


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Slow(GenericFakeChatModel):
    """Waits in the middle of its reply until the engine has prefilled what came so far."""

    engine: object = None

    def _stream(self, *args, **kwargs):
        for number, chunk in enumerate(super()._stream(*args, **kwargs)):
            yield chunk
            if number in (2, 100):
                seen = len(self.engine.prefilled)
                if number == 100:
                    until(lambda seen=seen: len(self.engine.prefilled) >= min(2, seen + 1))
                else:
                    until(lambda: self.engine.prefilled)


def chain(engine, **options):
    policy = Slow(messages=iter([AIMessage(WORDS)] * 3), engine=engine)
    return policy | MetaAlignerRunnable(engine=engine, **options)


def joined(chunks) -> str:
    return "".join(chunk.content for chunk in chunks)


def gone(engine) -> bool:
    return all(event.is_set() for event in engine.wanted)


def test_context_and_answer_are_prefilled_while_the_policy_writes(engine):
    assert joined(chain(engine).stream("how are you?")) == WORDS
    (request,) = engine.edited
    assert all(request.prompt.startswith(one) for one in engine.prefilled)
    assert "how are you?" in engine.prefilled[0]
    assert len(engine.prefilled[-1]) > request.prompt.index(WORDS) + 100
    assert gone(engine)


async def test_so_they_are_in_asynchronous_streams(engine):
    pieces = [chunk async for chunk in chain(engine).astream("how are you?")]
    assert joined(pieces) == WORDS
    assert engine.edited[0].prompt.startswith(engine.prefilled[-1])
    assert gone(engine)


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
        until(lambda: engine.prefilled)
        yield AIMessageChunk(content="", tool_call_chunks=[call])
        until(lambda: gone(engine))
        yield AIMessageChunk(content=WORDS)

    aligner = MetaAlignerRunnable(engine=engine)
    given = {"configurable": {"context": [("human", "hi")]}}
    list((RunnableLambda(write) | aligner).stream("hi", given))
    assert len(engine.prefilled) == 1


def test_a_policy_that_fails_stops_it(engine):
    def write(_):
        yield AIMessageChunk(content="Let me see.")
        until(lambda: engine.prefilled)
        message = "the line is dead"
        raise ConnectionError(message)

    aligner = MetaAlignerRunnable(engine=engine)
    given = {"configurable": {"context": [("human", "hi")]}}
    with pytest.raises(ConnectionError):
        list((RunnableLambda(write) | aligner).stream("hi", given))
    assert gone(engine)
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
    assert gone(engine)


async def test_so_it_does_in_asynchronous_streams(engine):
    assert joined([chunk async for chunk in chat_model(engine).astream("how are you?")]) == WORDS
    assert engine.edited[0].prompt.startswith(engine.prefilled[-1])
    assert gone(engine)


def test_the_chat_model_prefills_nothing_where_tools_are_bound_or_it_is_switched_off(engine):
    policy = GenericFakeChatModel(messages=iter([AIMessage(WORDS)] * 2))
    off = ChatMetaAligner(policy=policy, engine=engine, eager=False)
    assert joined(off.stream("hi")) == WORDS
    bound = ChatMetaAligner(policy=policy, engine=engine).bind(tools=[{"name": "look"}])
    assert joined(bound.stream("hi")) == WORDS
    assert engine.prefilled == []


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
