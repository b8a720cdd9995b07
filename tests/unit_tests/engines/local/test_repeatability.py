"""The same bits for a token in whatever pass: with any neighbours, kept prefixes and drafts."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.local import repeatability
from langchain_metaaligner.engines.local.attention import attend_at_once
from langchain_metaaligner.engines.local.cpu_kernels import prepack
from langchain_metaaligner.engines.local.forward import ForwardInput
from langchain_metaaligner.engines.local.packed_forward import PackedForward
from langchain_metaaligner.engines.local.repeatability import make_repeatable
from langchain_metaaligner.engines.local.sequential_forward import SequentialForward
from langchain_metaaligner.engines.registry import load_engine
from tests.unit_tests.tiny import save, tiny_config, tiny_llama

TOKENS = [number * 31 % 97 for number in range(150)]
# Sizes as in real models, without groups of heads, and none of which is a multiple of a vector.
SHAPES = {
    "groups": {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4},
    "no groups": {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2},
    "odd": {
        "hidden_size": 48,
        "intermediate_size": 100,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
    },
    # With heads of 64 numbers, this package's kernels run the layers where they can be had.
    "real heads": {
        "hidden_size": 96,
        "intermediate_size": 176,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 64,
    },
}


@cache
def forward_of(shape: str, dtype: torch.dtype, packed: bool) -> PackedForward:
    model = tiny_llama(tiny_config(100, **SHAPES[shape]), spread=0.1).to(dtype)
    if packed:
        prepack(model)
    forward = PackedForward(model)
    if not make_repeatable("tiny", forward):
        pytest.skip("the kernels of this machine round differently in each pass")
    return forward


@cache
def in_one_pass(forward: PackedForward) -> torch.Tensor:
    return forward.run([ForwardInput(forward.new_cache(0), TOKENS, len(TOKENS))])


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([*SHAPES]),
    st.sampled_from([torch.bfloat16, torch.float32]),
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from([1, 1, 2, 3, 5, 17, 64]),
            st.sampled_from([0, 1, 2, 30]),
            st.sampled_from([0, 0, 1, 4]),
        ),
        min_size=1,
        max_size=12,
    ),
)
def test_any_cuts_neighbours_and_drafts_give_the_same_bits(shape, dtype, packed, passes) -> None:
    forward = forward_of(shape, dtype, packed)
    whole = in_one_pass(forward)
    sequence, seen = forward.new_cache(0), 0
    for new, beside, wrong in passes:
        tokens = TOKENS[seen : seen + new]
        parts = [ForwardInput(sequence, tokens + [7] * wrong, len(tokens) + wrong)]
        if beside:
            parts.insert(0, ForwardInput(forward.new_cache(0), TOKENS[:beside], 1))
        made = forward.run(parts)[bool(beside) :]
        sequence.length -= wrong
        assert torch.equal(made[: len(tokens)], whole[seen : seen + len(tokens)])
        seen += len(tokens)
        if seen == len(TOKENS):
            break


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_edit_is_the_same_cold_kept_prefilled_batched_and_without_a_draft(
    tmp_path, dtype
) -> None:
    folder = save(tmp_path / "tiny", config=SHAPES["groups"])
    answers = ["you should not do this", "hello world", "here are some safe ideas for you please"]
    requests = [
        Request(f"the question is {one} | Edit: ", draft=one, max_new_tokens=40) for one in answers
    ]
    with load_engine(str(folder), dtype=dtype) as engine:
        if not engine.repeatable:
            pytest.skip("the kernels of this machine round differently in each pass")
        prefixes = engine.scheduler.prefixes
        cold = []
        for request in requests:
            prefixes.clear()
            cold += engine.edit([request])
        texts = [edit.text for edit in cold]
        assert [engine.edit([request])[0].text for request in requests] == texts
        prefixes.clear()
        assert [edit.text for edit in engine.edit(requests * 5)] == texts * 5
        for request, text in zip(requests, texts, strict=True):
            prefixes.clear()
            engine.warm(request.prompt[:25])
            engine.warm(request.prompt)
            plain = Request(request.prompt, max_new_tokens=40)
            scored = Request(
                request.prompt, draft=request.draft, max_new_tokens=40, token_agreement=True
            )
            assert [engine.edit([one])[0].text for one in (request, plain, scored)] == [text] * 3


def test_where_kernels_do_not_allow_it_the_log_says_so(monkeypatch, tmp_path, caplog) -> None:
    monkeypatch.setattr(repeatability, "_known", {})
    monkeypatch.setattr(
        "langchain_metaaligner.engines.local.packed_forward.attend",
        lambda *given: given[5].copy_(attend_at_once(*given[:5]) * (1 + given[3].new / 1000)),
    )
    folder = str(save(tmp_path / "tiny"))
    with caplog.at_level("WARNING", "langchain_metaaligner"), load_engine(folder) as engine:
        assert not engine.repeatable
    assert f"{folder} may edit the same reply in slightly different ways" in caplog.text


def test_what_was_found_out_is_remembered_for_models_of_the_same_shape(monkeypatch) -> None:
    monkeypatch.setattr(repeatability, "_known", {})
    passes = []
    run = PackedForward.run
    monkeypatch.setattr(PackedForward, "run", lambda *given: passes.append(1) or run(*given))
    rows = []
    for _ in range(2):
        forward = PackedForward(tiny_llama(tiny_config(100, **SHAPES["odd"])))
        before = forward.model.config.num_hidden_layers
        make_repeatable("tiny", forward)
        assert forward.model.config.num_hidden_layers == before
        rows.append((forward.rows, len(passes)))
    assert rows[0] == rows[1]


def test_a_model_that_is_run_one_sequence_at_a_time_needs_no_test() -> None:
    assert make_repeatable("tiny", SequentialForward(tiny_llama(tiny_config(100))))
