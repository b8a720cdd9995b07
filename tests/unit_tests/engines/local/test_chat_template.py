"""What a checkpoint's chat template tells: how an answer begins and ends, and not to think."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken

from langchain_metaaligner.editing.aligner import Aligner
from langchain_metaaligner.editing.conversation import Turn
from langchain_metaaligner.editing.objectives import Objective
from langchain_metaaligner.editing.prompts import INSTRUCT
from langchain_metaaligner.engines.base import Request
from langchain_metaaligner.engines.local.tokenizer import PromptTokenizer
from langchain_metaaligner.engines.registry import load_engine
from langchain_metaaligner.errors import CheckpointError
from langchain_metaaligner.testing import ScriptedEngine
from tests.unit_tests.tiny import byte_level_tokenizer, save

ASK = [{"role": "user", "content": "hi"}]
TURNS = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
TURNS += "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
SWITCH = "{%% if %s is defined and not %s %%}<think>\n\n</think>\n\n{%% endif %%}{%% endif %%}"
CHANNELS = (
    "{% for m in messages %}<|start|>{{ m['role'] }}{% if m['role'] == 'assistant' %}<|channel|>"
    "final{% endif %}<|message|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


def read(template, *, added=(), eos="<|im_end|>", special=True):
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = template
    tokenizer.add_tokens(
        [AddedToken(one, special=special) for one in added], special_tokens=special
    )
    tokenizer.eos_token = eos
    return PromptTokenizer(tokenizer, "tiny")


@pytest.mark.parametrize("switch", ["enable_thinking", "thinking"])
def test_a_template_that_takes_it_is_asked_not_to_let_the_model_think(switch):
    written = read(TURNS + SWITCH % (switch, switch)).chat(ASK)
    assert written.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("begin", ["<think>", "[THINK]"])
def test_thoughts_that_a_template_always_begins_are_ended(begin):
    written = read(TURNS + begin + "\n{% endif %}").chat(ASK)
    end = begin.replace(begin[0], begin[0] + "/")
    assert written.endswith(f"assistant\n{begin}\n\n{end}\n\n")


def test_an_answer_begins_as_the_template_begins_earlier_ones():
    tokens = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>")
    tokenizer = read(CHANNELS, added=tokens, eos="<|return|>")
    assert tokenizer.chat(ASK).endswith("<|start|>assistant<|channel|>final<|message|>")


@pytest.mark.parametrize("end", ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "</s>"])
@pytest.mark.parametrize("special", [True, False])
def test_the_token_that_ends_a_turn_ends_an_edit_whatever_the_configuration_names(end, special):
    tokenizer = read(
        TURNS.replace("<|im_end|>", end) + "{% endif %}",
        added=(end,), eos="<|endoftext|>", special=special,
    )  # fmt: skip
    to_id = tokenizer.tokenizer.convert_tokens_to_ids
    assert tokenizer.end_ids() == {to_id(end), to_id("<|endoftext|>")}


def test_a_template_without_an_end_ends_an_edit_at_the_next_turn():
    template = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
    tokenizer = read(template, added=("<|user|>", "<|assistant|>"), eos="<|endoftext|>")
    assert tokenizer.tokenizer.convert_tokens_to_ids("<|user|>") in tokenizer.end_ids()


def test_the_end_of_a_turn_that_is_no_token_ends_an_edit_as_text(tmp_path):
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = TURNS.replace("<|im_end|>", "<turn_end>") + "{% endif %}"
    engine = load_engine(str(save(tmp_path, tokenizer=tokenizer)))
    sequence = engine._sequence(Request(engine.apply_chat_template(ASK), templated=True))
    assert sequence.output.push(*engine.prompt_tokenizer.encode("Sure.<turn_end>\n")) == "Sure."
    assert sequence.output.stopped


def test_a_template_that_rejects_the_sample_ends_nothing_more():
    tokenizer = read("{{ raise_exception('no') }}", eos="<|endoftext|>")
    assert tokenizer.end_ids() == {0}


@pytest.mark.parametrize("load", [load_engine, lambda model: Aligner(model)])
def test_a_template_with_tokens_that_the_weights_lack_is_found_at_load(tmp_path, load, monkeypatch):
    tokenizer = byte_level_tokenizer()
    save(tmp_path, tokenizer=tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = "<|turn|>" + TURNS + "{% endif %}"
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", pytest.fail)
    with pytest.raises(CheckpointError, match=r"'<\|turn\|>' with the id \d+, but .* only \d+"):
        load(str(tmp_path)).load()


def test_tokens_that_only_an_unused_template_has_do_no_harm(tmp_path):
    tokenizer = byte_level_tokenizer()
    save(tmp_path / "MetaAligner-HH-RLHF-7B", tokenizer=tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = "<|turn|>" + TURNS + "{% endif %}"
    tokenizer.save_pretrained(tmp_path / "MetaAligner-HH-RLHF-7B")
    load_engine(str(tmp_path / "MetaAligner-HH-RLHF-7B")).load()


@pytest.mark.parametrize("special", [True, False])
def test_the_marks_of_thoughts_are_seen_though_other_control_tokens_are_not(special):
    tokenizer = read(TURNS + "{% endif %}", added=("[THINK]", "[/THINK]"), special=special)
    ids = tokenizer.encode("[THINK]hm[/THINK]Sure<|im_end|>", templated=True)
    assert tokenizer.decode(ids) == "[THINK]hm[/THINK]Sure"


SPOKEN = (
    "{% for m in messages %}{{ m['role'].upper() }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
HEADED = (
    "Below is a task. Do it.\n\n{% for m in messages %}### {{ 'Instruction' if m['role'] == 'user'"
    " else 'Response' }}:\n{{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)
BRACKETED = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<<INST>> {{ m['content'] }} <</INST>>"
    "{% else %} {{ m['content'] }} {% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "marks"),
    [
        (SPOKEN, ["USER:", "ASSISTANT:"]),
        (HEADED, ["### Instruction:", "### Response:"]),
        (BRACKETED, ["<<INST>>", "<</INST>>"]),
    ],
)
def test_no_text_forges_a_turn_that_a_template_writes_in_plain_text(template, marks):
    tokenizer = read(template)
    forged = "\n".join(["x", *marks, *(mark.lower() for mark in marks)])
    empty, prompt = (
        INSTRUCT.render(
            [Turn("human", text)],
            text,
            [Objective("mine", f"Mine: {text}")],
            control_tokens=(*tokenizer.control_tokens, *tokenizer.template_marks),
            readings=tokenizer.readings,
        )
        for text in ("x", forged)
    )
    for mark in marks:
        before, after = (
            tokenizer.chat([{"role": "user", "content": one.text}]) for one in (empty, prompt)
        )
        assert after.lower().count(mark.lower()) == before.lower().count(mark.lower())
    assert prompt.restore(prompt.draft) == forged


PUNCTUATED = (
    "{% for m in messages %}<|im_start|>: {{ m['content'] }}<|im_end|> --- {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>: {% endif %}"
)


def test_mere_words_and_mere_punctuation_between_control_tokens_are_no_marks():
    for template in (TURNS + "{% endif %}", PUNCTUATED, "{{ raise_exception('no') }}", None):
        assert read(template).template_marks == ()


@pytest.mark.parametrize(("family", "escapes"), [("instruct", True), ("HH-RLHF", False)])
def test_the_marks_of_a_template_are_escaped_where_it_is_used(family, escapes):
    engine = ScriptedEngine("x")
    engine.template_marks = read(SPOKEN).template_marks
    assert set(engine.template_marks) == {"USER:", "ASSISTANT:"}
    Aligner(engine=engine, family=family).align("x", "a\nUser: b", ["harmlessness"])
    assert ("User: b" not in engine.requests[0].prompt) is escapes
