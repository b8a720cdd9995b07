"""The same rows through Ray Data, on two workers of a local Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from langchain_metaaligner.testing import ScriptedEngine

ray: Any = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.enable_socket,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    ray.init(
        num_cpus=2,
        object_store_memory=80 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()


def test_each_row_comes_back_once_with_its_edit(two_workers):
    from langchain_metaaligner.bulk.ray import MetaAlignerBatches

    rows = [{"id": i, "question": f"q{i}", "answer": "bad" if i != 7 else "  "} for i in range(40)]
    rows[3]["question"] = " "
    data = ray.data.from_items(rows, override_num_blocks=4).map_batches(
        MetaAlignerBatches,
        fn_constructor_kwargs={"objectives": "harmlessness", "engine": ScriptedEngine("good")},
        batch_size=8,
        batch_format="pyarrow",
        concurrency=2,
        num_cpus=0.5,
    )
    made = sorted(data.take_all(), key=lambda row: row["id"])
    assert [row["id"] for row in made] == [*range(40)]
    assert {row["edited"] for row in made} == {"good", "  ", None}
    assert made[3]["edited"] is None
    assert "the context is empty" in json.loads(made[3]["metaaligner"])["reason"]
    assert json.loads(made[7]["metaaligner"])["status"] == "skipped"
