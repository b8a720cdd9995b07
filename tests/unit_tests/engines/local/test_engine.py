"""Edits by the local engine, on tiny random models."""

from __future__ import annotations

import copy
import math
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_metaaligner.engines.base import Engine, Request
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import EditTimeout, EngineError

PROMPT = "hello world | Edit: "
PROMPTS = [
    PROMPT,
    "the answer is that you should not do this | Answer: no | Edit: ",
    "a | Edit: ",
    "some safe ideas for your question, please | Edit: ",
]


def drain(stream):
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def by_hand(engine, prompt: str, tokens: int) -> list[int]:
    """Greedy decoding in its plainest form: no cache, no batch, no padding."""
    ids = torch.tensor([engine.prompt_tokenizer.encode(prompt)])
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(tokens):
            ids = torch.cat([ids, engine.model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return ids[0, start:].tolist()


def test_the_local_engine_is_an_engine(engine):
    assert isinstance(engine, Engine)
    assert engine.keeps_deadlines


def test_an_edit_is_the_greedy_continuation_of_its_prompt(engine):
    (edit,) = engine.edit([Request(PROMPT, max_new_tokens=24)])
    assert edit.text == engine.tokenizer.decode(by_hand(engine, PROMPT, 24))
    assert edit.finish_reason == "length"
    assert edit.passes == 24
    assert edit.usage == {"input_tokens": 8, "output_tokens": 24, "total_tokens": 32}
    assert edit.agreement is None


def test_a_batch_gives_the_edits_of_single_requests_in_their_order(engine):
    requests = [Request(prompt, max_new_tokens=4 + 5 * n) for n, prompt in enumerate(PROMPTS * 3)]
    assert engine.edit(requests) == [engine.edit([request])[0] for request in requests]


def test_all_requests_of_a_call_share_every_pass_and_nothing_is_padded(engine, passes):
    engine.edit([Request(prompt, max_new_tokens=2) for prompt in PROMPTS * 5])
    tokens = sum(engine.count_tokens(prompt) for prompt in PROMPTS * 5)
    assert passes.prompts == [(1, tokens), (1, 20)]


def test_no_requests_make_no_edits_and_no_passes(engine, passes):
    assert engine.edit([]) == []
    assert passes.count == 0


def test_an_end_token_ends_the_edit_and_is_not_counted(engine, monkeypatch):
    tokens = by_hand(engine, PROMPT, 24)
    end = tokens[9]
    monkeypatch.setattr(engine.config, "eos_token_id", end)
    (edit,) = engine.edit([Request(PROMPT, max_new_tokens=24)])
    made = tokens.index(end)
    assert edit.finish_reason == "stop"
    assert edit.text == engine.tokenizer.decode(tokens[:made])
    assert edit.usage["output_tokens"] == made
    assert edit.passes == made + 1


def test_a_stop_text_ends_the_edit_at_that_step_and_is_cut_off(engine, passes):
    (whole,) = engine.edit([Request(PROMPT, max_new_tokens=24)])
    stop = whole.text[6:8]
    place = whole.text.index(stop)
    passes.count = 0
    (edit,) = engine.edit([Request(PROMPT, max_new_tokens=24, stop=("\n\nHuman:", stop))])
    assert edit.text == whole.text[:place]
    assert edit.finish_reason == "stop"
    made = passes.count
    tokens = by_hand(engine, PROMPT, 24)
    decode = engine.tokenizer.decode
    first = next(n for n in range(25) if stop in decode(tokens[:n]))
    assert made == edit.passes == first
    before = next(n for n in range(25) if len(decode(tokens[:n])) >= place)
    assert edit.usage["output_tokens"] == before


def test_a_stop_text_ends_only_its_own_row(engine):
    (whole,) = engine.edit([Request(PROMPT, max_new_tokens=24)])
    stopped = Request(PROMPT, max_new_tokens=24, stop=(whole.text[2:5],))
    edits = engine.edit([stopped, Request(PROMPT, max_new_tokens=24)])
    assert [edit.finish_reason for edit in edits] == ["stop", "length"]
    assert edits[1] == whole


def test_an_empty_stop_text_stops_nothing(engine):
    plain, stopped = engine.edit(
        [Request(PROMPT, max_new_tokens=6), Request(PROMPT, max_new_tokens=6, stop=("",))]
    )
    assert plain == stopped


def test_no_tokens_asked_for_makes_an_empty_edit_without_a_pass(engine, passes):
    (edit,) = engine.edit([Request(PROMPT, max_new_tokens=0)])
    assert (edit.text, edit.finish_reason, edit.passes) == ("", "length", 0)
    assert passes.count == 0


def test_an_edit_never_runs_past_the_window(engine):
    prompt = "the answer " * 120 + "| Edit: "
    room = engine.window - engine.count_tokens(prompt)
    assert 0 < room < 30
    (edit,) = engine.edit([Request(prompt, max_new_tokens=1024)])
    assert edit.usage["total_tokens"] <= engine.window


def test_a_prompt_that_fills_the_window_is_refused(engine, passes):
    with pytest.raises(EngineError, match=r"window holds 256"):
        engine.edit([Request("the answer " * 300)])
    assert passes.count == 0


def test_an_empty_templated_prompt_is_refused(engine):
    with pytest.raises(EngineError, match="empty"):
        engine.edit([Request("", templated=True)])


def test_a_temperature_samples_and_none_does_not(engine):
    cold = [engine.edit([Request(PROMPT, max_new_tokens=12)])[0].text for _ in range(3)]
    assert len(set(cold)) == 1
    torch.manual_seed(1)
    hot = {
        engine.edit([Request(PROMPT, max_new_tokens=12, temperature=5.0)])[0].text for _ in range(5)
    }
    assert len(hot) > 1


def test_a_row_with_temperature_leaves_its_neighbours_greedy(engine):
    (alone,) = engine.edit([Request(PROMPT, max_new_tokens=12)])
    edits = engine.edit(
        [Request(PROMPT, max_new_tokens=12, temperature=5.0), Request(PROMPT, max_new_tokens=12)]
    )
    assert edits[1] == alone


def test_a_stream_gives_the_edit_in_pieces_and_returns_it(engine):
    request = Request(PROMPT, max_new_tokens=24)
    pieces, edit = drain(engine.stream(request))
    assert edit == engine.edit([request])[0]
    assert "".join(pieces) == edit.text
    assert len(pieces) > 5
    assert all(pieces)


def test_a_stream_starts_before_its_edit_is_finished(engine, passes):
    stream = engine.stream(Request(PROMPT, max_new_tokens=24))
    assert passes.count == 0
    next(stream)
    assert 0 < passes.count < 24
    stream.close()


def test_a_stream_never_shows_a_part_of_its_stop_text(engine):
    (whole,) = engine.edit([Request(PROMPT, max_new_tokens=24)])
    for start in range(0, len(whole.text) - 4, 3):
        stop = whole.text[start : start + 4]
        request = Request(PROMPT, max_new_tokens=24, stop=(stop,))
        pieces, edit = drain(engine.stream(request))
        assert "".join(pieces) == edit.text == whole.text[: whole.text.index(stop)]
        assert edit.finish_reason == "stop"


def test_the_beginning_of_a_stop_text_that_does_not_come_is_given_out_at_the_end(engine):
    (whole,) = engine.edit([Request(PROMPT, max_new_tokens=24)])
    request = Request(PROMPT, max_new_tokens=24, stop=(whole.text[-3:] + "?!",))
    pieces, edit = drain(engine.stream(request))
    assert "".join(pieces) == edit.text == whole.text


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    words=st.text(min_size=0, max_size=30),
    stop=st.lists(st.text(min_size=1, max_size=2), max_size=2),
)
def test_pieces_join_to_the_text_whatever_the_prompt(chat_engine, words, stop):
    request = Request(words + "|", max_new_tokens=16, stop=tuple(stop))
    pieces, edit = drain(chat_engine.stream(request))
    assert "".join(pieces) == edit.text
    assert edit == chat_engine.edit([request])[0]
    assert not any(text in edit.text for text in stop)


def test_a_passed_deadline_makes_no_pass(engine, passes):
    with pytest.raises(EditTimeout):
        engine.edit([Request(PROMPT), Request(PROMPT, deadline=time.monotonic() - 1)])
    with pytest.raises(EditTimeout):
        next(engine.stream(Request(PROMPT, deadline=time.monotonic() - 1)))
    assert passes.count == 0


def test_a_deadline_stops_the_edit_within_one_pass(engine, passes, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(
        "langchain_metaaligner.engines.cancellation.time.monotonic", lambda: clock[0]
    )

    def tick(*_):
        clock[0] += 1

    hook = engine.model.register_forward_hook(tick)
    with pytest.raises(EditTimeout):
        engine.edit([Request(PROMPT, max_new_tokens=50, deadline=103.0)])
    assert passes.count == 3
    pieces = engine.stream(Request(PROMPT, max_new_tokens=50, deadline=106.0))
    with pytest.raises(EditTimeout):
        drain(pieces)
    assert passes.count == 6
    hook.remove()


def test_an_edit_that_is_done_when_its_time_is_up_is_kept(engine, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(
        "langchain_metaaligner.engines.cancellation.time.monotonic", lambda: clock[0]
    )

    def tick(*_):
        clock[0] += 1

    hook = engine.model.register_forward_hook(tick)
    (edit,) = engine.edit([Request(PROMPT, max_new_tokens=3, deadline=103.0)])
    assert edit.passes == 3
    hook.remove()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "max_new_tokens"),
        (MemoryError(), "max_new_tokens"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
            "max_new_tokens",
        ),
        (ZeroDivisionError("odd"), "ZeroDivisionError: odd"),
    ],
)
def test_whatever_the_model_raises_comes_out_as_an_engine_error(engine, error, said):
    def fail(*_):
        raise error

    hook = engine.model.register_forward_pre_hook(fail)
    with pytest.raises(EngineError, match=said) as raised:
        engine.edit([Request(PROMPT)])
    assert raised.value.__cause__ is error
    with pytest.raises(EngineError, match=said):
        next(engine.stream(Request(PROMPT)))
    hook.remove()
    assert engine.edit([Request(PROMPT, max_new_tokens=2)])[0].passes == 2


def test_an_edit_changes_nothing_of_model_and_tokenizer(engine):
    def state():
        tokenizer = engine.tokenizer
        return copy.deepcopy(
            (
                engine.model.config.to_dict(),
                engine.model.generation_config.to_dict(),
                tokenizer.backend_tokenizer.to_str(),
                tokenizer.padding_side,
                tokenizer.pad_token,
                tokenizer.split_special_tokens,
            )
        )

    before = state()
    engine.edit([Request(prompt, max_new_tokens=4) for prompt in PROMPTS])
    drain(engine.stream(Request(PROMPT, max_new_tokens=4)))
    assert state() == before


def test_the_logits_of_the_prompt_are_not_all_computed(engine):
    shapes = []
    hook = engine.model.lm_head.register_forward_hook(
        lambda module, inputs, output: shapes.append(tuple(output.shape))
    )
    engine.edit([Request(PROMPT, max_new_tokens=2)])
    hook.remove()
    # In float32 a few rows are added, so that the number of rows doesn't change the bits.
    assert len(shapes) == 2
    assert math.prod(shapes[0]) <= 4 * len(engine.tokenizer)
    assert engine.count_tokens(PROMPT) > 4


def test_a_model_that_is_no_llama_edits_too(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.unit_tests.tiny import byte_level_tokenizer, save

    tokenizer = byte_level_tokenizer()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    engine = load_engine(str(save(tmp_path, tokenizer=tokenizer, model=GPT2LMHeadModel(config))))
    assert engine.window == 64
    requests = [Request(prompt, max_new_tokens=6) for prompt in PROMPTS]
    assert engine.edit(requests) == [engine.edit([request])[0] for request in requests]
