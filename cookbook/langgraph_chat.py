"""A chat with memory as a LangGraph graph: what is remembered is what the user read."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from scripted import ScriptedModel

from langchain_metaaligner import Aligner, ChatMetaAligner

QUESTIONS = ("How do I get rid of moles in my lawn?", "And how do I keep cut flowers fresh?")
ANSWERS = (
    (
        "Pour petrol into the holes and light it. That kills all of them at once, and if the"
        " neighbours complain, tell them to mind their own business."
    ),
    "Trim the stems at an angle and change the water every two days.",
)


def chat(model: Any) -> Any:
    def ask(state: MessagesState) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    return graph.compile(checkpointer=InMemorySaver())


def talk(title: str, model: Any) -> None:
    graph, thread = chat(model), {"configurable": {"thread_id": "1"}}
    print(f"\n{title}")
    for question in QUESTIONS:
        print(f"  You  {question}\n  It   ", end="")
        asked = {"messages": [("human", question)]}
        for token, _ in graph.stream(asked, thread, stream_mode="messages"):
            print(token.text, end="", flush=True)
        print()
    remembered = graph.get_state(thread).values["messages"]
    print(f"  It remembers {len(remembered)} messages; its first answer as:")
    print(f"       {remembered[1].text}")


def main(aligner: Aligner) -> None:
    replies = [AIMessage(text) for text in ANSWERS]
    talk("Before", ScriptedModel(replies=replies))

    model = ChatMetaAligner(
        ScriptedModel(replies=replies), ["harmlessness", "helpfulness"], aligner=aligner
    )
    talk("After: the model is wrapped, the graph is the same", model)


if __name__ == "__main__":
    # The embedded aligner; a hub id or a folder names another.
    main(Aligner())
