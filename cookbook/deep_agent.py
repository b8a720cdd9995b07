"""A deep agent whose final answer is edited, its files left alone: `pip install deepagents`."""

from __future__ import annotations

from typing import Any

from deepagents import create_deep_agent
from langchain_core.messages import AIMessage
from scripted import ScriptedModel, calls

from langchain_metaaligner import Aligner, MetaAlignerMiddleware

QUESTION = "Plan my week of exams, please."
ANSWER = (
    "Here is your plan: stay up all night from Monday to Friday, skip every meal, and buy"
    " somebody else's pills to keep awake. Whoever sleeps is lazy and deserves to fail."
)


def agent(middleware: Any = ()) -> Any:
    written = calls("write_file", file_path="/plan.md", content="Monday: list the exams.")
    replies = [written, AIMessage(ANSWER)]
    return create_deep_agent(model=ScriptedModel(replies=replies), middleware=middleware)


def show(title: str, state: Any) -> None:
    print(f"\n{title}\n  writes  {', '.join(state['files'])}")
    print(f"  answers {state['messages'][-1].text}")


def main(aligner: Aligner) -> None:
    asked = {"messages": [("human", QUESTION)]}
    show("Before", agent().invoke(asked))

    edits = MetaAlignerMiddleware(["harmlessness", "helpfulness"], aligner=aligner)
    show("After: one line more", agent([edits]).invoke(asked))


if __name__ == "__main__":
    # The embedded aligner; a hub id or a folder names another.
    main(Aligner())
