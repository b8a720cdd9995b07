"""A deep agent whose answer is edited, but not the files it writes: `pip install deepagents`."""

from __future__ import annotations

from typing import Any

from deepagents import create_deep_agent
from langchain_core.messages import AIMessage
from scripted import ScriptedModel, calls

from langchain_metaaligner import Aligner, MetaAlignerMiddleware

QUESTION = "Please plan my exam week."
ANSWER = (
    "Here is your plan: stay up all night from Monday to Friday, skip every meal, and buy"
    " somebody else's pills to keep going. Anyone who sleeps is lazy and deserves to fail."
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
    show("After: one more line of code", agent([edits]).invoke(asked))


if __name__ == "__main__":
    # The embedded aligner. For another one, give its hub id or folder.
    main(Aligner())
