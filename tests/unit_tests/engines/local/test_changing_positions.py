"""Models whose positions depend on the length: the text depends on neither neighbours nor past."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.generation import edit_draft_decoding
from langchain_metaaligner.engines.registry import load_engine
from tests.unit_tests.tiny import save, spm_tokenizer, tiny_config

WINDOW = 48
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 8.0, 16.0, 32.0],
    "original_max_position_embeddings": WINDOW,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 8.0}


def phi3(size: int) -> Phi3ForCausalLM:
    config = Phi3Config(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        original_max_position_embeddings=WINDOW,
        rope_parameters=LONGROPE,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
        sliding_window=None,
        tie_word_embeddings=False,
    )
    return Phi3ForCausalLM(config)


def dynamic_llama(size: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        tiny_config(size, max_position_embeddings=WINDOW, rope_parameters=DYNAMIC)
    )


def spread(model):
    """Random weights with which the next token is far from a tie."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.normal_(0.0, 0.3, generator=generator)
    return model.eval()


@pytest.fixture(params=[phi3, dynamic_llama])
def model(request):
    return spread(request.param(len(spm_tokenizer())))


def fresh(model):
    """The same model, before it has seen any sequence."""
    other = type(model)(model.config)
    other.load_state_dict(model.state_dict())
    return other.eval()


def generated(model, ids: list[int], most: int, **more) -> list[int]:
    model.generation_config.eos_token_id = None
    made = model.generate(
        torch.tensor([ids]), max_new_tokens=most, do_sample=False, pad_token_id=0, **more
    )
    return made[0, len(ids) :].tolist()


SHORT, NEAR, LONG = list(range(5, 25)), list(range(5, 45)), list(range(5, 75))


@pytest.mark.parametrize("ids", [SHORT, NEAR, LONG], ids=["within", "crossing", "beyond"])
def test_generate_with_a_draft_gives_what_it_gives_without(model, ids) -> None:
    wanted = generated(fresh(model), ids, 20)
    generated(model, LONG, 30, custom_generate=edit_draft_decoding)  # leaves nothing behind
    for draft in ([], wanted, [*wanted[:4], 3, 3, 3, *wanted[7:]]):
        made = generated(model, ids, 20, custom_generate=edit_draft_decoding, draft_ids=draft)
        assert made == wanted


def test_an_edit_depends_on_neither_neighbours_nor_earlier_edits(tmp_path) -> None:
    tokenizer = spm_tokenizer()
    folder = str(save(tmp_path / "tiny", tokenizer=tokenizer, model=spread(phi3(len(tokenizer)))))
    prompts = ("the answer is no " * 10, "here are some safe ideas " * 14, "hello")
    draft = "you should not do this but here are some safe ideas"
    requests = [Request(prompt, draft=draft, max_new_tokens=24) for prompt in prompts]
    with load_engine(folder, dtype="float32") as engine:
        assert [engine.count_tokens(prompt) > WINDOW for prompt in prompts] == [False, True, False]
        alone = []
        for request in requests:
            with load_engine(folder, dtype="float32", max_queue=len(alone) + 1) as fresh:
                alone.append(fresh.edit([request])[0].text)
        assert not engine.stats.packs
        assert [edit.text for edit in engine.edit(requests)] == alone
        engine.warm(prompts[0])
        assert [engine.edit([request])[0].text for request in reversed(requests)] == alone[::-1]
        plain = [Request(request.prompt, max_new_tokens=24) for request in requests]
        assert [edit.text for edit in engine.edit(plain)] == alone
        copied = [
            Request(request.prompt, draft=text, max_new_tokens=24)
            for request, text in zip(requests, alone, strict=True)
        ]
        assert [edit.text for edit in engine.edit(copied)] == alone
