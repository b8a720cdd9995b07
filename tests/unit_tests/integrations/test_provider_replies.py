"""Replies as real providers' classes make them: what is left of the text before its edit."""

from __future__ import annotations

import json
from functools import partial
from importlib import import_module
from typing import Any

import httpx
import pytest
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph

from langchain_metaaligner import (
    ChatMetaAligner,
    Context,
    MetaAlignerMiddleware,
    MetaAlignerRunnable,
)
from tests.unit_tests.integrations.ways import WAYS, run
from tests.unit_tests.scripted import ScriptedEngine

ASKED = [HumanMessage("why?")]


def louder(request: Any) -> str:
    return request.draft.upper()


def failing(request: Any) -> str:
    raise RuntimeError


OUTCOMES = {
    "edited": {"engine": ScriptedEngine(louder)},
    "blocked": {"engine": ScriptedEngine(failing), "on_error": "block", "block_message": "No."},
}
IN_BOTH_WAYS = pytest.mark.parametrize("outcome", OUTCOMES)


def served(answers: Any, sent: list[Any] | None = None) -> dict[str, Any]:
    """Clients of a server that gives these answers in turn, and keeps giving the last one."""
    left = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        if sent is not None:
            sent.append(asked)
        body = left.pop(0) if len(left) > 1 else left[0]
        if callable(body):
            body = body(asked)
        if isinstance(body, list):
            lines = "".join(f"data: {json.dumps(one)}\n\n" for one in body)
            events = {"content-type": "text/event-stream"}
            return httpx.Response(200, headers=events, text=f"{lines}data: [DONE]\n\n")
        return httpx.Response(200, json=body)

    transport = httpx.MockTransport(answer)
    return {
        "http_client": httpx.Client(transport=transport),
        "http_async_client": httpx.AsyncClient(transport=transport),
    }


def openai(answers: Any, sent: list[Any] | None = None, **options: Any) -> Any:
    made = pytest.importorskip("langchain_openai").ChatOpenAI
    return made(model="gpt-x", api_key="k", **served(answers, sent), **options)


TOKENS = ["zo", "rp", " qu", "ib"]
ODDS = [
    {
        "token": token,
        "bytes": list(token.encode()),
        "logprob": -0.1,
        "top_logprobs": [{"token": token, "bytes": list(token.encode()), "logprob": -0.1}],
    }
    for token in TOKENS
]


def completion(asked: Any) -> Any:
    """A chat completion with log-probabilities, whole or in chunks."""
    head = {"id": "chatcmpl-1", "created": 1, "model": "gpt-x"}
    if not asked.get("stream"):
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "zorp quib"},
            "logprobs": {"content": ODDS},
            "finish_reason": "stop",
        }
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
        return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
    head["object"] = "chat.completion.chunk"
    deltas = [
        {"index": 0, "delta": {"content": token}, "logprobs": {"content": [odds]}}
        for token, odds in zip(TOKENS, ODDS, strict=True)
    ]
    return [
        {**head, "choices": [delta]}
        for delta in [*deltas, {"index": 0, "delta": {}, "finish_reason": "stop"}]
    ]


def graph_of(node: Any) -> Any:
    return StateGraph(MessagesState).add_node("n", node).add_edge(START, "n").compile()


def updates(chain: Any) -> Any:
    graph = graph_of(lambda state: {"messages": [chain.invoke(state["messages"])]})
    return list(graph.stream({"messages": ASKED}, stream_mode=["updates", "messages", "debug"]))


def in_agent(llm: Any, options: Any) -> Any:
    from langchain.agents import create_agent

    agent = create_agent(llm, tools=[], middleware=[MetaAlignerMiddleware(**options)])
    return list(agent.stream({"messages": ASKED}, stream_mode=["updates", "messages"]))


READINGS: dict[str, Any] = {
    "pipe": lambda llm, options: [
        run(llm | MetaAlignerRunnable(**options), ASKED, way) for way in WAYS
    ],
    "graph": lambda llm, options: updates(llm | MetaAlignerRunnable(**options)),
    "model": lambda llm, options: [
        *[run(ChatMetaAligner(llm, **options), ASKED, way) for way in WAYS],
        ChatMetaAligner(llm, **options).generate([ASKED]),
    ],
    "agent": in_agent,
}


@IN_BOTH_WAYS
@pytest.mark.parametrize("reading", READINGS)
def test_log_probabilities_do_not_spell_a_text_that_was_changed(reading: str, outcome: str) -> None:
    llm = openai([completion], logprobs=True)
    out = READINGS[reading](llm, OUTCOMES[outcome])
    shown = repr(out)
    assert "logprob" not in shown
    assert not [token for token in TOKENS if f"'{token}'" in shown]
    assert "zorp quib" not in shown
    assert "ZORP QUIB" in shown or outcome == "blocked"
    assert "'model_name': 'gpt-x'" in shown
    assert "'finish_reason': 'stop'" in shown


def test_a_text_that_was_not_changed_keeps_its_log_probabilities() -> None:
    same = ScriptedEngine(lambda request: request.draft)
    chain = openai([completion], logprobs=True) | MetaAlignerRunnable(engine=same)
    for way in WAYS:
        assert run(chain, ASKED, way).response_metadata["logprobs"]["content"] == ODDS


def response(number: int, *output: Any) -> Any:
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 1,
        "model": "gpt-x",
        "status": "completed",
        "output": list(output),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def said(text: str, **fields: Any) -> Any:
    content = {"type": "output_text", "text": text, "annotations": [], **fields}
    return {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [content],
    }


@IN_BOTH_WAYS
def test_the_next_turn_goes_on_from_the_edit_and_not_from_the_stored_response(outcome: str) -> None:
    sent: list[Any] = []
    answers = [response(1, said("zorp quib")), response(2, said("more"))]
    llm = openai(answers, sent, use_previous_response_id=True)
    chain = llm | MetaAlignerRunnable(**OUTCOMES[outcome])
    first = chain.invoke(ASKED)
    chain.invoke([*ASKED, first, HumanMessage("and?")])
    assert "previous_response_id" not in sent[1]
    assert "zorp" not in json.dumps(sent[1])
    assert first.text in json.dumps(sent[1])


def test_the_next_turn_goes_on_from_the_stored_response_of_an_unchanged_reply() -> None:
    sent: list[Any] = []
    llm = openai([response(1, said("zorp"))], sent, use_previous_response_id=True)
    chain = llm | MetaAlignerRunnable(engine=ScriptedEngine("zorp"))
    first = chain.invoke(ASKED)
    chain.invoke([*ASKED, first, HumanMessage("and?")])
    assert sent[1]["previous_response_id"] == "resp_1"


SUMMARY = [{"type": "summary_text", "text": "I think of zorp quib."}]
REASONING = {"type": "reasoning", "id": "rs_1", "summary": SUMMARY, "encrypted_content": "E"}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "look",
    "arguments": "{}",
    "status": "completed",
}


@pytest.mark.parametrize("version", ["v0", "responses/v1", "v1"])
def test_a_blocked_reply_keeps_of_its_thoughts_what_openai_wants_with_a_call(version: str) -> None:
    sent: list[Any] = []
    answers = [response(1, REASONING, said("zorp quib"), CALL), response(2, said("more"))]
    llm = openai(answers, sent, output_version=version, use_responses_api=True)
    options = {**OUTCOMES["blocked"], "edit_tool_text": True}
    first = (llm | MetaAlignerRunnable(**options)).invoke(ASKED)
    assert "think" not in repr(first)
    assert "zorp" not in repr(first)
    llm.invoke([*ASKED, first, HumanMessage("and?")])
    items = {one.get("type"): one for one in sent[1]["input"]}
    assert items["reasoning"]["id"] == "rs_1"
    assert items["reasoning"]["summary"] == []
    assert items["function_call"]["call_id"] == "call_1"


@pytest.mark.parametrize("version", ["v0", "responses/v1", "v1"])
def test_a_blocked_reply_without_a_call_has_no_thoughts(version: str) -> None:
    answers = [response(1, REASONING, said("zorp quib"))]
    llm = openai(answers, output_version=version, use_responses_api=True)
    blocked = (llm | MetaAlignerRunnable(**OUTCOMES["blocked"])).invoke(ASKED)
    assert "rs_1" not in repr(blocked)
    assert "think" not in repr(blocked)
    assert blocked.text == "No."


def streamed(text: str) -> Any:
    """The events of a streamed response."""
    whole = response(1, said(text))
    deltas = [
        {"type": "response.output_text.delta", "delta": token, "logprobs": [], **place}
        for token in text.partition(" ")
        for place in [{"item_id": "msg_1", "output_index": 0, "content_index": 0}]
    ]
    events = [
        {"type": "response.created", "response": {**whole, "output": []}},
        *deltas,
        {"type": "response.output_item.done", "output_index": 0, "item": said(text)},
        {"type": "response.completed", "response": whole},
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_pieces_in_standard_blocks_merge_to_one_block(way: str) -> None:
    def model() -> Any:
        answers = [streamed("zorp quib")]
        return openai(answers, output_version="v1", use_responses_api=True)

    whole = run(model(), ASKED, way).content
    for chain in (
        model() | MetaAlignerRunnable(**OUTCOMES["edited"]),
        ChatMetaAligner(model(), **OUTCOMES["edited"]),
    ):
        assert run(chain, ASKED, way).content == [{**whole[0], "text": "ZORP QUIB"}]


@pytest.mark.parametrize("version", ["responses/v1", "v1"])
def test_the_events_of_a_text_are_those_of_one_block(version: str) -> None:
    model = openai([streamed("zorp quib")], output_version=version, use_responses_api=True)
    events = ChatMetaAligner(model, **OUTCOMES["edited"]).stream_events(ASKED, version="v3")
    finished = [one["content"] for one in events if one["event"] == "content-block-finish"]
    assert [one["text"] for one in finished] == ["ZORP QUIB"]


def test_the_events_of_a_text_behind_a_block_are_those_of_one_block() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "index": 0}
    text = {"type": "text", "id": "msg_1", "text": "zorp quib", "index": 1}
    reply = AIMessage([thought, text], response_metadata={"model_provider": "openai"})
    aligned = ChatMetaAligner(FakeMessagesListChatModel(responses=[reply]), **OUTCOMES["edited"])
    events = aligned.stream_events(ASKED, version="v3")
    finished = [one["content"] for one in events if one["event"] == "content-block-finish"]
    texts = [one["text"] for one in finished if one["type"] == "text"]
    assert texts == ["ZORP QUIB"]


REFUSED = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "refusal", "refusal": "I refuse."}],
}


def refused(asked: Any) -> Any:
    made = completion({})
    made["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": "I refuse."}
    return made


REFUSALS: dict[str, Any] = {
    "completions": partial(openai, [refused]),
    **{
        version: partial(
            openai, [response(1, REFUSED)], output_version=version, use_responses_api=True
        )
        for version in ("v0", "responses/v1", "v1")
    },
}


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("way", ["invoke", "abatch"])
def test_a_refusal_is_edited_into_text_or_skipped(kind: str, way: str) -> None:
    skipped = run(REFUSALS[kind]() | MetaAlignerRunnable(**OUTCOMES["edited"]), ASKED, way)
    assert skipped.response_metadata["metaaligner"]["status"] == "skipped"
    assert skipped.response_metadata["metaaligner"]["reason"] == "refusal"
    assert "I refuse." in repr(skipped)

    for face in (MetaAlignerRunnable, ChatMetaAligner):
        options = {**OUTCOMES["edited"], "edit_refusals": True}
        llm = REFUSALS[kind]()
        chain = llm | face(**options) if face is MetaAlignerRunnable else face(llm, **options)
        edited = run(chain, ASKED, way)
        assert edited.text == "I REFUSE."
        assert edited.response_metadata["metaaligner"]["status"] == "edited"
        assert [one["type"] for one in edited.content_blocks] == ["text"]
        assert "I refuse." not in repr(edited)


def test_a_recording_goes_with_its_transcript_and_is_not_referred_to_again() -> None:
    def spoken(asked: Any) -> Any:
        made = completion({})
        audio = {"id": "audio_1", "data": "AAAA", "expires_at": 1, "transcript": "zorp quib"}
        made["choices"][0]["message"]["audio"] = audio
        return made

    sent: list[Any] = []
    llm = openai([spoken], sent)
    first = (llm | MetaAlignerRunnable(**OUTCOMES["edited"])).invoke(ASKED)
    llm.invoke([*ASKED, first, HumanMessage("and?")])
    assert "audio" not in json.dumps(sent[1])
    assert "audio" not in repr(first)


# Gemini.


def gemini(parts: Any, **candidate: Any) -> Any:
    """Gemini's class, with the answer of its client."""
    module = pytest.importorskip("langchain_google_genai")
    llm = module.ChatGoogleGenerativeAI(model="gemini-3-pro", google_api_key="k")
    from google.genai.types import GenerateContentResponse

    content = {"role": "model", "parts": parts}
    body = {"candidates": [{"content": content, "finish_reason": "STOP", **candidate}]}
    answer = GenerateContentResponse.model_validate(body)

    class Models:
        def generate_content(self, **_: Any) -> Any:
            return answer

        def generate_content_stream(self, **_: Any) -> Any:
            return iter([answer])

    class Client:
        models = Models()

        def close(self) -> None:
            pass

    llm.client = Client()
    return llm


def test_gemini_s_grounding_moves_with_the_text_or_goes() -> None:
    def support(text: str, start: int | None) -> Any:
        end = (start or 0) + len(text.encode())
        segment = {"start_index": start, "end_index": end, "text": text}
        return {"segment": segment, "grounding_chunk_indices": [0]}

    grounding = {
        "grounding_chunks": [{"web": {"uri": "https://a.example", "title": "a.example"}}],
        "grounding_supports": [support("Ünë fine.", None), support("Bad zorp.", 12)],
        "web_search_queries": ["sky"],
    }
    llm = gemini([{"text": "Ünë fine. Bad zorp."}], grounding_metadata=grounding)
    engine = ScriptedEngine(lambda request: request.draft.replace("Bad zorp.", "Good day."))
    edited = (llm | MetaAlignerRunnable(engine=engine)).invoke(ASKED)
    kept = edited.response_metadata["grounding_metadata"]
    assert [one["segment"]["text"] for one in kept["grounding_supports"]] == ["Ünë fine."]
    assert kept["grounding_supports"][0]["segment"]["end_index"] == 11
    assert kept["grounding_chunks"][0]["web"]["uri"] == "https://a.example"
    assert "zorp" not in repr(edited)

    before = ScriptedEngine(lambda request: f"Äh: {request.draft}")
    edited = (llm | MetaAlignerRunnable(engine=before)).invoke(ASKED)
    text = edited.text.encode()
    for one in edited.response_metadata["grounding_metadata"]["grounding_supports"]:
        segment = one["segment"]
        assert text[segment["start_index"] : segment["end_index"]].decode() == segment["text"]


def test_a_trailing_signature_is_no_second_text() -> None:
    parts = [{"text": "zorp quib zorp"}, {"text": "", "thought_signature": b"S"}]
    chain = gemini(parts) | MetaAlignerRunnable(**OUTCOMES["edited"])
    whole, pieces = chain.invoke(ASKED), list(chain.stream(ASKED))
    assert len(pieces) > 3
    assert "".join(one.text for one in pieces) == whole.text == "ZORP QUIB ZORP"
    for content in (whole.content, run(chain, ASKED, "stream").content):
        assert content[-1]["extras"]["signature"]
        assert content[-1]["text"] == ""


def test_the_mark_of_a_refusal_does_not_come_back_as_a_block_of_a_stream() -> None:
    llm = gemini([{"text": "zorp quib"}], finish_reason="SAFETY")
    llm.output_version = "v1"
    model = ChatMetaAligner(llm, **OUTCOMES["edited"], edit_refusals=True)
    whole, pieces = run(model, ASKED, "invoke"), run(model, ASKED, "stream")
    assert [one["type"] for one in pieces.content] == [one["type"] for one in whole.content]


# Anthropic.


def anthropic(content: Any, sent: list[Any] | None = None, **fields: Any) -> Any:
    module, sdk = pytest.importorskip("langchain_anthropic"), pytest.importorskip("anthropic")
    # Newer ones come with an HTTP library of their own.
    library = import_module(sdk.DefaultHttpxClient.__base__.__module__.partition(".")[0])
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": content,
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 2},
        **fields,
    }

    def answer(request: Any) -> Any:
        if sent is not None:
            sent.append(json.loads(request.content))
        return library.Response(200, json=body)

    client = sdk.DefaultHttpxClient(transport=library.MockTransport(answer))
    llm = module.ChatAnthropic(model="claude-x", api_key="k", max_tokens=9)
    llm.__dict__["_client"] = sdk.Anthropic(api_key="k", http_client=client)
    return llm


CITED = {
    "type": "char_location",
    "cited_text": "The source.",
    "document_index": 0,
    "document_title": "D",
    "start_char_index": 0,
    "end_char_index": 11,
}


def test_a_citation_stays_with_a_block_that_was_not_edited_and_goes_with_one_that_was() -> None:
    content = [
        {"type": "text", "text": "All is fine. ", "citations": [CITED]},
        {"type": "text", "text": "Bad zorp.", "citations": [CITED]},
    ]
    engine = ScriptedEngine(lambda request: request.draft.replace("Bad zorp.", "Good day."))
    edited = (anthropic(content) | MetaAlignerRunnable(engine=engine)).invoke(ASKED)
    first, second = edited.content
    assert first["citations"][0]["cited_text"] == "The source."
    assert second == {"type": "text", "text": "Good day.", "citations": []}


def test_a_signed_thought_stays_where_its_call_stays() -> None:
    sent: list[Any] = []
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "S"},
        {"type": "text", "text": "zorp quib"},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}},
    ]
    llm = anthropic(content, sent)
    options = {**OUTCOMES["blocked"], "edit_tool_text": True}
    first = (llm | MetaAlignerRunnable(**options)).invoke(ASKED)
    llm.invoke([*ASKED, first, HumanMessage("and?")])
    kinds = [one["type"] for one in sent[1]["messages"][1]["content"]]
    assert kinds == ["thinking", "text", "tool_use"]
    assert "zorp" not in json.dumps(sent[1])

    alone = (anthropic(content[:2]) | MetaAlignerRunnable(**options)).invoke(ASKED)
    assert alone.content == [{"type": "text", "text": "No."}]


def test_a_refusal_that_is_only_a_stop_reason_is_a_reply_too() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "I refuse."}
    fields = {"stop_reason": "refusal", "stop_details": details}
    skipped = (anthropic([], **fields) | MetaAlignerRunnable(**OUTCOMES["edited"])).invoke(ASKED)
    assert skipped.response_metadata["metaaligner"]["reason"] == "refusal"
    options = {**OUTCOMES["edited"], "edit_refusals": True}
    edited = (anthropic([], **fields) | MetaAlignerRunnable(**options)).invoke(ASKED)
    assert edited.text == "I REFUSE."
    assert [one["type"] for one in edited.content_blocks] == ["text"]


def refused_by_anthropic() -> Any:
    details = {"type": "refusal", "category": "cyber", "explanation": "I refuse."}
    return anthropic([], stop_reason="refusal", stop_details=details)


def refused_by_gemini() -> Any:
    return gemini([], finish_reason="SAFETY", finish_message="I refuse.")


@pytest.mark.parametrize("refused", [refused_by_anthropic, refused_by_gemini])
@pytest.mark.parametrize("edit", ["I agree.", "I refuse."])
def test_the_mark_of_a_refusal_that_is_edited_does_not_come_back(refused: Any, edit: str) -> None:
    options = {"engine": ScriptedEngine(edit), "edit_refusals": True}
    for face in (ChatMetaAligner, lambda llm, **given: llm | MetaAlignerRunnable(**given)):
        made = face(refused(), **options).invoke(ASKED)
        assert made.text == edit
        assert [one["type"] for one in made.content_blocks] == ["text"]
        for key in ("stop_reason", "stop_details", "finish_reason", "finish_message"):
            assert key not in made.response_metadata
    left = ChatMetaAligner(refused(), **{**options, "edit_refusals": False}).invoke(ASKED)
    assert "I refuse." in repr(left.response_metadata)


def test_an_explanation_beside_a_text_is_a_part_of_the_reply() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "I refuse."}
    fields = {"stop_reason": "refusal", "stop_details": details}
    text = [{"type": "text", "text": "zorp quib. "}]
    left = (anthropic(text, **fields) | MetaAlignerRunnable(**OUTCOMES["edited"])).invoke(ASKED)
    assert left.text == "ZORP QUIB. "
    assert left.response_metadata["metaaligner"]["reason"] == "refusal"
    options = {**OUTCOMES["edited"], "edit_refusals": True}
    edited = (anthropic(text, **fields) | MetaAlignerRunnable(**options)).invoke(ASKED)
    assert edited.text == "ZORP QUIB. I REFUSE."
    assert [one["type"] for one in edited.content_blocks] == ["text"]
    blocked = (anthropic(text, **fields) | MetaAlignerRunnable(**OUTCOMES["blocked"])).invoke(ASKED)
    assert "I refuse." not in repr(blocked)


# Ollama.


def test_ollama_s_thoughts_and_log_probabilities() -> None:
    module = pytest.importorskip("langchain_ollama")
    lines = [
        {"message": {"role": "assistant", "content": token, "thinking": "hm"}, "logprobs": [odds]}
        for token, odds in zip(TOKENS, ODDS, strict=True)
    ]
    last = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
    body = "".join(
        json.dumps({"model": "m", "created_at": "2026", "done": False, **one}) + "\n"
        for one in [*lines, last]
    )
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=body))
    llm = module.ChatOllama(
        model="m", logprobs=True, reasoning=True, client_kwargs={"transport": transport}
    )
    for outcome, options in OUTCOMES.items():
        for way in ("invoke", "stream"):
            out = run(llm | MetaAlignerRunnable(**options), ASKED, way)
            assert "logprob" not in repr(out)
            assert ("hm" in repr(out)) is (outcome == "edited")
            assert out.response_metadata["done_reason"] == "stop"


def test_an_answer_may_be_a_message_of_any_provider() -> None:
    from langchain_metaaligner import Aligner

    aligner = Aligner(engine=ScriptedEngine(louder))
    for content in ([{"type": "output_text", "text": "zorp"}], [{"text": "zorp"}]):
        assert aligner.align(Context("why?"), AIMessage(content), ["harmlessness"]).text == "ZORP"
    refusal = AIMessage([{"type": "refusal", "refusal": "I refuse."}])
    record = aligner.align(Context("why?"), refusal, ["harmlessness"])
    assert (record.status, record.reason) == ("skipped", "refusal")
