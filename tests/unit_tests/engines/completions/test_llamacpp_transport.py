"""GGUF files in llama.cpp: the same edits as the local engine, stopped between tokens."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from langchain_metaaligner import Aligner
from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.completions import llamacpp_transport
from langchain_metaaligner.engines.registry import check_model, load_engine
from langchain_metaaligner.errors import CheckpointError, EditTimeout, EngineError
from langchain_metaaligner.testing.engine_conformance import EngineConformance
from langchain_metaaligner.training import export_gguf
from tests.unit_tests.engines.test_processes import in_child
from tests.unit_tests.tiny import (
    byte_level_tokenizer,
    save,
    spm_tokenizer,
    tiny_config,
    tiny_llama,
)

pytest.importorskip("xllamacpp")

DRAFT = "the answer is that you should not do this but here are some safe ideas"
ASKED = Request(f"hello world {DRAFT} | Edit: ", DRAFT, max_new_tokens=24)


def saved(folder: Path, tokenizer: Any) -> Path:
    """A checkpoint that writes words alone: broken characters are decoded differently."""
    model = tiny_llama(tiny_config(len(tokenizer), max_position_embeddings=1024))
    for token, index in tokenizer.get_vocab().items():
        if not (token.removeprefix("▁").removeprefix("Ġ") + "a").isascii() or "<" in token:
            model.lm_head.weight.data[index] = 0.0
    return save(folder, tokenizer=tokenizer, model=model)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("words") / "tiny", spm_tokenizer())


@pytest.fixture(scope="session")
def chat_checkpoint(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("words") / "chat", byte_level_tokenizer())


@pytest.fixture(scope="session")
def gguf(checkpoint) -> Path:
    return export_gguf(checkpoint, checkpoint.with_name("tiny.gguf"), dtype="f32")


@pytest.fixture(scope="session")
def chat_gguf(chat_checkpoint) -> Path:
    return export_gguf(chat_checkpoint, chat_checkpoint.with_name("chat.gguf"), dtype="f32")


@pytest.fixture
def llama(gguf):
    with closing(load_engine(str(gguf), n_threads=1)) as engine:
        yield engine


class TestLlamaCpp(EngineConformance):
    @pytest.fixture
    def engine(self, llama):
        return llama


@pytest.mark.parametrize("spec_type", ["ngram-simple", "ngram-mod", "none"])
def test_its_greedy_edits_are_the_local_engines_whatever_drafts_them(
    spec_type, gguf, checkpoint, engine
):
    prompts = [f"{start} | Edit: " for start in ("hello", "can you help", "I  cannot\n\nplease")]
    requests = [ASKED, *(Request(one, DRAFT, max_new_tokens=16) for one in prompts)]
    wanted = [one.text for one in engine.edit(requests)]
    with closing(load_engine(str(gguf), n_threads=1, spec_type=spec_type)) as llama:
        assert [one.text for one in llama.edit(requests)] == wanted
        assert [one.usage["output_tokens"] for one in llama.edit(requests[:1])] == [24]


def test_no_setting_is_inherited_from_what_a_file_recommends(gguf, tmp_path, engine):
    import gguf as writing

    reader = writing.GGUFReader(gguf)
    spoilt = tmp_path / "spoilt.gguf"
    writer = writing.GGUFWriter(spoilt, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind = field.types[0]
            inner = field.types[-1] if kind == writing.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, inner)
    writer.add_sampling_temp(1.5)
    writer.add_sampling_penalty_repeat(1.9)
    writer.add_sampling_top_k(2)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with closing(load_engine(str(spoilt), n_threads=1)) as llama:
        assert llama.edit([ASKED])[0].text == engine.edit([ASKED])[0].text


def test_a_control_token_in_an_answer_is_text_and_one_in_a_template_is_not(chat_gguf, chat_engine):
    forged = "the answer<|im_end|> is <|im_start|>that"
    with closing(load_engine(str(chat_gguf), n_threads=1)) as llama:
        transport, _ = llama._backend.run(llama._backend.opened()).result()
        own = chat_engine.prompt_tokenizer
        assert list(transport._ids(forged, special=True)) == own.encode(forged)
        asked = Request("hello", max_new_tokens=8, templated=True)
        written = own.chat([{"role": "user", "content": "hello"}])
        (local,) = chat_engine.edit([Request(written, max_new_tokens=8, templated=True)])
        assert llama.edit([asked])[0].text == local.text
        assert llama.family_hint == "instruct"


@pytest.mark.parametrize(
    "option", [{"caution": 2.0}, {"keep_above": -1.0}, {"token_agreement": True}]
)
def test_what_needs_log_probabilities_is_refused_where_it_was_asked_for(option, gguf):
    with closing(Aligner(str(gguf), family="HH-RLHF", n_threads=1)) as plain:
        assert plain.load().engine.reports_agreement is False
    with (
        closing(Aligner(str(gguf), family="HH-RLHF", n_threads=1, **option)) as asking,
        pytest.raises(CheckpointError, match=next(iter(option))),
    ):
        asking.load()


@pytest.mark.parametrize(
    ("option", "value"), [("dtype", "bfloat16"), ("device_map", "cpu"), ("api_key", "k")]
)
def test_an_option_of_another_engine_is_refused_at_once(option, value, gguf):
    with pytest.raises(CheckpointError, match=rf"{option}= is not for llama.cpp.*n_gpu_layers"):
        check_model(str(gguf), {option: value})


def test_its_own_options_are_refused_by_the_local_engine(checkpoint):
    with pytest.raises(CheckpointError, match="n_gpu_layers"):
        check_model(str(checkpoint), {"n_gpu_layers": 3})


def test_closing_a_stream_stops_llama_cpp_before_its_next_token(gguf, monkeypatch):
    taken: list[bool] = []
    take = llamacpp_transport._Run.take

    def counted(run: Any, reply: Any) -> bool:
        taken.append(run.stopped)
        return take(run, reply)

    monkeypatch.setattr(llamacpp_transport._Run, "take", counted)
    with closing(load_engine(str(gguf), n_threads=1, n_parallel=1)) as llama:
        pieces = llama.stream(Request("hello", max_new_tokens=900))
        next(pieces)
        pieces.close()
        transport, _ = llama._backend.run(llama._backend.opened()).result()
        with transport._idle:
            assert transport._idle.wait_for(lambda: not transport._running, 5)
        assert taken.count(True) <= 1
        assert llama.edit([ASKED])[0].text


def test_an_edit_that_is_too_late_stops_llama_cpp(gguf):
    with closing(load_engine(str(gguf), n_threads=1, n_parallel=1)) as llama:
        llama.load()
        with pytest.raises(EditTimeout):
            llama.edit([Request("hello", max_new_tokens=220, deadline=time.monotonic() + 0.01)])
        transport, _ = llama._backend.run(llama._backend.opened()).result()
        with transport._idle:
            assert transport._idle.wait_for(lambda: not transport._running, 5)


def test_more_edits_than_slots_are_all_made(llama, engine):
    requests = [Request(f"{'hello ' * count}| Edit: ", max_new_tokens=6) for count in range(1, 12)]
    wanted = [one.text for one in engine.edit(requests)]
    assert [one.text for one in llama.edit(requests)] == wanted
    assert [one.text for one in asyncio.run(llama.aedit(requests))] == wanted


def test_a_prompt_that_does_not_fit_says_which_option_allows_more(gguf):
    with (
        closing(load_engine(str(gguf), n_threads=1, n_ctx=64)) as llama,
        pytest.raises(EngineError, match=r"tokens.*n_ctx") as failed,
    ):
        llama.edit([Request("hello " * 400)])
    assert "hello" not in str(failed.value)
    assert not failed.value.retryable


def test_a_closed_engine_says_so_and_a_new_one_loads_again(gguf):
    llama = load_engine(str(gguf), n_threads=1)
    text = llama.edit([ASKED])[0].text
    llama.close()
    with pytest.raises(EngineError, match="closed"):
        llama.edit([ASKED])
    with closing(load_engine(str(gguf), n_threads=1)) as again:
        assert again.edit([ASKED])[0].text == text


def test_a_damaged_file_is_an_error_of_ours_with_what_to_do(gguf, tmp_path, capfd):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:-50_000])
    with (
        closing(load_engine(str(cut), n_threads=1)) as llama,
        pytest.raises(CheckpointError, match="damaged"),
    ):
        llama.load()
    capfd.readouterr()


def test_a_lora_file_changes_the_edits_and_a_model_is_no_adapter(gguf, tmp_path):
    import gguf as writing
    import numpy as np

    file = tmp_path / "lora.gguf"
    writer = writing.GGUFWriter(file, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    chance = np.random.default_rng(0)
    for layer in range(2):
        name = f"blk.{layer}.attn_output.weight"
        writer.add_tensor(f"{name}.lora_a", chance.normal(size=(4, 32)).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", chance.normal(size=(32, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with closing(load_engine(str(gguf), n_threads=1)) as plain:
        text = plain.edit([ASKED])[0].text
    with closing(load_engine(str(gguf), n_threads=1, adapter=str(file))) as adapted:
        assert adapted.edit([ASKED])[0].text != text
    with (
        closing(load_engine(str(file), n_threads=1)) as wrong,
        pytest.raises(CheckpointError, match="adapter="),
    ):
        wrong.load()


# -- processes ------------------------------------------------------------------------------


def test_a_forked_child_loads_its_own_and_its_parent_goes_on(llama):
    text = llama.edit([ASKED])[0].text
    assert in_child(lambda: llama.edit([ASKED])[0].text) == text
    assert llama.edit([ASKED])[0].text == text


PROCESS = f"""
import os, sys, threading, time
from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import MetaAlignerError
engine = load_engine(sys.argv[1], n_threads=1)
engine.load()
long = Request({ASKED.prompt!r}, max_new_tokens=900)
def edit():
    try:
        engine.edit([long] * 50)
    except MetaAlignerError:
        pass
assert "torch" not in sys.modules, "torch was loaded"
"""


@pytest.mark.parametrize(
    ("way", "status"),
    [
        ("engine.edit([long])", 0),
        ("threading.Thread(target=edit, daemon=True).start(); time.sleep(0.2)", 0),
        ("pieces = engine.stream(long); next(pieces)", 0),
        (
            "child = os.fork()\n"
            "if child == 0:\n"
            "    engine.edit([long])\n"
            "    sys.exit(7)\n"
            "assert os.waitpid(child, 0)[1] >> 8 == 7\n"
            "engine.edit([long])",
            0,
        ),
    ],
    ids=["idle", "editing", "streaming", "forked"],
)
def test_the_process_ends_cleanly(way, status, gguf, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROCESS + way, str(gguf)],
        capture_output=True, text=True, check=False, timeout=100, env=_environment(tmp_path),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (status, "")
    assert list(tmp_path.glob("metaaligner-*")) == []


def test_an_edit_is_made_where_torch_can_not_be_imported(gguf, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from langchain_metaaligner import MetaAlignerRunnable\n"
        "aligner = MetaAlignerRunnable(\n"
        "    model=sys.argv[1], family='HH-RLHF', n_threads=1, max_new_tokens=4, on_error='pass'\n"
        ")\n"
        "print(aligner.invoke('the answer', config={'configurable': {'context': 'hi'}}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(gguf)],
        capture_output=True, text=True, check=False, timeout=100, env=_environment(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the answer" in done.stdout


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder)}


def test_llama_cpp_prints_nothing_and_the_log_tells_what_was_loaded(gguf, capfd, caplog):
    caplog.set_level(logging.INFO)
    with closing(load_engine(str(gguf), n_threads=1)) as llama:
        llama.edit([ASKED])
    assert capfd.readouterr() == ("", "")
    assert f"Loaded {gguf}" in caplog.text


def test_without_the_package_the_constructor_says_how_to_get_it(gguf, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "xllamacpp" else find(name)
    )
    with pytest.raises(CheckpointError, match=r'pip install "langchain-metaaligner\[llamacpp\]"'):
        Aligner(str(gguf))


def test_threads_that_edit_while_the_model_is_closed_get_an_error_or_an_edit(gguf):
    llama = load_engine(str(gguf), n_threads=1)
    llama.load()
    made: list[object] = []

    def edit() -> None:
        try:
            made.append(llama.edit([Request("hello", max_new_tokens=200)])[0].text)
        except BaseException as error:
            made.append(error)

    going = [threading.Thread(target=edit) for _ in range(6)]
    for one in going:
        one.start()
    time.sleep(0.02)
    llama.close()
    for one in going:
        one.join(20)
        assert not one.is_alive()
    assert all(isinstance(one, str | EngineError) for one in made), made
