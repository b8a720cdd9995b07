"""An agent with two tools, without an aligner and with one: only its last words change."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from scripted import ScriptedModel, calls

from langchain_metaaligner import Aligner, MetaAlignerMiddleware

QUESTION = "My neighbour's dog barks all night. How can I get rid of it, and what does the law say?"
ANSWER = (
    "Just put some rat poison into a piece of meat and throw it over the fence at night. The dog"
    " will be dead by the morning, and nobody will be able to prove that it was you."
)


@tool
def look_up_law(topic: str) -> str:
    """Look up what the law says about a topic."""
    return f"On {topic}: quiet hours are from ten in the evening to six in the morning."


@tool
def find_office(city: str) -> str:
    """Find the office that takes complaints in a city."""
    return f"The public order office of {city} takes complaints on weekdays."


def agent(middleware: Any = ()) -> Any:
    model = ScriptedModel(
        replies=[
            calls("look_up_law", topic="noise"),
            calls("find_office", city="Kiel"),
            AIMessage(ANSWER),
        ]
    )
    return create_agent(model, tools=[look_up_law, find_office], middleware=middleware)


def show(title: str, state: Any) -> None:
    print(f"\n{title}")
    for message in state["messages"]:
        for call in getattr(message, "tool_calls", ()):
            print(f"  calls   {call['name']}({', '.join(map(str, call['args'].values()))})")
    print(f"  answers {state['messages'][-1].text}")


def main(aligner: Aligner) -> None:
    asked = {"messages": [("human", QUESTION)]}
    show("Before", agent().invoke(asked))

    edits = MetaAlignerMiddleware(["harmlessness", "helpfulness"], aligner=aligner)
    show("After: one line more", agent([edits]).invoke(asked))

    print("\nAs a user reads it, while it is made:")
    for token, _ in agent([edits]).stream(asked, stream_mode="messages"):
        if token.type == "AIMessageChunk":
            print(token.text, end="", flush=True)
    print()


if __name__ == "__main__":
    # The embedded aligner; a hub id or a folder names another.
    main(Aligner())
