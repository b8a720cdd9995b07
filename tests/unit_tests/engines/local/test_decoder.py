"""Edits with a draft are the edits without one, in fewer passes."""

from __future__ import annotations

import collections
import math
import random

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.local.decoder import Decoder, costs_for
from langchain_metaaligner.engines.local.drafting import (
    ACCELERATOR,
    CPU,
    Drafter,
)
from langchain_metaaligner.engines.local.packed_forward import PackedForward
from langchain_metaaligner.engines.local.scheduler import Limits
from langchain_metaaligner.engines.local.sequence import EditSequence
from langchain_metaaligner.engines.local.sequential_forward import SequentialForward
from langchain_metaaligner.engines.local.tokenizer import OutputText, PromptTokenizer
from langchain_metaaligner.engines.registry import load_engine
from tests.unit_tests.tiny import (
    WORDS,
    byte_level_tokenizer,
    save,
    spm_tokenizer,
    tiny_config,
    tiny_llama,
)

LENGTH = 40


@pytest.fixture(scope="module", params=[spm_tokenizer, byte_level_tokenizer])
def parts(request):
    tokenizer = request.param()
    return tiny_llama(tiny_config(len(tokenizer))), PromptTokenizer(tokenizer, "tiny")


def prompt_of(seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 12))) + " | Edit: "


def spoilt(text: str, seed: int) -> str:
    """A text that is the other's in places."""
    rng = random.Random(seed)
    words = text.split(" ")
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(words) + 1)
        words[at : at + rng.randrange(3)] = rng.choices(WORDS, k=rng.randrange(3))
    return " ".join(words)


def edit_of(engine, prompt: str, draft: str = "", **options):
    return engine.edit([Request(prompt, draft=draft, **{"max_new_tokens": LENGTH, **options})])[0]


def drain(stream):
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def same(one, other) -> bool:
    """Whether two edits are alike but for what they cost."""
    return (one.text, one.finish_reason, one.usage) == (
        other.text,
        other.finish_reason,
        other.usage,
    )


@pytest.mark.parametrize("seed", range(2))
def test_an_edit_does_not_depend_on_its_draft(engine, chat_engine, seed):
    for one in (engine, chat_engine):
        prompt = prompt_of(seed)
        plain = edit_of(one, prompt)
        drafts = [plain.text, *(spoilt(plain.text, seed * 10 + n) for n in range(2)), prompt, " "]
        for draft in drafts:
            assert same(edit_of(one, prompt, draft), plain)
            pieces, streamed = drain(
                one.stream(Request(prompt, draft=draft, max_new_tokens=LENGTH))
            )
            assert "".join(pieces) == plain.text
            assert same(streamed, plain)


@pytest.mark.parametrize("kind", [PackedForward, SequentialForward])
@pytest.mark.parametrize("seed", range(2))
def test_rows_do_not_depend_on_their_neighbours_nor_on_how_they_are_run(parts, kind, seed):
    model, codec = parts
    rng = random.Random(seed)

    def row(prompt: str, draft: list[int]) -> EditSequence:
        return EditSequence(
            codec.encode(prompt) or [5],
            LENGTH,
            0.0,
            OutputText(codec, ()),
            Drafter([draft], rng.choice([CPU, ACCELERATOR]), 400, context=codec.encode(prompt)),
            frozenset({2}),
        )

    def run(rows: list[EditSequence]) -> list[list[int]]:
        decoder = Decoder(model, kind(model))
        while left := [one for one in rows if not one.ended]:
            decoder.step(left, budget=rng.choice([3, 1 << 20]))
        return [one.output.ids for one in rows]

    prompts = [prompt_of(seed * 10 + n) for n in range(5)]
    alone = [run([row(prompt, [])])[0] for prompt in prompts]
    drafts = [ids[: rng.randrange(30)] + ids[rng.randrange(35) :] for ids in alone]
    assert run([row(p, d) for p, d in zip(prompts, drafts, strict=True)]) == alone


ANSWER = "the answer is that you should not do this but here are some safe ideas for you"


def forced(engine, answer: str) -> list[int]:
    """Make the engine write an answer behind `hello world | Edit: `; gives its tokens."""
    ids = engine.prompt_tokenizer.spellings(answer)[0]
    _force(engine.model, engine.prompt_tokenizer.encode("hello world | Edit: "), [*ids, 2])
    return ids


@pytest.mark.parametrize("answer", [ANSWER, "no", " ".join([ANSWER] * 4)])
def test_an_unchanged_answer_takes_two_passes(engine, passes, answer):
    made = len(forced(engine, answer))
    edit = edit_of(engine, "hello world | Edit: ", answer, max_new_tokens=200)
    assert edit.text == answer
    assert edit.finish_reason == "stop"
    assert passes.count == edit.passes <= 2
    assert edit.usage["output_tokens"] == made


def test_an_end_token_in_an_accepted_draft_ends_the_edit_there(engine, monkeypatch):
    ids = forced(engine, ANSWER)
    for end in dict.fromkeys(ids[2::4]):
        monkeypatch.setattr(engine.config, "eos_token_id", end)
        stepwise = edit_of(engine, "hello world | Edit: ")
        drafted = edit_of(engine, "hello world | Edit: ", ANSWER)
        assert same(drafted, stepwise)
        assert drafted.usage["output_tokens"] == ids.index(end)
        # Eight tokens of the answer are tried with a prompt as short as this.
        assert drafted.passes == (1 if ids.index(end) < 8 else 2)
        request = Request("hello world | Edit: ", draft=ANSWER, max_new_tokens=LENGTH)
        pieces, streamed = drain(engine.stream(request))
        assert "".join(pieces) == stepwise.text
        assert same(streamed, stepwise)


def test_a_stop_text_in_an_accepted_draft_ends_the_edit_there(engine):
    forced(engine, ANSWER)
    for at in range(0, len(ANSWER) - 3, 5):
        stop = (ANSWER[at : at + 3],)
        stepwise = edit_of(engine, "hello world | Edit: ", stop=stop)
        request = Request("hello world | Edit: ", draft=ANSWER, max_new_tokens=LENGTH, stop=stop)
        pieces, streamed = drain(engine.stream(request))
        drafted = engine.edit([request])[0]
        assert same(drafted, stepwise)
        assert same(streamed, stepwise)
        assert drafted.passes == (1 if drafted.usage["output_tokens"] <= 8 else 2)
        assert "".join(pieces) == stepwise.text == ANSWER[: ANSWER.index(stop[0])]


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_a_draft_does_not_lead_past_the_most_tokens(engine, limit):
    forced(engine, ANSWER)
    stepwise = edit_of(engine, "hello world | Edit: ", max_new_tokens=limit)
    drafted = edit_of(engine, "hello world | Edit: ", ANSWER, max_new_tokens=limit)
    assert same(drafted, stepwise)
    assert drafted.passes == 1
    assert drafted.finish_reason == "length"
    assert drafted.usage["output_tokens"] == limit


def test_an_edit_of_the_answers_tokens_has_the_answers_bytes_even_where_the_tokenizer_loses_some(
    tmp_path,
):
    from tokenizers import normalizers

    tokenizer = byte_level_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    engine = load_engine(str(save(tmp_path, tokenizer=tokenizer)))
    answer = "the answer cafe\u0301 is that"  # comes back composed: é
    spelt = engine.prompt_tokenizer.spellings(answer)[0]
    _force(engine.model, engine.prompt_tokenizer.encode("hello | Edit: "), [*spelt, 2])
    request = Request("hello | Edit: ", draft=answer)
    pieces, streamed = drain(engine.stream(request))
    assert engine.edit([request])[0].text == streamed.text == "".join(pieces) == answer
    other = "the answer cafe\u0301 is not"
    (edit,) = engine.edit([Request("hello | Edit: ", draft=other)])
    assert edit.text == engine.prompt_tokenizer.decode(spelt) != answer
    engine.close()


def _force(model, prompt: list[int], output: list[int]) -> None:
    """Make the model write an output behind a prompt, whatever passes it is run in."""
    places = {}

    def note(module, args, kwargs):
        places["kept"] = kwargs["position_ids"][0].tolist(), kwargs["logits_to_keep"]

    def force(module, args, made):
        position, keep = places["kept"]
        kept = position[-keep:] if isinstance(keep, int) else [position[n] for n in keep.tolist()]
        for row, place in enumerate(kept):
            at = place - len(prompt) + 1
            if 0 <= at < len(output):
                made[0, row, output[at]] = 1e4
        return made

    model.register_forward_pre_hook(note, with_kwargs=True)
    model.lm_head.register_forward_hook(force)


def test_both_spellings_of_an_answers_beginning_are_drafted(tmp_path):
    codec = PromptTokenizer(spm_tokenizer(), "tiny")
    spellings = codec.spellings("the answer is that")
    assert len(spellings) == 2
    assert {codec.decode(ids) for ids in spellings} == {"the answer is that"}
    assert len({ids[0] for ids in spellings}) == 2
    for number, spelt in enumerate(spellings):
        engine = load_engine(str(save(tmp_path / str(number))))
        _force(engine.model, engine.prompt_tokenizer.encode("hello | Edit: "), [*spelt, 2])
        (edit,) = engine.edit([Request("hello | Edit: ", draft="the answer is that")])
        assert edit.text == "the answer is that"
        assert edit.passes <= 2
        assert edit.agreement == pytest.approx(0.0, abs=1e-3)
        engine.close()


def test_a_byte_level_answer_has_one_spelling():
    codec = PromptTokenizer(byte_level_tokenizer(), "tiny")
    assert codec.spellings("the answer is") == [codec.encode("the answer is")]


# -- sampling -------------------------------------------------------------------------------


def test_with_a_temperature_a_draft_changes_no_sample(engine):
    for seed in range(3):
        texts = set()
        for draft in ("", edit_of(engine, "hello | Edit: ").text, "the answer is"):
            torch.manual_seed(seed)
            texts.add(edit_of(engine, "hello | Edit: ", draft, temperature=1.0).text)
        assert len(texts) == 1


def test_drafted_samples_are_distributed_as_the_model_says():
    model = tiny_llama(tiny_config(9), spread=0.4, seed=4)
    codec = PromptTokenizer(spm_tokenizer(), "tiny")
    count, seen = 1500, collections.Counter()
    decoder = Decoder(model, PackedForward(model))
    torch.manual_seed(0)
    for _ in range(count // 100):
        rows = [
            EditSequence([3, 4], 2, 1.5, OutputText(codec, ()), Drafter([[5, 6]], CPU, 9))
            for _ in range(100)
        ]
        while left := [row for row in rows if not row.ended]:
            decoder.step(left)
        seen.update(tuple(row.output.ids) for row in rows)
    with torch.no_grad():
        first = torch.softmax(model(torch.tensor([[3, 4]])).logits[0, -1] / 1.5, -1)
        then = torch.stack(
            [
                torch.softmax(model(torch.tensor([[3, 4, n]])).logits[0, -1] / 1.5, -1)
                for n in range(9)
            ]
        )
    wanted = first[:, None] * then
    for one in range(9):
        for other in range(9):
            share = float(wanted[one, other])
            slack = 5 * math.sqrt(share * (1 - share) / count) + 1e-3
            assert abs(seen[one, other] / count - share) < slack


# -- agreement ------------------------------------------------------------------------------


def log_probabilities(engine, prompt: str, answer: str, spelling: int = 0) -> list[float]:
    """Of each of the answer's tokens, computed in one plain pass."""
    start = engine.prompt_tokenizer.encode(prompt)
    ids = engine.prompt_tokenizer.spellings(answer)[spelling]
    with torch.no_grad():
        logits = engine.model(
            torch.tensor([[*start, *ids]]),
            position_ids=torch.arange(len(start) + len(ids))[None],
            use_cache=False,
            logits_to_keep=0,
        ).logits[0]
    odds = torch.log_softmax(logits[len(start) - 1 : -1], dim=-1)
    return odds[range(len(ids)), ids].tolist()


def odds_of(edit) -> list[float]:
    return [token.log_probability for token in edit.token_agreement]


def log_probability(engine, prompt: str, answer: str) -> float:
    """Their mean."""
    odds = log_probabilities(engine, prompt, answer)
    return sum(odds) / len(odds)


def test_agreement_is_the_mean_log_probability_of_the_answer(engine):
    prompt = "hello world | Edit: "
    for answer in ("the answer is that you should not", "no"):
        edit = edit_of(engine, prompt, answer)
        assert edit.agreement == pytest.approx(log_probability(engine, prompt, answer), abs=1e-4)


def test_without_an_answer_or_with_passes_that_leave_some_of_it_out_there_is_no_agreement(engine):
    prompt = "hello world | Edit: "
    assert edit_of(engine, prompt).agreement is None
    long = "the answer is that you should not do this but here are some safe ideas " * 4
    assert edit_of(engine, prompt, long).agreement is None


def test_a_token_without_any_probability_leaves_no_agreement():
    codec = PromptTokenizer(spm_tokenizer(), "tiny")
    sequence = EditSequence([3, 4], 2, 0.0, OutputText(codec, ()), Drafter([[5, 6]], CPU, 9))
    logits = torch.zeros(3, 9)
    logits[1, 6] = -math.inf
    sequence.score(logits)
    assert (sequence.agreement, sequence.edit().agreement) == (None, None)


def test_an_unchanged_answer_has_agreement_from_the_passes_made_anyway(engine, passes):
    answer = " ".join([ANSWER] * 3)
    forced(engine, answer)
    edit = edit_of(engine, "hello world | Edit: ", answer, max_new_tokens=200)
    assert edit.agreement == pytest.approx(0.0, abs=1e-3)
    assert passes.count == 2


LONG = "the answer is that you should not do this but here are some safe ideas " * 3


@pytest.mark.parametrize("seed", range(2))
def test_each_tokens_agreement_is_what_a_plain_pass_tells_in_no_more_passes(
    engine, chat_engine, seed
):
    for one in (engine, chat_engine):
        prompt = prompt_of(seed)
        for answer in ("no", spoilt(LONG, seed), edit_of(one, prompt).text + "!"):
            plain = edit_of(one, prompt, answer)
            edit = edit_of(one, prompt, answer, token_agreement=True)
            assert same(edit, plain)
            assert edit.passes <= plain.passes
            # An edit begins in either spelling of the answer; they are not of one length.
            lengths = [len(ids) for ids in one.prompt_tokenizer.spellings(answer)]
            odds = log_probabilities(one, prompt, answer, lengths.index(len(odds_of(edit))))
            assert odds_of(edit) == pytest.approx(odds, abs=1e-3)
            assert edit.agreement == pytest.approx(sum(odds) / len(odds), abs=1e-4)
            places = dict.fromkeys((token.start, token.end) for token in edit.token_agreement)
            assert "".join(answer[start:end] for start, end in places) == answer
            _, streamed = drain(
                one.stream(Request(prompt, answer, max_new_tokens=9, token_agreement=True))
            )
            assert odds_of(streamed) == pytest.approx(odds, abs=1e-3)
            assert plain.token_agreement is None


def test_an_edit_that_begins_in_the_answers_other_spelling_tells_of_its_tokens_too(engine):
    answer, prompt = LONG.strip(), "hello world | Edit: "
    other = engine.prompt_tokenizer.spellings(answer)[1]
    _force(engine.model, engine.prompt_tokenizer.encode(prompt), other[:1])
    edit = edit_of(engine, prompt, answer, token_agreement=True)
    assert len(edit.token_agreement) == len(other)
    assert odds_of(edit) == pytest.approx(
        log_probabilities(engine, prompt, answer, spelling=1), abs=1e-3
    )
    asked = Request(prompt, answer, max_new_tokens=9, token_agreement=True)
    among, _ = engine.edit([asked, Request("a " + prompt, answer, max_new_tokens=9)])
    assert odds_of(among) == pytest.approx(odds_of(edit), abs=1e-3)


def test_a_prompt_and_an_answer_that_are_more_than_a_pass_holds_take_one_more(engine):
    prompt = "hello world " * 8 + "| Edit: "
    limits = Limits(chunk=len(engine.prompt_tokenizer.encode(prompt)) + 5)
    plain = edit_of(engine, prompt, LONG, token_agreement=True)
    with load_engine(engine.name, limits=limits) as small:
        edit = edit_of(small, prompt, LONG, token_agreement=True)
    assert plain.passes < edit.passes <= plain.passes + 1
    assert edit.token_agreement is not None
    assert len(edit.token_agreement) == len(plain.token_agreement)


@pytest.fixture(scope="module")
def sliding(tmp_path_factory):
    """A model that can't take tokens back, so that it never drafts."""
    tokenizer = spm_tokenizer()
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=16,
    )
    folder = tmp_path_factory.mktemp("checkpoints") / "sliding"
    torch.manual_seed(0)
    model = MistralForCausalLM(config)
    return load_engine(str(save(folder, tokenizer=tokenizer, model=model)))


@pytest.mark.parametrize("draft", [LONG, "hello world"])
def test_a_model_that_cannot_take_tokens_back_tells_nothing_where_the_edit_is_another(
    sliding, draft
):
    edit = edit_of(sliding, "hello | Edit: ", draft, token_agreement=True)
    assert edit.text != draft
    assert (edit.agreement, edit.token_agreement) == (None, None)


@pytest.mark.parametrize("options", [{}, {"keep_above": -1.0}, {"token_agreement": True}])
def test_a_model_that_never_drafts_edits_without_an_answer_too(sliding, options):
    prompt = "the answer is that you should not do this | Edit: "
    edit = edit_of(sliding, prompt, **options)
    pieces, _ = drain(sliding.stream(Request(prompt, max_new_tokens=LENGTH, **options)))
    assert "".join(pieces) == edit.text == edit_of(sliding, prompt, "hello").text
    assert edit.agreement is None


# -- leaving the answer as it is ------------------------------------------------------------


def test_an_answer_that_the_model_agrees_with_stays_after_one_pass(engine, passes):
    answer = " ".join([ANSWER] * 3)
    prompt = "hello world | Edit: "
    bar = log_probability(engine, prompt, answer)
    passes.count = 0
    kept = edit_of(engine, prompt, answer, max_new_tokens=99, keep_above=bar - 0.01)
    assert passes.count == kept.passes == 1
    assert (kept.text, kept.finish_reason) == (answer, "stop")
    assert kept.usage["output_tokens"] == 0
    assert kept.agreement == pytest.approx(bar, abs=1e-4)
    pieces, streamed = drain(
        engine.stream(Request(prompt, draft=answer, max_new_tokens=99, keep_above=bar - 0.01))
    )
    assert "".join(pieces) == streamed.text == answer


def test_full_agreement_is_enough_for_any_bar(engine, passes):
    forced(engine, ANSWER)
    edit = edit_of(engine, "hello world | Edit: ", ANSWER, keep_above=0.0)
    assert edit.agreement == 0.0
    assert passes.count == 1
    assert edit.text == ANSWER


def test_an_answer_below_the_bar_is_edited_as_ever(engine):
    answer = " ".join([ANSWER] * 3)
    prompt = "hello world | Edit: "
    bar = log_probability(engine, prompt, answer)
    plain = edit_of(engine, prompt)
    edit = edit_of(engine, prompt, answer, keep_above=bar + 0.01)
    assert same(edit, plain)
    assert edit.agreement == pytest.approx(bar, abs=1e-4)


def test_without_an_answer_nothing_is_kept(engine):
    prompt = "hello world | Edit: "
    assert same(edit_of(engine, prompt, keep_above=-1e9), edit_of(engine, prompt))


def test_an_answer_that_no_edit_could_be_as_long_as_is_kept_too(engine):
    edit = edit_of(engine, "hello world | Edit: ", ANSWER, max_new_tokens=5, keep_above=-1e9)
    assert edit.text == ANSWER


def test_what_passes_cost_is_a_table_by_device_and_format():
    model = tiny_llama(tiny_config(9))
    assert costs_for(model) is CPU
