"""An edit leaves its answer only where another token is likelier by a margin."""

from __future__ import annotations

import math
import random
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.caution import leaves, next_token
from langchain_metaaligner.engines.generation import edit_draft_decoding
from langchain_metaaligner.engines.local.decoder import Decoder
from langchain_metaaligner.engines.local.drafting import ACCELERATOR, CPU, Drafter
from langchain_metaaligner.engines.local.packed_forward import PackedForward
from langchain_metaaligner.engines.local.sequence import EditSequence
from langchain_metaaligner.engines.local.sequential_forward import SequentialForward
from langchain_metaaligner.engines.local.tokenizer import OutputText, PromptTokenizer
from langchain_metaaligner.engines.registry import load_engine
from tests.unit_tests.tiny import save, spm_tokenizer, tiny_config, tiny_llama

SIZE, LENGTH, ENDS = 60, 16, [2, 5]
MARGINS = [0.0, 0.5, 50.0]
PROMPT = "hello world | Edit: "
WORDS = "you should not do this but here are some safe ideas"


@pytest.fixture(scope="module")
def model():
    model = tiny_llama(tiny_config(SIZE, pad_token_id=0), seed=3, spread=0.2)
    model.generation_config = GenerationConfig(
        eos_token_id=ENDS, pad_token_id=0, max_new_tokens=LENGTH
    )
    return model


def prompt_of(seed: int) -> list[int]:
    rng = random.Random(seed)
    return [1, *(rng.randrange(6, SIZE) for _ in range(rng.randrange(3, 14)))]


@cache
def _scores(model, tokens: tuple[int, ...]) -> list[float]:
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0, -1].tolist()


def scores_after(model, tokens: list[int]) -> list[float]:
    return list(_scores(model, tuple(tokens)))


def near(model, prompt: list[int], seed: int) -> list[int]:
    """An answer of tokens that the model finds likely or nearly as likely as the likeliest."""
    rng, made = random.Random(seed), []
    for _ in range(rng.randrange(5, LENGTH - 2)):
        scores = scores_after(model, prompt + made)
        for end in ENDS:
            scores[end] = -math.inf
        best = sorted(range(SIZE), key=scores.__getitem__)
        made.append(best[-rng.choice([1, 1, 1, 2, 3] if len(made) > 3 else [1] * 9 + [2])])
    return made


def stepwise(model, prompt: list[int], answer: list[int], margin: float) -> list[int]:
    """The rule, token by token and without drafts; the end token is part of the output."""
    made: list[int] = []
    while len(made) < LENGTH and not (made and made[-1] in ENDS):
        scores = scores_after(model, prompt + made)
        token = max(range(SIZE), key=scores.__getitem__)
        if margin and answer and made == answer[: len(made)] and len(made) >= 3:
            own = answer[len(made) : len(made) + 1] or ENDS
            best = max(own, key=scores.__getitem__)
            if scores[token] - scores[best] < margin:
                token = best
        made.append(token)
    return made


def ended(output: list[int]) -> list[int]:
    """The output with the same end token, whichever one ended it."""
    return [*output[:-1], ENDS[0]] if output[-1] in ENDS else output


def cases(model, count: int) -> list[tuple[list[int], list[int]]]:
    prompts = [prompt_of(seed) for seed in range(count)]
    return [(one, near(model, one, seed)) for seed, one in enumerate(prompts)]


@pytest.mark.parametrize("margin", MARGINS[1:])
def test_an_edit_is_the_same_with_and_without_drafts_alone_and_among_others(model, margin):
    codec, rng = PromptTokenizer(spm_tokenizer(), "tiny"), random.Random(0)
    asked = cases(model, 6)
    wanted = [ended(stepwise(model, *one, margin)) for one in asked]

    def run(kind, group, *, drafts: bool) -> list[list[int]]:
        decoder = Decoder(model, kind(model))
        decoder.forward.drafts = drafts
        rows = [
            EditSequence(
                prompt,
                LENGTH,
                0.0,
                OutputText(codec, ()),
                Drafter(
                    [answer],
                    rng.choice([CPU, ACCELERATOR]),
                    40,
                    whole=rng.random() < 0.5,
                    context=prompt,
                ),
                frozenset(ENDS),
                caution=margin,
            )
            for prompt, answer in group
        ]
        while left := [row for row in rows if not row.ended]:
            decoder.step(left, budget=rng.choice([3, 1 << 20]))
        return [row.output.ids + [ENDS[0]] * (row.finish_reason == "stop") for row in rows]

    for kind in (PackedForward, SequentialForward):
        assert run(kind, asked, drafts=True) == run(kind, asked, drafts=False) == wanted
        assert [run(kind, [one], drafts=True)[0] for one in asked] == wanted


def test_the_cases_above_tell_margins_apart(model):
    asked = cases(model, 6)
    made = [[stepwise(model, *one, margin) for one in asked] for margin in MARGINS]
    assert len(set(map(str, made))) == len(MARGINS)


@pytest.mark.parametrize("margin", MARGINS)
def test_generate_leaves_a_draft_by_the_same_rule(model, margin):
    asked = cases(model, 6)
    width = max(len(prompt) for prompt, _ in asked)
    padded = [[0] * (width - len(prompt)) + prompt for prompt, _ in asked]
    made = model.generate(
        input_ids=torch.tensor(padded),
        attention_mask=torch.tensor([[int(token > 0) for token in row] for row in padded]),
        custom_generate=edit_draft_decoding,
        draft_ids=[answer for _, answer in asked],
        caution=margin,
        do_sample=False,
    )
    for row, one in zip(made[:, width:].tolist(), asked, strict=True):
        wanted = stepwise(model, *one, margin)
        assert row == wanted + [0] * (len(row) - len(wanted))


@pytest.mark.parametrize(
    ("caution", "sample"), [(-1.0, False), (math.nan, False), (math.inf, False), (1.0, True)]
)
def test_generate_refuses_a_margin_that_says_nothing(model, caution, sample):
    ids = torch.tensor([prompt_of(0)])
    with pytest.raises(ValueError, match="caution="):
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            custom_generate=edit_draft_decoding,
            caution=caution,
            do_sample=sample,
        )


# -- the rule -------------------------------------------------------------------------------


@given(st.integers(0, 9), st.floats(0, 20), st.floats(0, 20))
def test_the_first_three_tokens_may_be_left_freely_and_later_ones_by_the_margin(place, gap, margin):
    assert leaves(place, gap, margin) is (place < 3 or gap >= margin)


def test_the_end_is_the_answers_next_token_after_its_last_one():
    answer, scores = [7, 8, 9, 10], [0.0, 3.0, 2.0, 2.5, 0, 0, 0, 0, 0, 0, 0]

    def chosen(margin: float, ends: list[int]) -> int:
        return next_token(answer, 4, 1, scores, ends=ends, caution=margin)

    assert chosen(2.0, [2]) == 2
    assert chosen(1.0, [2]) == 1  # writes more than the answer
    assert chosen(0.6, [2, 3]) == 3  # the likeliest of the end tokens
    assert chosen(2.0, []) == 1
    assert chosen(2.0, [99]) == 1  # beyond the vocabulary


def test_an_early_end_is_a_departure_too():
    answer, scores = [7, 8, 9, 10], [0, 0, 3.0, 0, 0, 0, 0, 0, 0, 0, 2.0]
    assert next_token(answer, 3, 2, scores, ends=[2], caution=1.5) == 10
    assert next_token(answer, 3, 2, scores, ends=[2], caution=1.0) == 2
    assert next_token(answer[::-1], 2, 2, scores, ends=[2], caution=9.0) == 2


# -- the engine -----------------------------------------------------------------------------


def nearly(engine, output: list[int], answer: list[int], gaps: float | list[float]) -> None:
    """Make the model find each token of an output likelier than the answer's, by a gap.

    Behind the end of the shorter one stands the end token.
    """
    by = gaps if isinstance(gaps, list) else [gaps] * 99
    places = {}
    start = len(engine.prompt_tokenizer.encode(PROMPT)) - 1

    def note(module, args, kwargs):
        places["kept"] = kwargs["position_ids"][0].tolist(), kwargs["logits_to_keep"]

    def force(module, args, made):
        position, keep = places["kept"]
        kept = position[-keep:] if isinstance(keep, int) else [position[n] for n in keep.tolist()]
        for row, place in enumerate(kept):
            at = place - start
            if at >= 0:
                made[0, row, answer[at] if at < len(answer) else 2] = (
                    100.0 - by[min(at, len(by) - 1)]
                )
                made[0, row, output[at] if at < len(output) else 2] = 100.0
        return made

    engine.model.register_forward_pre_hook(note, with_kwargs=True)
    engine.model.lm_head.register_forward_hook(force)


def text_of(engine, **options) -> str:
    request = Request(PROMPT, draft=WORDS, max_new_tokens=40, **options)
    (edit,) = engine.edit([request])
    assert "".join(engine.stream(request)) == edit.text
    return edit.text


CHANGES = {
    "a word": "you should not do that but here are some safe ideas",
    "a word at the end": "you should not do this but here are some safe hello",
    "more": f"{WORDS} for you",
    "less": "you should not do this but",
    "the end": "you should not do",
}


@pytest.mark.parametrize("output", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("spelling", [0, 1])
def test_an_edit_that_is_little_likelier_is_not_made(tmp_path, output, spelling):
    with load_engine(str(save(tmp_path))) as engine:
        ids = engine.prompt_tokenizer.spellings
        nearly(engine, ids(output)[spelling], ids(WORDS)[spelling], 1.5)
        assert text_of(engine) == text_of(engine, caution=1.5) == output
        assert text_of(engine, caution=2.0) == WORDS


@pytest.mark.parametrize("changed", range(3))
def test_the_first_three_tokens_are_left_as_ever(tmp_path, changed):
    words = WORDS.split()
    words[changed] = "hello"
    with load_engine(str(save(tmp_path))) as engine:
        ids = engine.prompt_tokenizer.spellings
        nearly(engine, ids(" ".join(words))[0], ids(WORDS)[0], 0.1)
        assert text_of(engine, caution=50.0) == " ".join(words)


def test_after_the_first_departure_decoding_is_plain(tmp_path):
    output = "you hello not do this and here are some safe ideas"
    with load_engine(str(save(tmp_path))) as engine:
        ids = engine.prompt_tokenizer.spellings
        nearly(engine, ids(output)[0], ids(WORDS)[0], 0.1)
        assert text_of(engine, caution=50.0) == output


def test_a_kept_answer_takes_the_passes_of_an_unchanged_one(tmp_path):
    with load_engine(str(save(tmp_path))) as engine:
        ids = engine.prompt_tokenizer.spellings
        nearly(engine, ids(CHANGES["a word"])[0], ids(WORDS)[0], 1.5)
        made = engine.edit([Request(PROMPT, draft=WORDS, max_new_tokens=40, caution=2.0)])[0]
        assert (made.text, made.passes) == (WORDS, 2)


def test_a_sample_knows_no_margin(tmp_path):
    with load_engine(str(save(tmp_path))) as engine:
        made = []
        for caution in (0.0, 50.0):
            torch.manual_seed(0)
            request = Request(PROMPT, WORDS, max_new_tokens=9, temperature=1.0, caution=caution)
            made.append(engine.edit([request])[0].text)
        assert made[0] == made[1]


def test_without_an_answer_there_is_no_margin(engine):
    plain = engine.edit([Request(PROMPT, max_new_tokens=9)])
    assert engine.edit([Request(PROMPT, max_new_tokens=9, caution=50.0)]) == plain


def test_where_drafts_can_not_be_used_the_margin_holds_all_the_same(tmp_path):
    tokenizer = spm_tokenizer()
    model = tiny_llama(tiny_config(len(tokenizer)))
    with torch.no_grad():  # whatever was computed together with this token says nothing
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("▁ideas")] = math.nan
    with load_engine(str(save(tmp_path, tokenizer=tokenizer, model=model))) as engine:
        ids = engine.prompt_tokenizer.spellings
        output = ids(WORDS.replace("safe ideas", "hello please"))[0]
        nearly(engine, output, ids(WORDS)[0], [1.5] * 10 + [3.0])
        assert text_of(engine, caution=2.0) == WORDS.replace("ideas", "please")
