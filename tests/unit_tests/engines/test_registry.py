from __future__ import annotations

import re
import subprocess
import sys

import pytest

from langchain_metaaligner import CheckpointError, Edit, Engine, load_engine
from langchain_metaaligner.engines import registry
from langchain_metaaligner.engines.registry import EngineKind, check_model


@pytest.mark.parametrize("name", ["model.gguf", "owner/name/file.GGUF", "name:file.gguf"])
def test_a_gguf_file_that_is_not_there_is_found_out_without_a_network(name, connections):
    pytest.importorskip("xllamacpp")
    for model, options in ((name, {}), ("owner/name:x.gguf", {"adapter": name})):
        with pytest.raises(CheckpointError, match=f"no file {name!r}"):
            check_model(model, options)
    check_model("owner/name:folder/model-Q4.GGUF", {"revision": "main"})
    assert not connections


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./nowhere", "a/b/c", "~/nowhere/at/all", "a b"]
)
def test_a_folder_that_is_not_there_is_found_out_without_a_network(name, connections):
    with pytest.raises(CheckpointError, match="no folder"):
        check_model(name, {})
    with pytest.raises(CheckpointError, match="no folder"):
        check_model(None, {"adapter": name})
    assert not connections


def test_what_may_be_there_is_left_to_load(checkpoint, connections, monkeypatch):
    check_model("owner/name", {"revision": "main"})
    check_model(str(checkpoint), {"dtype": "float32", "device_map": "cpu"})
    check_model(None, {})
    monkeypatch.setenv("METAALIGNER_MODEL", "x.gguf")
    with pytest.raises(CheckpointError, match=r"x\.gguf"):
        check_model(None, {})
    assert not connections


def test_checking_a_model_loads_no_torch():
    code = (
        "import sys; from langchain_metaaligner.engines.registry import check_model;"
        "check_model('owner/name', {'device_map': 'cuda:0'}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "device_map", ["cuda:0", "cuda", {"": "cuda:7"}, 0, "graphics", {"lm_head": "mps"}]
)
def test_a_device_that_is_not_here_is_a_checkpoint_error_at_once_and_by_load(
    checkpoint, device_map, monkeypatch
):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    with pytest.raises(CheckpointError, match="device_map="):
        check_model(str(checkpoint), {"device_map": device_map})
    engine = load_engine(str(checkpoint), device_map=device_map)
    with pytest.raises(CheckpointError, match="device_map="):
        engine.load()
    engine.close()


@pytest.mark.parametrize(
    ("options", "processes", "said"),
    [
        ({"tp_plan": "auto"}, "1", "torchrun"),
        ({"tp_plan": {"lm_head": "colwise"}}, "1", "torchrun"),
        ({"tp_plan": "rows"}, "2", "no plan"),
        ({"tp_plan": "auto", "device_map": "cpu"}, "2", "both tp_plan and device_map"),
        ({"tp_plan": "auto", "adapter": "{checkpoint}"}, "2", "adapter"),
    ],
)
def test_weights_are_split_only_where_processes_share_them(
    checkpoint, options, processes, said, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", processes)
    options = {
        name: value.format(checkpoint=checkpoint) if isinstance(value, str) else value
        for name, value in options.items()
    }
    with pytest.raises(CheckpointError, match=said):
        check_model(str(checkpoint), options)
    engine = load_engine(str(checkpoint), **options)
    with pytest.raises(CheckpointError, match=said):
        engine.load()
    engine.close()


def test_a_new_kind_of_engine_is_one_row(monkeypatch):
    class Upper(Engine):
        def __init__(self, name, **options):
            self.name = name

        def edit(self, requests):
            return [Edit(request.draft.upper()) for request in requests]

    row = EngineKind("shouting models", re.compile("upper:.*"), Upper)
    monkeypatch.setattr(registry, "KINDS", [row, *registry.KINDS])
    check_model("upper:x", {"anything": 1})
    assert load_engine("upper:x").name == "upper:x"
