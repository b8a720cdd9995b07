"""Compiled feed-forward parts: the same edits, and clear words where it can't be had."""

from __future__ import annotations

import pytest
import torch

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import CheckpointError
from tests.unit_tests.tiny import WORDS

REQUESTS = [
    Request("hello world | Edit: ", max_new_tokens=12),
    Request("the answer is | Edit: ", " ".join(WORDS[:9]), 12),
]
GRAPHS = []


def traced(graph, _inputs):
    """A backend that needs no compiler of C++."""
    GRAPHS.append(graph)
    return graph.forward


TRACED = {"backend": traced}


def texts(engine):
    return [edit.text for edit in engine.edit(REQUESTS)]


@pytest.fixture(autouse=True)
def forget_what_was_compiled():
    torch.compiler.reset()
    GRAPHS.clear()
    yield
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_parts_give_the_same_edits(checkpoint):
    compiled = load_engine(str(checkpoint), torch_compile=TRACED)
    assert texts(compiled) == texts(load_engine(str(checkpoint)))
    assert GRAPHS


def test_a_compiled_model_is_shared_with_nobody_who_did_not_ask_for_it(checkpoint):
    compiled = load_engine(str(checkpoint), torch_compile=TRACED)
    assert compiled.model is not load_engine(str(checkpoint)).model


def test_arguments_that_torch_does_not_know_are_said(checkpoint):
    with pytest.raises(CheckpointError, match=r"torch\.compile does not take"):
        load_engine(str(checkpoint), torch_compile={"speed": 3}).load()
