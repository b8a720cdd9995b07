"""A batch of Ray Data comes back as a table with the edits; Ray itself is in the slow tests."""

from __future__ import annotations

import json

import pytest

from langchain_metaaligner import BulkError, EngineError
from langchain_metaaligner.bulk.ray import MetaAlignerBatches
from tests.unit_tests.scripted import ScriptedEngine

np = pytest.importorskip("numpy")
pa = pytest.importorskip("pyarrow")

ROWS = {"n": [1, 2, 3], "question": ["q", "", "q"], "answer": ["bad", "bad", "boom"]}


def reply(request):
    return EngineError("no") if request.draft == "boom" else "good"


@pytest.mark.parametrize(
    "batch",
    [pa.table(ROWS), {name: np.array(column) for name, column in ROWS.items()}],
    ids=["pyarrow", "numpy"],
)
def test_each_row_stays_and_says_what_became_of_it(batch):
    made = MetaAlignerBatches("harmlessness", engine=ScriptedEngine(reply))(batch).to_pydict()
    assert {name: made[name] for name in ROWS} == ROWS
    assert made["edited"] == ["good", None, None]
    about = [json.loads(one) for one in made["metaaligner"]]
    assert [one["status"] for one in about] == ["edited", "failed", "failed"]
    assert "the context is empty" in about[1]["reason"]
    assert about[2]["reason"] == "EngineError: no."


def test_a_column_is_never_replaced():
    edit = MetaAlignerBatches("harmlessness", engine=ScriptedEngine(reply))
    once = edit(pa.table(ROWS))
    with pytest.raises(BulkError, match="prefix="):
        edit(once)
