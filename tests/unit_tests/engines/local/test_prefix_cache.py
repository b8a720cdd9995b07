"""What prompts begin with is computed once, and what is held never changes a result."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.local.prefix_cache import PrefixCache
from langchain_metaaligner.engines.registry import load_engine

HEAD = "You should do this and not this for safe ideas | Context: "
PER_TOKEN = 2 * 2 * 3 * 4  # layers, keys and values, size of a head, bytes


def layers(tokens, start=0, end=None):
    """Keys and values that tell which token they stand for, and after which."""
    end = len(tokens) if end is None else end
    made = {}
    for layer in range(2):
        rows = [[layer, tokens[place], sum(tokens[:place])] for place in range(start, end)]
        keys = torch.tensor(rows, dtype=torch.float32).reshape(1, -1, 3)
        made[layer] = (keys, keys + 1)
    return made


def add(cache: PrefixCache, tokens) -> None:
    cache.add(tokens, lambda start, end: layers(tokens, start, end))


def found(cache: PrefixCache, tokens) -> int:
    """How much of a beginning is held; what is held must be right."""
    at = 0
    for held, count in cache.find(tokens):
        wanted = layers(tokens, at, at + count)
        for layer, (keys, values) in held.items():
            assert torch.equal(keys[:, :count], wanted[layer][0])
            assert torch.equal(values[:, :count], wanted[layer][1])
        at += count
    return at


def test_the_longest_beginning_is_found():
    cache = PrefixCache(1 << 20)
    first, second = list(range(40)), [*range(20), *range(100, 120)]
    add(cache, first)
    add(cache, second)
    assert found(cache, first) == found(cache, second) == 40
    assert found(cache, [*range(30), 7, 7]) == 30
    assert found(cache, [*range(20), 100, 101, 5]) == 22
    assert found(cache, [9, *range(30)]) == 0
    assert found(cache, []) == 0


def test_a_stretch_that_several_share_is_held_once():
    cache = PrefixCache(1 << 20)
    for last in range(5):
        add(cache, [*range(100), *range(1000 * last + 200, 1000 * last + 210)])
    assert cache.bytes == (100 + 5 * 10) * PER_TOKEN


def test_what_was_not_used_for_longest_goes_first_and_the_bound_is_kept():
    cache = PrefixCache(50 * PER_TOKEN)
    texts = [list(range(1000 * n + 1, 1000 * n + 21)) for n in range(3)]
    add(cache, texts[0])
    add(cache, texts[1])
    assert found(cache, texts[0]) == 20
    add(cache, texts[2])
    assert cache.bytes <= cache.limit
    assert [found(cache, text) for text in texts] == [20, 0, 20]


def test_a_beginning_outlives_what_grew_from_it():
    cache = PrefixCache(60 * PER_TOKEN)
    head = list(range(30))
    add(cache, head)
    for n in range(1, 6):
        add(cache, [*head, *range(1000 * n, 1000 * n + 20)])
        assert cache.bytes <= cache.limit
    assert found(cache, head) == 30


def test_what_is_too_large_or_not_worth_it_is_not_held():
    cache = PrefixCache(10 * PER_TOKEN)
    add(cache, list(range(11)))
    add(cache, [1, 2, 3])
    assert cache.bytes == 0
    nothing = PrefixCache(0)
    add(nothing, list(range(20)))
    assert nothing.bytes == 0


def test_clearing_lets_go_of_everything():
    cache = PrefixCache(1 << 20)
    add(cache, list(range(20)))
    cache.clear()
    assert (cache.bytes, found(cache, list(range(20)))) == (0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_bytes_are_those_of_what_is_held_whatever_comes(seed):
    rng = random.Random(seed)
    cache = PrefixCache(200 * PER_TOKEN)
    for _ in range(200):
        text = [rng.randrange(3) for _ in range(rng.randrange(60))]
        add(cache, text)
        found(cache, [rng.randrange(3) for _ in range(40)])
        held, left = 0, [*cache._root.children.values()]
        while left:
            stretch = left.pop()
            assert stretch.parent.children[stretch.tokens[0]] is stretch
            assert stretch.bytes == len(stretch.tokens) * PER_TOKEN
            held += stretch.bytes
            left += stretch.children.values()
        assert held == cache.bytes <= cache.limit


def test_threads_may_use_it_at_once():
    cache = PrefixCache(300 * PER_TOKEN)

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(200):
            text = [rng.randrange(3) for _ in range(50)]
            add(cache, text)
            found(cache, text)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert cache.bytes <= cache.limit


# -- in the engine --------------------------------------------------------------------------


def request(context: str, answer: str) -> Request:
    prompt = f"{HEAD}{context} | Answer: {answer} | Edit: "
    return Request(prompt, draft=answer, max_new_tokens=12)


def sizes(passes) -> list[int]:
    return [tokens for _, tokens in passes.prompts]


@pytest.fixture
def fresh(checkpoint):
    """Engines that hold nothing yet, with bounds of their own."""
    made = []

    def load(limit: int | None = None):
        made.append(
            load_engine(str(checkpoint), prefix_cache_bytes=limit, max_queue=500 + len(made))
        )
        return made[-1]

    yield load
    for engine in made:
        engine.close()


def test_the_second_request_computes_only_what_is_new(engine, passes):
    engine.edit([request("hello world", "no")])
    whole = sizes(passes)[0]
    passes.prompts.clear()
    engine.edit([request("hello world", "please")])
    assert sizes(passes)[0] < whole / 2


def test_a_chats_next_turn_computes_only_what_is_new(engine, passes):
    turns = "Human: hello world"
    computed = whole = 0
    for turn in range(6):
        passes.prompts.clear()
        asked = request(turns, "no")
        engine.edit([asked])
        computed += sizes(passes)[0]
        whole += engine.count_tokens(asked.prompt)
        turns += f" Assistant: the answer is {turn} Human: and for you"
    assert computed < whole / 2


@pytest.mark.parametrize("limit", [20_000, 60_000])
def test_what_is_held_or_dropped_changes_no_edit(fresh, limit):
    rng = random.Random(1)
    contexts = ["hello world", "hello world and please", "some safe ideas", "hello"]
    answers = ["no", "the answer is that", "sorry I cannot"]
    requests = [request(rng.choice(contexts), rng.choice(answers)) for _ in range(12)]
    plain, engine = fresh(0), fresh(limit)
    for one in requests:
        assert engine.edit([one])[0].text == plain.edit([one])[0].text
    together = [edit.text for edit in engine.edit(requests)]
    assert together == [edit.text for edit in plain.edit(requests)]
    held = engine.scheduler.prefixes.bytes
    assert 0 < held <= limit


def test_the_answer_is_not_held_so_a_long_one_leaves_no_memory_behind(engine):
    engine.edit([request("hello", "no")])
    before = engine.scheduler.prefixes.bytes
    engine.edit([request("hello", "the answer is that you should not do this " * 4)])
    assert engine.scheduler.prefixes.bytes == before


def test_a_prompt_prefilled_ahead_is_not_computed_again(engine, passes):
    asked = request("hello world, please do this for your question", "the answer is no")
    engine.warm(asked.prompt[: asked.prompt.index(" | Edit")])
    ahead = sum(sizes(passes))
    passes.prompts.clear()
    edit = engine.edit([asked])[0]
    draft = len(engine.prompt_tokenizer.spellings(asked.draft)[0])
    assert sizes(passes)[0] - draft <= engine.count_tokens(asked.prompt) - ahead
    assert edit.passes == len(passes.prompts)
    with_nothing_held = load_engine(engine.name, prefix_cache_bytes=0)
    assert with_nothing_held.edit([asked])[0].text == edit.text
    with_nothing_held.close()


def test_a_prompt_that_is_held_whole_is_edited_all_the_same(engine):
    asked = Request("hello world, please do this for your question | Edit:", max_new_tokens=12)
    alone = engine.edit([asked])[0]
    engine.warm(asked.prompt + " and here are some more safe ideas for your question")
    assert engine.edit([asked])[0].text == alone.text


def test_a_growing_text_is_prefilled_piece_by_piece(engine, passes):
    prompt = request("hello world, please do this for your question", "").prompt
    for end in range(40, len(prompt) + 40, 40):
        engine.warm(prompt[:end])
    assert len(sizes(passes)) >= 3
    assert sum(sizes(passes)) <= engine.count_tokens(prompt)


def test_prefilling_ahead_does_nothing_where_nothing_is_held(checkpoint):
    engine = load_engine(str(checkpoint), prefix_cache_bytes=0)
    engine.warm(HEAD)
    engine.warm("")
    engine.close()
