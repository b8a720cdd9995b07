"""How many forward passes edits take: counted by a hook, so it is the same on every machine."""

from __future__ import annotations

import random
from collections.abc import Iterator
from statistics import median
from typing import Any

import pytest
import torch

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.leases import Leases
from langchain_metaaligner.engines.local import decoder as decoding
from langchain_metaaligner.engines.local import engine as local
from langchain_metaaligner.engines.local.drafting import ACCELERATOR, CPU
from langchain_metaaligner.engines.registry import load_engine
from tests.benchmarks import cases
from tests.benchmarks.forcing import counted, forced
from tests.benchmarks.procedures import Ours
from tests.unit_tests.tiny import WORDS, save

torch.set_num_threads(1)
ANSWERS = 5
COSTS = {"on a CPU": CPU, "on a GPU": ACCELERATOR}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    return str(save(folder, config={"max_position_embeddings": 2048}))


@pytest.fixture(params=COSTS)
def ours(request, checkpoint, monkeypatch) -> Iterator[Ours]:
    monkeypatch.setattr(local, "_shared", Leases())
    for module in (local, decoding):
        monkeypatch.setattr(module, "costs_for", lambda model: COSTS[request.param])
    engine: Any = load_engine(checkpoint, dtype="float32")
    engine.load()
    yield Ours(engine)
    engine.close()


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(12, 20))) + ". "


def made_up(codec, end: int) -> list[cases.Case]:
    """Conversations of about 500 tokens with answers of some 150, and their edits."""
    rng = random.Random(3)
    made = []
    for _ in range(ANSWERS):
        asked, answer, other = ("".join(sentence(rng) for _ in range(9)).strip() for _ in range(3))
        context = f"{cases.HUMAN} {asked}{cases.ASSISTANT}"
        prompt = cases.rendered(context, answer)
        texts = cases.edited(prompt.draft, sentence(rng), WORDS, rng)
        assert texts is not None
        texts[cases.REWRITE] = other
        draft = codec.spellings(prompt.draft)[0]
        edits = {name: [*codec.spellings(text)[0], end] for name, text in texts.items()}
        edits[cases.CUT] = [*draft[: len(draft) // 2], end]
        made.append(cases.Case(prompt, context, answer, codec.encode(prompt.text), draft, edits))
    return made


@pytest.fixture
def few(ours) -> list[cases.Case]:
    return made_up(ours.engine.prompt_tokenizer, ours.engine.tokenizer.eos_token_id)


def measured(ours: Ours, few: list[cases.Case], name: str, **more) -> tuple[list[int], list[float]]:
    """Passes, and tokens a pass, of each conversation."""
    passes = [ours.one(case, name, **more)[1] for case in few]
    return passes, [len(case.edits[name]) / n for case, n in zip(few, passes, strict=True)]


def test_an_unchanged_answer_takes_two_passes_at_most(ours, few):
    for turns in (False, True):
        passes, _ = measured(ours, few, cases.UNCHANGED, turns=turns)
        assert max(passes) <= 2


def test_an_answer_cut_short_takes_three_passes_at_most(ours, few):
    passes, _ = measured(ours, few, cases.CUT)
    assert max(passes) <= 3


def test_one_replaced_sentence_leaves_five_tokens_a_pass(ours, few):
    _, rates = measured(ours, few, cases.SENTENCE)
    assert median(rates) >= 4.8


def test_light_edits_leave_seven_tokens_a_pass(ours, few):
    _, rates = measured(ours, few, cases.LIGHT)
    assert median(rates) >= 7


def test_a_rewrite_takes_no_more_passes_than_tokens(ours, few):
    _, rates = measured(ours, few, cases.REWRITE)
    assert min(rates) >= 1


def test_sixteen_at_once_take_little_more_passes_than_the_longest_of_them(ours, few):
    names = [cases.CASES[place % len(cases.CASES)] for place in range(len(few))]
    alone = [ours.one(case, name)[1] for case, name in zip(few, names, strict=True)]
    _, passes = ours.many(few, names, threads=False)
    # Prompts of 500 tokens go two to a pass, so the last row begins a few passes later.
    assert passes <= max(alone) + len(few)


def test_what_was_prefilled_ahead_is_not_read_again(ours, few):
    case = few[0]
    with counted(ours.model) as sizes:
        ours.one(case, cases.UNCHANGED)
    cold = sum(sizes)
    ours.forget()
    ours.engine.warm(case.prompt.text[: case.prompt.text.rfind(case.prompt.draft)])
    with ours.writing([(case.ids, case.edits[cases.UNCHANGED])]) as sizes:
        ours.engine.edit([Request(case.prompt.text, draft=case.prompt.draft, max_new_tokens=400)])
    assert len(sizes) <= 2
    assert sum(sizes) < cold - 0.5 * len(case.ids)


def test_what_is_forced_is_what_is_written(ours, few):
    case = few[0]
    for name in cases.CASES:
        output = case.edits[name]
        with forced(ours.engine.scheduler.decoder, {tuple(case.ids): output}):
            request = Request(case.prompt.text, draft=case.prompt.draft, max_new_tokens=400)
            edit = ours.engine.edit([request])[0]
        assert edit.text == ours.engine.prompt_tokenizer.decode(output[:-1])
        assert edit.finish_reason == "stop"
