"""`metaaligner models` and `doctor`: what is here, what fits, what a server is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from langchain_metaaligner.checkpoints import PUBLISHED
from langchain_metaaligner.cli import doctor, machine, models
from langchain_metaaligner.cli.machine import GIB, Download, Gpu
from langchain_metaaligner.engines.completions import gguf_model
from tests.unit_tests.engines.completions.fake_server import FakeServer
from tests.unit_tests.engines.completions.test_gguf_model import written


@pytest.fixture
def here(monkeypatch, tmp_path):
    """A machine with 20 GiB of memory, a GPU, two downloads and an incomplete extra."""
    (tmp_path / "config.json").write_text('{"metaaligner_family": "IMHI"}')
    found = [
        Download(PUBLISHED[0].name, tmp_path, 2 * GIB, has_weights=True),
        Download(PUBLISHED[1].name, tmp_path, 100, has_weights=False),
        Download("somebody/else", tmp_path, 3 * GIB, has_weights=True),
    ]
    for module in (models, doctor):
        monkeypatch.setattr(module, "downloads", lambda: iter(found))
        monkeypatch.setattr(module, "free_memory", lambda: 20 * GIB)
        monkeypatch.setattr(module, "gpus", lambda: [Gpu("H100", 40 * GIB, 80 * GIB)])
    monkeypatch.setattr(gguf_model, "free_memory", lambda: 20 * GIB)
    monkeypatch.setattr(
        "langchain_metaaligner.cli.extras.requires",
        lambda _: [
            "pydantic>=2",
            "rich>=14; extra == 'cli'",
            "no-such-package>=3; extra == 'bulk'",
            "rich>=999; extra == 'eval'",
            "no-such-package; extra == 'all'",
        ],
    )
    monkeypatch.setattr(doctor, "_torch", lambda *args, **given: iter(()))


def rows(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_models_tells_what_fits_and_what_is_here(metaaligner, here):
    found = {one["name"]: one for one in rows(metaaligner("models", "--json").out)}
    small, large, largest = (PUBLISHED[number].name for number in range(3))
    assert list(found)[:2] == ["embedded", small]
    assert found[small]["downloaded"] == 2.0
    assert found[large]["downloaded"] is None
    assert found[large]["fits_memory"] == ["bfloat16", "q8_0"]
    assert found[largest]["fits_memory"] == ["q8_0"]
    assert found[largest]["fits_gpu"] == ["bfloat16", "q8_0"]
    assert found["somebody/else"]["family"] == "IMHI"
    told = metaaligner("models").out
    assert all(one.name in told for one in PUBLISHED)
    assert "fits as bfloat16 on the GPU, q8_0 in memory" in told


def test_models_gguf_writes_a_file(metaaligner, monkeypatch, tmp_path):
    pytest.importorskip("torch")

    def export(model: str, out: Path, **options: object) -> Path:
        assert (model, options["dtype"], options["family"]) == ("embedded", "q8_0", None)
        out.write_bytes(b"GGUF")
        return out

    monkeypatch.setattr("langchain_metaaligner.training.run.gguf_export.export_gguf", export)
    file = tmp_path / "a.gguf"
    done = metaaligner("models", "gguf", "embedded", "--dtype", "q8_0", "--out", file)
    assert (done.code, done.out) == (0, f"{file}\n")


def test_the_driver_s_words_are_read(monkeypatch):
    class Told:
        stdout = "NVIDIA H100, 80GB, 1000, 81559\nL4, 20, 30\n"

    monkeypatch.setattr(machine.shutil, "which", lambda _: "/bin/nvidia-smi")
    monkeypatch.setattr(machine.subprocess, "run", lambda *args, **given: Told)
    assert machine.gpus() == [
        Gpu("NVIDIA H100, 80GB", 1000 << 20, 81559 << 20),
        Gpu("L4", 20 << 20, 30 << 20),
    ]
    Told.stdout = "No devices were found"
    assert machine.gpus() == []


def test_the_hub_s_cache_is_read_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path), raising=False
    )
    blobs = tmp_path / "models--owner--name" / "blobs"
    commit = tmp_path / "models--owner--name" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    commit.mkdir(parents=True)
    (commit / "model.safetensors").write_bytes(b"0" * 5)
    [found] = machine.downloads()
    assert (found.name, found.bytes, found.has_weights) == ("owner/name", 5, True)


def test_doctor_tells_what_is_missing_and_the_line_that_mends_it(metaaligner, here):
    done = metaaligner("doctor", "--json")
    assert done.code == 0
    found = {(one["topic"], one["name"]): one for one in rows(done.out)}
    assert found["Extras", "cli"]["said"] == "complete"
    assert found["Extras", "bulk"]["mend"] == 'pip install "langchain-metaaligner[bulk]"'
    assert "rich >=999 (found" in found["Extras", "eval"]["said"]
    assert ("Extras", "all") not in found
    assert '    pip install "langchain-metaaligner[bulk]"\n' in metaaligner("doctor").out


def test_doctor_fails_only_for_what_was_asked_for(metaaligner, here):
    assert metaaligner("doctor", "cli").code == 0
    assert metaaligner("doctor", "cli", "bulk").code == 1
    assert metaaligner("doctor", "blulk").code == 1


@pytest.fixture
def server():
    started = FakeServer("vllm", ("MetaAligner-HH-RLHF-7B",))
    yield started
    started.close()


@pytest.mark.enable_socket
def test_doctor_tells_what_a_server_is_and_which_flag_it_lacks(metaaligner, here, server):
    done = metaaligner("doctor", "--model", server.url, "--json")
    found = {one["name"]: one for one in rows(done.out) if one["topic"] == "The model"}
    assert done.code == 0
    assert found["server"]["said"].startswith("vLLM at http://127.0.0.1")
    assert found["family"]["said"] == "HH-RLHF"
    assert found["window"]["said"] == "1000 tokens"
    assert found["log-probabilities"]["said"] == "yes"
    assert "--speculative-config" in found["drafts tokens"]["mend"]


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (("--model", "http://127.0.0.1:9/v1"), 1, "Check that the server runs"),
        (("--model", "/no/such.gguf"), 1, "There is no file"),
        (("--model", PUBLISHED[2].name), 0, "hf download"),
        (("--model", PUBLISHED[2].name, "--local-files-only"), 1, "not on this machine"),
        (("--model", PUBLISHED[0].name), 0, "in the hub cache"),
        (("--model", "embedded"), 0, "a demo"),
        (("--dtype", "bfloat16", "--n-ctx", "7"), 1, "--n-ctx"),
    ],
)
@pytest.mark.enable_socket
def test_doctor_says_whether_a_model_can_work(metaaligner, here, monkeypatch, flags, code, told):
    monkeypatch.setattr("langchain_metaaligner.engines.completions.http_client._FIRST_PAUSE", 0.01)
    done = metaaligner("doctor", *flags)
    assert done.code == code
    assert told in done.out.partition("The model")[2]


def test_doctor_reads_the_header_of_a_gguf_file(metaaligner, here, tmp_path):
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    file = written(tmp_path / "MetaAligner-HH-RLHF-7B.gguf")
    done = metaaligner("doctor", "--model", file, "--json")
    found = {one["name"]: one for one in rows(done.out) if one["topic"] == "The model"}
    assert done.code == 0
    assert found["family"]["said"] == "HH-RLHF"
    assert found["window"]["said"] == "4096 tokens, 1 edits at a time"
    done = metaaligner("doctor", "--model", file, "--n-ctx", 4096, "--n-parallel", 16)
    assert done.code == 1
    assert "--n-parallel" in done.out
