"""What goes wrong while loading, and what is said about it."""

from __future__ import annotations

import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import CheckpointError, EngineError
from tests.unit_tests.tiny import byte_level_tokenizer, save, save_as_published, spm_tokenizer

REQUESTS = [Request("hello world | Edit: ", max_new_tokens=6)]


def edit_json(file, **changes):
    said = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in (said | changes).items() if v is not None}))


def fails(model, match, **options):
    with pytest.raises(CheckpointError, match=match) as raised:
        load_engine(str(model), **options).load()
    return str(raised.value)


# -- what can't be used ---------------------------------------------------------------------


def test_a_path_that_does_not_exist_is_said(tmp_path):
    fails(tmp_path / "nowhere", "no folder")


def test_a_file_in_place_of_a_folder_is_said(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    fails(file, "is a file")


def test_a_folder_without_a_configuration_is_said(tmp_path):
    fails(tmp_path, r"no config\.json")


def test_a_configuration_that_is_no_json_is_said(tmp_path):
    save(tmp_path)
    (tmp_path / "config.json").write_text("{")
    fails(tmp_path, "no JSON")


def test_an_adapter_in_place_of_a_checkpoint_is_said_with_its_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "the/base"}')
    fails(tmp_path, "model='the/base'")


def test_missing_weights_are_said(tmp_path):
    save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    fails(tmp_path, "no weights")


def test_a_missing_shard_is_named_before_any_is_read(tmp_path, monkeypatch):
    save_as_published(tmp_path)
    (tmp_path / "pytorch_model-00002-of-00003.bin").unlink()
    monkeypatch.setattr("torch.load", lambda *a, **k: pytest.fail("a weight file was read"))
    fails(tmp_path, "pytorch_model-00002-of-00003.bin")


def test_a_missing_tokenizer_is_said(tmp_path):
    save(tmp_path)
    for file in tmp_path.glob("*token*"):
        file.unlink()
    fails(tmp_path, "tokenizer")


def test_a_tokenizer_model_alone_is_refused_because_its_merges_would_be_wrong(tmp_path):
    save(tmp_path)
    (tmp_path / "tokenizer.json").rename(tmp_path / "tokenizer.model")
    fails(tmp_path, r"no tokenizer\.json")


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        ("bert", "BertModel"),
        ("bert", "BertForMaskedLM"),
        ("llama", "LlamaForSequenceClassification"),
        ("t5", "T5ForConditionalGeneration"),
    ],
)
def test_a_checkpoint_that_can_not_write_text_is_refused(tmp_path, kind, architecture):
    save(tmp_path)
    edit_json(tmp_path / "config.json", model_type=kind, architectures=[architecture])
    fails(tmp_path, architecture)


def test_an_architecture_unknown_to_transformers_is_refused(tmp_path):
    save(tmp_path)
    edit_json(tmp_path / "config.json", model_type="made_up")
    fails(tmp_path, "made_up")


def test_code_that_comes_with_a_checkpoint_is_never_run(tmp_path):
    save(tmp_path)
    mark = tmp_path / "ran"
    (tmp_path / "configuration_evil.py").write_text(f"open({str(mark)!r}, 'w').close()")
    edit_json(
        tmp_path / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "configuration_evil.EvilConfig"},
    )
    fails(tmp_path, "never run")
    assert not mark.exists()


@pytest.mark.parametrize(
    "options",
    [{"trust_remote_code": True}, {"model_kwargs": {"trust_remote_code": True}}],
)
def test_trust_remote_code_is_refused_at_once(checkpoint, options):
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        load_engine(str(checkpoint), **options)


def test_weights_only_can_not_be_switched_off(checkpoint):
    with pytest.raises(CheckpointError, match="weights_only"):
        load_engine(str(checkpoint), model_kwargs={"weights_only": False})


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (self.mark, "w"))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    save_as_published(tmp_path)
    mark = tmp_path / "ran"
    shard = tmp_path / "pytorch_model-00001-of-00003.bin"
    state = torch.load(shard)
    torch.save({**state, "evil": Evil(str(mark))}, shard)
    fails(tmp_path, "is refused")
    assert not mark.exists()


def test_a_bare_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    save_as_published(tmp_path)
    mark = tmp_path / "ran"
    (tmp_path / "pytorch_model-00001-of-00003.bin").write_bytes(pickle.dumps(Evil(str(mark))))
    fails(tmp_path, "pytorch_model|refused|can't be read")
    assert not mark.exists()


def test_incomplete_weights_are_refused_instead_of_filled_at_random(tmp_path):
    save(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    fails(tmp_path, "lm_head.weight")


def test_damaged_weights_are_refused(tmp_path):
    save(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    fails(tmp_path, "safetensors|can't be read")


def test_weights_of_another_shape_are_refused(tmp_path):
    save(tmp_path)
    edit_json(tmp_path / "config.json", hidden_size=64)
    fails(tmp_path, "can't be read")


def test_a_failed_load_can_be_tried_again(tmp_path):
    save(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").unlink()
    engine = load_engine(str(tmp_path))
    with pytest.raises(CheckpointError):
        engine.load()
    (tmp_path / "model.safetensors").write_bytes(weights)
    assert engine.edit(REQUESTS)[0].passes == 6


# -- options --------------------------------------------------------------------------------


def test_an_unknown_option_is_named_beside_the_known_ones(checkpoint):
    with pytest.raises(TypeError, match=r"'dtyp'.*dtype"):
        load_engine(str(checkpoint), dtyp="bfloat16")


@pytest.mark.parametrize("dtype", ["bf17", "int8", "nn"])
def test_a_dtype_that_weights_can_not_have_is_said(checkpoint, dtype):
    fails(checkpoint, dtype, dtype=dtype)


def test_load_options_reach_transformers(checkpoint):
    engine = load_engine(
        str(checkpoint), attn_implementation="eager", dtype=torch.float64, device_map="cpu"
    )
    assert engine.model.config._attn_implementation == "eager"
    assert engine.model.dtype is torch.float64


@pytest.mark.parametrize(
    ("option", "value", "advice"),
    [
        ("cache_implementation", "static", "prefix_cache_bytes"),
        ("attn_implementation", "paged|sdpa", "'sdpa'"),
        ("load_in_8bit", True, r"BitsAndBytesConfig\(load_in_8bit=True\)"),
        ("load_in_4bit", True, r"BitsAndBytesConfig\(load_in_4bit=True\)"),
    ],
)
def test_what_passes_for_many_rows_do_not_allow_is_refused_with_what_to_give_instead(
    checkpoint, option, value, advice
):
    for given in ({option: value}, {"model_kwargs": {option: value}}):
        with pytest.raises(CheckpointError, match=f"(?s){option}.*{advice}"):
            load_engine(str(checkpoint), **given)


def test_attention_that_is_not_installed_is_named(checkpoint):
    options = {"attn_implementation": "flash_attention_2", "device_map": "cpu"}
    fails(checkpoint, "FlashAttention2", **options)


def test_model_kwargs_reach_from_pretrained(checkpoint, monkeypatch):
    from transformers import AutoModelForCausalLM

    given = {}
    real = AutoModelForCausalLM.from_pretrained

    def spy(*args, use_auth_token, **kwargs):
        given.update(kwargs, use_auth_token=use_auth_token)
        return real(*args, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", spy)
    asked = {"low_cpu_mem_usage": True, "use_auth_token": "a secret"}
    load_engine(str(checkpoint), model_kwargs=asked).load()
    assert given["low_cpu_mem_usage"] is True
    assert given["use_auth_token"] == "a secret"
    assert type(given["use_auth_token"]) is str
    assert given["trust_remote_code"] is False
    assert given["weights_only"] is True
    assert given["local_files_only"] is True


# -- laziness, sharing, closing -------------------------------------------------------------


def test_finding_an_engine_reads_nothing(tmp_path):
    folder = tmp_path / "later"
    engine = load_engine(str(folder))
    save(folder)
    assert engine.edit(REQUESTS)[0].passes == 6


def test_window_tokens_and_family_are_told_without_weights(tmp_path):
    save(tmp_path, tokenizer=byte_level_tokenizer())
    (tmp_path / "model.safetensors").unlink()
    engine = load_engine(str(tmp_path))
    assert engine.window == 256
    assert engine.count_tokens("hello") > 0
    assert engine.family_hint == "instruct"
    assert "<|im_end|>" in engine.control_tokens
    assert engine.readings is engine.prompt_tokenizer.readings
    assert engine.apply_chat_template([{"role": "user", "content": "hi"}]).endswith("assistant\n")


def test_a_configuration_names_the_family_before_the_chat_template_does(tmp_path):
    save(tmp_path, tokenizer=byte_level_tokenizer())
    edit_json(tmp_path / "config.json", metaaligner_family="UltraFeedback")
    assert load_engine(str(tmp_path)).family_hint == "UltraFeedback"


def test_the_model_it_came_from_names_the_family_of_a_folder(tmp_path):
    save(tmp_path)
    edit_json(tmp_path / "config.json", _name_or_path="MetaAligner/MetaAligner-IMHI-7B")
    assert load_engine(str(tmp_path)).family_hint == "IMHI"


def test_without_a_template_and_a_known_name_there_is_no_family(checkpoint):
    assert load_engine(str(checkpoint)).family_hint is None


def test_a_chat_without_a_template_is_refused(checkpoint):
    with pytest.raises(EngineError, match="no chat template"):
        load_engine(str(checkpoint)).apply_chat_template([{"role": "user", "content": "hi"}])


def test_a_template_that_does_not_take_the_messages_is_said(tmp_path):
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    engine = load_engine(str(save(tmp_path, tokenizer=tokenizer)))
    with pytest.raises(EngineError, match="no system turns"):
        engine.apply_chat_template([{"role": "system", "content": "hi"}])


def test_the_environment_names_the_model_where_none_is_given(checkpoint, monkeypatch):
    monkeypatch.setenv("METAALIGNER_MODEL", str(checkpoint))
    assert load_engine().name == str(checkpoint)
    assert load_engine("some/other").name == "some/other"


def test_engines_with_the_same_settings_share_one_model(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    first = load_engine(str(checkpoint))
    for other in (
        load_engine(checkpoint.name),
        load_engine(str(checkpoint), dtype="auto", revision=None),
        load_engine(str(checkpoint), model_kwargs={}),
    ):
        assert other.model is first.model
        assert other.tokenizer is first.tokenizer


def test_engines_with_other_settings_share_nothing(checkpoint):
    plain = load_engine(str(checkpoint))
    half = load_engine(str(checkpoint), dtype="bfloat16")
    assert half.model is not plain.model
    assert load_engine(str(checkpoint), dtype=torch.bfloat16).model is half.model


def test_quantisations_are_told_apart_by_what_they_say(checkpoint):
    from transformers import BitsAndBytesConfig

    engines = [
        load_engine(str(checkpoint), quantization_config=BitsAndBytesConfig(**settings))
        for settings in ({"load_in_4bit": True}, {"load_in_4bit": True}, {"load_in_8bit": True})
    ]
    assert engines[0]._loaded is engines[1]._loaded
    assert engines[0]._loaded is not engines[2]._loaded


def test_the_last_owner_frees_the_weights(checkpoint):
    first, second = load_engine(str(checkpoint)), load_engine(str(checkpoint))
    held = first._loaded
    first.load()
    first.close()
    assert second.edit(REQUESTS)[0].passes == 6
    second.close()
    assert held._model is None


def test_closing_twice_takes_nothing_from_another_owner(checkpoint):
    first, second = load_engine(str(checkpoint)), load_engine(str(checkpoint))
    first.close()
    first.close()
    assert second.edit(REQUESTS)[0].passes == 6


def test_a_closed_engine_says_so(checkpoint):
    engine = load_engine(str(checkpoint))
    engine.close()
    for use in (lambda: engine.model, lambda: engine.edit(REQUESTS), lambda: engine.window):
        with pytest.raises(EngineError, match="closed"):
            use()
    assert load_engine(str(checkpoint)).edit(REQUESTS)[0].passes == 6


def test_an_owner_that_is_forgotten_no_longer_counts(checkpoint):
    kept, forgotten = load_engine(str(checkpoint)), load_engine(str(checkpoint))
    held = kept._loaded
    kept.load()
    del forgotten
    kept.close()
    assert held._model is None


def test_a_with_block_closes(checkpoint):
    with load_engine(str(checkpoint)) as engine:
        assert engine.edit(REQUESTS)[0].passes == 6
    with pytest.raises(EngineError, match="closed"):
        engine.edit(REQUESTS)


def test_many_threads_load_once(tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    save(tmp_path)
    loads = []
    real = AutoModelForCausalLM.from_pretrained
    together = threading.Barrier(8)

    def counted(*args, **kwargs):
        loads.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    engine = load_engine(str(tmp_path))

    def use(_):
        together.wait(30)
        return engine.model

    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(use, range(8)))
    assert len(loads) == 1
    assert all(model is models[0] for model in models)


def test_loading_says_what_it_loads_and_how_long_it_took(checkpoint, caplog):
    with caplog.at_level("INFO", "langchain_metaaligner"):
        load_engine(str(checkpoint)).load()
    assert [r.getMessage().split()[0] for r in caplog.records] == ["Loading", "Loaded"]
    assert "float32" in caplog.text


# -- adapters -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, checkpoint):
    from transformers import AutoModelForCausalLM

    peft = pytest.importorskip("peft")
    import warnings

    folder = tmp_path_factory.mktemp("adapters") / "lora"
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = AutoModelForCausalLM.from_pretrained(checkpoint)
        config = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        adapted = peft.get_peft_model(model, config)
    adapted.save_pretrained(folder)
    return folder


def test_an_adapter_is_merged_into_the_weights(checkpoint, adapter, connections):
    plain = load_engine(str(checkpoint))
    adapted = load_engine(str(checkpoint), adapter=adapter)
    assert type(adapted.model) is type(plain.model)
    assert adapted.edit(REQUESTS) != plain.edit(REQUESTS)
    name = "model.layers.0.self_attn.q_proj.weight"
    lora = load_file(adapter / "adapter_model.safetensors")
    a = lora["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]
    b = lora["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]
    change = adapted.model.state_dict()[name] - plain.model.state_dict()[name]
    assert torch.allclose(change, b @ a * 8 / 4, atol=1e-5)
    assert connections == []


def test_an_adapter_for_another_model_is_refused(tmp_path, adapter):
    save(tmp_path, config={"hidden_size": 64})
    fails(tmp_path, "adapter", adapter=adapter)


def test_a_folder_that_is_no_adapter_is_refused(checkpoint):
    fails(checkpoint, "is no adapter", adapter=str(checkpoint))


def test_an_adapter_without_peft_says_what_to_install(checkpoint, adapter, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    fails(checkpoint, "pip install", adapter=adapter)


def test_a_prompt_learning_adapter_is_refused(checkpoint, tmp_path):
    peft = pytest.importorskip("peft")
    peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM").save_pretrained(tmp_path)
    fails(checkpoint, "prompt-learning", adapter=tmp_path)


def test_a_tokenizer_that_loses_text_is_warned_of(tmp_path, caplog):
    from tokenizers import normalizers

    tokenizer = spm_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([normalizers.Strip(), backend.normalizer])
    load_engine(str(save(tmp_path, tokenizer=tokenizer))).count_tokens("x")
    assert "does not give text back" in caplog.text
