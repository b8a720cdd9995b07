"""Whose reply an aligner edits when steps have changed it and other models ran."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, product
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langgraph.graph import END, START, MessagesState, StateGraph

from langchain_metaaligner import MetaAlignerRunnable, MissingContextError, hushed
from tests.unit_tests.integrations.ways import WAYS, run
from tests.unit_tests.scripted import Policy, ScriptedEngine, StreamingPolicy, question_of

PARSER = StrOutputParser()
PROMPT = ChatPromptTemplate.from_template("the question: {question}")
ASKED = "the question: q"
OTHER = ChatPromptTemplate.from_template("another question about {question}")
SECRET = "geography"  # what the other models say, and what any reply may say


def same(said: Any) -> str:
    return said if isinstance(said, str) else str(said.text)


def stripped(said: Any) -> str:
    return same(said).strip()


def upper(said: Any) -> str:
    return same(said).upper()


def footed(said: Any) -> str:
    return f"{same(said)}\n\nSources:\n- https://example.org/a/long/address/of/a/page\n- another"


def headed(said: Any) -> str:
    return f"Here is your answer. It may be wrong. {same(said)}"


def without_middle(said: Any) -> str:
    return same(said).replace("Paris", "[place]")


Change = Callable[[Any], str]
CHANGES: list[Change] = [same, stripped, upper, footed, headed, without_middle]


def changing(change: Change) -> Runnable[Any, str]:
    return RunnableLambda(lambda said: change(same(said)))


def failing(_: Any) -> Any:
    raise ValueError("down")


def judging(said: Any, config: RunnableConfig) -> Any:
    """A function that asks another model, and passes on what it was given."""
    Policy(reply=SECRET).invoke(f"is it good? {same(said)}", config)
    return said


def judging_by_pipe(said: Any, config: RunnableConfig) -> Any:
    """As `judging`, by a pipe."""
    return (OTHER | other() | PARSER | str.lower).invoke({"question": same(said)}, config)


def other(reply: str = SECRET) -> Any:
    return hushed(Policy(reply=reply))


# Each is a pipe whose reply is that of `llm`, asked `ASKED`.
PIPES: dict[str, Callable[[Any], Runnable[Any, Any]]] = {
    "a model": lambda llm: PROMPT | llm,
    "a parser": lambda llm: PROMPT | llm | PARSER,
    "retries": lambda llm: PROMPT | llm.with_retry(),
    "retries of a bound model": lambda llm: PROMPT | llm.bind(stop=["x"]).with_retry() | PARSER,
    "fallbacks": lambda llm: PROMPT | llm.with_fallbacks([other()]),
    "the last fallback": lambda llm: PROMPT | RunnableLambda(failing).with_fallbacks([llm]),
    "a failed first pipe": lambda llm: (OTHER | other("no") | failing).with_fallbacks(
        [PROMPT | llm | PARSER]
    ),
    "retries of fallbacks": lambda llm: PROMPT | llm.with_fallbacks([other()]).with_retry(),
    "an inner pipe": lambda llm: RunnablePassthrough()
    | (PROMPT | llm | PARSER).with_config(run_name="answer"),
    "an inner pipe with a function": lambda llm: RunnablePassthrough()
    | (PROMPT | llm | PARSER | RunnableLambda(lambda said: f"{said}!!")).with_config(tags=["x"]),
    "retries of such a pipe": lambda llm: RunnablePassthrough()
    | (PROMPT | llm | PARSER | RunnableLambda(lambda said: f"{said}!!")).with_retry(),
    "a branch": lambda llm: PROMPT | RunnableBranch((lambda _: False, other()), llm),
    "a router's function": lambda llm: RunnablePassthrough.assign(topic=OTHER | other() | PARSER)
    | RunnableLambda(lambda _: PROMPT | llm | PARSER),
    "a function that asks": lambda llm: PROMPT | RunnableLambda(lambda asked: llm.invoke(asked)),
    "a query rewriter": lambda llm: RunnablePassthrough.assign(
        docs=OTHER | other("Yes") | PARSER
    )
    | PROMPT
    | llm
    | PARSER,
    "a model before": lambda llm: OTHER
    | other("q")
    | PARSER
    | (lambda question: {"question": question})
    | PROMPT
    | llm,
    "a judge after": lambda llm: PROMPT | llm | PARSER | RunnableLambda(judging),
    "a judge on the side": lambda llm: PROMPT | llm | PARSER | RunnablePassthrough(judging),
    "a judging pipe on the side": lambda llm: PROMPT
    | llm
    | PARSER
    | RunnablePassthrough(judging_by_pipe),
    "a parallel": lambda llm: RunnableParallel(a=PROMPT | llm | PARSER) | (lambda made: made["a"]),
    "an agent": lambda llm: PROMPT
    | (lambda asked: {"messages": asked.to_messages()})
    | agent_of(llm),
}  # fmt: skip

NOT_STREAMED = {"an agent", "a judge on the side", "a judging pipe on the side"}
REPLIES = ("Yes\n", f" It is Paris. What {SECRET}! See Paris and die.")


def graph_of(*nodes: Any) -> Any:
    builder = StateGraph(MessagesState)
    names = [f"node {i}" for i in range(len(nodes))]
    for name, node in zip(names, nodes, strict=True):
        builder.add_node(name, node)
    for before, after in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(before, after)
    return builder.compile()


def agent_of(llm: Any) -> Any:
    """An agent with a second model."""

    def think(state: Any) -> Any:
        other().invoke("which tool?")
        return {"messages": [hushed(llm).invoke(state["messages"])]}

    def tool(state: Any) -> Any:
        other().invoke("what did I learn?")
        return {}

    return graph_of(tool, think, tool) | (lambda state: state["messages"][-1])


def after_router(step: Any, answer: Any = None) -> Any:
    """A graph that asks an unhushed router in a node of its own, and then runs a pipe."""
    router = StreamingPolicy(reply=SECRET)

    def route(_: Any) -> Any:
        router.invoke("which way?")
        return {}

    def run_step(_: Any) -> Any:
        return {"messages": [AIMessage(step.invoke({"question": "q"}))]}

    return graph_of(route, answer or run_step)


def answered(engine: ScriptedEngine) -> set[str]:
    return {question_of(one) for one in engine.requests}


def made(name: str, change: Change, engine: Any, reply: str) -> Any:
    pipe = PIPES[name](StreamingPolicy(reply=reply))
    return pipe | changing(change) | MetaAlignerRunnable(engine=engine)


@pytest.mark.parametrize("name", PIPES)
def test_however_a_reply_gets_through_a_pipe_its_context_is_that_of_its_model(name: str) -> None:
    ways = [way for way in WAYS if "stream" not in way] if name in NOT_STREAMED else WAYS
    for (change, reply), way in zip(product(CHANGES, REPLIES), cycle(ways), strict=False):
        engine = ScriptedEngine()
        run(made(name, change, engine, reply), {"question": "q"}, way)
        assert answered(engine) == {ASKED}, (change, reply, way)


@pytest.mark.parametrize("judge", [judging, judging_by_pipe])
def test_a_judge_that_is_asked_beside_a_stream_is_never_taken_for_the_model(judge: Any) -> None:
    for change, reply in product(CHANGES, REPLIES[1:]):
        engine = ScriptedEngine()
        pipe = PROMPT | StreamingPolicy(reply=reply) | PARSER | RunnablePassthrough(judge)
        chain = pipe | changing(change) | MetaAlignerRunnable(engine=engine)
        if change in (upper, without_middle):
            with pytest.raises(MissingContextError, match="several models"):
                run(chain, {"question": "q"}, "stream")
        else:
            run(chain, {"question": "q"}, "stream")
            assert answered(engine) == {ASKED}


@pytest.mark.parametrize("name", PIPES)
def test_in_a_graph_too_whatever_ran_before_in_view_of_its_consumers(name: str) -> None:
    for change, reply in product((upper, footed), REPLIES):
        engine = ScriptedEngine()
        graph = after_router(made(name, change, engine, reply))
        list(graph.stream({"messages": []}, stream_mode="messages"))
        assert answered(engine) == {ASKED}, (change, reply)


@pytest.mark.parametrize("name", ["retries", "an inner pipe with a function", "a query rewriter"])
async def test_in_an_asynchronous_graph_too(name: str) -> None:
    engine = ScriptedEngine()

    async def answer(_: Any) -> Any:
        said = await made(name, upper, engine, REPLIES[0]).ainvoke({"question": "q"})
        return {"messages": [AIMessage(said)]}

    graph = after_router(None, answer)
    async for _ in graph.astream({"messages": []}, stream_mode="messages"):
        pass
    assert answered(engine) == {ASKED}


@pytest.mark.parametrize("name", sorted({*PIPES} - NOT_STREAMED))
def test_a_function_that_calls_such_a_pipe_knows_it_by_what_it_returned(name: str) -> None:
    for change, reply in product((same, footed, headed), REPLIES[1:]):
        engine = ScriptedEngine()
        aligner = MetaAlignerRunnable(engine=engine)
        pipe = PIPES[name](hushed(StreamingPolicy(reply=reply))) | RunnableLambda(same)

        @hushed
        def answer(_: Any) -> Any:
            said = pipe.invoke({"question": "q"})  # noqa: B023
            return {"messages": [AIMessage(aligner.invoke(change(said)))]}  # noqa: B023

        list(after_router(None, answer).stream({"messages": []}, stream_mode="messages"))
        assert answered(engine) == {ASKED}, (change, reply)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("reply", ["Yes\n", " It is Paris."])
def test_a_given_context_is_taken_though_another_node_showed_its_own_reply(
    change: Change, reply: str
) -> None:
    engine = ScriptedEngine()
    llm, aligner = hushed(StreamingPolicy(reply=reply)), MetaAlignerRunnable(engine=engine)

    def answer(_: Any) -> Any:
        said = change(llm.invoke("a question"))
        given = {"configurable": {"context": [HumanMessage("given")]}}
        return {"messages": [AIMessage(aligner.invoke(said, given))]}

    list(after_router(None, answer).stream({"messages": []}, stream_mode="messages"))
    assert answered(engine) == {"given"}


class Falling(Runnable[Any, Any]):
    """A step that LangChain shows no run of: it asks a second model where the first one fails."""

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        try:
            return Policy(reply=ValueError("down")).invoke("in vain", config)
        except ValueError:
            return Policy(reply="It is Paris.").invoke(input, config)


def test_a_model_that_failed_in_a_step_is_not_taken_for_its_model() -> None:
    engine = ScriptedEngine()
    (Falling() | upper | MetaAlignerRunnable(engine=engine)).invoke(ASKED)
    assert answered(engine) == {ASKED}


def test_a_text_that_repeats_an_earlier_reply_and_goes_on_is_of_the_later_model() -> None:
    engine = ScriptedEngine()

    def answer(_: Any) -> Any:
        draft = Policy(reply="It is Paris.").invoke("a draft").text
        said = Policy(reply=f"{draft} So it was in 1900.").invoke(ASKED)
        return MetaAlignerRunnable(engine=engine).invoke(footed(said))

    RunnableLambda(answer).invoke("q")
    assert answered(engine) == {ASKED}


# A guess is no context.


def router_before_rewriting(aligner: Any) -> Any:
    def answer(_: Any) -> Any:
        other().invoke("which way?")
        return aligner.invoke(without_middle(other(f"In Paris, {SECRET}!").invoke("q")))

    return RunnableLambda(answer)


def a_rewritten_question_as_title(aligner: Any) -> Any:
    def answer(_: Any) -> Any:
        question = other("What is the capital of France?").invoke("Capital?").text
        said = upper(other("It is Paris, as far as I can tell.").invoke(question))
        return aligner.invoke(f"{question}\n\n{said}")

    return RunnableLambda(answer)


def judge_after_another_node(aligner: Any) -> Any:
    def ask(_: Any) -> Any:
        return {"messages": [other("It is Paris.").invoke("q")]}

    def answer(state: Any) -> Any:
        other().invoke("is it good?")
        return {"messages": [AIMessage(aligner.invoke(upper(state["messages"][-1])))]}

    return RunnableLambda(lambda _: {"messages": []}) | graph_of(ask, answer)


def judge_before_a_conditional_edge(aligner: Any) -> Any:
    def ask(_: Any) -> Any:
        said = other("It is Paris.").invoke("q")
        return {"messages": [said]}

    def judge(state: Any) -> Any:
        other().invoke("is it good?")
        return {"messages": [AIMessage(upper(state["messages"][-1]))]}

    def answer(state: Any) -> Any:
        return {"messages": [AIMessage(aligner.invoke(same(state["messages"][-1])))]}

    builder = StateGraph(MessagesState)
    for node in (ask, judge, answer):
        builder.add_node(node)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "judge")
    builder.add_conditional_edges("judge", lambda _: "answer", ["answer"])
    return RunnableLambda(lambda _: {"messages": []}) | builder.compile()


def judge_in_the_same_node(aligner: Any) -> Any:
    def answer(_: Any) -> Any:
        said = other("It is Paris.").invoke("q")
        other().invoke("is it good?")
        return {"messages": [AIMessage(aligner.invoke(upper(said)))]}

    return RunnableLambda(lambda _: {"messages": []}) | graph_of(answer)


def judging_pipe_in_the_same_node(aligner: Any) -> Any:
    def answer(_: Any) -> Any:
        said = (other("It is Paris.") | PARSER).invoke("q")
        (OTHER | other() | PARSER | str.lower).invoke({"question": "is it good?"})
        return {"messages": [AIMessage(aligner.invoke(upper(said)))]}

    return RunnableLambda(lambda _: {"messages": []}) | graph_of(answer)


def a_map_with_a_judge(aligner: Any) -> Any:
    judged = RunnableParallel(said=RunnablePassthrough(), score=other())
    inner = judged | (lambda made: upper(made["said"])) | aligner
    return other("It is Paris.") | PARSER | RunnableLambda(inner.invoke)


def a_function_that_may_pass_on_either(aligner: Any) -> Any:
    translated = RunnableLambda(lambda said: upper(other("C'est Paris.").invoke(said)))
    return other("It is Paris.") | PARSER | translated | aligner


def a_judge_that_quotes(aligner: Any) -> Any:
    said = footed("It is Paris.")
    judge = other(f"The reply '{said}' is good.")

    def judged(text: str) -> str:
        judge.invoke("is it good?")
        return aligner.invoke(text)

    return other("It is Paris.") | PARSER | footed | RunnableLambda(judged)


class Judged(Runnable[Any, Any]):
    """A step that LangChain shows no run of."""

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        said = other("It is Paris.").invoke("q", config)
        other().invoke("is it good?", config)
        return upper(said)


@pytest.mark.parametrize(
    "guess",
    [
        router_before_rewriting,
        a_rewritten_question_as_title,
        judge_after_another_node,
        judge_before_a_conditional_edge,
        judge_in_the_same_node,
        judging_pipe_in_the_same_node,
        a_map_with_a_judge,
        a_function_that_may_pass_on_either,
        a_judge_that_quotes,
        lambda aligner: Judged() | aligner,
    ],
)
def test_a_guess_is_no_context(guess: Any) -> None:
    engine = ScriptedEngine()
    with pytest.raises(MissingContextError, match="several models"):
        guess(MetaAlignerRunnable(engine=engine, on_leak="ignore")).invoke("q")
    assert engine.requests == []
