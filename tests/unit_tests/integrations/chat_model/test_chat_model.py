"""The chat model whose replies are another's, edited: what it forwards and what it edits."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import RunnableLambda, RunnableSequence
from pydantic import BaseModel, ValidationError

from langchain_metaaligner import (
    ChatMetaAligner,
    Context,
    MetaAlignerRunnable,
    Objective,
    UnknownObjectiveError,
    hushed,
)
from tests.unit_tests.integrations.middleware.parts import (
    EDITED,
    RAW,
    USAGE,
    Engine,
    Policy,
    calls_tool,
    final,
    weather,
)
from tests.unit_tests.integrations.middleware.test_traces import Tracer
from tests.unit_tests.integrations.ways import WAYS, by_turns, merged

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
HOW = pytest.mark.parametrize("how", WAYS)
# One of them is whole and synchronous, the other neither.
TWO = pytest.mark.parametrize("how", ["invoke", "astream"])
OTHER_TWO = pytest.mark.parametrize("how", ["abatch", "stream"])


def model_of(*replies: Any, engine: Any = None, policy: Any = None, **options: Any) -> Any:
    return ChatMetaAligner(
        policy or Policy(replies=list(replies) or [final()]),
        options.pop("objectives", ["harmlessness"]),
        **({} if "aligner" in options else {"engine": Engine() if engine is None else engine}),
        **options,
    )


async def asked(model: Any, how: str, given: Any = "What now?", **options: Any) -> Any:
    """The reply, whichever way it is asked for."""
    if how == "invoke":
        return model.invoke(given, **options)
    if how == "ainvoke":
        return await model.ainvoke(given, **options)
    if how == "batch":
        return model.batch([given], **options)[0]
    if how == "abatch":
        return (await model.abatch([given], **options))[0]
    if how == "stream":
        return merged(list(model.stream(given, **options)))
    return merged([chunk async for chunk in model.astream(given, **options)])


def said(reply: Any) -> Any:
    return reply.response_metadata["metaaligner"]


@HOW
async def test_a_reply_is_edited_and_keeps_all_else(how: str):
    policy_reply = final(response_metadata={"model_name": "policy"}, id="r1")
    reply = await asked(model_of(policy_reply), how)

    assert reply.text == EDITED
    assert reply.id == "r1"
    assert reply.usage_metadata == USAGE
    assert reply.response_metadata["model_name"] == "policy"
    assert said(reply)["status"] == "edited"
    assert said(reply)["objectives"] == ["harmlessness"]


@HOW
async def test_a_reply_that_calls_tools_is_the_policys_own(how: str):
    engine = Engine()
    reply = await asked(model_of(calls_tool(), engine=engine).bind_tools([weather]), how)

    assert reply.content[:2] == calls_tool().content
    assert reply.tool_calls == calls_tool().tool_calls
    assert "metaaligner" not in reply.response_metadata
    assert engine.requests == []


@TWO
async def test_text_beside_tool_calls_is_edited_where_that_is_asked_for(how: str):
    reply = await asked(model_of(calls_tool(), edit_tool_text=True), how)

    assert reply.text == EDITED
    assert reply.tool_calls == calls_tool().tool_calls


@HOW
async def test_objectives_and_context_come_by_config_and_by_argument(how: str):
    engine = Engine()
    model = model_of(engine=engine)
    config = {"configurable": {"objectives": ["honesty"], "context": [HumanMessage("Else?")]}}

    assert said(await asked(model, how, config=config))["objectives"] == ["honesty"]
    assert "Else?" in engine.requests[-1].prompt
    assert "What now?" not in engine.requests[-1].prompt
    given = {"objectives": ["fairness"], "context": Context("Other?")}
    assert said(await asked(model, how, config=config, **given))["objectives"] == ["fairness"]
    assert "Other?" in engine.requests[-1].prompt
    assert said(await asked(model, how))["objectives"] == ["harmlessness"]


@pytest.mark.parametrize(("how", "place"), by_turns(WAYS, ["config", "argument"]))
async def test_objectives_that_can_be_read_only_once_are_read_once(how: str, place: str):
    given = {"objectives": (one for one in ["honesty"])}
    options: Any = given if place == "argument" else {"config": {"configurable": given}}
    assert said(await asked(model_of(), how, **options))["objectives"] == ["honesty"]


@TWO
async def test_inside_a_chain_with_objectives_of_its_own_the_models_own_config_wins(how: str):
    inner = {"configurable": {"objectives": ["honesty"], "context": Context("Inner?")}}
    outer = {"configurable": {"objectives": ["fairness"], "context": Context("Outer?")}}
    engine = Engine()
    model = model_of(engine=engine)
    chain = RunnableLambda(lambda question: model.invoke(question, inner)) | (lambda reply: reply)

    assert said(await asked(chain, how, config=outer))["objectives"] == ["honesty"]
    assert "Inner?" in engine.requests[-1].prompt


@OTHER_TWO
async def test_a_chains_objectives_reach_a_model_that_is_given_none(how: str):
    chain = ChatPromptTemplate.from_messages([("human", "{question}")]) | model_of()
    config = {"configurable": {"objectives": ["fairness"]}}

    reply = await asked(chain, how, {"question": "What now?"}, config=config)
    assert said(reply)["objectives"] == ["fairness"]


DERIVED = [
    lambda model: model.with_config(configurable={"objectives": ["honesty"]}),
    lambda model: model.bind(objectives=["honesty"]),
    lambda model: model.bind(objectives=[Objective("honesty", "tell the truth")]),
    lambda model: model.bind_tools([weather]).bind(objectives=["honesty"]),
    lambda model: model.bind_tools([weather]).with_config(configurable={"objectives": ["honesty"]}),
    lambda model: model.with_config(configurable={"objectives": ["honesty"]}).with_retry(),
    lambda model: model.with_fallbacks([model]).with_config(
        configurable={"objectives": ["honesty"]}
    ),
]


@pytest.mark.parametrize(("derive", "how"), by_turns(DERIVED, WAYS))
async def test_objectives_stay_through_what_people_make_of_a_model(derive: Any, how: str):
    assert said(await asked(derive(model_of()), how))["objectives"] == ["honesty"]


@OTHER_TWO
async def test_unknown_objectives_are_told_before_the_policy_runs(how: str):
    policy = Policy()
    model = model_of(policy=policy, on_error="pass")

    with pytest.raises(UnknownObjectiveError):
        await asked(model, how, config={"configurable": {"objectives": ["hrmlessness"]}})
    assert policy.asked == []


@OTHER_TWO
async def test_shadow_mode_returns_the_original_and_reports_the_edit(how: str):
    seen: list[Any] = []
    reply = await asked(model_of(apply=False, on_edit=seen.append), how)

    assert reply.text == RAW
    assert reply.usage_metadata == USAGE
    assert said(reply)["status"] == "shadow"
    assert [(one.original, one.text) for one in seen] == [(RAW, EDITED)]


@TWO
async def test_shadow_mode_hides_every_failure(how: str):
    reply = await asked(model_of(apply=False, engine=Engine(fail_at=0)), how)
    assert reply.text == RAW

    unknown = {"configurable": {"objectives": ["hrmlessness"]}}
    assert (await asked(model_of(apply=False), how, config=unknown)).text == RAW


def test_in_shadow_mode_the_policy_streams_live():
    pieces = [chunk.content for chunk in model_of(apply=False).stream("What now?")]

    assert [piece for piece in pieces if piece] == [
        RAW.split()[0],
        *(f" {w}" for w in RAW.split()[1:]),
    ]


@BOTH
async def test_the_edit_is_streamed_word_by_word_with_usage_and_provenance_on_the_last(is_async):
    model = model_of()
    if is_async:
        chunks = [chunk async for chunk in model.astream("What now?")]
    else:
        chunks = list(model.stream("What now?"))

    assert [chunk.text for chunk in chunks if chunk.text] == [
        f" {word}" if i else word for i, word in enumerate(EDITED.split())
    ]
    assert [bool(chunk.usage_metadata) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert "metaaligner" in chunks[-1].response_metadata
    assert chunks[-1].chunk_position == "last"


@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_what_is_streamed_merges_to_what_invoke_returns(how: str):
    blocks = [
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "text", "text": RAW},
        {"type": "image", "url": "x"},
    ]
    for reply in (final(id="r"), AIMessage(blocks, id="r", usage_metadata=USAGE)):
        whole, merged = model_of(reply).invoke("?"), await asked(model_of(reply), how)
        assert merged.text == whole.text == EDITED
        assert merged.usage_metadata == whole.usage_metadata
        assert merged.id == whole.id
        kinds = [[b["type"] for b in one.content_blocks] for one in (merged, whole)]
        assert kinds[0] == kinds[1]


@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_a_policy_that_cannot_stream_is_asked_whole_and_its_edit_streamed(how: str):
    class Whole(FakeListChatModel):
        _stream = FakeListChatModel.__mro__[1]._stream
        _astream = FakeListChatModel.__mro__[1]._astream

    assert (await asked(model_of(policy=Whole(responses=[RAW])), how)).text == EDITED


def test_every_generation_of_a_result_is_edited():
    class Twice(Policy):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            replies = [AIMessage("first one"), AIMessage("second one")]
            return ChatResult(generations=[ChatGeneration(message=one) for one in replies])

    model = ChatMetaAligner(Twice(), engine=Engine(lambda request: f"{request.draft}!"))
    result = model.generate([[HumanMessage("?")]])

    assert [one.text for one in result.generations[0]] == ["first one!", "second one!"]


# -- what is forwarded ------------------------------------------------------------------------


def test_profile_and_token_counts_are_the_policys():
    class Counts(Policy):
        def get_token_ids(self, text: str) -> list[int]:
            return list(range(len(text)))

        def get_num_tokens_from_messages(self, messages: Any, tools: Any = None) -> int:
            return 77

    model = model_of(policy=Counts(profile={"max_input_tokens": 5}))

    assert model.profile == {"max_input_tokens": 5}
    assert model.get_num_tokens("four") == 4
    assert model.get_token_ids("ab") == [0, 1]
    assert model.get_num_tokens_from_messages([HumanMessage("?")]) == 77
    assert ChatMetaAligner(Counts(), engine=Engine(), profile={"tool_calling": True}).profile == {
        "tool_calling": True
    }


def test_tracing_parameters_are_the_policys():
    class Named(Policy):
        model_name: str = "policy-9"

        def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
            return {**super()._get_ls_params(stop=stop, **kwargs), "ls_provider": "somebody"}

    params = model_of(policy=Named(), max_tokens=9)._get_ls_params(stop=["x"])

    assert params["ls_provider"] == "somebody"
    assert params["ls_model_name"] == "policy-9"
    assert params["ls_stop"] == ["x"]
    assert params["ls_max_tokens"] == 9
    assert model_of(policy=Named()).model_name == "policy-9"
    assert model_of()._get_ls_params()["ls_model_name"] == "scripted-agent-policy"


@OTHER_TWO
async def test_options_for_the_policy_reach_it_and_the_calls_own_come_first(how: str):
    policy = Policy()
    model = model_of(policy=policy, max_tokens=9, stop=["a"], policy_options={"seed": 1})

    await asked(model, how)
    await asked(model, how, stop=["b"], max_tokens=3)

    assert policy.options == [
        {"stop": ["a"], "max_tokens": 9, "seed": 1},
        {"stop": ["b"], "max_tokens": 3, "seed": 1},
    ]


@HOW
async def test_the_policys_rate_limiter_is_asked_once_for_each_call(how: str):
    class Counts(BaseRateLimiter):
        asked = 0

        def acquire(self, *, blocking: bool = True) -> bool:
            self.asked += 1
            return True

        async def aacquire(self, *, blocking: bool = True) -> bool:
            return self.acquire()

    limiter, own = Counts(), Counts()
    await asked(model_of(policy=Policy(rate_limiter=limiter), rate_limiter=own), how)

    assert (limiter.asked, own.asked) == (1, 1)


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_the_policys_own_cache_keeps_its_replies_and_each_call_is_edited(how: str):
    policy, engine = Policy(cache=InMemoryCache()), Engine()
    model = model_of(policy=policy, engine=engine)

    replies = [await asked(model, how) for _ in range(2)]

    assert [one.text for one in replies] == [EDITED, EDITED]
    assert replies[0].id != replies[1].id
    assert len(policy.asked) == 1
    assert len(engine.requests) == 2


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_the_models_own_cache_keeps_edits_by_objectives_and_context(how: str):
    policy, engine = Policy(), Engine()
    model = model_of(policy=policy, engine=engine, cache=InMemoryCache())
    calls = [
        {},
        {"config": {"configurable": {"objectives": ["honesty"]}}},
        {"config": {"configurable": {"context": Context("One?")}}},
        {"config": {"configurable": {"context": Context("Two?")}}},
        {"config": {"configurable": {"context": [HumanMessage("One?")]}}},
        {"objectives": [Objective("honesty", "otherwise told")]},
    ]
    for made, call in enumerate(calls, start=1):
        for _ in range(2):
            assert (await asked(model, how, **call)).text == EDITED
        assert len(engine.requests) == made
    assert len(policy.asked) == len(calls)


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_global_cache_is_used_as_for_any_chat_model(how: str):
    policy, engine = Policy(), Engine()
    set_llm_cache(InMemoryCache())
    try:
        model = model_of(policy=policy, engine=engine)
        assert [(await asked(model, how)).text for _ in range(2)] == [EDITED, EDITED]
    finally:
        set_llm_cache(None)

    assert len(policy.asked) == len(engine.requests) == 1


@pytest.mark.parametrize(("how", "on_error"), [("invoke", "pass"), ("ainvoke", "block")])
async def test_what_took_the_place_of_a_failed_edit_is_not_cached(how: str, on_error: str):
    engine = Engine(fail_at=0)
    model = model_of(engine=engine, on_error=on_error, cache=InMemoryCache())

    assert (await asked(model, how)).text != EDITED
    engine.fail_at = None
    assert (await asked(model, how)).text == EDITED


SETTINGS = [
    {"objectives": ["honesty"]},
    {"max_new_tokens": 9},
    {"keep_above": -0.5},
    {"dtype": "bfloat16"},
    {"quantization_config": {"load_in_8bit": True}},
    {"on_error": "pass"},
    {"allow_objectives": ["honesty"]},
    {"keep_original": True},
    {"apply": False},
    {"max_tokens": 5},
    {"engine": Engine("another")},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: next(iter(one)))
async def test_models_with_other_settings_do_not_answer_from_each_others_cache(settings: Any):
    cache, engine = InMemoryCache(), Engine()
    first = Policy()
    assert model_of(policy=first, engine=engine, cache=cache).invoke("?").text == EDITED
    alike, other = Policy(), Policy()
    await model_of(policy=alike, engine=engine, cache=cache).ainvoke("?")
    model_of(policy=other, cache=cache, **{"engine": engine, **settings}).invoke("?")

    assert [len(one.asked) for one in (first, alike, other)] == [1, 0, 1]


def test_a_cached_edit_is_no_way_around_an_allow_list():
    cache, engine, asked = InMemoryCache(), Engine(), {"configurable": {"objectives": ["honesty"]}}
    model_of(engine=engine, cache=cache).invoke("?", asked)
    with pytest.raises(UnknownObjectiveError, match="allow"):
        model_of(engine=engine, cache=cache, allow_objectives=["length"]).invoke("?", asked)


def test_one_run_stands_for_both_and_usage_counts_once():
    tracer = Tracer()
    policy = Policy(replies=[final(response_metadata={"model_name": "policy"})])
    with get_usage_metadata_callback() as counted:
        model_of(policy=policy).invoke("What now?", {"callbacks": [tracer]})

    (run,) = tracer.all()
    assert run.name == "ChatMetaAligner"
    assert counted.usage_metadata["policy"]["total_tokens"] == USAGE["total_tokens"]
    assert run.extra["invocation_params"]["metaaligner_objectives"] == ["harmlessness"]
    message = run.outputs["generations"][0][0]["message"]["kwargs"]
    assert message["response_metadata"]["metaaligner"]["status"] == "edited"


def test_the_policys_listeners_and_marks_are_told_of_the_run():
    class Hears(BaseCallbackHandler):
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def on_chat_model_start(self, serialized, messages, *, tags=None, metadata=None, **_):
            self.heard.append((tags, metadata))

        def on_llm_end(self, response, **_):
            self.heard.append(response.generations[0][0].text)

    handler = Hears()
    model_of(policy=Policy(callbacks=[handler], tags=["mine"], metadata={"a": 1})).invoke("?")

    (tags, metadata), text = handler.heard
    assert "mine" in tags
    assert metadata["a"] == 1
    assert text == EDITED


def test_the_objectives_of_a_call_are_in_its_trace_and_a_given_context_is_not():
    for context in (Context("secretword"), [HumanMessage("secretword")]):
        tracer = Tracer()
        config = {
            "callbacks": [tracer],
            "configurable": {"objectives": ["honesty"], "context": context},
        }
        model_of().invoke("What now?", config)
        list(model_of().stream("What now?", config))

        for run in tracer.all():
            assert run.extra["invocation_params"]["objectives"] == ["honesty"]
            assert "secretword" not in repr((run.extra, run.tags, run.inputs, run.outputs))


def test_a_context_as_a_bare_string_works_and_warns():
    with pytest.warns(UserWarning, match="bare string"):
        reply = model_of().invoke("?", {"configurable": {"context": "Else?"}})
    assert reply.text == EDITED


# -- tools and structured output --------------------------------------------------------------


def test_tools_are_bound_as_the_policy_binds_them():
    policy = Policy()
    bound = model_of(policy=policy).bind_tools([weather], tool_choice="any", strict=True)
    bound.invoke("What now?")

    assert policy.options[0]["tools"][0]["function"]["name"] == "weather"
    assert policy.options[0]["tool_choice"] == "any"
    assert policy.options[0]["strict"] is True


def test_a_policy_that_makes_a_new_model_of_its_tools_is_followed():
    class Makes(Policy):
        own: Any = None

        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self.model_copy(update={"own": list(tools)})

    model = model_of(policy=Makes()).bind_tools([weather])

    assert model.invoke("?").text == EDITED
    assert model.bound.policy.own == [weather]


def test_a_policy_without_tools_says_so_itself():
    with pytest.raises(NotImplementedError):
        model_of(policy=FakeListChatModel(responses=["x"])).bind_tools([weather])


def test_tools_bound_into_a_pipe_are_refused_with_the_way_out():
    class Pipes(Policy):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return RunnableSequence(self, RunnableLambda(lambda reply: reply))

    with pytest.raises(NotImplementedError, match="in a pipe"):
        model_of(policy=Pipes()).bind_tools([weather])


class Joke(BaseModel):
    """A joke."""

    setup: str


@pytest.mark.parametrize(
    ("how", "include_raw"),
    [("invoke", False), ("ainvoke", True), ("batch", True), ("abatch", False), ("stream", False)],
)
async def test_structured_output_is_the_policys_own(how: str, include_raw: bool):
    engine = Engine()
    reply = AIMessage("", tool_calls=[{"name": "Joke", "args": {"setup": "Why?"}, "id": "c"}])
    structured = model_of(reply, engine=engine).with_structured_output(
        Joke, include_raw=include_raw
    )
    if how == "stream":
        made = list(structured.stream("?"))[-1]
    else:
        made = await asked(structured, how)

    assert (made["parsed"] if include_raw else made) == Joke(setup="Why?")
    assert engine.requests == []


DATA_FORMS = [
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {}}},
    {"response_mime_type": "application/json"},
    {"format": "json"},
    {"output_config": {"format": {"type": "json_schema"}}},
]


@pytest.mark.parametrize(("options", "how"), by_turns(DATA_FORMS, WAYS))
async def test_data_in_a_form_that_was_asked_for_is_not_edited(options: Any, how: str):
    engine = Engine()
    reply = await asked(model_of(final('{"a": 1}'), engine=engine).bind(**options), how)

    assert reply.text == '{"a": 1}'
    assert engine.requests == []


@TWO
async def test_prose_asked_for_by_name_is_edited(how: str):
    model = model_of().bind(response_format={"type": "text"})

    assert (await asked(model, how)).text == EDITED


# -- making one -------------------------------------------------------------------------------


def test_a_bound_or_hushed_policy_is_taken_with_what_it_was_bound_to():
    policy = Policy()
    model = model_of(policy=policy.bind(seed=3).with_config(tags=["mine"], metadata={"a": 1}))
    model.invoke("?")

    assert model_of(policy=hushed(policy)).tags is None

    assert policy.options[0]["seed"] == 3
    assert model.policy is policy
    assert model.tags == ["mine"]
    assert model.metadata["a"] == 1


def test_a_policy_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch):
    import langchain.chat_models

    made: list[Any] = []

    def init_chat_model(name: str, **options: Any) -> Any:
        made.append((name, options))
        return Policy()

    monkeypatch.setattr(langchain.chat_models, "init_chat_model", init_chat_model)
    model = model_of(policy="some:model", max_tokens=5, api_key="k", max_retries=2)

    assert made == [("some:model", {"max_tokens": 5, "api_key": "k", "max_retries": 2})]
    assert model.invoke("?").text == EDITED


def test_what_only_a_models_maker_can_use_is_named_in_the_log(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        model_of(api_key="k", max_retries=2)

    assert "api_key, max_retries" in caplog.text


@pytest.mark.parametrize("policy", [None, 7, RunnableLambda(lambda x: x), object()])
def test_what_is_no_chat_model_is_refused(policy: Any):
    with pytest.raises(TypeError, match="chat model"):
        ChatMetaAligner(policy=policy, engine=Engine())


def test_unknown_options_and_objectives_are_refused_when_it_is_made():
    with pytest.raises(ValidationError, match="on_eror"):
        model_of(on_eror="pass")
    misspelt: dict[str, Any] = {"polcy": Policy()}
    with pytest.raises(ValidationError, match="Did you mean 'policy'"):
        ChatMetaAligner(**misspelt)
    with pytest.raises(UnknownObjectiveError):
        ChatMetaAligner(Policy(), ["hrmlessness"])


def test_a_policy_that_calls_models_inside_keeps_them_from_streams():
    from langgraph.graph import END, START, MessagesState, StateGraph

    class Router(Policy):
        inner: Any = None

        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            reply = self.inner.invoke(messages)
            return ChatResult(generations=[ChatGeneration(message=reply)])

        _stream = FakeListChatModel.__mro__[2]._stream

    model = model_of(policy=Router(inner=Policy()))
    graph = StateGraph(MessagesState)
    graph.add_node("chat", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_edge(START, "chat")
    graph.add_edge("chat", END)
    parts = list(
        graph.compile().stream({"messages": [("human", "?")]}, stream_mode=["messages", "values"])
    )

    assert "rawword" not in repr(parts)


def test_a_chat_model_as_the_policy_of_another_is_edited_by_both():
    inner = model_of(engine=Engine("innerword"))
    outer = Engine(lambda request: f"{request.draft} outerword")

    assert model_of(policy=inner, engine=outer).invoke("?").text == "innerword outerword"


def test_a_model_before_an_aligner_in_a_pipe_is_edited_by_both():
    behind = MetaAlignerRunnable(["honesty"], engine=Engine(lambda request: f"{request.draft}!"))
    engine = Engine("inner")

    assert (model_of(engine=engine) | behind).invoke("What now?").text == "inner!"


def test_a_model_can_be_pickled_where_policy_and_engine_can():
    model = ChatMetaAligner(FakeListChatModel(responses=["x"]), ["honesty"], on_error="pass")
    twin = pickle.loads(pickle.dumps(model))

    assert twin.on_error == "pass"
    assert twin.policy == model.policy


@pytest.mark.torch
def test_its_representation_shows_no_secret():
    model = ChatMetaAligner(Policy(), token="hf_secret")

    assert "hf_secret" not in repr(model)
    assert "hf_secret" not in repr(model._identifying_params)
