"""GGUF files are found here or on the hub, with all their parts, and measured before they load."""

from __future__ import annotations

from pathlib import Path

import pytest

from langchain_metaaligner.engines.completions import gguf_model
from langchain_metaaligner.engines.completions.gguf_model import check_memory, describe, find_file
from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.options import LoadOptions

GIB = 1 << 30
PARTS = [f"big-{one:05d}-of-00003.gguf" for one in (1, 2, 3)]


def written(file: Path, **said: int) -> Path:
    """A file with a header alone, of a model of 7B's shape unless told otherwise."""
    import gguf

    writer = gguf.GGUFWriter(file, "llama")
    sizes = {"context_length": 4096, "block_count": 32, "embedding_length": 4096} | said
    for name, value in sizes.items():
        if value:
            writer.add_uint32(f"llama.{name}", value)
    writer.add_head_count(32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that has one file in three parts; the calls that it got."""
    calls: list[dict[str, object]] = []

    def download(repo: str, file: str, **given: object) -> str:
        calls.append({"repo": repo, "file": file, **given})
        if Path(file).name not in PARTS:
            raise FileNotFoundError(f"no {file}")
        made = tmp_path / file
        made.parent.mkdir(exist_ok=True)
        made.write_bytes(b"GGUF")
        return str(made)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return calls


def test_all_parts_of_a_file_on_the_hub_are_downloaded_from_one_revision(hub, tmp_path):
    options = LoadOptions(token="secret", cache_dir=tmp_path)
    found = find_file(f"owner/name:folder/{PARTS[1]}", options, "v2")
    assert found == tmp_path / "folder" / PARTS[0]
    assert [one["file"] for one in hub] == [f"folder/{part}" for part in PARTS]
    assert {one["repo"] for one in hub} == {"owner/name"}
    assert {one["revision"] for one in hub} == {"v2"}
    assert {one["token"] for one in hub} == {"secret"}


def test_a_download_that_fails_says_what_to_do_without_the_token(hub):
    with pytest.raises(CheckpointError, match="can't be downloaded") as failed:
        find_file("owner/name:other.gguf", LoadOptions(token="secret"), None)
    assert "secret" not in str(failed.value)


def test_a_file_here_needs_its_other_parts_beside_it(hub, tmp_path):
    for part in PARTS[:2]:
        (tmp_path / part).write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=f"lacks 1 .*{PARTS[2]}"):
        find_file(str(tmp_path / PARTS[0]), LoadOptions(), None)
    (tmp_path / PARTS[2]).write_bytes(b"GGUF")
    assert find_file(str(tmp_path / PARTS[2]), LoadOptions(), None) == tmp_path / PARTS[0]
    assert not hub


def test_as_many_edits_at_once_as_two_gib_hold_and_a_window_that_is_not_too_large(tmp_path):
    big = describe(written(tmp_path / "big.gguf"), LoadOptions())
    assert (big.window, big.slots, big.cache_bytes) == (4096, 1, 2 * GIB)
    small = written(tmp_path / "small.gguf", block_count=2, context_length=131072)
    assert (describe(small, LoadOptions()).window, describe(small, LoadOptions()).slots) == (
        4096,
        4,
    )
    asked = describe(small, LoadOptions(n_ctx=8192, n_parallel=9))
    assert (asked.window, asked.slots, asked.cache_bytes) == (8192, 9, 9 * 8192 * 2 * 16384)


def test_a_model_that_will_not_fit_is_refused_with_what_would_make_it_smaller(
    tmp_path, monkeypatch
):
    model = describe(written(tmp_path / "big.gguf"), LoadOptions())
    monkeypatch.setattr(gguf_model, "free_memory", lambda: 3 * GIB)
    check_memory(model)
    monkeypatch.setattr(gguf_model, "free_memory", lambda: GIB)
    with pytest.raises(CheckpointError, match=r"2\.1 GiB.*1\.0 GiB are free.*n_ctx"):
        check_memory(model)


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"PK\x03\x04" * 9, b"GGUF\x63\0\0\0" + b"\xff" * 40]
)
def test_what_is_no_gguf_file_is_an_error_that_names_it(content, tmp_path):
    file = tmp_path / "odd.gguf"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"odd\.gguf"):
        describe(file, LoadOptions())
    with pytest.raises(CheckpointError, match="no language model"):
        describe(written(tmp_path / "empty.gguf", block_count=0), LoadOptions())
