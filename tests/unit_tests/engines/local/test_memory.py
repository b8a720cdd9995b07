"""What a checkpoint needs is known, and compared with what is free, before any weight is read."""

from __future__ import annotations

import json
import logging
import shutil
from types import SimpleNamespace

import pytest
import torch

from langchain_metaaligner.engines.local import memory
from langchain_metaaligner.engines.local import placement as placing
from langchain_metaaligner.engines.local.weight_files import WeightFiles
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.options import LoadOptions
from tests.unit_tests.tiny import save, save_as_published, spm_tokenizer, tiny_config, tiny_llama

GIB = 1 << 30
NAMES = WeightFiles.of_checkpoint({}, LoadOptions())


@pytest.fixture
def no_reading(monkeypatch):
    def fail(*args, **kwargs):
        pytest.fail("a weight was read")

    monkeypatch.setattr("torch.load", fail)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)


def parameters():
    model = tiny_llama(tiny_config(len(spm_tokenizer())))
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("build", [save, save_as_published])
def test_parameters_are_counted_by_headers_and_indexes_alone(build, tmp_path, no_reading):
    build(tmp_path)
    assert memory.stored_weights(tmp_path, torch.float32, NAMES) == (parameters(), 0)


def test_pickles_without_a_total_are_counted_by_their_sizes(tmp_path):
    save_as_published(tmp_path)
    index = tmp_path / "pytorch_model.bin.index.json"
    said = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": said["weight_map"]}))
    counted, _ = memory.stored_weights(tmp_path, torch.float32, NAMES)
    assert parameters() <= counted <= 2 * parameters()  # tiny files are mostly wrapping


def test_quantised_weights_on_disk_count_by_their_bytes(tmp_path):
    from safetensors.torch import save_file

    save_file(
        {"packed": torch.zeros(10, 3, dtype=torch.uint8), "scale": torch.zeros(4)},
        tmp_path / "model.safetensors",
    )
    assert memory.stored_weights(tmp_path, torch.float16, NAMES) == (4, 30)


@pytest.mark.parametrize("build", [save, save_as_published])
def test_only_the_files_that_will_be_read_are_counted(build, tmp_path):
    build(tmp_path)
    other = "consolidated.safetensors" if build is save else "pytorch_model-00009-of-00009.bin"
    shutil.copy(next(tmp_path.glob("*model*s*")), tmp_path / other)
    if build is save:
        (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "gone"}}')
        (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 1000)
    assert memory.stored_weights(tmp_path, torch.float32, NAMES) == (parameters(), 0)


@pytest.mark.parametrize("build", [save, save_as_published])
def test_a_model_that_will_not_fit_is_refused_with_needed_and_free_memory(
    build, tmp_path, monkeypatch, no_reading
):
    build(tmp_path)
    monkeypatch.setattr(memory, "stored_weights", lambda folder, dtype, names: (6_738_000_000, 0))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=int(7.5 * GIB)))
    with pytest.raises(CheckpointError) as raised:
        load_engine(str(tmp_path)).load()
    said = str(raised.value)
    assert "27.6 GiB" in said
    assert "7.5 GiB" in said
    assert "bfloat16" in said
    assert "quantization_config" in said


def test_a_smaller_type_may_fit_where_a_larger_does_not(checkpoint, monkeypatch):
    needed = parameters() * 4
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=needed))
    with pytest.raises(CheckpointError, match="free"):
        load_engine(str(checkpoint)).load()
    load_engine(str(checkpoint), dtype="bfloat16").load()


def test_a_container_that_allows_less_than_the_machine_has_sets_the_limit(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=64 * GIB))
    files = {
        "memory.max": f"{8 * GIB}\n",
        "memory.current": f"{5 * GIB}\n",
        "memory.stat": f"anon {3 * GIB}\nfile {2 * GIB}\n",
    }
    monkeypatch.setattr("pathlib.Path.read_text", lambda self, *a, **k: files[self.name])
    assert memory.free_memory() == 5 * GIB
    files["memory.max"] = "max\n"
    assert memory.free_memory() == 64 * GIB


def test_a_caller_who_places_layers_by_hand_is_not_second_guessed():
    for choice in (
        {"offload_folder": "/scratch", "max_memory": None, "device_map": "auto"},
        {"offload_folder": None, "max_memory": {"cpu": "1GiB"}, "device_map": "auto"},
        {"offload_folder": None, "max_memory": None, "device_map": {"a": "cpu", "b": "disk"}},
    ):
        memory.check("x", 1e15, **choice)


@pytest.mark.parametrize(
    ("quantization", "least", "most"),
    [
        (None, 2, 2),
        ({"load_in_4bit": True}, 0.5, 0.7),
        ({"load_in_8bit": True}, 1, 1.2),
        ({"quant_method": "gptq", "bits": 4}, 0.5, 0.7),
        ({"quant_method": "other"}, 2, 2),
    ],
)
def test_a_quantised_parameter_takes_about_its_bits(quantization, least, most):
    assert least <= memory.bytes_per_parameter(torch.bfloat16, quantization) <= most


def test_a_quantisation_of_transformers_is_understood():
    from transformers import BitsAndBytesConfig

    four = BitsAndBytesConfig(load_in_4bit=True)
    assert memory.bytes_per_parameter(torch.bfloat16, four) < 1


def test_layers_off_the_accelerator_are_named_in_a_warning(caplog):
    placed = {"model.layers.0": 0, "model.layers.1": "cpu", "lm_head": "disk"}
    with caplog.at_level(logging.WARNING):
        placing.warn_of_strays("some/model", SimpleNamespace(hf_device_map=placed))
    assert "model.layers.1 on cpu, lm_head on disk" in caplog.text
    caplog.clear()
    placing.warn_of_strays("some/model", SimpleNamespace(hf_device_map={"": "cpu"}))
    placing.warn_of_strays("some/model", SimpleNamespace())
    assert caplog.records == []


def test_a_model_wholly_beside_the_accelerator_is_warned_of_unless_asked_for(caplog):
    placed = {"model.layers.0": "cpu", "lm_head": "disk"}
    placing.warn_of_strays("some/model", SimpleNamespace(hf_device_map=placed))
    assert "model.layers.0 on cpu" in caplog.text


@pytest.mark.parametrize(
    ("device_map", "fits"),
    [("auto", True), ("cpu", True), ({"": "cpu"}, True), ({"": 0}, False), ("cuda:0", False)],
)
def test_memory_counts_where_the_layers_may_go(monkeypatch, device_map, fits):
    monkeypatch.setattr(memory, "free_memory", lambda: 20 * GIB)
    monkeypatch.setattr(memory, "free_on_accelerators", lambda: 8 * GIB)
    where = {"device_map": device_map, "max_memory": None, "offload_folder": None}
    if fits:
        memory.check("x", 14 * GIB, **where)
    else:
        with pytest.raises(CheckpointError, match=r"8\.0 GiB are free on the accelerators"):
            memory.check("x", 14 * GIB, **where)
