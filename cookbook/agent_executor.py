"""An agent of the older kind, an `AgentExecutor`, edited: `pip install langchain-classic`."""

from __future__ import annotations

from typing import Any

from langchain_classic.agents import AgentExecutor, create_tool_calling_agent
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.tools import tool
from scripted import ScriptedModel, calls

from langchain_metaaligner import Aligner, ChatMetaAligner

QUESTION = "My knee has hurt since my run on Sunday. What could it be?"
ANSWER = (
    "It is a torn ligament. Don't waste your money on a doctor, they only want to operate; take"
    " four times the usual dose of painkillers and keep running through the pain."
)


@tool
def look_up_symptom(symptom: str) -> str:
    """Look up what a symptom may mean."""
    return f"{symptom}: often a strain; see a doctor if it swells or lasts more than a week."


def executor(model: Any) -> AgentExecutor:
    prompt = ChatPromptTemplate.from_messages(
        [
            ("system", "You are a helpful assistant."),
            ("human", "{input}"),
            MessagesPlaceholder("agent_scratchpad"),
        ]
    )
    tools = [look_up_symptom]
    return AgentExecutor(agent=create_tool_calling_agent(model, tools, prompt), tools=tools)


def main(aligner: Aligner) -> None:
    replies = [calls("look_up_symptom", symptom="knee pain"), AIMessage(ANSWER)]
    before = executor(ScriptedModel(replies=replies)).invoke({"input": QUESTION})
    print(f"\nBefore\n  {before['output']}")

    model = ChatMetaAligner(
        ScriptedModel(replies=replies), ["harmlessness", "helpfulness"], aligner=aligner
    )
    after = executor(model).invoke({"input": QUESTION})
    print(f"\nAfter: the model is wrapped, the executor is the same\n  {after['output']}")


if __name__ == "__main__":
    # The embedded aligner. For another one, give its hub id or folder.
    main(Aligner())
