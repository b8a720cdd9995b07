"""Two processes share a model's weights, here on a CPU, and both make the edits of one process."""

from __future__ import annotations

import pytest

from langchain_metaaligner import Request, load_engine
from tests.unit_tests.split_weights import shared_edits
from tests.unit_tests.tiny import WORDS, save

# The processes talk through a socket of this machine.
pytestmark = [pytest.mark.slow, pytest.mark.enable_socket]

PROMPTS = ["hello world | Edit: ", f"{' '.join(WORDS)} | Edit: "]
LENGTH = 24


def test_two_processes_with_half_of_the_weights_each_make_the_edits_of_one(tmp_path):
    folder = save(tmp_path / "model")
    engine = load_engine(str(folder), dtype="float32")
    own = [edit.text for edit in engine.edit([Request(one, "", LENGTH) for one in PROMPTS])]
    engine.close()
    assert shared_edits(folder, PROMPTS, LENGTH) == [own, own]
