"""Few tokens times weights, the other way round: the same numbers up to rounding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from langchain_metaaligner.engines.base import load_engine
from langchain_metaaligner.engines.few_rows import quicken_few_rows
from tests.unit_tests.tiny import save

SHAPE = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


@pytest.fixture
def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 8, 9, 40])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_quickened_model_gives_the_same_logits(llama, tokens, rows) -> None:
    ids = torch.arange(3, 3 + rows * tokens).remainder(60).view(rows, tokens)
    with torch.inference_mode():
        before = llama(input_ids=ids).logits
        quicken_few_rows(llama)
        after = llama(input_ids=ids).logits
    assert after.shape == before.shape
    assert after.is_contiguous()
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [16, 1500])
@pytest.mark.parametrize("bias", [True, False])
def test_wide_and_narrow_layers_with_and_without_a_bias(width, bias) -> None:
    layer = nn.Linear(width, 10, bias=bias)
    quick = nn.Sequential(copy.deepcopy(layer))
    quicken_few_rows(quick)
    for count in range(10):
        rows = torch.randn(2, count, width)
        torch.testing.assert_close(quick(rows), layer(rows), atol=1e-5, rtol=1e-5)
    one = torch.randn(width)
    torch.testing.assert_close(quick(one), layer(one), atol=1e-5, rtol=1e-5)


def test_a_quickened_layer_still_learns() -> None:
    layer = nn.Linear(8, 4)
    quick = copy.deepcopy(layer)
    quicken_few_rows(quick)
    rows = torch.randn(3, 8)
    for one in (layer, quick):
        one(rows).square().sum().backward()
    torch.testing.assert_close(quick.weight.grad, layer.weight.grad, atol=1e-5, rtol=1e-5)


def test_layers_that_are_no_plain_float32_ones_stay_as_they_are() -> None:
    class Other(nn.Linear):
        pass

    hooked, half, other = nn.Linear(8, 8), nn.Linear(8, 8, dtype=torch.bfloat16), Other(8, 8)
    mine = hooked.forward = lambda rows: rows  # as accelerate does for offloaded layers
    quicken_few_rows(nn.ModuleList([hooked, half, other]))
    assert hooked.forward is mine
    assert "forward" not in vars(half)
    assert "forward" not in vars(other)


def test_an_engine_quickens_its_model_in_float32_alone(tmp_path) -> None:
    folder = save(tmp_path / "tiny")
    for dtype, quick in (("float32", True), ("bfloat16", False)):
        with load_engine(str(folder), dtype=dtype) as engine:
            engine.load()
            assert ("forward" in vars(engine.model.lm_head)) is quick
