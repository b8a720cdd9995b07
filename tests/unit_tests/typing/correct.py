"""What a user may write, and no type checker has a word against. It is read, never run."""

# pyright: strict

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate

from langchain_metaaligner import (
    Aligner,
    Alignment,
    ChatMetaAligner,
    Context,
    Edit,
    MetaAlignerMiddleware,
    MetaAlignerRunnable,
    Objective,
    Request,
    hushed,
)


class UppercaseEngine:
    """An engine with the one method that every engine has."""

    def edit(self, requests: list[Request]) -> list[Edit]:
        return [Edit(request.draft.upper()) for request in requests]


def note(alignment: Alignment) -> None:
    print(alignment.status, alignment.text)


def pipes(llm: BaseChatModel) -> None:
    aligner = MetaAlignerRunnable(
        ["helpfulness", Objective("brevity", "The response should be short")],
        model=Path("models/aligner"),
        family="hh_rlhf",
        max_new_tokens=512,
        temperature=0,
        timeout=2.5,
        keep_above=-0.5,
        on_error="pass",
        on_leak="ignore",
        keep_original=True,
        edit_tool_text=True,
        apply=False,
        allow_objectives=["helpfulness"],
        on_edit=note,
        dtype="bfloat16",
        device_map="auto",
        prefix_cache_bytes=0,
        prepack_weights=False,
        max_queue=8,
        model_kwargs={"low_cpu_mem_usage": True},
    )
    assert_type((llm | MetaAlignerRunnable()).invoke("hi"), AIMessage)
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    assert_type((prompt | hushed(llm) | aligner).invoke({"question": "hi"}), AIMessage)
    assert_type(aligner.invoke("a reply"), str)
    assert_type(aligner.invoke(AIMessage("a reply")), AIMessage)
    (llm | aligner.with_retry()).batch(["one", "two"])
    (llm | aligner).invoke("hi", config={"configurable": {"objectives": ["helpfulness"]}})
    MetaAlignerRunnable("harmlessness", engine=UppercaseEngine(), block_message="Sorry.")
    MetaAlignerRunnable({"name": "brevity", "description": "The response should be short"})
    MetaAlignerRunnable(aligner=Aligner())


async def pipes_in_a_loop(llm: BaseChatModel) -> None:
    chain = llm | MetaAlignerRunnable(["helpfulness"])
    assert_type(await chain.ainvoke("hi"), AIMessage)
    async for chunk in chain.astream("hi"):
        print(chunk.text, end="")


def agents() -> MetaAlignerMiddleware:
    return MetaAlignerMiddleware(
        ["harmlessness"], edit_tool_text=True, on_error="block", timeout=3, max_new_tokens=64
    )


def chat_models(llm: BaseChatModel) -> None:
    model = ChatMetaAligner(policy=llm, objectives=["helpfulness"], on_error="raise", timeout=1.5)
    assert_type(model.invoke("hi"), AIMessage)
    ChatMetaAligner(policy=llm, model="org/aligner", temperature=0.2, edit_tool_text=True)


def aligners(messages: list[BaseMessage]) -> Alignment:
    aligner = Aligner("org/aligner", family="hh_rlhf", temperature=0.0, revision="main", eager=True)
    with_messages = aligner.align(messages, "an answer", ["helpfulness"])
    assert_type(with_messages, Alignment)
    for piece in aligner.stream(Context("a question"), AIMessage("an answer"), "harmlessness"):
        print(piece, end="")
    many: Any = aligner.align_batch([([HumanMessage("q")], "an answer", ["helpfulness"])])
    print(many)
    return aligner.align("a question", "an answer", ["helpfulness"])
