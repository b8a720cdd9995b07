"""Edits by models behind servers, through the aligner."""

from __future__ import annotations

import asyncio
import logging
import pickle
import subprocess
import sys
import threading
import time

import pytest

from langchain_metaaligner import (
    Aligner,
    CheckpointError,
    EditTimeout,
    EngineError,
    MetaAlignerRunnable,
    OverloadedError,
    load_engine,
)
from langchain_metaaligner.engines import threads
from langchain_metaaligner.engines.base import Request
from tests.unit_tests.engines.completions.fake_server import MARK, REPLY

pytest.importorskip("openai")
pytestmark = pytest.mark.enable_socket

NAME = "MetaAligner-HH-RLHF-7B"
CONTEXT = [("human", "Is it good?")]
ANSWER = "It is bad now. "
ASKED = (CONTEXT, ANSWER, ["harmlessness"])
NEUTRAL = {
    "top_p": 1.0,
    "top_k": {-1, 0},
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "typical_p": 1.0,
    "temperature": 0.0,
}
ALL = {"top_k", "top_p", "min_p", "temperature", "seed", "presence_penalty", "frequency_penalty"}
SENT = {
    "vllm": {"repetition_penalty", "n", "max_tokens"},
    "sglang": {"repetition_penalty", "n", "max_tokens"},
    "llama": {"repeat_penalty", "typical_p", "mirostat", "dry_multiplier", "max_tokens"},
    "ollama": {"repeat_penalty", "typical_p", "num_ctx", "num_predict"},
    "lmstudio": {"repeat_penalty", "max_tokens"},
    "other": {"repetition_penalty", "max_tokens"},
}


@pytest.fixture
def aligner():
    made = []

    def make(server, **options):
        made.append(Aligner(server.url, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


# -- what is sent -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SENT)
def test_a_published_family_gets_its_prompt_byte_for_byte_and_every_setting(kind, start, aligner):
    server = start(kind, (NAME,))
    one = aligner(server)
    made = one.align(*ASKED)
    assert (made.text, made.model, made.family) == (REPLY, NAME, "HH-RLHF")
    body = server.bodies("/api/generate" if kind == "ollama" else "/v1/completions")[-1]
    settings = body["options"] if kind == "ollama" else body
    assert body["prompt"].startswith(one.prompt(*ASKED))
    assert body["model"] == NAME
    assert settings.keys() >= SENT[kind] | ALL
    for name, value in NEUTRAL.items():
        if name in settings:
            assert settings[name] in (value if isinstance(value, set) else {value}), name
    assert settings["stop"] == ["\n\nHuman:"]
    if kind == "ollama":
        assert body["raw"] is True
        assert settings["num_ctx"] == one.engine.window == 2048


def test_a_model_that_follows_instructions_gets_a_message(start, aligner):
    server = start("sglang", ("some-chat-model",))
    made = aligner(server, family="instruct").align(*ASKED)
    assert made.text == REPLY
    (body,) = server.bodies("/v1/chat/completions")
    (message,) = body["messages"]
    assert message["role"] == "user"
    assert ANSWER in message["content"]
    assert body["temperature"] == 0.0


def test_samples_are_drawn_with_a_seed_of_their_own(start, aligner):
    server = start("llama", (NAME,))
    one = aligner(server, temperature=0.7)
    one.align_batch([ASKED, ASKED])
    first, second = server.bodies()
    assert first["temperature"] == 0.7
    assert first["seed"] != second["seed"]


# -- which server, which model ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "window"),
    [
        ("vllm", "vLLM", 1000),
        ("sglang", "SGLang", 1000),
        ("llama", "llama-server", 1000),
        ("ollama", "Ollama", 2048),
        ("lmstudio", "LM Studio", 1000),
        ("other", "an OpenAI-compatible server", None),
    ],
)
def test_what_the_server_is_is_found_out(kind, name, window, start):
    server = start(kind)
    engine = load_engine(server.url)
    assert not server.asked  # making it asks nothing
    engine.load()
    assert (engine.served.kind, engine.served.model) == (name, "hh-rlhf")
    assert engine.window == window
    asked = len(server.asked)
    engine.load()
    assert len(server.asked) == asked
    engine.close()


def test_one_of_several_models_must_be_chosen(start, aligner):
    server = start("vllm", ("one", NAME))
    with pytest.raises(CheckpointError, match=r"served_model=: 'one', 'MetaAligner"):
        aligner(server).load()
    with pytest.raises(CheckpointError, match=r"no model 'two'\. It serves 'one'"):
        aligner(server, served_model="two").load()
    assert aligner(server, served_model=NAME).align(*ASKED).model == NAME
    with pytest.raises(CheckpointError, match="Load one there first"):
        aligner(start("vllm", ())).load()


@pytest.mark.parametrize("status", [404, {"hello": "world"}, 403])
def test_an_address_without_a_list_of_models_is_named(status, start, aligner):
    server = start("other")
    server.pages["/v1/models"] = status
    with pytest.raises((CheckpointError, EngineError), match=f"{server.port}/v1.*api_key="):
        aligner(server).load()


def test_an_address_may_lack_its_last_part(start):
    server = start("vllm")
    engine = load_engine(server.url.removesuffix("/v1"))
    assert engine.served.model == "hh-rlhf"
    engine.close()


def test_a_server_that_only_chats_says_so_to_a_published_family(start, aligner):
    server = start("other", (NAME,))
    server.pages["/v1/completions"] = 404
    one = aligner(server).load()
    with pytest.raises(CheckpointError, match=r"no /v1/completions.*family='instruct'"):
        one.align(*ASKED)
    assert aligner(server, family="instruct").align(*ASKED).text == REPLY


def test_a_base_model_is_not_asked_to_follow_instructions(start, aligner):
    told = start("llama", (NAME,))  # its own page shows no chat template
    with pytest.raises(CheckpointError, match=r"base model.*family"):
        aligner(told, family="instruct").align(*ASKED)
    server = start("vllm", (NAME,))
    server.template = False
    with pytest.raises(CheckpointError, match="base model"):
        aligner(server, family="instruct").align(*ASKED)


def test_a_tokenizer_that_begins_twice_is_refused(start, aligner):
    server = start("vllm", (NAME,))
    server.begins = 2
    with pytest.raises(CheckpointError, match=r"adds 2 tokens.*expected one"):
        aligner(server).load()


def test_options_of_another_engine_are_errors_before_anything_is_asked(start):
    server = start("vllm")
    with pytest.raises(CheckpointError, match="dtype= can't be chosen here"):
        Aligner(server.url, dtype="float16")
    with pytest.raises(CheckpointError, match="api_key= is not for"):
        Aligner("owner/name", api_key="x")
    assert not server.asked


def test_the_log_says_once_what_makes_edits_fast(start, caplog):
    server = start("sglang")
    with caplog.at_level(logging.INFO, logger="langchain_metaaligner"):
        engines = [load_engine(server.url) for _ in range(2)]
        for engine in engines:
            engine.load()
    said = [record.message for record in caplog.records if "NGRAM" in record.message]
    assert len(said) == 1
    for engine in engines:
        engine.close()


# -- keys -----------------------------------------------------------------------------------------


def test_a_key_is_sent_and_never_shown(start, aligner, monkeypatch):
    server = start("vllm", (NAME,))
    monkeypatch.setenv("OPENAI_API_KEY", "openais-own")
    one = aligner(server, api_key="s3cret-key")
    assert one.align(*ASKED).text == REPLY
    assert server.headers["authorization"] == "Bearer s3cret-key"
    server.pages["/v1/models"] = 401
    with pytest.raises(EngineError, match="api_key=") as raised:
        aligner(server, api_key="s3cret-key", max_connections=3).load()
    runnable = MetaAlignerRunnable(model=server.url, api_key="s3cret-key")
    shown = f"{one.options!r} {one.engine!r} {raised.value!r} {runnable!r} {runnable.model_dump()}"
    assert "s3cret-key" not in shown
    assert b"s3cret-key" not in pickle.dumps(one) + pickle.dumps(runnable)


def test_a_key_may_come_from_its_own_variable_but_not_from_openais(start, monkeypatch):
    server = start("vllm")
    monkeypatch.setenv("OPENAI_API_KEY", "openais-own")
    monkeypatch.setenv("OPENAI_ORG_ID", "openais-organisation")
    engine = load_engine(server.url)
    engine.load()
    assert "authorization" not in server.headers
    assert "openais" not in str(server.headers)
    engine.close()
    monkeypatch.setenv("METAALIGNER_API_KEY", "k")
    engine = load_engine(server.url, max_queue=3)
    engine.load()
    assert server.headers["authorization"] == "Bearer k"
    engine.close()


# -- log-probabilities ----------------------------------------------------------------------------


@pytest.mark.parametrize("merges", [False, True])
def test_an_answer_that_stays_costs_one_request(merges, start, aligner):
    server = start("vllm", (NAME,))
    server.merges = merges
    server.reply = REPLY.rstrip()
    made = aligner(server, token_agreement=True).align(CONTEXT, REPLY.rstrip(), ["humor"])
    (body,) = server.bodies()
    assert (body["echo"], body["max_tokens"]) == (True, 1)
    assert made.status == "unchanged"
    assert made.agreement == pytest.approx(-0.25)
    spans = [(one.start, one.end) for one in made.token_agreement]
    assert (spans[0][0], spans[-1][1], len(spans)) == (0, len(REPLY.rstrip()), 4)
    assert made.usage["output_tokens"] == 4


@pytest.mark.parametrize("merges", [False, True])
def test_an_edit_is_written_from_where_it_parts_from_the_answer(merges, start, aligner):
    server = start("vllm", (NAME,))
    server.merges = merges
    one = aligner(server)
    made = one.align(CONTEXT, "It is worse now.", ["humor"])
    scored, written = server.bodies()
    assert made.text.strip() == REPLY.strip()
    assert scored["echo"]
    prompt = written["prompt"]
    text = server.text(prompt) if merges else prompt
    assert text.rpartition(MARK)[2].strip() == "It is"
    assert made.usage["output_tokens"] == len(server.words(made.text))
    assert (made.usage["draft_tokens"], made.usage["accepted_draft_tokens"]) == (4, 3)


@pytest.mark.parametrize(("caution", "kept"), [(0.0, False), (0.5, False), (2.0, True)])
def test_with_caution_an_answer_stays_where_no_word_is_much_likelier(caution, kept, start, aligner):
    server = start("vllm", (NAME,))
    server.gap = 1.0
    answer = "It is better then. "
    made = aligner(server, caution=caution).align(CONTEXT, answer, ["humor"])
    assert made.text == (answer if kept else REPLY)
    first = aligner(server, caution=9.0).align(CONTEXT, "That is better now. ", ["humor"])
    assert first.text == REPLY  # the first words have no margin


@pytest.mark.parametrize(("caution", "kept"), [(0.5, False), (2.0, True)])
def test_caution_counts_for_the_end_of_the_answer_too(caution, kept, start, aligner):
    server = start("vllm", (NAME,))
    server.gap = 1.0
    answer = "It is better "
    made = aligner(server, caution=caution).align(CONTEXT, answer, ["humor"])
    assert made.text == (answer if kept else REPLY)


def test_an_answer_is_kept_above_an_agreement(start, aligner):
    server = start("vllm", (NAME,))
    assert aligner(server, keep_above=-9.0).align(*ASKED).text == ANSWER
    assert aligner(server, keep_above=-0.1).align(*ASKED).text == REPLY


@pytest.mark.parametrize(
    "option", [{"keep_above": -1.0}, {"token_agreement": True}, {"caution": 2.0}]
)
def test_an_option_that_cant_be_had_is_an_error_at_load_and_before_the_first_edit(
    option, start, aligner
):
    server = start("llama", (NAME,))
    (name,) = option
    with pytest.raises(CheckpointError, match=name):
        aligner(server, **option).load()
    with pytest.raises(CheckpointError, match=name):
        aligner(server, **option).align(*ASKED)
    assert not server.bodies()
    made = aligner(server).align(*ASKED)
    assert (made.text, made.agreement, made.caution) == (REPLY, None, 0.0)


@pytest.mark.parametrize("lie", ["zeros", "none"])
def test_log_probabilities_that_are_none_are_not_believed(lie, start, monkeypatch):
    server = start("vllm")
    honest = server._scored

    def lying(prompt):
        told = honest(prompt)
        if lie == "none":
            return {**told, "logprobs": None}
        told["logprobs"]["token_logprobs"] = [0.0] * len(told["logprobs"]["tokens"])
        told["logprobs"]["top_logprobs"] = [{} for _ in told["logprobs"]["tokens"]]
        return told

    monkeypatch.setattr(server, "_scored", lying)
    engine = load_engine(server.url)
    assert not engine.reports_agreement
    (made,) = engine.edit([Request(f"x {MARK}", "It is bad. ")])
    assert (made.text, made.agreement) == (REPLY, None)
    engine.close()


def test_neither_torch_nor_transformers_is_needed(start):
    server = start("vllm", (NAME,))
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "transformers", "accelerate")))
from langchain_metaaligner import MetaAlignerRunnable
from langchain_core.messages import AIMessage, HumanMessage
aligner = MetaAlignerRunnable(model={server.url!r})
reply = {{"messages": [HumanMessage("Is it?"), AIMessage("It is bad now. ")]}}
assert aligner.invoke(reply)["messages"][-1].content == {REPLY!r}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# -- tokens ---------------------------------------------------------------------------------------


def test_contexts_are_shortened_to_the_servers_window(start, aligner):
    server = start("sglang", (NAME,))
    server.window = 200
    long = [("human", "word " * 300), ("ai", "Yes."), ("human", "And now?")]
    made = aligner(server).align(long, ANSWER, ["harmlessness"])
    assert made.dropped["turns"] > 0
    assert len(server.ids(server.bodies()[-1]["prompt"])) < 200


def test_an_estimate_of_tokens_says_that_it_is_one(start, aligner, caplog):
    server = start("lmstudio", (NAME,))
    with caplog.at_level(logging.WARNING, logger="langchain_metaaligner"):
        engine = aligner(server).load().engine
    assert "estimated" in caplog.text
    assert engine.count_tokens("word " * 30) >= 30


# -- many at once ---------------------------------------------------------------------------------


def test_many_edits_go_at_once_over_few_kept_connections(start, aligner):
    server = start("llama", (NAME,))
    server.pause = 0.02
    one = aligner(server, max_connections=4)
    one.align(*ASKED)
    made = one.align_batch([ASKED] * 12)
    assert [each.text for each in made] == [REPLY] * 12
    assert 2 <= server.most_busy <= 4
    assert server.connections <= 8


def test_a_queue_that_is_full_refuses_more(start, aligner):
    server = start("llama", (NAME,))
    server.pause = 0.3
    one = aligner(server, max_connections=1, max_queue=1).load()
    going = threading.Thread(target=one.align_batch, args=([ASKED] * 3,))
    going.start()
    try:
        end = time.monotonic() + 5
        while server.busy == 0 and time.monotonic() < end:
            time.sleep(0.01)
        with pytest.raises(OverloadedError, match="max_queue"):
            one.align(*ASKED)
    finally:
        going.join()


async def test_cancelling_closes_the_connection(start, aligner):
    server = start("llama", (NAME,))
    one = aligner(server).load()
    server.faults.append("stall")
    task = asyncio.ensure_future(one.aalign(*ASKED))
    while server.busy == 0:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.gone.wait, 5)


def test_closing_a_stream_ends_the_wait_for_its_next_word_and_closes_the_connection(start):
    server = start("llama")
    engine = load_engine(server.url)
    engine.load()
    server.pause = 30.0
    words = engine.stream(Request(f"x {MARK}", "It is bad. "))
    reading = threads.start(lambda: list(words), "reader")
    while server.busy == 0:
        time.sleep(0.01)
    begun = time.monotonic()
    words.close()
    assert reading.result(5) == []
    assert time.monotonic() - begun < 5
    assert server.gone.wait(5)
    engine.close()


def test_an_edit_that_stops_waiting_gives_its_place_back(start):
    server = start("llama")
    engine = load_engine(server.url, max_connections=1, max_queue=1)
    engine.load()
    server.faults.append("stall")
    going = engine.stream(Request(f"x {MARK}"))
    reading = threads.start(lambda: list(going), "reader")
    while server.busy == 0:
        time.sleep(0.01)
    for _ in range(3):
        with pytest.raises(EditTimeout):
            engine.edit([Request(f"x {MARK}", deadline=time.monotonic() + 0.05)])
    going.close()
    reading.result(5)
    assert engine.edit([Request(f"x {MARK}")])[0].text == REPLY
    engine.close()


async def test_streams_give_words_as_they_come(start, aligner):
    server = start("llama", (NAME,))
    one = aligner(server, guards=())  # which would hold changed words back
    stream = one.stream(*ASKED)
    assert list(stream) == server.words(REPLY)
    assert stream.alignment.text == REPLY
    assert stream.alignment.usage["output_tokens"] == 4
    assert [piece async for piece in one.astream(*ASKED)] == server.words(REPLY)
    assert server.bodies()[-1]["stream"] is True


def test_a_stop_text_ends_an_edit_even_if_the_server_goes_on(start, aligner):
    server = start("other", (NAME,))
    server.reply = "It is good.\n\nHuman: And now?"
    one = aligner(server)
    assert one.align(*ASKED).text == "It is good."
    assert "".join(one.stream(*ASKED)) == "It is good."


def test_a_timeout_ends_a_stalled_edit_in_time(start, aligner):
    server = start("llama", (NAME,))
    one = aligner(server, timeout=0.3).load()
    for ask in (one.align, lambda *asked: list(one.stream(*asked))):
        server.faults.append("stall")
        begun = time.monotonic()
        with pytest.raises(EditTimeout):
            ask(*ASKED)
        assert time.monotonic() - begun < 2
        assert server.gone.wait(5)
        server.gone.clear()
