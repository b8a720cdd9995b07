"""Logits that are NaN or infinite: an error that says so, for the sequence that has them alone."""

from __future__ import annotations

import math

import pytest
import torch

from langchain_metaaligner import EngineError
from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.generation import edit_draft_decoding
from langchain_metaaligner.engines.registry import load_engine
from tests.unit_tests.tiny import save, spm_tokenizer, tiny_config, tiny_llama

PROMPT = "the answer is | Edit: "
DRAFT = "you should not do this but here are some safe ideas"
WAYS = {
    "plain": {},
    "drafted": {"draft": DRAFT},
    "kept above": {"draft": DRAFT, "keep_above": -50.0},
    "scored": {"draft": DRAFT, "token_agreement": True},
    "sampled": {"draft": DRAFT, "temperature": 0.7},
}


def poisoned(folder, token: str, number: float, dtype=None):
    """A checkpoint in which everything that sees a token becomes a number that is none."""
    tokenizer = spm_tokenizer()
    model = tiny_llama(tiny_config(len(tokenizer)))
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids(token)] = number
    save(folder, tokenizer=tokenizer, model=model)
    return load_engine(str(folder), dtype=dtype)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_nan_in_the_prompt_is_an_error_that_names_it_and_the_format(tmp_path, way, dtype) -> None:
    with (
        poisoned(tmp_path / "tiny", "▁answer", math.nan, dtype) as engine,
        pytest.raises(EngineError, match=rf"computed NaN .*logits in {dtype}"),
    ):
        engine.edit([Request(PROMPT, max_new_tokens=20, **WAYS[way])])


def test_weights_too_large_for_half_precision_are_an_error_that_names_it(tmp_path) -> None:
    model = tiny_llama(tiny_config(len(spm_tokenizer())))
    with torch.no_grad():
        model.lm_head.weight.mul_(1e6)
    folder = save(tmp_path / "tiny", model=model)
    with (
        load_engine(str(folder), dtype="float16") as engine,
        pytest.raises(EngineError, match=r"(inf|NaN) .*logits in float16.*dtype='bfloat16'"),
    ):
        engine.edit([Request("hello world", max_new_tokens=5)])


def test_neighbours_of_a_failed_sequence_get_their_edits(tmp_path) -> None:
    with poisoned(tmp_path / "tiny", "▁please", math.nan) as engine:
        fine = [Request(f"hello {word}", draft=DRAFT, max_new_tokens=9) for word in ("I", "you")]
        alone = [engine.edit([one])[0].text for one in fine]
        bad = Request("hello please", draft=DRAFT, max_new_tokens=9)
        made = engine.edit_each([fine[0], bad, fine[1]])
    assert [made[0].text, made[2].text] == alone
    assert isinstance(made[1], EngineError)
    assert "NaN" in str(made[1])


@pytest.mark.parametrize("way", ["drafted", "kept above", "scored", "sampled"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_bad_token_of_a_draft_that_is_not_accepted_does_no_harm(tmp_path, way, number) -> None:
    asked = WAYS[way] | {"draft": DRAFT.replace("but", "please")}
    if way == "sampled":
        asked["temperature"] = 1e-6
    with poisoned(tmp_path / "tiny", "▁please", number) as engine:
        plain = engine.edit([Request(PROMPT, max_new_tokens=20)])[0]
        made = engine.edit([Request(PROMPT, max_new_tokens=20, **asked)])[0]
    assert made.text == plain.text
    assert made.finish_reason == plain.finish_reason
    assert made.agreement is None
    assert made.token_agreement is None


def test_a_stream_ends_with_the_error(tmp_path) -> None:
    with (
        poisoned(tmp_path / "tiny", "▁answer", math.nan) as engine,
        pytest.raises(EngineError, match="NaN"),
    ):
        list(engine.stream(Request(PROMPT, draft=DRAFT)))


@pytest.mark.parametrize("sample", [False, True])
def test_generate_with_a_draft_raises_it_too(sample) -> None:
    model = tiny_llama(tiny_config(60))
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    with pytest.raises(EngineError, match=r"computed NaN .*float32"):
        model.generate(
            torch.tensor([[5, 6, 7]]),
            custom_generate=edit_draft_decoding,
            draft_ids=[8, 9],
            do_sample=sample,
            max_new_tokens=4,
        )
