"""Prompts in, texts out: nothing added, nothing lost, nothing forged."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from langchain_metaaligner.editing.objectives import parse_objectives
from langchain_metaaligner.editing.prompts import HH_RLHF
from langchain_metaaligner.engines.local.tokenizer import OutputText, PromptTokenizer
from langchain_metaaligner.errors import CheckpointError
from tests.unit_tests.tiny import byte_level_tokenizer, spm_tokenizer

SPM = PromptTokenizer(spm_tokenizer(added=("<tool>", "  \t")), "tiny")
BYTES = PromptTokenizer(byte_level_tokenizer(), "tiny")
TOKENIZERS = pytest.mark.parametrize("tokenizer", [SPM, BYTES], ids=["spm", "byte-level"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@TOKENIZERS
@given(text=TEXTS)
def test_a_text_comes_back_as_it_was(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=TEXTS)
def test_a_prompt_gets_bos_exactly_once_where_the_tokenizer_adds_one(text):
    ids = SPM.encode("<s>" + text + "<s>")
    assert ids[0] == 1
    assert ids.count(1) == 1


@given(text=TEXTS)
def test_a_prompt_gets_no_bos_where_the_tokenizer_adds_none(text):
    assert not {0, 1, 2} & set(BYTES.encode(text))


@pytest.mark.parametrize("space", ["", " ", "  ", "\n"])
@TOKENIZERS
def test_the_end_of_a_prompt_is_kept(tokenizer, space):
    ids = tokenizer.encode("Edit:" + space)
    assert tokenizer.decode(ids) == "Edit:" + space
    if space == " ":
        assert tokenizer.tokenizer.convert_ids_to_tokens(ids[-1]) in ("▁", "Ġ")


@TOKENIZERS
def test_a_control_token_in_plain_text_is_text(tokenizer):
    control = set(tokenizer.tokenizer.convert_tokens_to_ids(list(tokenizer.control_tokens)))
    for token in tokenizer.control_tokens:
        for text in (token, f"x{token}y", f" {token} {token}"):
            ids = tokenizer.encode(text)[len(tokenizer.start) :]
            assert not control & set(ids)
            assert tokenizer.decode(ids) == text


def test_added_tokens_that_are_not_special_are_text_too():
    assert "<tool>" in SPM.control_tokens
    wrong = SPM.tokenizer("<tool>", add_special_tokens=False, split_special_tokens=True)
    added = SPM.tokenizer.convert_tokens_to_ids("<tool>")
    assert added in wrong["input_ids"]  # what transformers does with them
    assert added not in SPM.encode("<tool>")


def test_runs_of_white_space_in_a_vocabulary_are_no_control_tokens():
    assert "  \t" not in SPM.control_tokens
    assert SPM.decode(SPM.encode("a  \tb")) == "a  \tb"


def test_in_a_templated_prompt_control_tokens_are_meant_and_none_is_added():
    written = BYTES.chat([{"role": "user", "content": "hi"}])
    ids = BYTES.encode(written, templated=True)
    assert (ids.count(1), ids.count(2)) == (2, 1)
    assert ids[0] == 1
    assert SPM.encode("<s>hello</s>", templated=True)[0] == 1
    assert SPM.encode("<s>hello</s>", templated=True).count(1) == 1
    assert 1 not in SPM.encode("hello", templated=True)


@TOKENIZERS
def test_control_tokens_in_an_output_are_left_out_without_spaces(tokenizer):
    end = tokenizer.tokenizer.eos_token_id
    ids = tokenizer.encode("hello world")[len(tokenizer.start) :]
    assert tokenizer.decode([end, *ids[:1], end, *ids[1:], end]) == "hello world"


def test_a_word_start_that_only_the_tokenizer_adds_is_no_space():
    hello = SPM.tokenizer.convert_tokens_to_ids("▁hello")
    space = SPM.tokenizer.convert_tokens_to_ids("▁")
    assert SPM.decode([hello]) == "hello"
    assert SPM.decode([space, hello]) == " hello"


def test_counting_counts_what_an_engine_would_send():
    assert SPM.count("hello world | Edit: ") == len(SPM.encode("hello world | Edit: "))
    assert BYTES.count("") == 0


def test_the_tokenizer_itself_is_never_switched():
    tokenizer = spm_tokenizer()
    before = (tokenizer.backend_tokenizer.to_str(), tokenizer.split_special_tokens)
    prompts = PromptTokenizer(tokenizer, "tiny")
    prompts.decode(
        prompts.encode("</s> x", templated=False) + prompts.encode("</s>", templated=True)
    )
    assert (tokenizer.backend_tokenizer.to_str(), tokenizer.split_special_tokens) == before
    assert tokenizer.pad_token is None


def test_truncation_and_padding_left_on_in_a_tokenizer_do_nothing():
    tokenizer = spm_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    tokenizer = PromptTokenizer(tokenizer, "tiny")
    assert tokenizer.encode("hello world hello world") == SPM.encode("hello world hello world")


@TOKENIZERS
def test_tokens_before_a_place_are_those_that_any_text_may_follow(tokenizer):
    for before, answer in [
        ("the answer is ", "hello world"),
        ("Edit: 漢字 ", "😀 hello"),
        ("| ", "\n\n"),
    ]:
        count = tokenizer.tokens_before(before + answer, len(before))
        whole = tokenizer.encode(before + answer)
        assert whole[:count] == tokenizer.encode(before)[:count]
        assert len(tokenizer.encode(before)) - count <= 2
    assert tokenizer.tokens_before("hello", 5) == 0


def test_tokens_before_a_place_in_a_template_count_its_control_tokens():
    prompt = "<|im_start|>user hello<|im_end|>"
    count = BYTES.tokens_before(prompt, prompt.index("hello"), templated=True)
    assert count == len(BYTES.encode("<|im_start|>user", templated=True))


def test_a_prompt_that_was_counted_is_not_split_again():
    tokenizer = PromptTokenizer(spm_tokenizer(), "tiny")
    before = tokenizer._encoding.cache_info().misses
    count = tokenizer.count("the answer is hello")
    ids = tokenizer.encode("the answer is hello")
    assert len(ids) == count
    ids.clear()  # whoever gets a list may do with it what they like
    assert tokenizer.count("the answer is hello") == count
    assert tokenizer.tokens_before("the answer is hello", 4) == 2
    assert (
        tokenizer.spellings("the answer is hello")[0] == tokenizer.encode("the answer is hello")[1:]
    )
    assert tokenizer._encoding.cache_info().misses == before + 1


def test_many_threads_may_use_one_codec():
    texts = [f"hello {n} </s> world" * n for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda t: SPM.encode(t, templated=len(t) % 2 == 0), texts))
    assert together == [SPM.encode(t, templated=len(t) % 2 == 0) for t in texts]


def test_a_tokenizer_that_reads_control_tokens_in_text_is_refused():
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"
    )
    with pytest.raises(CheckpointError, match="forge"):
        PromptTokenizer(tokenizer, "tiny")


def test_a_tokenizer_that_is_not_a_fast_one_is_refused():
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        PromptTokenizer(object(), "tiny")


def test_end_tokens_come_from_the_tokenizer_and_from_every_configuration():
    assert SPM.end_ids(None, 7, [8, 9]) == {2, 7, 8, 9}


def stream(tokenizer, ids, stop=()):
    text = OutputText(tokenizer, stop)
    pieces = []
    for token in ids:
        pieces.append(text.push(token))
        if text.stopped:
            break
    pieces.append(text.finish())
    return pieces, text


@TOKENIZERS
@given(data=st.data())
def test_pieces_of_any_tokens_join_to_the_text_of_all(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, len(tokenizer.tokenizer) - 1), max_size=30))
    pieces, text = stream(tokenizer, ids)
    assert "".join(pieces) == text.text == tokenizer.decode(ids)


@TOKENIZERS
@given(written=TEXTS, data=st.data())
def test_no_piece_holds_a_half_character_or_a_part_of_a_stop_text(tokenizer, written, data):
    stop = data.draw(st.lists(st.text("ab\n:H", min_size=1, max_size=3), max_size=2))
    ids = tokenizer.encode(written.replace("\ufffd", ""))[len(tokenizer.start) :]
    pieces, text = stream(tokenizer, ids, stop)
    whole = tokenizer.decode(ids)
    assert "".join(pieces) == text.text
    assert whole.startswith(text.text)
    assert not any(s in text.text for s in stop)
    assert text.stopped == any(s in whole for s in stop)
    if len(stop) == 1 or not text.stopped:
        assert text.text == (whole.split(stop[0])[0] if stop else whole)
    assert "\ufffd" not in text.text


def test_a_character_of_many_tokens_comes_in_one_piece():
    for tokenizer in (SPM, BYTES):
        pieces, _ = stream(tokenizer, tokenizer.encode("a😀漢b")[len(tokenizer.start) :])
        assert "".join(pieces) == "a😀漢b"
        assert not any("\ufffd" in piece for piece in pieces)


def test_tokens_behind_a_stop_text_are_not_counted():
    ids = SPM.encode("hello 漢\n\nHuman: x")[1:]
    pieces, text = stream(SPM, ids, ("\n\nHuman:",))
    assert "".join(pieces) == "hello 漢"
    assert text.used_tokens() == len(SPM.encode("hello 漢")) - 1


def unigram_tokenizer():
    """A Unigram tokenizer, which finds any piece of its vocabulary in a text."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = [(one, -9.0) for one in (*pieces, "▁", *map(chr, range(33, 127)))]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " ")]
    )
    backend.add_special_tokens(["<s>", "</s>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_a_vocabulary_that_finds_its_pieces_in_any_text_finds_no_control_token_or_byte_in_one():
    tokenizer = PromptTokenizer(unigram_tokenizer(), "tiny")
    assert not {0, 1, 2} & set(tokenizer.encode("a</s> <s> <unk>"))
    assert tokenizer.decode(tokenizer.encode("a</s> 漢")) == "a</s> 漢"
    answer = "a <0x0A><0x0a> </s>"
    prompt = HH_RLHF.render(
        "Hi.",
        answer,
        parse_objectives("humour"),
        control_tokens=tokenizer.control_tokens,
        readings=tokenizer.readings,
    )
    assert "\n" not in tokenizer.decode(tokenizer.encode(prompt.text))
    assert prompt.restore(prompt.draft) == answer


@pytest.mark.parametrize("text", ["hi \ud83d", "\udc00" * 20_000])
def test_half_a_surrogate_pair_counts_as_a_character(text):
    assert BYTES.count(text) == BYTES.count(
        text.replace("\ud83d", "\ufffd").replace("\udc00", "\ufffd")
    )


def test_a_long_text_is_split_as_a_short_one_is():
    text = "hello world " * 4_000
    assert SPM.decode(SPM.encode(text)) == text
    assert BYTES.encode(text) == BYTES.tokenizer(text)["input_ids"]


def work_of_a_stream(count):
    tokenizer = PromptTokenizer(spm_tokenizer(), "tiny")
    ids = (tokenizer.encode("hello 漢 world <0x0A>\n") * count)[:count]
    decoded = 0

    def decode(tokens):
        nonlocal decoded
        decoded += len(tokens)
        return PromptTokenizer.decode(tokenizer, tokens)

    tokenizer.decode = decode
    output = OutputText(tokenizer, ("\n\nHuman:",))
    assert "".join([*map(output.push, ids), output.finish()]) == PromptTokenizer.decode(
        tokenizer, ids
    )
    return decoded


def test_a_stream_takes_work_in_proportion_to_its_length():
    assert work_of_a_stream(2_000) < 5 * work_of_a_stream(500)


@TOKENIZERS
@settings(max_examples=25)
@given(data=st.data())
def test_a_long_output_comes_whole_however_its_tokens_arrive(tokenizer, data):
    some = st.lists(st.integers(0, len(tokenizer.tokenizer) - 1), min_size=1, max_size=30)
    ids = data.draw(some) * 8 + tokenizer.encode("hello 漢 😀\n") * 8 + data.draw(some) * 4
    output, pieces = OutputText(tokenizer, ("\n\nHuman:",)), []
    while ids and not output.stopped:
        size = data.draw(st.sampled_from([1, 1, 3, 40]))
        pieces.append(output.push(*ids[:size]))
        ids = ids[size:]
    whole = tokenizer.decode(output.ids)
    assert "".join([*pieces, output.finish()]) == output.text == whole.split("\n\nHuman:")[0]
