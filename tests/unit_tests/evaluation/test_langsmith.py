"""The comparison as an evaluator of LangSmith: the page's example, and what examples look like."""

from __future__ import annotations

from uuid import uuid4

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_metaaligner import EvaluationError
from langchain_metaaligner.evaluation.langsmith import as_langsmith_evaluator
from tests.pages import ROOT, blocks_of

pytest.importorskip("scipy")

IN_BETA = pytest.mark.filterwarnings("ignore:.*is in beta")


def polite(context: str, first: str, second: str, objective: str) -> int:
    return 0 if ("please" in first) == ("please" in second) else 1 if "please" in first else 2


@pytest.fixture(autouse=True)
def _no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING", "false")


@IN_BETA
def test_the_pages_example_runs_offline() -> None:
    (block,) = [
        one for one in blocks_of(ROOT / "docs" / "evaluation_in_ci.md") if "langsmith" in one.code
    ]
    exec(compile(block.code, str(block), "exec"), {"__name__": "page"})


@IN_BETA
async def test_it_is_an_evaluator_of_aevaluate_too() -> None:
    from langsmith import Client, aevaluate
    from langsmith.schemas import Example

    async def edited(inputs: dict[str, str]) -> dict[str, str]:
        return {"output": "Look there, please."}

    results = await aevaluate(
        edited,
        data=[Example(id=uuid4(), inputs={"question": "Where?"}, outputs={"answer": "There."})],
        evaluators=[as_langsmith_evaluator(polite, ["harmlessness", "humour"])],
        client=Client(api_key="none", auto_batch_tracing=False),
        upload_results=False,
        disable_evaluator_tracing=True,
    )
    told = [one async for one in results]
    scores = {one.key: one.score for one in told[0]["evaluation_results"]["results"]}
    assert scores == {"harmlessness": 1.0, "humour": 1.0}


QUESTION = {"question": "Where?"}


@pytest.mark.parametrize(
    ("inputs", "outputs", "reference", "score"),
    [
        (QUESTION, {"output": "There, please."}, {"answer": "There."}, 1),
        (QUESTION, {"output": "There."}, {"answer": "There, please."}, 0),
        (QUESTION, {"output": "There."}, {"answer": "Here."}, 0.5),
        (QUESTION, {"output": AIMessage("There, please.")}, {"whatever": "There."}, 1),
        (
            {"messages": [HumanMessage("Where?")]},
            {"messages": [HumanMessage("Where?"), AIMessage("There, please.")]},
            {"messages": [{"role": "assistant", "content": "There."}]},
            1,
        ),
        ({"input": "Where?"}, {"role": "ai", "content": "please"}, {"answer": "There."}, 1),
    ],
)
def test_outputs_and_references_have_many_forms(inputs, outputs, reference, score) -> None:
    found = as_langsmith_evaluator(polite, "harmlessness")(inputs, outputs, reference)
    assert found == {"key": "harmlessness", "score": score}


def test_a_disagreement_and_a_lack_of_verdicts_are_told() -> None:
    first = as_langsmith_evaluator(lambda c, a, b, o: 1, "humour")
    told = first(QUESTION, {"output": "A"}, {"answer": "B"})
    assert told == {
        "key": "humour",
        "score": 0.5,
        "comment": "The judge's two orders disagree.",
    }
    none = as_langsmith_evaluator(lambda c, a, b, o: None, "humour")
    told = none(QUESTION, {"output": "A"}, {"answer": "B"})
    assert told["score"] is None
    assert told["comment"].startswith("No verdict: the judge answered NoneType")
    same = none(QUESTION, {"output": "A"}, {"answer": "A"})
    assert same == {"key": "humour", "score": 0.5}


@pytest.mark.parametrize(
    ("inputs", "outputs", "reference", "told"),
    [
        ({}, {"output": "A"}, {"answer": "B"}, "inputs have no conversation"),
        (QUESTION, {}, {"answer": "B"}, "The output has no answer"),
        (QUESTION, {"output": "A"}, None, "The reference output has no answer"),
        (QUESTION, {"a": "A", "b": "B"}, {"answer": "B"}, "as the only field"),
    ],
)
def test_what_cannot_be_compared_is_an_error(inputs, outputs, reference, told: str) -> None:
    with pytest.raises(EvaluationError, match=told):
        as_langsmith_evaluator(polite, "humour")(inputs, outputs, reference)
