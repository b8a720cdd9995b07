"""The published repositories as they lie on the hub: each of their traps, on a tiny twin."""

from __future__ import annotations

import json
import logging
import threading
import warnings

import pytest
import torch

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.local import placement as placing
from langchain_metaaligner.engines.registry import load_engine
from tests.unit_tests.tiny import LLAMA2_TOKENIZER, save, save_as_published

PROMPT = "the answer is that you should not do this | Edit: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_as_published(tmp_path_factory.mktemp("hub") / "MetaAligner-HH-RLHF-1.1B")


@pytest.fixture
def engine(folder):
    loaded = load_engine(str(folder))
    yield loaded
    loaded.close()


def test_pickled_float32_shards_load_like_the_safetensors_of_the_same_model(engine, tmp_path):
    same = load_engine(str(save(tmp_path)))
    requests = [Request(PROMPT, max_new_tokens=16)]
    assert engine.edit(requests) == same.edit(requests)


def test_pickled_shards_load_without_a_warning(folder, caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        load_engine(str(folder)).edit([Request(PROMPT, max_new_tokens=2)])
    assert caplog.records == []


def test_the_cache_is_used_though_the_repository_switches_it_off(engine, folder, passes):
    assert json.loads((folder / "config.json").read_text())["use_cache"] is False
    engine.edit([Request(PROMPT, max_new_tokens=4)])
    widths = [width for _, width in passes.prompts]
    assert widths == [engine.count_tokens(PROMPT), 1, 1, 1]
    assert engine.model.config.use_cache is False


def test_sampling_in_the_generation_config_is_not_inherited(engine, folder):
    said = json.loads((folder / "generation_config.json").read_text())
    assert said["do_sample"] is True
    edits = {engine.edit([Request(PROMPT, max_new_tokens=24)])[0].text for _ in range(4)}
    assert len(edits) == 1
    assert engine.model.generation_config.do_sample is True


def test_a_generation_config_that_transformers_finds_invalid_does_no_harm(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"do_sample": False, "temperature": 0.9, "top_p": 0.6, "max_length": 4096})
    )
    requests = [Request(PROMPT, max_new_tokens=8)]
    assert load_engine(str(tmp_path)).edit(requests) == load_engine(str(folder)).edit(requests)


def test_a_batch_is_packed_and_needs_no_padding(engine):
    seen = []
    hook = engine.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    engine.edit([Request(PROMPT, max_new_tokens=1), Request("a | Edit: ", max_new_tokens=1)])
    hook.remove()
    one, other = engine.count_tokens(PROMPT), engine.count_tokens("a | Edit: ")
    assert seen[0]["input_ids"].shape == (1, one + other)
    assert seen[0]["position_ids"].tolist() == [[*range(one), *range(other)]]


def test_a_batch_adds_no_token_to_model_or_tokenizer(engine):
    engine.edit([Request(PROMPT, max_new_tokens=1), Request("a | Edit: ", max_new_tokens=1)])
    rows = engine.model.get_input_embeddings().num_embeddings
    assert rows == len(engine.tokenizer)
    assert (engine.tokenizer.pad_token, engine.tokenizer.pad_token_id) == ("<unk>", 0)


@pytest.mark.parametrize("pad", [None, "</s>"])
def test_a_tokenizer_without_a_padding_token_batches_all_the_same(folder, tmp_path, pad):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        said = json.loads((tmp_path / name).read_text())
        said.pop("pad_token")
        if pad:
            said["pad_token"] = pad
        (tmp_path / name).write_text(json.dumps(said))
    engine = load_engine(str(tmp_path))
    assert engine.tokenizer.pad_token == pad
    requests = [Request(PROMPT, max_new_tokens=8), Request("a | Edit: ", max_new_tokens=8)]
    assert engine.edit(requests) == load_engine(str(folder)).edit(requests)
    assert engine.tokenizer.pad_token == pad


def test_its_name_tells_the_family_and_its_config_the_window(engine):
    assert engine.family_hint == "HH-RLHF"
    assert engine.window == 256


def test_a_folder_loads_and_edits_without_any_attempt_to_connect(folder, connections, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    before = set(threading.enumerate())
    engine = load_engine(str(folder))
    engine.edit([Request(PROMPT, max_new_tokens=2)])
    assert connections == []
    assert [t.name for t in set(threading.enumerate()) - before if "conversion" in t.name] == []


def test_the_weights_load_in_bfloat16_when_asked_to(folder):
    engine = load_engine(str(folder), dtype="bfloat16")
    assert engine.model.dtype is torch.bfloat16
    assert engine.edit([Request(PROMPT, max_new_tokens=4)])[0].passes == 4


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_on_a_cpu_the_weights_are_bfloat16_where_it_has_instructions_for_that(
    folder, monkeypatch, told, expected
):
    monkeypatch.setattr(placing, "CPU_BFLOAT16", True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert load_engine(str(folder), device_map="cpu").model.dtype is expected
    assert load_engine(str(folder), device_map="cpu", dtype="float32").model.dtype is torch.float32


def test_a_torch_that_does_not_tell_of_instructions_gets_float32(monkeypatch):
    monkeypatch.setattr(placing, "CPU_BFLOAT16", True)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert placing.choose_dtype("auto", "cpu") is torch.float32


@pytest.mark.parametrize(
    ("kind", "has_bfloat16", "device_map", "expected"),
    [
        ("cuda", True, "auto", torch.bfloat16),
        ("cuda", False, "auto", torch.float16),
        ("cuda", False, {"": "cpu"}, torch.float32),
        ("xpu", False, "auto", torch.bfloat16),
    ],
)
def test_on_an_accelerator_they_are_bfloat16_or_else_float16(
    monkeypatch, kind, has_bfloat16, device_map, expected
):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda *, including_emulation: has_bfloat16
    )
    assert placing.choose_dtype("auto", device_map) is expected


@pytest.mark.gpu
def test_on_a_gpu_the_weights_are_bfloat16_there(folder):  # pragma: no cover
    engine = load_engine(str(folder))
    assert engine.model.dtype is torch.bfloat16
    assert engine.model.device.type == "cuda"


needs_llama2 = pytest.mark.skipif(
    not (LLAMA2_TOKENIZER / "tokenizer.json").is_file(),
    reason="needs ../shared/data/llama2_tokenizer beside the project",
)


@pytest.fixture(scope="module")
def llama2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "MetaAligner-HH-RLHF-7B"
    return load_engine(str(save_as_published(folder, copy_tokenizer=True)))


def sent(engine, request) -> list[int]:
    """The ids that the model really gets for a prompt."""
    seen = []
    hook = engine.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    engine.edit([request])
    hook.remove()
    return seen[0]


@needs_llama2
@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("Hello ", [1, 15043, 29871]),
        ("| Edit: ", [1, 891, 7641, 29901, 29871]),
        ("a  b    c | Edit: ", [1, 263, 29871, 289, 1678, 274, 891, 7641, 29901, 29871]),
        (" two", [1, 29871, 1023]),
        ("\n\nHuman: ", [1, 29871, 13, 13, 29950, 7889, 29901, 29871]),
        ("</s> x", [1, 1533, 29879, 29958, 921]),
        ("<s>Hello", [1, 529, 29879, 29958, 10994]),
    ],
)
def test_llama_2_prompts_get_the_ids_that_sentencepiece_gives(llama2, prompt, ids):
    assert sent(llama2, Request(prompt, max_new_tokens=1)) == ids


@needs_llama2
def test_a_real_prompt_has_one_beginning_and_keeps_its_closing_space(llama2):
    file = LLAMA2_TOKENIZER.parent / "model_card_example.json"
    prompt = json.loads(file.read_text())["prompt"] if file.is_file() else PROMPT
    ids = llama2.prompt_tokenizer.encode(prompt)
    assert ids[0] == 1
    assert ids.count(1) == 1
    assert ids[-1] == 29871
    assert llama2.tokenizer.decode(ids[1:]) == prompt


@needs_llama2
@pytest.mark.parametrize("text", ["Sure.", " two spaces", "Ünï 漢字 😀", "a\n\n  b ", "x</s>y"])
def test_llama_2_outputs_are_text_to_the_letter(llama2, text):
    codec = llama2.prompt_tokenizer
    word_start = codec.encode(text)[1:]
    assert codec.decode(word_start) == text
    assert codec.decode([*word_start, 2]) == text
