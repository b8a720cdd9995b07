"""An adapter is applied once and wholly, or refused."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import CheckpointError
from tests.unit_tests.tiny import save

peft = pytest.importorskip("peft")
IDS = torch.tensor([[5, 6, 7, 300]])
PREFIX = "base_model.model."


def trained(base, folder, **settings):
    """Save an adapter, and give the logits that it was trained to give, unmerged."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        config = peft.LoraConfig(r=4, init_lora_weights=False, **settings)
        adapted = peft.get_peft_model(model, config).eval()
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "modules_to_save" in name or "trainable_tokens" in name:
                    weight.add_(torch.randn_like(weight))
        adapted.save_pretrained(folder)
        with torch.inference_mode():
            return adapted(IDS).logits


def logits(model, **options):
    engine = load_engine(str(model), prepack_weights=False, **options)
    with torch.inference_mode():
        return engine.model(IDS).logits


def fails(match, model, adapter, **options):
    with pytest.raises(CheckpointError, match=match) as raised:
        load_engine(str(model), adapter=adapter, **options).load()
    return str(raised.value)


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    return save(tmp_path_factory.mktemp("bases") / "tied", config={"tie_word_embeddings": True})


@pytest.fixture(scope="module")
def lora(tmp_path_factory, tied):
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    trained(tied, folder, target_modules=["q_proj", "down_proj"])
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["embed_tokens"], "use_dora": True},
        {"target_modules": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]},
    ],
)
def test_a_merged_adapter_does_what_it_was_trained_to_though_embeddings_are_tied(
    tied, tmp_path, settings
):
    expected = trained(tied, tmp_path, **settings)
    assert torch.allclose(logits(tied, adapter=tmp_path), expected, atol=1e-4)


def renamed(source, folder, change):
    shutil.copytree(source, folder)
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {k.replace(PREFIX, f"{PREFIX}_orig_mod."): v for k, v in s.items()},
         "missing tensors: 8, such as .*belong to nothing in this model: 8, .*_orig_mod"),
        (lambda s: {k.removeprefix(PREFIX): v for k, v in s.items()}, "missing tensors: 8"),
        (lambda s: {f"{PREFIX}{k}": v for k, v in s.items()}, "missing tensors: 8"),
        (lambda s: {k.replace("model.layers", "transformer.h"): v for k, v in s.items()},
         "nothing in this model: 8"),
        (lambda s: {k: v for k, v in s.items() if "layers.1.mlp.down_proj.lora_B" not in k},
         r"missing tensors: 1, such as .*layers.1.mlp.down_proj.lora_B.default.weight\."),
        (lambda s: s | {f"{PREFIX}model.layers.9.self_attn.q_proj.lora_A.weight": torch.ones(1)},
         "nothing in this model: 1, such as .*layers.9"),
        (lambda s: {k: torch.ones(v.shape[0] + 1, v.shape[1]) for k, v in s.items()},
         r"q_proj.lora_A.default.weight is \[5, 32\] in the adapter and \[4, 32\] here"),
        (lambda s: s | {f"{PREFIX}model.embed_tokens.weight": torch.ones(480, 32)},
         r"embed_tokens.weight is \[480, 32\] in the adapter and \[477, 32\] here"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_is_refused_with_what_does_not(
    tied, lora, tmp_path, change, said
):
    fails(said, tied, renamed(lora, tmp_path / "other", change))


def test_a_module_that_an_adapter_should_bring_is_missed(tied, tmp_path):
    trained(tied, tmp_path / "a", target_modules=["q_proj"], modules_to_save=["lm_head"])
    other = renamed(
        tmp_path / "a", tmp_path / "b",
        lambda s: {k: v for k, v in s.items() if "lm_head" not in k},
    )  # fmt: skip
    fails("tensor '.*lm_head.weight' is missing", tied, other)


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_beside_weights_is_applied_only_if_it_is_asked_for(
    tied, lora, tmp_path, caplog, whole
):
    shutil.copytree(tied, tmp_path / "both")
    for file in lora.iterdir():
        shutil.copy(file, tmp_path / "both")
    folder, plain = tmp_path / "both", logits(tied)
    if not whole:
        (folder / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"is an adapter.*model='.*tied'"):
            logits(folder)
        return
    assert torch.equal(logits(folder), plain)
    assert "contains an adapter beside its weights" in caplog.text
    asked = logits(folder, adapter=folder)
    assert not torch.allclose(asked, plain, atol=1e-3)
    assert torch.equal(asked, logits(tied, adapter=lora))


@pytest.mark.parametrize(
    ("trained_on", "warns"),
    [
        ("someone/tied", False),
        ("/home/me/Tied/", False),
        ("models--someone--tied", False),
        (None, False),
        ("someone/untied", True),
        ("C:\\models\\other", True),
    ],
)
def test_a_base_of_another_name_is_warned_of(tied, lora, tmp_path, caplog, trained_on, warns):
    folder = shutil.copytree(lora, tmp_path / "other")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = trained_on
    (folder / "adapter_config.json").write_text(json.dumps(config))
    load_engine(str(tied), adapter=folder).load()
    assert (f"was trained on {trained_on}, but is applied to {tied}" in caplog.text) is warns


def test_weights_that_do_not_fit_their_configuration_are_refused_with_the_sizes(tied, tmp_path):
    folder = shutil.copytree(tied, tmp_path / "resized")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 480}))
    with pytest.raises(CheckpointError, match=r"embed_tokens.weight is \[477, 32\].*\[480, 32\]"):
        load_engine(str(folder)).load()
