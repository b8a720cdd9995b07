"""The layers of a LLaMA, run by fewer operators: the same bits as with transformers' modules."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from langchain_metaaligner.engines.local import llama_layers
from langchain_metaaligner.engines.local.cpu_kernels import prepack
from langchain_metaaligner.engines.local.forward import ForwardInput
from langchain_metaaligner.engines.local.packed_forward import PackedForward

SHAPE = {
    "vocab_size": 60, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
KINDS = {
    "grouped heads": {},
    "no groups": {"num_key_value_heads": 4},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "another head size": {"head_dim": 24},
    "odd width": {"intermediate_size": 50},
    "scaled positions": {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    },
}
FORMATS = [torch.float32, torch.bfloat16]


def llama(dtype: torch.dtype = torch.float32, **changed) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE | changed)).eval().to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.uniform_(-0.3, 0.3)
    return model


def passes(model) -> list[torch.Tensor]:
    """Two sequences: prompts together, single tokens, drafts, and one that was dropped."""
    forward = PackedForward(model)
    one, two = forward.new_cache(0), forward.new_cache(0)
    made = [forward.run([ForwardInput(one, list(range(3, 50)) * 2, 5), ForwardInput(two, [7], 1)])]
    made.append(forward.run([ForwardInput(one, [9], 1)]))
    made.append(forward.run([ForwardInput(one, [9, 10, 11], 3), ForwardInput(two, [12], 1)]))
    one.length -= 2
    made.append(forward.run([ForwardInput(one, [13], 1), ForwardInput(two, [14, 15], 0)]))
    return made


def watched(model) -> list[torch.Tensor]:
    """The same by transformers' own modules, since somebody watches one of them."""
    hook = model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    try:
        return passes(model)
    finally:
        hook.remove()


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.fixture
def quick(monkeypatch):
    """How often the layers were run by fewer operators."""
    count: list[int] = []
    run = llama_layers.LlamaLayers._run

    def counted(self, *given):
        count.append(1)
        return run(self, *given)

    monkeypatch.setattr(llama_layers.LlamaLayers, "_run", counted)
    return count


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_are_the_same_bit_for_bit(kind, packed, dtype, quick):
    model = llama(dtype, **KINDS[kind])
    prepack(model, packed)
    made = passes(model)
    assert len(quick) == 4
    assert same(made, watched(model))
    assert len(quick) == 4


def test_whoever_watches_a_part_of_the_model_sees_every_pass():
    model = llama()
    inner = model.model
    for part in (model, inner, inner.embed_tokens, inner.layers[1].self_attn.q_proj, inner.norm):
        seen: list[int] = []
        hook = part.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        passes(model)
        hook.remove()
        assert len(seen) == 4


@pytest.mark.parametrize("packed", [True, False])
def test_changed_weights_count_from_the_next_pass_on(packed):
    model = llama()
    prepack(model, packed)
    before = passes(model)
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight.mul_(1.5)
        model.model.layers[2].input_layernorm.weight.mul_(1.5)
    changed = passes(model)
    assert not same(before, changed)
    assert same(changed, watched(model))
    model.model.layers[0].mlp.up_proj.weight.data = torch.ones(128, 64)
    assert not same(changed, passes(model))
    assert same(passes(model), watched(model))


def test_an_exchanged_part_is_used(quick):
    model = llama()
    forward = PackedForward(model)
    cache = forward.new_cache(0)
    forward.run([ForwardInput(cache, [5, 6], 1)])
    model.model.layers[1].mlp.up_proj = torch.nn.Linear(64, 128)
    forward.run([ForwardInput(cache, [7], 1)])
    assert len(quick) == 1


def test_nothing_stays_in_the_model_after_a_pass():
    model = llama()
    prepack(model)
    whole = model(torch.tensor([[5, 6, 7]])).logits
    passes(model)
    assert "forward" not in vars(model.model)
    assert torch.allclose(model(torch.tensor([[5, 6, 7]])).logits, whole, atol=1e-5)
    assert same(passes(copy.deepcopy(model)), passes(model))
