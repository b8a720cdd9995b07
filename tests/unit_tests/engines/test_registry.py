from __future__ import annotations

import re
import subprocess
import sys

import pytest

from langchain_metaaligner import CheckpointError, Edit, Engine, load_engine
from langchain_metaaligner.engines import registry
from langchain_metaaligner.engines.registry import EngineKind, check_model

both = pytest.mark.parametrize(
    "ask",
    [lambda name: load_engine(name), lambda name: check_model(name, {})],
    ids=["load", "check"],
)


@both
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.gguf", "GGUF files"),
        ("owner/name:model-Q4.GGUF", "GGUF files"),
    ],
)
def test_what_has_no_engine_yet_is_refused_with_the_page_that_says_how_to_write_one(
    ask, name, what
):
    with pytest.raises(CheckpointError, match=f"{what}.*docs/your_own_engine.md") as raised:
        ask(name)
    assert repr(name) in str(raised.value)


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
    with pytest.raises(CheckpointError, match="GGUF"):
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
