"""What middleware that knows providers' models makes of a `ChatMetaAligner`."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage

from langchain_metaaligner import ChatMetaAligner, MetaAlignerMiddleware
from langchain_metaaligner.testing import ScriptedEngine

langchain_anthropic = pytest.importorskip("langchain_anthropic")
anthropic = pytest.importorskip("anthropic")
caching = pytest.importorskip("langchain_anthropic.middleware")

# The provider's package uses httpx or httpx2.
httpx: Any = sys.modules[anthropic.DefaultHttpxClient.__base__.__module__.split(".")[0]]

ASKED = {"messages": [HumanMessage("Hi")]}
REPLY = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-of-the-tests",
    "content": [{"type": "text", "text": "zorp quib"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 5, "output_tokens": 3},
}


SENT: list[Any] = []


class Model(langchain_anthropic.ChatAnthropic):
    """Claude, whose provider answers at once and keeps the requests."""

    @property
    def _client(self) -> Any:
        transport = httpx.MockTransport(answered)
        return anthropic.Anthropic(
            api_key="none", http_client=anthropic.DefaultHttpxClient(transport=transport)
        )


def answered(request: Any) -> Any:
    SENT.append(json.loads(request.content))
    return httpx.Response(200, json=REPLY)


def claude() -> Model:
    return Model(model="claude-of-the-tests", api_key="none", max_tokens=50)


def engine() -> ScriptedEngine:
    return ScriptedEngine(lambda request: request.draft.upper())


def answer_of(model: Any, middleware: Any) -> str:
    agent = create_agent(model, tools=[], system_prompt="Be kind.", middleware=middleware)
    return str(agent.invoke(ASKED)["messages"][-1].text)


def test_prompt_caching_middleware_warns_and_does_nothing():
    model = ChatMetaAligner(claude(), engine=engine())
    with pytest.warns(UserWarning, match="only supports Anthropic models"):
        answer = answer_of(model, [caching.AnthropicPromptCachingMiddleware()])

    assert answer == "ZORP QUIB"
    assert "cache_control" not in json.dumps(SENT[-1])


@pytest.mark.parametrize("aligner_first", [True, False])
def test_prompt_caching_works_beside_the_aligners_middleware(aligner_first: bool):
    middleware = [MetaAlignerMiddleware(engine=engine())]
    cached = caching.AnthropicPromptCachingMiddleware()
    middleware.insert(1 if aligner_first else 0, cached)

    assert answer_of(claude(), middleware) == "ZORP QUIB"
    assert SENT[-1]["cache_control"]["type"] == "ephemeral"
    assert SENT[-1]["system"][0]["cache_control"]["type"] == "ephemeral"


def test_prompt_caching_can_be_bound_to_the_policy():
    policy = claude().bind(cache_control={"type": "ephemeral"})

    assert answer_of(ChatMetaAligner(policy, engine=engine()), []) == "ZORP QUIB"
    assert SENT[-1]["cache_control"] == {"type": "ephemeral"}
