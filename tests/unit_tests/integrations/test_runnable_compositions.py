"""Whatever stands around model and aligner, the context is what that model was really sent."""

from __future__ import annotations

import asyncio
import threading
from operator import itemgetter
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.runnables import (
    ConfigurableField,
    RunnableBranch,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    chain,
)
from langchain_core.runnables.config import ContextThreadPoolExecutor
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages

from langchain_metaaligner import Context, MetaAlignerRunnable
from langchain_metaaligner.integrations.capture import capture
from tests.unit_tests.integrations.ways import by_turns, merged
from tests.unit_tests.scripted import (
    Completion,
    Policy,
    ScriptedEngine,
    StreamingPolicy,
    echo,
    question_of,
)

QUESTIONS = ["q0", "q1", "q2"]
PROMPT = ChatPromptTemplate.from_messages([("human", "{q}")])


class History(BaseChatMessageHistory):
    """What was said, in memory."""

    def __init__(self):
        self.messages = []

    def add_messages(self, messages):
        self.messages += messages

    def clear(self):
        self.messages = []


class Failing(Policy):
    """Fails on the first call for each question."""

    failed: set[str] = set()  # noqa: RUF012 - pydantic copies defaults

    def _message(self, messages):
        if messages[-1].text not in self.failed:
            self.failed.add(messages[-1].text)
            raise RuntimeError("not at first")
        return super()._message(messages)


def router():
    return Policy(reply=lambda messages: f"route {messages[-1].text}")


def noted(text):
    """A step between that lets nothing of the model's messages through."""
    return RunnableLambda(lambda _: text)


def as_lambda(llm, aligner):
    return RunnableLambda(lambda q: (llm | aligner).invoke(q))


def as_async_lambda(llm, aligner):
    async def call(q):
        return await (llm | aligner).ainvoke(q)

    return RunnableLambda(lambda q: (llm | aligner).invoke(q), afunc=call)


def as_chain_function(llm, aligner):
    @chain
    def run(q):
        first = router().invoke(q)
        assert first.text == f"route {q}"
        return aligner.invoke(llm.invoke(q))

    return run


def as_chain_function_with_config(llm, aligner):
    @chain
    def run(q, config):
        return aligner.invoke(llm.invoke(q, config), config)

    return run


def as_generator(llm, aligner):
    def run(inputs):
        for q in inputs:
            yield from (llm | aligner).stream(q)

    async def arun(inputs):
        async for q in inputs:
            async for piece in (llm | aligner).astream(q):
                yield piece

    return RunnableGenerator(run, arun)


def as_lambda_that_returns_the_chain(llm, aligner):
    return RunnableLambda(lambda _: llm | aligner)


def as_lambda_that_gathers_a_stream(llm, aligner):
    def gather(q):
        whole = None
        for chunk in llm.stream(q):
            whole = chunk if whole is None else whole + chunk
        return whole

    return RunnableLambda(gather) | aligner


def as_threads_of_a_chain_function(llm, aligner):
    @chain
    def run(q):
        with ContextThreadPoolExecutor(2) as pool:
            return pool.submit(lambda: aligner.invoke(llm.invoke(q))).result()

    return run


def as_branches_of_a_parallel(llm, aligner):
    other = Policy(reply=lambda messages: f"reply to {messages[-1].text}")
    aside = MetaAlignerRunnable(engine=ScriptedEngine())
    return RunnableParallel(
        out=llm | aligner, aside=noted("something else") | other | aside
    ) | itemgetter("out")


def with_history(llm, aligner):
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Be brief."), ("human", "before"), ("ai", "yes"), ("human", "{q}")]
    )
    return {"q": RunnablePassthrough()} | prompt | llm | aligner


COMPOSITIONS = {
    "llm | a": lambda llm, a: llm | a,
    "prompt | llm | a": lambda llm, a: {"q": RunnablePassthrough()} | PROMPT | llm | a,
    "prompt with history | llm | a": with_history,
    "llm | parser | a": lambda llm, a: llm | StrOutputParser() | a,
    "llm | a | parser": lambda llm, a: llm | a | StrOutputParser(),
    "llm with retry | a": lambda _, a: (
        Failing(reply=echo).with_retry(wait_exponential_jitter=False) | a
    ),
    "failing llm with fallbacks | a": lambda llm, a: (
        Policy(reply=RuntimeError("down")).with_fallbacks([llm]) | a
    ),
    "chain with fallbacks": lambda llm, a: (Policy(reply=RuntimeError("down")) | a).with_fallbacks(
        [llm | a]
    ),
    "bound llm | a": lambda llm, a: llm.bind(extra=1) | a,
    "configured llm | a": lambda llm, a: llm.with_config(tags=["mine"], run_name="mine") | a,
    "llm among alternatives | a": lambda llm, a: (
        Policy(reply="other")
        .configurable_alternatives(ConfigurableField(id="which"), default_key="other", mine=llm)
        .with_config(configurable={"which": "mine"})
        | a
    ),
    "lambdas around and between": lambda llm, a: (
        RunnableLambda(lambda q: q) | llm | (lambda m: m) | a | (lambda m: m)
    ),
    "a lambda that trims": lambda llm, a: (
        router() | (lambda m: m.text.removeprefix("route ")) | llm | (lambda m: m.text.strip()) | a
    ),
    "branch of chains": lambda llm, a: RunnableBranch((lambda _: True, llm | a), lambda q: q),
    "branch of models | a": lambda llm, a: RunnableBranch((lambda _: False, router()), llm) | a,
    "assign": lambda llm, a: (
        {"q": RunnablePassthrough()}
        | RunnablePassthrough.assign(reply=PROMPT | llm)
        | itemgetter("reply")
        | a
    ),
    "assign the edit": lambda llm, a: (
        {"q": RunnablePassthrough()}
        | RunnablePassthrough.assign(reply=PROMPT | llm | a)
        | itemgetter("reply")
    ),
    "a in a parallel": lambda llm, a: (
        llm | RunnableParallel(edited=a, raw=RunnablePassthrough()) | itemgetter("edited")
    ),
    "branches of a parallel": as_branches_of_a_parallel,
    "router, then the answering llm": lambda llm, a: (
        router() | (lambda m: m.text.removeprefix("route ")) | llm | a
    ),
    "two models, one output": lambda llm, a: (
        RunnableParallel(reply=llm, other=router()) | itemgetter("reply") | a
    ),
    "two models, one output's text": lambda llm, a: (
        RunnableParallel(other=router(), reply=llm | StrOutputParser(), last=router())
        | itemgetter("reply")
        | a
    ),
    "two models, one output's text trimmed": lambda llm, a: (
        RunnableParallel(reply=llm, other=router()) | (lambda d: d["reply"].text.strip()) | a
    ),
    "nested chains": lambda llm, a: (
        RunnablePassthrough() | (RunnablePassthrough() | (llm | RunnablePassthrough())) | a
    ),
    "aligner with retry": lambda llm, a: llm | a.with_retry(),
    "aligner with fallbacks": lambda llm, a: llm | a.with_fallbacks([RunnablePassthrough()]),
    "aligner with config": lambda llm, a: llm | a.with_config(run_name="mine", tags=["x"]),
    "bound aligner": lambda llm, a: llm | a.bind(objectives=["humour"]),
    "aligner with listeners": lambda llm, a: llm | a.with_listeners(on_end=lambda _: None),
    "chain with types": lambda llm, a: (llm | a).with_types(input_type=str),
    "aligner among alternatives": lambda llm, a: (
        llm | a.configurable_alternatives(ConfigurableField(id="which"), no=RunnablePassthrough())
    ),
    "mapped": lambda llm, a: (lambda q: [q]) | (llm | a).map() | itemgetter(0),
    "a state of the reply alone": lambda llm, a: (
        llm | (lambda m: {"messages": [m]}) | a | (lambda state: state["messages"][-1])
    ),
    "lambda": as_lambda,
    "lambda, sync and async": as_async_lambda,
    "lambda that returns the chain": as_lambda_that_returns_the_chain,
    "lambda that gathers a stream": as_lambda_that_gathers_a_stream,
    "chain function": as_chain_function,
    "chain function with config": as_chain_function_with_config,
    "threads of a chain function": as_threads_of_a_chain_function,
    "generator": as_generator,
}


def in_threads(runnable):
    made: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda i=i, q=q: made.update({i: runnable.invoke(q)}))
        for i, q in enumerate(QUESTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [made[i] for i in range(len(QUESTIONS))]


async def ainvoke(runnable):
    return [await runnable.ainvoke(q) for q in QUESTIONS]


async def gather(runnable):
    return await asyncio.gather(*[runnable.ainvoke(q) for q in QUESTIONS])


async def as_completed(runnable):
    made = {i: one async for i, one in runnable.abatch_as_completed(QUESTIONS)}
    return [made[i] for i in range(len(QUESTIONS))]


async def astream(runnable):
    return [merged([piece async for piece in runnable.astream(q)]) for q in QUESTIONS]


async def abatch(runnable):
    return await runnable.abatch(QUESTIONS)


WAYS = {
    "invoke": lambda r: [r.invoke(q) for q in QUESTIONS],
    "batch": lambda r: r.batch(QUESTIONS),
    "batch_as_completed": lambda r: [one for _, one in sorted(r.batch_as_completed(QUESTIONS))],
    "stream": lambda r: [merged(list(r.stream(q))) for q in QUESTIONS],
    "threads": in_threads,
    "ainvoke": lambda r: asyncio.run(ainvoke(r)),
    "gather": lambda r: asyncio.run(gather(r)),
    "abatch": lambda r: asyncio.run(abatch(r)),
    "abatch_as_completed": lambda r: asyncio.run(as_completed(r)),
    "astream": lambda r: asyncio.run(astream(r)),
}


# LangChain repeats no stream.
REPEATED = "llm with retry | a"
COMBINATIONS = [
    *[(one, "invoke") for one in COMPOSITIONS],
    *[pair for pair in by_turns(COMPOSITIONS, list(WAYS)[1:]) if pair[0] != REPEATED],
    *[("two models, one output", way) for way in WAYS],
]


def text_of(output):
    return output if isinstance(output, str) else output.text


@pytest.mark.parametrize(("composition", "way"), dict.fromkeys(COMBINATIONS))
def test_the_context_is_what_the_answering_model_was_sent(composition, way):
    engine = ScriptedEngine()
    aligner = MetaAlignerRunnable(engine=engine)
    runnable = COMPOSITIONS[composition](Policy(reply=echo), aligner)
    outputs = WAYS[way](runnable)
    assert [text_of(one) for one in outputs] == [f"reply to {q} (edited)" for q in QUESTIONS]
    assert sorted(question_of(one) for one in engine.requests) == QUESTIONS
    for request in engine.requests:
        assert request.draft == f"reply to {question_of(request)}"
    assert capture.kept() == 0


@pytest.mark.parametrize("way", ["invoke", "abatch"])
def test_the_context_of_a_completion_model_is_its_prompt_as_one_human_turn(way):
    engine = ScriptedEngine()
    template = PromptTemplate.from_template("Answer: {q}")
    llm = Completion(reply=lambda prompt: f"reply to {prompt}")
    runnable = {"q": RunnablePassthrough()} | template | llm | MetaAlignerRunnable(engine=engine)
    outputs = WAYS[way](runnable)
    assert outputs == [f"reply to Answer: {q} (edited)" for q in QUESTIONS]
    assert sorted(question_of(one) for one in engine.requests) == [
        f"Answer: {q}" for q in QUESTIONS
    ]
    for request in engine.requests:
        assert request.draft == f"reply to {question_of(request)}"


def test_every_turn_of_the_history_is_in_the_prompt():
    engine = ScriptedEngine()
    runnable = with_history(Policy(reply="A reply."), MetaAlignerRunnable(engine=engine))
    edited = runnable.invoke("now?")
    assert (
        " | Context: \n\nHuman: before\n\nAssistant: yes\n\nHuman: now? \n\nAssistant: | Answer: "
        "A reply. | Edit: "
    ) in engine.prompts[0]
    assert edited.response_metadata["metaaligner"]["dropped"] == {"system": 1}


def test_a_history_with_tool_calls_and_adjacent_human_turns_is_rendered_whole():
    engine = ScriptedEngine()
    call = {"name": "clock", "args": {}, "id": "1", "type": "tool_call"}
    history = [
        HumanMessage("one"),
        HumanMessage("two"),
        AIMessage("", tool_calls=[call]),
        ToolMessage(content=[{"type": "text", "text": "noon"}], tool_call_id="1"),
        AIMessage("It is noon."),
        HumanMessage("three"),
    ]
    (Policy(reply="A reply.") | MetaAlignerRunnable(engine=engine)).invoke(history)
    assert (
        "Context: \n\nHuman: one\n\nHuman: two\n\nAssistant: [tool clock] noon\nIt is noon."
        "\n\nHuman: three \n\nAssistant: | Answer: A reply. | Edit: "
    ) in engine.prompts[0]


@pytest.mark.filterwarnings("ignore:.*RunnableWithMessageHistory")
@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_a_chain_with_message_history_gives_the_history_and_keeps_the_edit_in_it(way):
    engine = ScriptedEngine()
    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("past"), ("human", "{q}")])
    store = History()
    runnable = RunnableWithMessageHistory(
        prompt | Policy(reply=echo) | MetaAlignerRunnable(engine=engine),
        lambda _: store,
        input_messages_key="q",
        history_messages_key="past",
    )
    config = {"configurable": {"session_id": "1"}}

    async def talk():
        for q in ("one", "two"):
            await runnable.ainvoke({"q": q}, config)

    if way == "invoke":
        for q in ("one", "two"):
            runnable.invoke({"q": q}, config)
    else:
        asyncio.run(talk())
    assert (
        "Context: \n\nHuman: one\n\nAssistant: reply to one (edited)\n\nHuman: two \n\nAssistant:"
    ) in engine.prompts[1]
    assert [one.text for one in store.messages] == [
        "one",
        "reply to one (edited)",
        "two",
        "reply to two (edited)",
    ]
    assert capture.kept() == 0


def test_the_second_of_two_aligners_gets_the_same_context_and_the_first_ones_edit():
    first, second = ScriptedEngine("edited once"), ScriptedEngine()
    for between in (RunnablePassthrough(), StrOutputParser()):
        runnable = (
            Policy(reply=echo)
            | MetaAlignerRunnable(engine=first)
            | between
            | MetaAlignerRunnable(engine=second)
        )
        assert text_of(runnable.invoke("q")) == "edited once (edited)"
    assert [question_of(one) for one in second.requests] == ["q", "q"]
    assert [one.draft for one in second.requests] == ["edited once", "edited once"]


@pytest.mark.parametrize("way", ["invoke", "batch", "ainvoke"])
def test_the_same_text_from_two_models_is_told_apart_by_the_id(way):
    engine = ScriptedEngine()
    one, two = FakeListChatModel(responses=["same"]), FakeListChatModel(responses=["same"])
    runnable = (
        RunnableParallel(
            reply=RunnableLambda(lambda q: f"one {q}") | one,
            other=RunnableLambda(lambda q: f"two {q}") | two,
        )
        | itemgetter("reply")
        | MetaAlignerRunnable(engine=engine)
    )
    WAYS[way](runnable)
    assert sorted(question_of(one) for one in engine.requests) == [f"one {q}" for q in QUESTIONS]


def test_the_same_text_in_two_branches_is_told_apart_by_the_branch():
    left, right = ScriptedEngine(), ScriptedEngine()
    llm = Policy(reply="same")
    runnable = RunnableParallel(
        left=(lambda _: "l") | llm | StrOutputParser() | MetaAlignerRunnable(engine=left),
        right=(lambda _: "r") | llm | StrOutputParser() | MetaAlignerRunnable(engine=right),
    )
    for _ in range(5):
        runnable.invoke("q")
    assert {question_of(one) for one in left.requests} == {"l"}
    assert {question_of(one) for one in right.requests} == {"r"}


@pytest.mark.parametrize("model_id", [None, "always the same"])
def test_many_replies_made_before_any_is_edited_keep_their_contexts(model_id):
    engine = ScriptedEngine()
    aligner = MetaAlignerRunnable(engine=engine)
    questions = [f"q{i}" for i in range(300)]
    llm = Policy(reply=lambda messages: AIMessage(echo(messages), id=model_id))

    @chain
    def run(_):
        return aligner.batch(llm.batch(questions))

    assert [one.text for one in run.invoke("x")] == [f"reply to {q} (edited)" for q in questions]
    assert [question_of(one) for one in engine.requests] == questions


def test_two_hundred_chains_in_threads_swap_no_context():
    engine = ScriptedEngine()
    runnable = Policy(reply="same") | MetaAlignerRunnable(engine=engine)
    questions = [f"q{i}" for i in range(200)]

    def one(q):
        return runnable.invoke(q)

    threads = [threading.Thread(target=one, args=(q,)) for q in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(question_of(one) for one in engine.requests) == sorted(questions)
    assert capture.kept() == 0


def test_two_hundred_models_in_threads_of_one_parent_run_swap_no_context():
    engine = ScriptedEngine(lambda request: f"{question_of(request)} of {request.draft}")
    questions = [f"q{i}" for i in range(200)]
    llm, aligner = Policy(reply="same"), MetaAlignerRunnable(engine=engine)

    @chain
    def all_of_them(_):
        with ContextThreadPoolExecutor(16) as pool:
            return list(pool.map(lambda q: aligner.invoke(llm.invoke(q)).text, questions))

    assert all_of_them.invoke("x") == [f"{q} of same" for q in questions]
    assert capture.kept() == 0


@pytest.mark.parametrize("inside", [False, True], ids=["apart", "inside one parent run"])
def test_two_hundred_gathered_chains_swap_no_context(inside):
    engine = ScriptedEngine(lambda request: f"{question_of(request)} of {request.draft}")
    questions = [f"q{i}" for i in range(200)]
    runnable = Policy(reply=echo) | StrOutputParser() | MetaAlignerRunnable(engine=engine)

    async def all_of_them(_=None):
        return await asyncio.gather(*[runnable.ainvoke(q) for q in questions])

    made = asyncio.run(chain(all_of_them).ainvoke("x") if inside else all_of_them())
    assert made == [f"{q} of reply to {q}" for q in questions]
    assert capture.kept() == 0


def test_two_hundred_models_gathered_in_one_parent_run_swap_no_context():
    engine = ScriptedEngine(lambda request: f"{question_of(request)} of {request.draft}")
    questions = [f"q{i}" for i in range(200)]
    llm, aligner = Policy(reply="same"), MetaAlignerRunnable(engine=engine)

    async def one(q):
        reply = await llm.ainvoke(q)
        await asyncio.sleep(0)
        return (await aligner.ainvoke(reply)).text

    @chain
    async def all_of_them(_):
        return await asyncio.gather(*[one(q) for q in questions])

    assert asyncio.run(all_of_them.ainvoke("x")) == [f"{q} of same" for q in questions]


def test_a_reader_who_stops_a_models_stream_early_has_a_reply_with_a_context():
    engine = ScriptedEngine()
    llm = StreamingPolicy(reply="one two three four")

    def first_words(q):
        said = ""
        for chunk in llm.stream(q):
            said += chunk.text
            if len(said) > 5:
                break
        return said

    (RunnableLambda(first_words) | MetaAlignerRunnable(engine=engine)).invoke("q")
    assert question_of(engine.requests[0]) == "q"
    assert engine.requests[0].draft == "one two "
    assert capture.kept() == 0


def test_a_model_that_failed_is_not_the_one_that_answered():
    engine = ScriptedEngine()
    failing = RunnableLambda(lambda _: "to the failing one") | Policy(reply=RuntimeError("down"))
    runnable = failing.with_fallbacks(
        [RunnableLambda(lambda _: "to the other") | Policy(reply=AIMessage("r", id="x"))]
    ) | (lambda m: m.text.upper())
    (runnable | MetaAlignerRunnable(engine=engine)).invoke("q")
    assert question_of(engine.requests[0]) == "to the other"


def test_the_answer_of_a_tool_that_asks_a_model_has_that_models_context():
    engine = ScriptedEngine()
    llm, aligner = Policy(reply=echo), MetaAlignerRunnable(engine=engine)

    @tool
    def ask(q: str) -> str:
        """Ask the model."""
        return (llm | StrOutputParser()).invoke(q)

    @chain
    def run(q):
        return aligner.invoke(ask.invoke({"q": q}))

    assert run.invoke("q") == "reply to q (edited)"
    assert question_of(engine.requests[0]) == "q"
    assert capture.kept() == 0


def test_the_models_that_the_engine_itself_asks_are_none_of_the_chains():
    inner = Policy(reply="by the engine")

    class Asking(ScriptedEngine):
        def make(self, request):
            inner.invoke("the engine's own question")
            return super().make(request)

    first, second = Asking("edited once"), ScriptedEngine()
    runnable = (
        Policy(reply=echo)
        | MetaAlignerRunnable(engine=first)
        | (lambda m: m.text.upper())
        | MetaAlignerRunnable(engine=second)
    )
    runnable.invoke("q")
    assert question_of(second.requests[0]) == "q"
    assert capture.kept() == 0


# LangGraph.


class State(TypedDict):
    messages: Annotated[list, add_messages]


def graph_of(node, *more):
    builder = StateGraph(State)
    builder.add_node("first", node)
    builder.add_edge(START, "first")
    last = "first"
    for i, other in enumerate(more):
        builder.add_node(f"then{i}", other)
        builder.add_edge(last, f"then{i}")
        last = f"then{i}"
    builder.add_edge(last, END)
    return builder.compile()


def sync_node(llm, aligner):
    return lambda state: {"messages": [(llm | aligner).invoke(state["messages"])]}


def sync_node_with_config(llm, aligner):
    def node(state, config):
        return {"messages": [(llm | aligner).invoke(state["messages"], config)]}

    return node


def async_node(llm, aligner):
    async def node(state):
        return {"messages": [await (llm | aligner).ainvoke(state["messages"])]}

    return node


def async_node_with_config(llm, aligner):
    async def node(state, config):
        return {"messages": [await (llm | aligner).ainvoke(state["messages"], config)]}

    return node


def runnable_node(llm, aligner):
    return (
        RunnableLambda(lambda state: state["messages"])
        | llm
        | aligner
        | (lambda m: {"messages": [m]})
    )


@pytest.mark.parametrize(
    ("node", "call"),
    [
        (sync_node, "ainvoke"),
        (sync_node_with_config, "invoke"),
        (async_node, "ainvoke"),
        (async_node_with_config, "ainvoke"),
        (runnable_node, "invoke"),
    ],
)
def test_in_a_graphs_node_the_context_is_what_the_model_was_sent(node, call):
    engine = ScriptedEngine()
    graph = graph_of(node(Policy(reply=echo), MetaAlignerRunnable(engine=engine)))
    given = {"messages": [HumanMessage("one"), AIMessage("two"), HumanMessage("q")]}
    state = graph.invoke(given) if call == "invoke" else asyncio.run(graph.ainvoke(given))
    assert state["messages"][-1].text == "reply to q (edited)"
    assert len(state["messages"]) == 4
    assert (
        "Context: \n\nHuman: one\n\nAssistant: two\n\nHuman: q \n\nAssistant:"
        in (engine.prompts[0])
    )
    assert capture.kept() == 0


@pytest.mark.parametrize("way", ["threads", "gather"])
def test_graphs_that_run_side_by_side_swap_no_context(way):
    engine = ScriptedEngine()
    graph = graph_of(sync_node(Policy(reply="same"), MetaAlignerRunnable(engine=engine)))
    runnable = (lambda q: {"messages": [HumanMessage(q)]}) | graph
    WAYS[way](runnable)
    assert sorted(question_of(one) for one in engine.requests) == QUESTIONS
    assert capture.kept() == 0


@pytest.mark.filterwarnings("ignore:The model ran unhushed")
def test_an_aligner_in_a_node_of_its_own_edits_the_states_last_message_by_the_state():
    engine = ScriptedEngine()
    builder = StateGraph(MessagesState)
    llm = Policy(reply=echo)
    builder.add_node("model", lambda state: {"messages": [llm.invoke(state["messages"])]})
    builder.add_node("edit", MetaAlignerRunnable(engine=engine))
    builder.add_edge(START, "model")
    builder.add_edge("model", "edit")
    builder.add_edge("edit", END)
    state = builder.compile().invoke({"messages": [HumanMessage("q")]})
    assert [one.text for one in state["messages"]] == ["q", "reply to q (edited)"]
    assert question_of(engine.requests[0]) == "q"


# A context that is given.

GIVEN = [HumanMessage("given")]


FORMS = [
    (GIVEN, "\n\nHuman: given \n\nAssistant:"),
    (Context("as it is"), "as it is"),
    ([("human", "given")], "\n\nHuman: given \n\nAssistant:"),
]


@pytest.mark.parametrize(
    ("way", "form"), by_turns(["config", "with_config", "bind", "argument"], FORMS)
)
def test_a_context_that_is_given_wins(way, form):
    engine, (given, rendered) = ScriptedEngine(), form
    aligner = MetaAlignerRunnable(engine=engine)
    llm = Policy(reply=echo)
    config = {"configurable": {"context": given}}
    if way == "config":
        (llm | aligner).invoke("asked", config)
    elif way == "with_config":
        (llm | aligner.with_config(config)).invoke("asked")
    elif way == "bind":
        (llm | aligner.bind(context=given)).invoke("asked")
    else:
        (llm | (lambda m: aligner.invoke(m, context=given))).invoke("asked")
    assert f" | Context: {rendered} | Answer: reply to asked | " in engine.prompts[0]


def test_the_messages_of_a_state_are_the_context_of_its_last_one():
    engine = ScriptedEngine()
    runnable = (
        Policy(reply=echo)
        | (lambda m: {"messages": [HumanMessage("of the state"), m]})
        | MetaAlignerRunnable(engine=engine)
    )
    runnable.invoke("asked")
    assert question_of(engine.requests[0]) == "of the state"
