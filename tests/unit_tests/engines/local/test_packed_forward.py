"""Rows that share a forward pass, on tiny random models of several kinds."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from langchain_metaaligner.engines.local.forward import ForwardInput
from langchain_metaaligner.engines.local.packed_forward import PackedForward, choose_forward
from langchain_metaaligner.engines.local.sequential_forward import SequentialForward

SHAPE = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama without groups": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE | {"num_key_value_heads": 4})
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
    "sliding mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8, sliding_window=8)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=2, n_positions=128)
    ),
}
ROWS = [[5, 9, 11, 7, 8, 20, 21], [6], [30, 31, 32], list(range(3, 40))]


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


@pytest.fixture
def llama():
    torch.manual_seed(0)
    return MODELS["llama"]().eval()


def whole(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0]


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=2e-5)


def test_rows_in_one_pass_get_the_logits_of_rows_alone(model):
    forward = choose_forward(model)
    caches = [forward.new_cache(8) for _ in ROWS]
    made = forward.run(
        [ForwardInput(cache, row, len(row)) for cache, row in zip(caches, ROWS, strict=True)]
    )
    assert close(made, torch.cat([whole(model, row) for row in ROWS]))
    assert [cache.length for cache in caches] == [len(row) for row in ROWS]


def test_rows_go_on_by_any_number_of_tokens_and_keep_any_number_of_logits(model):
    forward = choose_forward(model)
    caches = [forward.new_cache(0) for _ in ROWS]
    forward.run([ForwardInput(cache, row, 0) for cache, row in zip(caches, ROWS, strict=True)])
    more = [[40], [41, 42, 43], [44, 45], [46]]
    keep = [1, 2, 0, 1]
    made = forward.run([ForwardInput(c, m, k) for c, m, k in zip(caches, more, keep, strict=True)])
    wanted = [
        whole(model, [*row, *m])[len(row) + len(m) - k :]
        for row, m, k in zip(ROWS, more, keep, strict=True)
    ]
    assert close(made, torch.cat(wanted))


def test_tokens_can_be_taken_back(model):
    forward = choose_forward(model)
    if not forward.drafts:
        pytest.skip("this kind of model forgets what is out of its sight")
    cache, other = forward.new_cache(0), forward.new_cache(0)
    forward.run([ForwardInput(cache, [5, 6, 7, 8, 9], 1), ForwardInput(other, [5], 1)])
    cache.length = 3
    made = forward.run([ForwardInput(cache, [10, 11], 2), ForwardInput(other, [6], 1)])
    assert close(made, torch.cat([whole(model, [5, 6, 7, 10, 11])[-2:], whole(model, [5, 6])[-1:]]))


def test_a_model_run_row_by_row_takes_tokens_back_too(llama):
    forward = SequentialForward(llama)
    cache, other = forward.new_cache(0), forward.new_cache(0)
    forward.run([ForwardInput(cache, [5, 6, 7, 8, 9], 1), ForwardInput(other, [5], 1)])
    cache.length = 3
    made = forward.run([ForwardInput(cache, [10, 11], 2), ForwardInput(other, [6], 1)])
    assert close(made, torch.cat([whole(llama, [5, 6, 7, 10, 11])[-2:], whole(llama, [5, 6])[-1:]]))


def test_a_row_may_grow_far_beyond_the_room_that_it_was_given(llama):
    forward = PackedForward(llama)
    cache, ids = forward.new_cache(2), [5, 6]
    forward.run([ForwardInput(cache, ids, 1)])
    for token in range(3, 53):
        ids = [*ids, token, 58]
        made = forward.run([ForwardInput(cache, [token, 58], 1)])
    assert close(made, whole(llama, ids)[-1:])


@pytest.mark.parametrize(
    ("kind", "packs", "drafts"),
    [
        ("llama", True, True),
        ("mistral", True, True),
        ("qwen2", True, True),
        ("qwen3", True, True),
        ("sliding mistral", False, False),
        ("gemma2", False, False),
    ],
)
def test_models_are_packed_where_that_gives_the_same(kind, packs, drafts):
    forward = choose_forward(MODELS[kind]().eval())
    assert (forward.packs, forward.drafts) == (packs, drafts)


def test_a_model_that_ignores_the_attention_given_to_it_is_run_row_by_row(llama, monkeypatch):
    llama.config.model_type = "something new"
    assert isinstance(choose_forward(llama), PackedForward)
    monkeypatch.setattr(
        "langchain_metaaligner.engines.local.packed_forward._Pass.attend",
        lambda self, module, query, *_: query.transpose(1, 2),
    )
    assert isinstance(choose_forward(llama), SequentialForward)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_model_in_an_adapters_wrapper_is_packed_like_the_model_inside(llama):
    peft = pytest.importorskip("peft", reason="needs the extra 'embedded'")
    wrapped = peft.get_peft_model(llama, peft.LoraConfig(target_modules=["q_proj"]))
    assert isinstance(choose_forward(wrapped), PackedForward)


def test_a_row_may_begin_with_what_another_has_computed(llama):
    forward = PackedForward(llama)
    first, second = forward.new_cache(0), forward.new_cache(0)
    forward.run([ForwardInput(first, [5, 6, 7, 8, 9], 1)])
    second.begin_with([(first.copy(0, 3), 3), (first.copy(3, 5), 1)])
    assert second.length == 4
    made = forward.run([ForwardInput(second, [20, 21], 1)])
    assert close(made, whole(llama, [5, 6, 7, 8, 20, 21])[-1:])


def test_what_is_copied_does_not_change_with_its_row(llama):
    forward = PackedForward(llama)
    row = forward.new_cache(0)
    forward.run([ForwardInput(row, [5, 6, 7], 1)])
    copied = row.copy(0, 3)
    before = {layer: keys.clone() for layer, (keys, _) in copied.items()}
    row.length = 0
    forward.run([ForwardInput(row, [30, 31, 32], 1)])
    assert all(torch.equal(before[layer], keys) for layer, (keys, _) in copied.items())


def test_others_may_run_the_model_during_a_pass(llama):
    ids = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])

    def run() -> torch.Tensor:
        with torch.no_grad():
            return llama(ids, attention_mask=mask).logits[:, -1]

    before, during = run(), []
    layer = llama.model.layers[1]

    def meanwhile(*_):
        hook.remove()
        thread = threading.Thread(target=lambda: during.append(run()))
        thread.start()
        thread.join()

    hook = layer.register_forward_pre_hook(meanwhile)
    forward = PackedForward(llama)
    made = forward.run([ForwardInput(forward.new_cache(0), [5, 6, 7], 1)])
    assert close(during[0], before)
    assert close(made, whole(llama, [5, 6, 7])[-1:])


def test_the_configuration_is_as_before_after_a_pass_and_after_a_failed_one(llama):
    before = llama.config._attn_implementation
    forward = PackedForward(llama)
    forward.run([ForwardInput(forward.new_cache(0), [5], 1)])
    assert llama.config._attn_implementation == before
    with pytest.raises(IndexError):
        forward.run([ForwardInput(forward.new_cache(0), [1000], 1)])
    assert llama.config._attn_implementation == before


def test_no_logits_are_computed_that_nobody_wants(llama):
    shapes = []
    llama.lm_head.register_forward_hook(lambda *given: shapes.append(given[2].shape[1]))
    forward = PackedForward(llama)
    one, two = forward.new_cache(0), forward.new_cache(0)
    forward.run([ForwardInput(one, [5, 6, 7], 0), ForwardInput(two, [8, 9], 0)])
    forward.run([ForwardInput(one, [5, 6, 7], 2), ForwardInput(two, [8, 9], 1)])
    assert shapes == [1, 3]


def test_layers_and_head_get_a_multiple_of_the_rows_that_kernels_need(llama):
    rows, linear = [], llama.lm_head.forward
    llama.model.layers[0].mlp.register_forward_hook(lambda *given: rows.append(given[2].shape[1]))
    llama.lm_head.forward = lambda hidden: rows.append(hidden.shape[1]) or linear(hidden)
    forward = PackedForward(llama)
    assert forward.rows == 4
    made = forward.run([ForwardInput(forward.new_cache(0), [5, 6, 7, 8, 9], 1)])
    assert rows == [8, 4]
    assert close(made, whole(llama, [5, 6, 7, 8, 9])[-1:])
