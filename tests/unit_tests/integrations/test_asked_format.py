from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda, RunnableParallel
from pydantic import BaseModel

from langchain_metaaligner import (
    Alignment,
    ChatMetaAligner,
    MetaAlignerMiddleware,
    MetaAlignerRunnable,
)
from langchain_metaaligner.integrations.upstream_model import asks_for_data
from tests.unit_tests.integrations.ways import WAYS, run
from tests.unit_tests.scripted import Policy, ScriptedEngine

openai = pytest.importorskip("langchain_openai")
anthropic = pytest.importorskip("langchain_anthropic")
google = pytest.importorskip("langchain_google_genai")
ollama = pytest.importorskip("langchain_ollama")

DATA = '{"city": "Rome"}'
JSON = {"type": "json_object"}
ANSWER = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
SCHEMA = {"type": "json_schema", "schema": {"type": "object"}}


class City(BaseModel):
    city: str


class ToolPolicy(Policy):
    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=tools)


def chat_gpt(**options: Any) -> Any:
    def reply(request: httpx.Request) -> httpx.Response:
        if json.loads(request.content).get("stream"):
            deltas = [
                ({"role": "assistant", "content": DATA[:5]}, None),
                ({"content": DATA[5:]}, None),
                ({}, "stop"),
            ]
            events = [
                {**ANSWER, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
                for delta, reason in deltas
            ]
            body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
            kind = {"content-type": "text/event-stream"}
            return httpx.Response(200, text=f"{body}data: [DONE]\n\n", headers=kind)
        message = {"role": "assistant", "content": DATA}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return httpx.Response(200, json={**ANSWER, "choices": [choice]})

    transport = httpx.MockTransport(reply)
    return openai.ChatOpenAI(
        api_key="x",
        http_client=httpx.Client(transport=transport),
        http_async_client=httpx.AsyncClient(transport=transport),
        **options,
    )


def claude(**options: Any) -> Any:
    return anthropic.ChatAnthropic(model_name="c", api_key="x", **options)


def gemini(**options: Any) -> Any:
    return google.ChatGoogleGenerativeAI(model="g", api_key="x", **options)


def llama(**options: Any) -> Any:
    return ollama.ChatOllama(model="l", **options)


def by_method(name: str) -> dict[str, Any]:
    return {"kwargs": {"method": name}, "schema": {"title": "city", "type": "object"}}


class Refusing(Policy):
    """Refuses, in two chunks where it streams."""

    reply: Any = AIMessage("", additional_kwargs={"refusal": "I won't."})

    def _stream(self, *_: Any, **__: Any) -> Any:
        yield ChatGenerationChunk(message=AIMessageChunk(""))
        beside = self.reply.additional_kwargs
        yield ChatGenerationChunk(message=AIMessageChunk("", additional_kwargs=beside))


ASKED_FOR_DATA = [
    (chat_gpt, {"model_kwargs": {"response_format": JSON}}, {}),
    (chat_gpt, {}, {"response_format": City}),
    (chat_gpt, {"model_kwargs": {"text": {"format": SCHEMA, "verbosity": "low"}}}, {}),
    (chat_gpt, {}, {"text": {"format": SCHEMA}}),
    (chat_gpt, {"extra_body": {"guided_json": {"type": "object"}}}, {}),
    (chat_gpt, {}, {"extra_body": {"structured_outputs": {"regex": "a+"}}}),
    (chat_gpt, {}, {"extra_body": {"nvext": {"guided_regex": "a+"}}}),
    (chat_gpt, {}, {"response_format": {"type": "text", "mime_type": "application/json"}}),
    (chat_gpt, {}, {"ls_structured_output_format": by_method("json_mode")}),
    (claude, {"output_config": {"format": SCHEMA}}, {}),
    (claude, {"output_config": {"format": SCHEMA}}, {"output_config": {"effort": "low"}}),
    (claude, {"model_kwargs": {"output_format": SCHEMA}}, {}),
    (gemini, {"response_mime_type": "application/json"}, {}),
    (gemini, {"response_mime_type": "text/x.enum", "response_schema": {"type": "string"}}, {}),
    (gemini, {}, {"generation_config": {"responseMimeType": "application/json"}}),
    (gemini, {}, {"response_json_schema": {"type": "object"}}),
    (llama, {"format": "json"}, {}),
    (llama, {"format": {"type": "object", "properties": {}}}, {}),
    (llama, {}, {"response_format": SCHEMA}),
]
ASKED_FOR_PROSE = [
    (chat_gpt, {"verbosity": "low", "metadata": {"format": "json"}}, {}),
    (chat_gpt, {"model_kwargs": {"response_format": JSON}}, {"response_format": {"type": "text"}}),
    (chat_gpt, {"model_kwargs": {"response_format": JSON}}, {"response_format": None}),
    (chat_gpt, {"model_kwargs": {"text": {"format": SCHEMA}}}, {"text": {"verbosity": "low"}}),
    (chat_gpt, {}, {"audio": {"voice": "alloy", "format": "wav"}, "modalities": ["text"]}),
    (chat_gpt, {}, {"tools": [{"function": {"name": "f", "parameters": {"format": "json"}}}]}),
    (chat_gpt, {}, {"ls_structured_output_format": by_method("function_calling")}),
    (chat_gpt, {"default_query": {"format": "json"}}, {"extra_query": {"format": "json"}}),
    (claude, {"output_config": {"effort": "low"}}, {}),
    (claude, {}, {"output_config": {"effort": "low", "format": None}}),
    (gemini, {"response_mime_type": "text/plain"}, {}),
    (gemini, {"response_mime_type": "application/json"}, {"response_mime_type": "text/plain"}),
    (gemini, {"labels": {"format": "json"}}, {"image_config": {"output_format": "json"}}),
    (gemini, {"client_args": {"headers": {"format": "json"}}}, {}),
    (llama, {"format": ""}, {}),
    (llama, {"sync_client_kwargs": {"headers": {"format": "json"}}}, {}),
    (llama, {"format": "json"}, {"format": ""}),
]
CASES = [(*case, True) for case in ASKED_FOR_DATA] + [(*case, False) for case in ASKED_FOR_PROSE]


@pytest.mark.parametrize(("make", "made_with", "call", "data"), CASES)
def test_a_wish_for_data_is_read_from_what_the_model_is_sent(
    make, made_with, call, data, monkeypatch
):
    model, engine = make(**made_with), ScriptedEngine()
    assert asks_for_data(model, None, call) is data

    # In a pipe, all there is to read is what LangChain tells its handlers.
    made = ChatResult(generations=[ChatGeneration(message=AIMessage(DATA))])
    monkeypatch.setattr(type(model), "_generate", lambda *_, **__: made)
    reply = (model | MetaAlignerRunnable(engine=engine)).invoke("?", **call)
    assert bool(engine.requests) is not data
    assert reply.response_metadata["metaaligner"].get("reason") == ("data" if data else None)


@pytest.fixture
def told() -> list[Alignment]:
    return []


def left_alone(reply: Any, told: list[Alignment]) -> bool:
    """Whether a reply is the data as it came, and says so once, to its reader and to `on_edit`."""
    provenance = reply.response_metadata["metaaligner"]
    return (reply.text, provenance["status"], provenance["reason"]) == (
        DATA,
        "skipped",
        "data",
    ) and [(one.status, one.reason) for one in told] == [("skipped", "data")]


@pytest.mark.parametrize("way", WAYS)
def test_data_goes_through_a_pipe_as_it_came(way, told):
    engine = ScriptedEngine()
    chain = chat_gpt().bind(response_format=JSON) | MetaAlignerRunnable(
        engine=engine, on_edit=told.append
    )
    assert left_alone(run(chain, "?", way), told)
    assert engine.requests == []


@pytest.mark.parametrize("way", WAYS)
def test_data_goes_through_a_chat_model_as_it_came(way, told):
    policy = chat_gpt(model_kwargs={"response_format": JSON})
    model = ChatMetaAligner(policy, engine=ScriptedEngine(), on_edit=told.append)
    assert left_alone(run(model, "?", way), told)


@pytest.mark.parametrize(
    "face",
    [
        lambda policy: ChatMetaAligner(policy, engine=ScriptedEngine()),
        lambda policy: policy | MetaAlignerRunnable(engine=ScriptedEngine()),
    ],
)
def test_data_is_streamed_as_it_is_made(face):
    """Each piece goes out before the next is asked for."""
    policy = chat_gpt(model_kwargs={"response_format": JSON})
    asked, heard = [], []
    make = policy._stream

    def stream(*args: Any, **kwargs: Any) -> Any:
        for chunk in make(*args, **kwargs):
            asked.append(chunk)
            yield chunk

    object.__setattr__(policy, "_stream", stream)
    for piece in face(policy).stream("?"):
        if piece.text:
            heard.append((piece.text, len(asked)))
        elif "metaaligner" in piece.response_metadata:
            heard.append(piece.response_metadata["metaaligner"]["reason"])
    (first, soon), (second, later), reason = heard
    assert (first, second, reason) == (DATA[:5], DATA[5:], "data")
    assert soon < later


def test_prose_that_is_taken_out_of_streamed_data_is_held_back_and_edited():
    def city(chunks: Any) -> Any:
        for chunk in chunks:
            yield chunk.model_copy(update={"content": "Rome" if chunk.content == DATA[5:] else ""})

    chain = chat_gpt().bind(response_format=JSON) | city
    made = run(chain | MetaAlignerRunnable(engine=ScriptedEngine()), "?", "stream")
    assert made.text == "Rome (edited)"


def test_data_that_a_parser_hands_on_as_text_is_left_alone(told):
    engine = ScriptedEngine()
    aligner = MetaAlignerRunnable(engine=engine, on_edit=told.append)
    chain = chat_gpt().bind(response_format=JSON) | StrOutputParser() | aligner
    assert chain.invoke("?") == "".join(chain.stream("?")) == DATA
    assert [one.reason for one in told] == ["data", "data"]


@pytest.mark.parametrize("keeps_the_message", [True, False])
def test_prose_that_was_taken_out_of_data_is_edited(keeps_the_message):
    def city(reply: AIMessage) -> Any:
        text = json.loads(reply.text)["city"]
        return reply.model_copy(update={"content": text}) if keeps_the_message else text

    aligner = MetaAlignerRunnable(engine=ScriptedEngine())
    chain = chat_gpt().bind(response_format=JSON) | RunnableLambda(city) | aligner
    made = chain.invoke("?")
    assert (made.text if keeps_the_message else made) == "Rome (edited)"


@pytest.mark.parametrize("question", ["?", "another"])
def test_a_text_that_a_model_asked_for_prose_made_too_is_edited(question):
    prose = RunnableLambda(lambda _: question) | chat_gpt()
    both = RunnableParallel(prose=prose, data=chat_gpt().bind(response_format=JSON))
    aligner = MetaAlignerRunnable(engine=ScriptedEngine(), on_error="block")
    made = (both | RunnableLambda(lambda made: made["prose"].text) | aligner).invoke("?")
    assert made != DATA


def test_a_call_takes_back_a_format_of_the_model() -> None:
    bound = ollama.ChatOllama(model="m", format="json").bind(format=None)
    model = ChatMetaAligner(bound, engine=ScriptedEngine("x"))
    assert model.policy_options == {"format": None}
    assert not asks_for_data(model.policy, None, model.policy_options)


def test_an_effort_is_no_wish_for_data(monkeypatch):
    made = ChatResult(generations=[ChatGeneration(message=AIMessage("prose"))])
    monkeypatch.setattr(anthropic.ChatAnthropic, "_generate", lambda *_, **__: made)
    policy = claude().bind(output_config={"effort": "low"})
    assert ChatMetaAligner(policy, engine=ScriptedEngine()).invoke("?").text == "prose (edited)"


@pytest.mark.parametrize(
    ("method", "way"),
    [("json_schema", "invoke"), ("json_mode", "stream"), ("function_calling", "astream")],
)
def test_a_model_that_langchain_bound_to_a_schema_is_a_policy(method, way, told):
    bound = chat_gpt(model="m").with_structured_output(City, method=method).first
    made = run(ChatMetaAligner(bound, engine=ScriptedEngine(), on_edit=told.append), "?", way)
    if method == "function_calling":  # this model writes instead of calling the tool
        assert made.response_metadata["metaaligner"]["status"] == "edited"
    else:
        assert left_alone(made, told)


@pytest.mark.parametrize("is_async", [False, True])
def test_an_agents_data_is_left_alone_however_it_was_asked_for(is_async, told):
    middleware = MetaAlignerMiddleware(engine=ScriptedEngine(), on_edit=told.append)
    agent = create_agent(chat_gpt(model_kwargs={"response_format": JSON}), middleware=[middleware])
    call = {"messages": ["?"]}
    state = asyncio.run(agent.ainvoke(call)) if is_async else agent.invoke(call)
    assert left_alone(state["messages"][-1], told)


def test_a_structured_answer_keeps_its_text_and_says_why(told):
    middleware = MetaAlignerMiddleware(engine=ScriptedEngine(), on_edit=told.append)
    agent = create_agent(
        chat_gpt(), middleware=[middleware], response_format=ProviderStrategy(City)
    )
    state = agent.invoke({"messages": ["?"]})
    assert left_alone(state["messages"][-1], told)
    assert state["structured_response"] == City(city="Rome")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("face", [ChatMetaAligner, None])
def test_a_refusal_instead_of_data_is_a_refusal(face, edited, way, told):
    options = {"engine": ScriptedEngine(), "on_edit": told.append, "edit_refusals": edited}
    policy = Refusing().bind(response_format=JSON)
    chain = policy | MetaAlignerRunnable(**options) if face is None else face(policy, **options)
    made = run(chain, "?", way)
    assert (made.text, bool(made.additional_kwargs)) == (
        ("I won't. (edited)", False) if edited else ("", True)
    )
    assert [one.reason for one in told] == [None if edited else "refusal"]


@pytest.mark.parametrize("way", WAYS)
def test_data_is_left_alone_where_refusals_are_edited(way, told):
    options = {"engine": ScriptedEngine(), "on_edit": told.append, "edit_refusals": True}
    policy = chat_gpt(model_kwargs={"response_format": JSON})
    for chain in (policy | MetaAlignerRunnable(**options), ChatMetaAligner(policy, **options)):
        told.clear()
        assert left_alone(run(chain, "?", way), told)


@pytest.mark.parametrize("edited", [False, True])
def test_text_beside_a_call_that_brings_the_data_is_text_beside_tool_calls(edited, told):
    call = {"name": "City", "args": {"city": "Rome"}, "id": "c"}
    middleware = MetaAlignerMiddleware(
        engine=ScriptedEngine(), on_edit=told.append, edit_tool_text=edited
    )
    agent = create_agent(
        ToolPolicy(reply=AIMessage("Here it is.", tool_calls=[call])),
        middleware=[middleware],
        response_format=ToolStrategy(City),
    )
    state = agent.invoke({"messages": ["?"]})
    assert state["structured_response"] == City(city="Rome")
    assert state["messages"][1].text == ("Here it is. (edited)" if edited else "Here it is.")
    assert [one.status for one in told] == ["edited" if edited else "skipped"]


def test_a_reply_that_when_skips_is_not_told(told):
    aligner = MetaAlignerRunnable(
        engine=ScriptedEngine(), on_edit=told.append, when=lambda *_: False
    )
    (Policy() | aligner).invoke("?")
    assert told == []
