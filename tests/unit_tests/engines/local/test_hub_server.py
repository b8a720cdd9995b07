"""The real client of the hub against a server that plays the hub, well and ill."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import CheckpointError
from tests.unit_tests.tiny import save

pytestmark = pytest.mark.enable_socket

NAME = "someone/tiny"
REQUESTS = [Request("hello world | Edit: ", max_new_tokens=4)]


def _hash(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


class Hub:
    """A server with one repository, whose commits are folders; it may fail instead.

    Attributes:
        commits: The folder of each commit.
        branches: The commit of each branch or tag.
        answers: What it answers to every request whose path contains the key: a status, or a text.
    """

    def __init__(self) -> None:
        self.commits: dict[str, Path] = {}
        self.branches: dict[str, str] = {}
        self.answers: dict[str, int | str] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None: ...

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.asked.append(path)
                status, headers, body = hub.answer(path)
                self.send_response(status)
                for key, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def push(self, folder: Path, branch: str = "main") -> str:
        commit = _hash(str(folder).encode())
        self.commits[commit], self.branches[branch] = folder, commit
        return commit

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        for part, said in self.answers.items():
            if part in path:
                if isinstance(said, int):
                    return said, {}, b""
                return 200, {"Content-Type": "text/html"}, said.encode()
        parts = path.strip("/").split("/")
        listing = parts[:2] == ["api", "models"]
        revision = parts[5 if listing else 3]
        commit = self.branches.get(revision, revision)
        folder = self.commits.get(commit)
        if folder is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        if listing and parts[4] == "revision":
            siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
            said = {"id": NAME, "sha": commit, "siblings": siblings}
        elif listing:
            said = [
                {"type": "file", "path": name, "size": len(data), "oid": _hash(data)}
                for name, data in files.items()
            ]
        else:
            data = files[parts[4]]
            tag = _hash(data)
            return 200, {"ETag": f'"{tag}"', "X-Repo-Commit": commit}, data
        return 200, {"Content-Type": "application/json"}, json.dumps(said).encode()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return save(tmp_path_factory.mktemp("repositories") / "tiny")


@pytest.fixture
def hub(repository, tmp_path, monkeypatch):
    hub = Hub()
    hub.push(repository)
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    yield hub
    hub.close()


def edited(name=NAME, **options):
    engine = load_engine(name, **options)
    try:
        return engine.edit(REQUESTS)
    finally:
        engine.close()


def fails(match, name=NAME, **options):
    with pytest.raises(CheckpointError, match=match) as raised:
        load_engine(name, **options).load()
    return str(raised.value)


def cut(hub, monkeypatch, how):
    """Take the hub away; gives the options to load with then."""
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "down":
        hub.close()
    elif how != "local_files_only":
        hub.answers[""] = how
    return {"local_files_only": True} if how == "local_files_only" else {}


CUTS = [
    "offline", "down", "local_files_only", 401, 403, 404, 407, 410, 418, 429, 500, 503, 504,
    "<html>Please sign in</html>", "{}", "[1]", "",
]  # fmt: skip


@pytest.mark.parametrize("how", CUTS)
def test_what_was_downloaded_once_loads_whatever_the_hub_answers_later(hub, monkeypatch, how):
    before = edited()
    assert edited(**cut(hub, monkeypatch, how)) == before


@pytest.mark.parametrize("revision", [None, "v2"])
def test_a_cache_says_which_commit_a_revision_is(hub, monkeypatch, revision, tmp_path):
    hub.push(hub.commits[hub.branches["main"]], "v2")
    edited(revision=revision)
    ref = tmp_path / "cache" / "models--someone--tiny" / "refs" / (revision or "main")
    assert ref.read_text() == hub.branches["main"]
    edited(revision=revision, **cut(hub, monkeypatch, "local_files_only"))
    fails("no complete copy", revision="v3", local_files_only=True)


def test_a_cache_that_only_has_commits_serves_the_default_branch_only(hub, monkeypatch, tmp_path):
    before = edited()
    shutil.rmtree(tmp_path / "cache" / "models--someone--tiny" / "refs")
    cut(hub, monkeypatch, 429)
    assert edited() == before
    fails("answered 429", revision="v2")


@pytest.mark.parametrize("changed", [False, True])
def test_a_download_that_broke_off_does_not_take_the_place_of_what_loaded(
    hub, monkeypatch, tmp_path, caplog, changed
):
    before = edited()
    newer = save(tmp_path / "newer", seed=5)
    if changed:
        (newer / "generation_config.json").write_text("{}")
    hub.push(newer)
    hub.answers["model.safetensors"] = 410
    if changed:  # what was read already does not belong to the older weights
        fails("answered 410 Gone")
    else:
        assert edited() == before
    cut(hub, monkeypatch, "down")
    assert edited(max_queue=9) == before  # as another process would load it
    assert "Using the copy of someone/tiny on this machine: " in caplog.text


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (401, "answered 401"),
        (403, "answered 403 Forbidden"),
        (407, "answered 407 Proxy.*HTTPS_PROXY"),
        (418, "answered 418"),
        (429, "answered 429 Too Many Requests.*token="),
        (503, "answered 503 Service Unavailable"),
        ("<html>Please sign in</html>", "can't be downloaded.*JSONDecodeError"),
        ("offline", "HF_HUB_OFFLINE"),
        ("down", "ConnectError"),
        ("local_files_only", "local_files_only"),
    ],
)
def test_without_a_copy_the_error_tells_what_the_hub_answered(hub, monkeypatch, how, said):
    fails(said, **cut(hub, monkeypatch, how))


def wrapped(cause):
    error = huggingface_hub.errors.LocalEntryNotFoundError("An error happened")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (
            ssl.SSLCertVerificationError(1, "certificate verify failed"),
            "certificate.*SSL_CERT_FILE",
        ),
        (
            OSError("Unable to connect to proxy http://me:pw@proxy"),
            "proxy http://proxy.*HTTPS_PROXY",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left.*HF_HOME"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota exceeded.*cache_dir"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            "Permission denied: '/x'.*cache_dir",
        ),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only.*Allow writing"),
        (TimeoutError("timed out"), "timed out.*connection"),
    ],
)
def test_the_cause_of_a_failed_download_is_quoted_with_what_to_do(hub, monkeypatch, cause, said):
    def broken(*args, **kwargs):
        raise wrapped(cause)

    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    assert "pw" not in fails(said)


def test_a_cache_that_can_not_be_written_is_named(hub, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    fails("file.*", cache_dir=tmp_path / "file" / "cache")


def in_shards(folder, source):
    """The same checkpoint, in files whose names say nothing."""
    shutil.copytree(source, folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {"first.safetensors": sorted(state)[::2], "b [2].safetensors": sorted(state)[1::2]}
    for file, keys in names.items():
        save_file({key: state[key] for key in keys}, folder / file, metadata={"format": "pt"})
    where = {key: file for file, keys in names.items() for key in keys}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def test_shards_of_any_name_are_found_by_their_index(hub, repository, tmp_path, monkeypatch):
    before = edited(str(repository))
    folder = in_shards(tmp_path / "shards", repository)
    assert edited(str(folder)) == before
    (folder / "model-00001-of-00001.safetensors").write_bytes(b"no part of it")
    hub.push(folder)
    assert edited() == before
    assert not any("00001" in path for path in hub.asked)
    assert edited(**cut(hub, monkeypatch, "down")) == before
    (folder / "first.safetensors").unlink()
    fails("first.safetensors", name=str(folder))


def test_a_single_file_goes_before_an_index_of_other_files(repository, tmp_path, hub):
    before = edited(str(repository))
    folder = shutil.copytree(repository, tmp_path / "stale")
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"x": "gone.safetensors"}}'
    )
    assert edited(str(folder)) == before
    hub.push(folder)
    assert edited() == before
    assert not any("gone" in path for path in hub.asked)


def test_an_index_of_files_that_the_hub_does_not_have_is_said(hub, repository, tmp_path):
    folder = in_shards(tmp_path / "shards", repository)
    (folder / "first.safetensors").unlink()
    hub.push(folder)
    fails("1 of the 2 weight files.*first.safetensors")


@pytest.mark.parametrize(
    ("file", "options", "config"),
    [
        ("model.fp16.safetensors", {"model_kwargs": {"variant": "fp16"}}, {}),
        ("weights.safetensors", {}, {"transformers_weights": "weights.safetensors"}),
    ],
)
def test_what_transformers_would_load_loads(hub, repository, tmp_path, file, options, config):
    folder = shutil.copytree(repository, tmp_path / "named")
    (folder / "model.safetensors").rename(folder / file)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | config))
    assert edited(str(folder), **options) == edited(str(repository))
    hub.push(folder)
    assert edited(**options) == edited(str(repository))


def test_a_copy_that_is_complete_is_not_asked_for_again(hub):
    edited()
    count = len(hub.asked)
    edited()
    assert len(hub.asked) == count + 1
