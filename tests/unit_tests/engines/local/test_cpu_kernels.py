"""Prepacked weights: the same numbers up to rounding, and a model that stays what it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.local import cpu_kernels as prepacking
from langchain_metaaligner.engines.local.cpu_kernels import prepack
from langchain_metaaligner.engines.registry import load_engine
from tests.unit_tests.tiny import save

SHAPE = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
HAS_BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.fixture
def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()


def run(layer, rows):
    with torch.inference_mode():
        return layer(rows)


@pytest.mark.parametrize("tokens", [1, 2, 7, 16, 40])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_prepacked_model_gives_the_same_logits(llama, tokens, rows) -> None:
    ids = torch.arange(3, 3 + rows * tokens).remainder(60).view(rows, tokens)
    with torch.inference_mode():
        before = llama(input_ids=ids).logits
        assert prepack(llama) == 4 * (2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48) + 60 * 32)
        after = llama(input_ids=ids).logits
    assert after.shape == before.shape
    assert after.is_contiguous()
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_shape_of_input_is_multiplied(bias, dtype) -> None:
    layer = nn.Linear(24, 10, bias=bias, dtype=dtype)
    quick = copy.deepcopy(layer)
    prepack(quick)
    near = {"atol": 1e-5, "rtol": 1e-5} if dtype is torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    for shape in ((24,), (1, 24), (5, 24), (2, 0, 24), (0, 24), (2, 3, 24), (1, 2, 3, 24)):
        rows = torch.randn(shape, dtype=dtype)
        assert run(quick, rows).shape == run(layer, rows).shape
        torch.testing.assert_close(run(quick, rows), run(layer, rows), **near)
    rows = torch.randn(24, 6, dtype=dtype).t()  # not contiguous
    torch.testing.assert_close(run(quick, rows), run(layer, rows), **near)


def test_the_kernel_is_used_only_where_no_gradient_is_wanted(monkeypatch) -> None:
    layer = nn.Linear(8, 4)
    quick = copy.deepcopy(layer)
    prepack(quick)
    plain = []
    linear = prepacking.linear
    monkeypatch.setattr(prepacking, "linear", lambda *given: plain.append(1) or linear(*given))
    rows = torch.randn(3, 8)
    run(quick, rows)
    assert not plain
    for one in (layer, quick):
        one(rows).square().sum().backward()
    assert plain
    torch.testing.assert_close(quick.weight.grad, layer.weight.grad, atol=1e-5, rtol=1e-5)


def test_weights_that_are_changed_or_exchanged_are_seen() -> None:
    layer = nn.Linear(8, 4)
    prepack(layer)
    rows = torch.randn(3, 8)
    with torch.no_grad():
        layer.weight.mul_(2)
        torch.testing.assert_close(
            layer(rows), nn.functional.linear(rows, layer.weight, layer.bias)
        )
        layer.load_state_dict(nn.Linear(8, 4).state_dict())
        torch.testing.assert_close(
            layer(rows), nn.functional.linear(rows, layer.weight, layer.bias)
        )
        layer.weight = nn.Parameter(torch.randn(4, 8))
        torch.testing.assert_close(
            layer(rows), nn.functional.linear(rows, layer.weight, layer.bias)
        )
        layer.double()
        assert layer(rows.double()).dtype is torch.float64
        with pytest.raises(RuntimeError, match="dtype"):
            layer(rows)


def test_a_copy_of_a_model_has_weights_of_its_own(llama) -> None:
    ids = torch.arange(3, 23)[None]
    prepack(llama)
    other = copy.deepcopy(llama)
    with torch.inference_mode():
        before = llama(ids).logits
        torch.testing.assert_close(other(ids).logits, before, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        other.lm_head.weight.zero_()
    with torch.inference_mode():
        assert not other(ids).logits.any()
        assert torch.equal(llama(ids).logits, before)


def test_a_prepacked_model_is_saved_as_ever(llama, tmp_path) -> None:
    names = set(llama.state_dict())
    prepack(llama)
    assert set(llama.state_dict()) == names
    llama.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.lm_head.weight, llama.lm_head.weight)


def test_other_layers_stay_as_they_are() -> None:
    class Other(nn.Linear):
        pass

    hooked, double, other = nn.Linear(8, 8), nn.Linear(8, 8, dtype=torch.float64), Other(8, 8)
    mine = hooked.forward = lambda rows: rows  # as accelerate does for offloaded layers
    assert prepack(nn.ModuleList([hooked, double, other, nn.Linear(8, 8, device="meta")])) == 0
    assert hooked.forward is mine
    assert "forward" not in vars(double)
    assert "forward" not in vars(other)


def test_large_copies_are_made_only_where_they_are_asked_for(monkeypatch, llama, caplog) -> None:
    monkeypatch.setattr(prepacking, "MOST_BYTES", 1000)
    size = prepack(copy.deepcopy(llama), wanted=True)
    monkeypatch.setattr(prepacking, "free_memory", lambda: 4 * size)
    assert prepack(copy.deepcopy(llama)) == size
    monkeypatch.setattr(prepacking, "free_memory", lambda: 4 * size - 1)
    with caplog.at_level("INFO", "langchain_metaaligner"):
        assert prepack(llama) == 0
    assert "prepack_weights=True" in caplog.text
    assert prepack(llama, wanted=False) == 0
    assert "forward" not in vars(llama.lm_head)
    assert prepack(llama, wanted=True) > 1000
    assert "forward" in vars(llama.lm_head)


def test_where_memory_is_short_no_copies_are_made(monkeypatch, llama) -> None:
    monkeypatch.setattr(prepacking, "free_memory", lambda: 1000)
    assert prepack(llama) == 0


def test_a_torch_without_the_operators_runs_as_ever(monkeypatch, llama, caplog) -> None:
    def missing(*_):
        message = "no such operator"
        raise AttributeError(message)

    monkeypatch.setattr(prepacking, "_reordered", missing)
    with caplog.at_level("INFO", "langchain_metaaligner"):
        assert prepack(llama) == 0
    assert "no such operator" in caplog.text
    monkeypatch.undo()
    # One that lacks the third must not fail either, with weights that ask for it least of all.
    monkeypatch.setattr(prepacking, "_takes", missing)
    assert prepack(llama.to(torch.bfloat16)) == 0
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert prepack(llama) == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_engine_prepacks_unless_it_is_told_not_to(tmp_path, dtype) -> None:
    folder = str(save(tmp_path / "tiny"))
    texts = []
    for wanted in (None, False, True):
        with load_engine(folder, dtype=dtype, prepack_weights=wanted) as engine:
            texts.append(engine.edit([Request("hello world | Edit: ", max_new_tokens=9)])[0].text)
            fit = dtype == "float32" or (dtype == "bfloat16" and HAS_BFLOAT16)
            assert ("forward" in vars(engine.model.lm_head)) is (fit and wanted is not False)
    if dtype == "float32":
        assert len(set(texts)) == 1
