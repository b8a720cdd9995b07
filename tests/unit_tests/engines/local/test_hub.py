"""Checkpoints from the hub: what is brought, what is said first, and what goes wrong."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import errors

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import CheckpointError
from tests.unit_tests.tiny import save, save_as_published

NAME = "MetaAligner/MetaAligner-HH-RLHF-7B"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REQUESTS = [Request("hello world | Edit: ", max_new_tokens=4)]


def http_error(kind, status):
    response = SimpleNamespace(status_code=status, headers={}, request=None, text="", url="")
    return kind("no", response=response)


class Hub:
    """A hub that holds one repository, and notes what is asked of it."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self.failure: Exception | None = None
        self.asked: list[dict] = []
        self.infos: list[dict] = []

    def model_info(self, name, **kwargs):
        self.infos.append({"name": name, **kwargs})
        if self.failure:
            raise self.failure
        assert kwargs["files_metadata"]
        files = [
            SimpleNamespace(rfilename=file.name, size=file.stat().st_size)
            for file in sorted(self.folder.iterdir())
        ]
        return SimpleNamespace(sha=COMMIT, siblings=files)

    def snapshot_download(self, name, **kwargs):
        self.asked.append({"name": name, **kwargs})
        if kwargs.get("local_files_only"):
            message = "not here"
            raise errors.LocalEntryNotFoundError(message)
        self.cache.mkdir(parents=True, exist_ok=True)
        for file in kwargs["allow_patterns"]:
            shutil.copy(self.folder / file, self.cache / file)
        return str(self.cache)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    held = Hub(save_as_published(tmp_path / "repository"), tmp_path / "snapshot")
    monkeypatch.setattr(
        "huggingface_hub.HfApi", lambda **kwargs: SimpleNamespace(model_info=held.model_info)
    )
    monkeypatch.setattr("huggingface_hub.snapshot_download", held.snapshot_download)
    return held


def fails(match, name=NAME, **options):
    with pytest.raises(CheckpointError, match=match) as raised:
        load_engine(name, **options).load()
    return str(raised.value)


def test_a_hub_id_is_downloaded_at_one_commit_and_loaded_from_its_folder(hub, connections):
    engine = load_engine(NAME, revision="v2", token="secret", cache_dir="/caches")
    assert engine.edit(REQUESTS)[0].passes == 4
    assert hub.infos[0]["revision"] == "v2"
    assert {asked["revision"] for asked in hub.asked} == {COMMIT}
    assert {(a["token"], a["cache_dir"]) for a in hub.asked} == {("secret", "/caches")}
    assert connections == []


def test_pickles_come_only_where_there_are_no_safetensors(hub):
    load_engine(NAME).load()
    brought = sorted(path.name for path in hub.cache.iterdir())
    assert [name for name in brought if name.startswith("pytorch_model")] == [
        *(f"pytorch_model-0000{n}-of-00003.bin" for n in (1, 2, 3)),
        "pytorch_model.bin.index.json",
    ]
    shutil.rmtree(hub.cache)
    save(hub.folder)
    load_engine(NAME).load()
    brought = sorted(path.name for path in hub.cache.iterdir())
    assert "model.safetensors" in brought
    assert [name for name in brought if name.endswith(".bin")] == []


def test_an_adapter_in_a_repository_does_not_stand_in_for_its_weights(hub):
    (hub.folder / "adapter_model.safetensors").write_bytes(b"x")
    load_engine(NAME).load()
    assert not (hub.cache / "adapter_model.safetensors").exists()


def test_code_and_other_files_are_never_brought(hub):
    for name in ("modeling_evil.py", "training_args.bin", "model.onnx", "consolidated.00.pth"):
        (hub.folder / name).write_bytes(b"x")
    load_engine(NAME).load()
    brought = {path.name for path in hub.cache.iterdir()}
    assert not brought & {
        "modeling_evil.py", "training_args.bin", "model.onnx", "consolidated.00.pth"
    }  # fmt: skip


def test_the_size_of_a_download_is_said_before_it_starts(hub, caplog, monkeypatch):
    said = []
    real = hub.snapshot_download

    def download(name, **kwargs):
        said.append([record.getMessage() for record in caplog.records])
        return real(name, **kwargs)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with caplog.at_level(logging.INFO):
        load_engine(NAME).load()
    assert not any("Downloading" in line for line in said[0])  # the small files
    (line,) = [line for line in said[-1] if "Downloading" in line]
    assert NAME in line
    assert "GB" in line


def test_nothing_is_said_of_a_download_when_all_is_there_already(hub, caplog, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: "/there")
    with caplog.at_level(logging.INFO):
        load_engine(NAME).load()
    assert "Downloading" not in caplog.text


def test_the_window_needs_only_the_small_files(hub):
    assert load_engine(NAME).window == 256
    brought = {path.name for path in hub.cache.iterdir()}
    assert "config.json" in brought
    assert not any(name.startswith("pytorch_model") for name in brought)


def test_a_published_name_tells_its_family_without_asking_the_hub(hub):
    assert load_engine(NAME).family_hint == "HH-RLHF"
    assert hub.infos == []


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (http_error(errors.GatedRepoError, 403), "is gated.*hf auth login"),
        (http_error(errors.RepositoryNotFoundError, 404), "There is no checkpoint"),
        (http_error(errors.RevisionNotFoundError, 404), "no revision 'v9'"),
        (http_error(errors.HfHubHTTPError, 503), "can't be downloaded"),
        (http_error(errors.HfHubHTTPError, 401), "can't be downloaded"),
        (ConnectionError("no route"), "can't be downloaded"),
        (TimeoutError("slow"), "can't be downloaded"),
        (errors.OfflineModeIsEnabled("offline"), "can't be downloaded"),
        (errors.HFValidationError("odd"), "can't be downloaded"),
    ],
)
def test_a_hub_that_refuses_or_is_out_of_reach_is_said_with_what_to_do(hub, failure, said):
    hub.failure = failure
    fails(said, revision="v9")


def test_a_hub_out_of_reach_does_not_matter_when_all_is_here(hub, monkeypatch):
    hub.failure = ConnectionError("no route")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(hub.folder))
    assert load_engine(NAME).edit(REQUESTS)[0].passes == 4


def test_local_files_only_asks_nobody(hub):
    fails("local_files_only", local_files_only=True)
    assert hub.infos == []


@pytest.mark.parametrize("name", ["a/b/c/d", "/models/none", "my model", "../no-such-checkpoint"])
def test_a_name_that_can_be_no_hub_id_is_not_asked_for(hub, name):
    fails("no hub id", name=name)
    assert hub.infos == []


def test_a_revision_within_a_name_is_told_where_it_belongs(hub, checkpoint):
    fails("adapter_revision=", name=str(checkpoint), adapter="someone/lora@v3")


def test_a_failing_download_is_said(hub, monkeypatch):
    def broken(*args, **kwargs):
        message = "No space left on device"
        raise OSError(28, message)

    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    fails("can't be downloaded")


def cached(cache: Path, build) -> Path:
    """A repository as huggingface_hub keeps it after a download."""
    repository = cache / f"models--{NAME.replace('/', '--')}"
    build(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return repository


@pytest.mark.parametrize("build", [save, save_as_published])
@pytest.mark.parametrize("options", [{}, {"local_files_only": True}])
def test_what_was_downloaded_before_loads_without_a_network(tmp_path, connections, build, options):
    cached(tmp_path, build)
    engine = load_engine(NAME, cache_dir=str(tmp_path), **options)
    assert engine.edit(REQUESTS)[0].passes == 4
    assert connections == []


def test_a_download_that_broke_off_is_said(tmp_path):
    repository = cached(tmp_path, save_as_published)
    (repository / "snapshots" / COMMIT / "pytorch_model-00002-of-00003.bin").unlink()
    fails("pytorch_model-00002-of-00003.bin", cache_dir=str(tmp_path))


def test_an_adapter_may_come_from_the_hub(hub, checkpoint, tmp_path):
    hub.folder = tmp_path / "adapter"
    hub.folder.mkdir()
    (hub.folder / "adapter_config.json").write_text("{}")
    (hub.folder / "adapter_model.safetensors").write_bytes(b"")
    options = {"adapter": "someone/lora", "adapter_revision": "v3", "revision": "v1"}
    fails("adapter", name=str(checkpoint), **options)
    assert [(info["name"], info["revision"]) for info in hub.infos] == [("someone/lora", "v3")]
    assert {path.name for path in hub.cache.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors"
    }  # fmt: skip
