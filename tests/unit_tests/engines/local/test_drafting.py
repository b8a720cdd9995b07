"""What is drafted, on made-up tokens and with no model."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_metaaligner.engines.local.drafting import (
    ACCELERATOR,
    CPU,
    Costs,
    Drafter,
)

END = 0


def decode(drafter: Drafter, output: list[int], *, limit: int = 1 << 30, shared: bool = False):
    """Play a model that will write `output`: the draft's length and hits of each pass."""
    written: list[int] = []
    passes = []
    while True:
        draft = drafter.propose(written, limit, shared=shared)
        hits = 0
        while hits < len(draft) and draft[hits] == output[len(written) + hits] != END:
            hits += 1
        drafter.learn(hits)
        passes.append((len(draft), hits))
        written = output[: len(written) + hits + 1]
        if written == output:
            return passes


def steps(passes, costs: Costs, prompt: int) -> float:
    """What the passes cost together, the prompt's included."""
    first, *rest = passes
    return costs.prefill(prompt + first[0]) + sum(1 + costs.draft(draft) for draft, _ in rest)


def answer(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).sample(range(1, 50_000), length)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 34, 35, 100, 250])
def test_an_unchanged_answer_takes_two_passes_at_most(length):
    text = answer(length)
    passes = decode(Drafter([text], CPU, 500), [*text, END])
    assert len(passes) <= 2
    assert sum(hits for _, hits in passes) >= length - 1


def test_on_an_accelerator_the_whole_answer_goes_with_the_prompt():
    text = answer(250)
    assert decode(Drafter([text], ACCELERATOR, 500), [*text, END]) == [(250, 250)]


def test_an_answer_cut_short_takes_three_passes_at_most():
    text = answer(200)
    assert len(decode(Drafter([text], CPU, 500), [*text[:100], END])) <= 3


def test_after_one_other_word_the_answer_goes_on_in_the_next_pass():
    text = answer(120)
    edit = [*text[:60], 60_000, *text[61:], END]
    passes = decode(Drafter([text], CPU, 500), edit)
    assert len(passes) <= 5


@pytest.mark.parametrize(
    ("cut", "put"), [(20, 0), (0, 20), (20, 20), (20, 35)], ids=["less", "more", "other", "longer"]
)
def test_after_another_sentence_edit_and_answer_come_together_again(cut, put):
    text = answer(160)
    edit = [*text[:60], *range(60_000, 60_000 + put), *text[60 + cut :], END]
    passes = decode(Drafter([text], CPU, 500), edit)
    assert len(passes) <= put + 12


def test_light_edits_take_seven_tokens_a_pass():
    text = answer(200)
    edit = [60_000 + n if n % 15 == 7 else token for n, token in enumerate(text)]
    passes = decode(Drafter([text], CPU, 500), [*edit, END])
    assert len(edit) / len(passes) >= 7


@pytest.mark.parametrize("seed", range(20))
def test_a_rewrite_pays_for_no_more_than_a_fiftieth_of_useless_drafts(seed):
    rng = random.Random(seed)
    # A vocabulary so small that words of the answer come again by chance all the time.
    text = [rng.randrange(1, 40) for _ in range(150)]
    edit = [rng.randrange(1, 40) for _ in range(rng.randrange(60, 250))]
    passes = decode(Drafter([text], CPU, 400), [*edit, END])
    plain = CPU.prefill(400) + len(edit)
    assert plain / steps(passes, CPU, 400) >= 0.98


@pytest.mark.parametrize("prompt", [200, 300, 500, 700])
@pytest.mark.parametrize("seed", range(5))
def test_a_short_refusal_pays_no_more_than_a_fiftieth_either(prompt, seed):
    rng = random.Random(seed)
    text = [rng.randrange(1, 40) for _ in range(150)]
    edit = [rng.randrange(1, 40) for _ in range(40)]
    passes = decode(Drafter([text], CPU, prompt), [*edit, END])
    plain = CPU.prefill(prompt) + len(edit)
    assert plain / steps(passes, CPU, prompt) >= 0.98


@pytest.mark.parametrize("words", [2000, 200, 40])
@pytest.mark.parametrize("seed", range(8))
def test_phrases_that_lead_nowhere_cost_next_to_nothing(words, seed):
    rng = random.Random(seed)
    prompt = [rng.randrange(1, words) for _ in range(400)]
    edit = [rng.randrange(1, words) for _ in range(rng.randrange(40, 300))]
    passes = decode(Drafter([prompt[200:]], CPU, 400, context=prompt), [*edit, END])
    plain = CPU.prefill(400) + len(edit)
    assert plain / steps(passes, CPU, 400) >= 0.98
    assert CPU.draft(CPU.guess) <= 0.05


def test_what_the_context_says_is_drafted_where_the_edit_leaves_the_answer():
    context, text = answer(300), answer(100, seed=1)
    edit = [60_000, *context[40:100], 60_001, *context[150:190], END]
    without = decode(Drafter([text], CPU, 400), edit)
    passes = decode(Drafter([text], CPU, 400, context=[*context, *text]), edit)
    assert len(without) == len(edit)
    assert len(passes) <= len(edit) / 3.5
    assert max(length for length, _ in passes[1:]) == CPU.guess


def test_what_the_edit_said_before_is_drafted_again():
    said = answer(20)
    edit = [*said, *said, *said, END]
    passes = decode(Drafter([[60_000]], CPU, 50, context=answer(50, seed=2)), edit)
    assert len(passes) <= 20 + 12


def test_with_an_answer_that_comes_back_the_answer_is_drafted_not_a_phrase():
    text = answer(120)
    edit = [*text[:60], *range(60_000, 60_012), *text[60:], END]
    passes = decode(Drafter([text], CPU, 500, context=[*answer(300, seed=3), *text]), edit)
    assert len(passes) <= 12 + 12


def test_phrases_leave_the_passes_of_an_unchanged_answer_alone():
    text = answer(200)
    prompt = [*answer(300, seed=4), *text]
    edit = [*text, END]
    assert decode(Drafter([text], CPU, 500, context=prompt), edit) == decode(
        Drafter([text], CPU, 500), edit
    )


def test_in_a_shared_pass_only_long_phrases_are_drafted():
    context = answer(300)
    one = [token for place in range(0, 100, 2) for token in (context[place], 60_000 + place)]
    passes = decode(Drafter([[60_000]], CPU, 400, context=context), [*one, END], shared=True)
    assert {length for length, _ in passes[1:]} == {0}
    edit = [60_000, *context[40:100], END]
    passes = decode(Drafter([[60_000]], CPU, 400, context=context), edit, shared=True)
    assert len(passes) <= len(edit) / 2


@pytest.mark.parametrize("costs", [CPU, ACCELERATOR])
@pytest.mark.parametrize("prompt", [150, 300, 500])
@pytest.mark.parametrize("put", [0, 1, 3])
def test_an_edit_that_begins_otherwise_than_its_answer_still_finds_it(costs, prompt, put):
    text = answer(120)
    edit = [*range(60_000, 60_000 + put), *text[3:], END]
    passes = decode(Drafter([text], costs, prompt), edit)
    assert len(passes) <= put + 8


@pytest.mark.parametrize("prompt", [30, 150, 300, 700])
def test_a_draft_with_the_prompt_costs_no_more_than_may_be_lost_or_is_a_phrase(prompt):
    draft = Drafter([answer(250)], CPU, prompt).propose([], 1 << 30)
    assert CPU.token * len(draft) <= 0.025 * CPU.prefill(prompt) or len(draft) == 8


@pytest.mark.parametrize("seed", range(10))
def test_useless_drafts_cost_no_more_than_the_first_and_half_of_the_others_saved(seed):
    rng = random.Random(seed)
    same = answer(40)
    text = [*same, *(rng.randrange(1, 12) for _ in range(400))]
    edit = [*same, *(rng.randrange(1, 12) for _ in range(1200))]
    first, *rest = decode(Drafter([text], CPU, 400), [*edit, END])
    assert first[0] == first[1]
    gains = [hits - CPU.draft(draft) for draft, hits in rest if draft]
    saved = first[1] - CPU.token * first[0] + 0.5 * sum(gain for gain in gains if gain > 0)
    lost = -sum(gain for gain in gains if gain < 0)
    assert lost <= saved + 0.025 * CPU.prefill(400) + 0.01 * len(rest) + 0.1


def test_a_place_that_came_to_nothing_is_forgotten():
    text = answer(100)
    # Three tokens of the answer's end in the inserted part look like the way back, and are not.
    inserted = [70_000, *text[80:83], 70_001, 70_002, 70_003]
    passes = decode(Drafter([text], CPU, 500), [*text[:40], *inserted, *text[40:], END])
    assert len(passes) <= len(inserted) + 10


def test_an_edit_may_begin_with_either_spelling():
    one, other = [5, 7, 8, 9, 10, 11, 12], [6, 7, 8, 9, 10, 11, 12]
    for edit in (one, other):
        drafter = Drafter([one, other], CPU, 100)
        passes = decode(drafter, [*edit, END])
        assert len(passes) <= 2
        assert drafter.draft == edit
        assert drafter.together


def test_without_an_answer_nothing_is_drafted():
    for spellings in ([], [[]]):
        drafter = Drafter(spellings, CPU, 100, context=[1, 2, 3])
        assert decode(drafter, [1, 2, END]) == [(0, 0)] * 3


def test_it_tells_whether_edit_and_answer_ever_parted():
    text = answer(50)
    same, other = Drafter([text], CPU, 100), Drafter([text], CPU, 100)
    decode(same, [*text, END])
    decode(other, [*text[:5], 60_000, *text[6:], END])
    same.propose(text, 9)
    assert same.together
    assert not other.together


def test_the_same_request_takes_the_same_passes_every_time():
    text, edit = answer(80), [*answer(80)[:30], 1, 2, *answer(80)[33:], END]
    runs = [decode(Drafter([text], CPU, 300), edit) for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]


@given(
    text=st.lists(st.integers(1, 6), max_size=60),
    edit=st.lists(st.integers(1, 6), max_size=60),
    costs=st.sampled_from([CPU, ACCELERATOR]),
    limit=st.integers(0, 30),
)
def test_a_draft_is_a_stretch_of_the_answer_and_never_too_long(text, edit, costs, limit):
    drafter = Drafter([text], costs, 200)
    written: list[int] = []
    for token in [*edit, END]:
        draft = drafter.propose(written, limit)
        assert len(draft) <= limit
        joined = ",".join(map(str, text))
        assert ",".join(map(str, draft)) in joined
        hits = 0
        drafter.learn(hits)
        written.append(token)


def test_in_a_shared_pass_drafts_grow_step_by_step() -> None:
    text = answer(300)
    first, *later = decode(Drafter([text], CPU, 500), [*text, END], shared=True)
    alone = decode(Drafter([text], CPU, 500), [*text, END])
    assert first == alone[0]
    lengths = [length for length, _ in later]
    assert lengths[0] == max(CPU.again, 2 * first[1])
    assert all(two <= 2 * one for one, two in itertools.pairwise(lengths))
    assert sum(hits for _, hits in (first, *later)) >= len(text) - len(later) - 1


def test_in_shared_passes_a_word_here_and_there_wastes_fewer_tokens() -> None:
    text = answer(300)
    parted = {45, 60, 110, 128, 180, 210, 260}
    edit = [token + 50_000 * (place in parted) for place, token in enumerate(text)]
    passes = decode(Drafter([text], CPU, 500), [*edit, END], shared=True)
    alone = decode(Drafter([text], CPU, 500), [*edit, END])
    assert sum(length for length, _ in passes) < sum(length for length, _ in alone)
    assert len(passes) <= len(alone) + 2
