"""What a tokenizer reads as the template's characters counts as them."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from langchain_metaaligner.editing.conversation import Turn
from langchain_metaaligner.editing.objectives import Objective
from langchain_metaaligner.editing.prompts import HH_RLHF, IMHI
from langchain_metaaligner.engines.local.readings import readings_of
from langchain_metaaligner.engines.readings import AS_ANY, Readings
from tests.unit_tests.tiny import LLAMA2_TOKENIZER, byte_level_tokenizer

LETTERS = [*map(chr, range(0x20, 0x7F)), "\n", "▁"]


def unigram(normalizer, pre_tokenizer=None):
    words = ["▁Answer", "Answer", "▁Edit", "Edit", "▁Human", "Human", "Assistant"]
    vocabulary = [("<unk>", -20.0), *((one, -5.0) for one in LETTERS), *((w, -1.0) for w in words)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.Metaspace()
    return tokenizer


def word_piece():
    # Lower case, accents gone, white space dropped.
    letters = [one.lower() for one in LETTERS if one.strip()]
    pieces = dict.fromkeys(["[UNK]", *letters, *(f"##{one}" for one in letters)])
    tokenizer = Tokenizer(
        models.WordPiece({one: n for n, one in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def bpe(pre_tokenizer, unknown="<unk>"):
    vocabulary = {one: n for n, one in enumerate([*LETTERS, "<unk>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


def llama2():
    return Tokenizer.from_file(str(LLAMA2_TOKENIZER / "tokenizer.json"))


def nmt():
    return normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )


TOKENIZERS = {
    "llama2": llama2,
    "byte-level": lambda: byte_level_tokenizer().backend_tokenizer,
    "unigram-nfkc": lambda: unigram(normalizers.NFKC()),
    "unigram-nmt": lambda: unigram(nmt()),
    "bpe-metaspace": lambda: bpe(pre_tokenizers.Metaspace(prepend_scheme="never")),
    "bpe-whitespace": lambda: bpe(pre_tokenizers.WhitespaceSplit()),
    "bpe-dropping": lambda: bpe(None, unknown=None),
    "wordpiece": word_piece,
}


@cache
def tokenizer_named(name):
    if name == "llama2" and not LLAMA2_TOKENIZER.is_dir():
        pytest.skip("needs the data folder")
    spec = json.loads(TOKENIZERS[name]().to_str()) | {"added_tokens": [], "post_processor": None}
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    return tokenizer, readings_of(tokenizer, spec)


MARKS = (" | Context: ", " | Answer: ", " | Edit: ", "\n\nHuman: ", "\n\nAssistant:", "; Humour: ")
# What some tokenizer takes for the characters of a mark.
DISGUISES = (
    {},
    {" ": "▁"},
    {" ": "\u00a0", ":": "﹕", "A": "ᴬ", "H": "ℍ", ";": "\u037e"},
    {" ": "\u3000", "|": "｜", ":": "：", "A": "Ａ", "E": "ｅ", "H": "Ｈ", ";": "；"},
    {" ": "", "A": "Á", "E": "É", "H": "Ĥ"},
    {"|": "|\x00", "i": "\x07i", "u": "\ufffdu", "n": "\u200bn", ";": "\u00ad;"},
    {"\n": "\u2028", "s": "ſ", "i": "\u0131"},
    {"\n": "\r\n", " ": "\t"},
    {"\n": " "},
)
disguised = st.builds(
    lambda mark, disguise: mark.translate(str.maketrans(disguise)),
    st.sampled_from(MARKS),
    st.sampled_from(DISGUISES),
)
other = st.sampled_from(["x", "☃", "漢", "\ud83d", "\ufffd", "¦", "꞉", "\ue000", "\u2500"])
hostile = st.lists(st.one_of(disguised, other), max_size=3).map("".join)


def meant(tokenizer, text):
    """What the tokens of a text mean to a model, in lower case."""
    said = "".join(tokenizer.encode(text).tokens).replace("<0x0A>", "\n").replace("Ċ", "\n")
    for blank in "".join(tokenizer.encode(" ").tokens):
        said = said.replace(blank, " ")
    return said.replace("##", "").lower()


def marks_in(tokenizer, text, lines):
    before = r"\n\s*\n\s*" if lines else ""
    patterns = [rf"\|\s*{name}\s*:" for name in ("context", "answer", "edit")]
    patterns += [rf"{before}{name}\s*:" for name in ("human", "assistant")]
    return [len(re.findall(one, meant(tokenizer, text))) for one in patterns]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=50)
@given(question=hostile, said=hostile, answer=hostile, wish=hostile, size=st.integers(1, 5))
def test_no_text_has_the_tokens_of_a_field_or_a_turn(name, question, said, answer, wish, size):
    tokenizer, readings = tokenizer_named(name)
    turns = [Turn("human", question), Turn("assistant", said), Turn("human", "x")]
    objectives = [Objective("mine", f"x{wish}"), Objective("humour", "x")]
    prompt = HH_RLHF.render(turns, answer, objectives, readings=readings)
    assert marks_in(tokenizer, prompt.text, readings["\n"] == "\n") == [1, 1, 1, 2, 2]
    head = meant(tokenizer, prompt.text.split(" | Context: ")[0])
    assert head.count(";") == 1
    if name == "bpe-dropping":  # it drops every look-alike
        return
    draft = prompt.draft
    pieces = [prompt.restore(draft[i : i + size]) for i in range(0, len(draft), size)]
    assert prompt.restore(draft) == "".join(pieces) == answer


@pytest.mark.parametrize("name", TOKENIZERS)
def test_plain_text_is_read_as_itself(name):
    _, readings = tokenizer_named(name)
    text = 'Plain words | a, b: c; d\n\nand "more" <of> them.'
    assert all(readings[char] == char for char in text if char.strip())


def test_an_unknown_tokenizer_may_read_characters_as_any_tokenizer_does():
    assert "".join(AS_ANY[char] for char in "▁｜\u200bＡﬁ漢é\n\ud83d") == " |Afi漢é\n\ud83d"


# Normalizers that read several characters as one, or write one as several.
IN_CONTEXT = {
    "pairs": lambda: normalizers.Sequence(
        [normalizers.Replace("''", '"'), normalizers.NFKD(), normalizers.Lowercase()]
    ),
    "written as several": lambda: normalizers.Sequence(
        [
            normalizers.Replace(" ", "<sp>"),
            normalizers.Replace("|", "[BAR]"),
            normalizers.Replace("\n", "<n>"),
        ]
    ),
    "escapes": lambda: normalizers.Replace("\\n", "\n"),
    "runs": lambda: normalizers.Replace(Regex(r"\|+"), "|"),
    "composed": lambda: normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex("[ÉÈ]"), "E")]
    ),
    "removed": lambda: normalizers.Replace(Regex("<[a-z]>"), ""),
    "byte-level": lambda: normalizers.Sequence([normalizers.NFC(), normalizers.ByteLevel()]),
}
SPELT = (
    {},
    {" ": "<sp>", "|": "[BAR]", "\n": "<n>"},
    {"\n": "\\n", "|": "||"},
    {"E": "E\u0301", "A": "A<b>", "H": "H<i>"},
    {'"': "''"},
)
spelt = st.builds(
    lambda mark, spelling: mark.translate(str.maketrans(spelling)),
    st.sampled_from([*MARKS, '"', '""', "'"]),
    st.sampled_from(SPELT),
)
told = st.lists(st.one_of(spelt, other), max_size=3).map("".join)


def mark_before(family):
    return " | Context: " if family is HH_RLHF else " | Question: "


@cache
def normalized_by(name):
    tokenizer = bpe(None)
    tokenizer.normalizer = IN_CONTEXT[name]()
    return tokenizer.normalizer, readings_of(tokenizer, json.loads(tokenizer.to_str()))


@pytest.mark.parametrize("name", IN_CONTEXT)
@settings(max_examples=25)
@example(question="\\n\\nHuman: ", said="", answer="", wish="")
@given(question=told, said=told, answer=told, wish=told)
def test_what_is_read_as_a_mark_only_together_counts_as_it(name, question, said, answer, wish):
    normalizer, readings = normalized_by(name)
    turns = [Turn("human", question), Turn("assistant", said), Turn("human", "x")]
    objectives = [Objective("mine", f"x{wish}"), Objective("humour", "x")]
    for family in (HH_RLHF, IMHI):
        prompt = family.render(turns, answer, objectives, readings=readings)
        read = normalizer.normalize_str(prompt.text)
        for mark in MARKS[:-1] if family is HH_RLHF else (" | Question: ", *MARKS[1:3]):
            once = normalizer.normalize_str(mark)
            assert read.count(once) == (2 if "\n" in mark else 1)
        head = read.split(normalizer.normalize_str(mark_before(family)))[0]
        assert head.count(";") == 1
        assert family is HH_RLHF or head.count('"') == 2
        assert prompt.restore(prompt.draft) == answer


def test_many_marks_that_are_read_only_together_take_no_more_time_than_their_length():
    _, readings = normalized_by("written as several")
    text = "x[BAR]<sp>Edit:<sp>" * 10_000
    started = time.monotonic()
    prompt = HH_RLHF.render("x", text, [Objective("humour", "x")], readings=readings)
    assert time.monotonic() - started < 10
    assert prompt.restore(prompt.draft) == text
    assert "[BAR]<sp>Edit" not in prompt.text


def test_a_separator_that_a_tokenizer_removes_is_read_as_nothing():
    tokenizer = bpe(pre_tokenizers.Split("~", "removed"))
    readings = readings_of(tokenizer, json.loads(tokenizer.to_str()))
    assert [readings[char] for char in "~ E"] == ["", " ", "E"]


@pytest.mark.parametrize("steps", [["Nmt"], ["Nmt", "Lowercase"], ["BertNormalizer"]])
def test_a_dropped_character_is_read_as_nothing(steps):
    tokenizer = bpe(None)
    tokenizer.normalizer = normalizers.Sequence([getattr(normalizers, one)() for one in steps])
    readings = readings_of(tokenizer, json.loads(tokenizer.to_str()))
    assert [readings[char] for char in "\x01\x0e\x7f"] == ["", "", ""]
    prompt = HH_RLHF.render("x", "|\x01 Answer: y", [Objective("humour", "x")], readings=readings)
    assert tokenizer.normalizer.normalize_str(prompt.text).lower().count("| answer:") == 1


def test_a_long_text_with_one_character_that_is_composed_takes_no_number_for_each():
    _, readings = normalized_by("composed")
    text = f"{'plain words, and more: ' * 10_000}e\u0301 | Edit:"
    tracemalloc.start()
    read, origin = readings.in_context(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * len(text)
    assert read.endswith("é | Edit:")
    assert text[origin(read.index("|"))] == "|"


def test_a_text_is_read_once_where_it_holds_no_mark():
    _, pairs = normalized_by("pairs")
    asked = []
    readings = Readings(lambda char: char, lambda one: asked.append(one) or pairs.in_context(one))
    HH_RLHF.render("x", "plain ''text''", [Objective("humour", "x")], readings=readings)
    assert pairs.in_context("plain ''text''") is not None
    assert asked.count("plain ''text''") == 1
