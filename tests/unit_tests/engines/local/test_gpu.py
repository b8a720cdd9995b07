"""On a GPU: formats, quantisation and attention give the edits that the model itself would give."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.local.packed_forward import PackedForward
from langchain_metaaligner.engines.registry import load_engine
from tests.unit_tests.split_weights import shared_edits
from tests.unit_tests.tiny import WORDS

pytestmark = pytest.mark.gpu

PROMPTS = ["hello world | Edit: ", "the answer is that you should not | Edit: "]
LENGTH = 24


def generated(engine: Any, prompt: str) -> str:
    """What the model's own `generate` writes."""
    ids = torch.tensor([engine.prompt_tokenizer.encode(prompt)], device="cuda")
    made = engine.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=LENGTH,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
    )[0, ids.shape[1] :].tolist()
    return engine.prompt_tokenizer.decode(made)


def edits(engine: Any, draft: str) -> list[str]:
    requests = [Request(prompt, draft, LENGTH) for prompt in PROMPTS]
    return [edit.text for edit in engine.edit(requests)]


def needs(package: str) -> Any:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"needs the package {package}")


needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.mark.parametrize("draft", ["", " ".join(WORDS[:12])])
def test_edits_in_float32_are_those_of_generate(checkpoint, draft):  # pragma: no cover
    engine = load_engine(str(checkpoint), dtype="float32")
    assert edits(engine, draft) == [generated(engine, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_shorter_formats_share_passes_too(checkpoint, dtype):  # pragma: no cover
    engine = load_engine(str(checkpoint), dtype=dtype)
    assert isinstance(engine.scheduler.decoder.forward, PackedForward)
    assert edits(engine, "") == edits(engine, "")


@needs("bitsandbytes")
@pytest.mark.parametrize("bits", ["load_in_8bit", "load_in_4bit"])
def test_quantised_weights_share_passes_too(checkpoint, bits):  # pragma: no cover
    from transformers import BitsAndBytesConfig

    engine = load_engine(str(checkpoint), quantization_config=BitsAndBytesConfig(**{bits: True}))
    assert isinstance(engine.scheduler.decoder.forward, PackedForward)
    assert all(edits(engine, ""))


@needs("flash_attn")
def test_flash_attention_is_the_models_own_and_rows_still_share_passes(
    checkpoint,
):  # pragma: no cover
    engine = load_engine(str(checkpoint), attn_implementation="flash_attention_2", dtype="float16")
    assert engine.model.config._attn_implementation == "flash_attention_2"
    assert isinstance(engine.scheduler.decoder.forward, PackedForward)
    assert all(edits(engine, ""))


def test_the_whole_answer_is_tried_at_once(checkpoint):  # pragma: no cover
    engine = load_engine(str(checkpoint), dtype="float32")
    draft = edits(engine, "")[0]
    assert engine.edit([Request(PROMPTS[0], draft, LENGTH)])[0].passes <= 2


def test_compiled_feed_forward_parts_give_the_same_edits(checkpoint):  # pragma: no cover
    compiled = load_engine(str(checkpoint), dtype="float32", torch_compile=True)
    assert edits(compiled, "") == [generated(compiled, prompt) for prompt in PROMPTS]


@needs_two
def test_weights_that_are_spread_over_two_gpus_give_the_edits_of_one(
    checkpoint,
):  # pragma: no cover
    spread = {"model.embed_tokens": 0, "model.layers.0": 0, "model.rotary_emb": 0}
    rest = {"model.layers.1": 1, "model.norm": 1, "lm_head": 1}
    there = load_engine(str(checkpoint), dtype="float32", device_map={**spread, **rest})
    assert set(there.model.hf_device_map.values()) == {0, 1}
    assert edits(there, "") == edits(load_engine(str(checkpoint), dtype="float32"), "")


@needs_two
def test_weights_that_two_processes_share_give_the_edits_of_one(checkpoint):  # pragma: no cover
    own = edits(load_engine(str(checkpoint), dtype="float32"), "")
    assert shared_edits(checkpoint, PROMPTS, LENGTH) == [own, own]
