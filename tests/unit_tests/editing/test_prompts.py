from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from langchain_metaaligner import Aligner, CheckpointError, Objective, UnknownObjectiveError
from langchain_metaaligner.editing import prompts
from langchain_metaaligner.editing.conversation import Turn
from langchain_metaaligner.editing.objectives import CATALOGUE, parse_objectives
from langchain_metaaligner.editing.prompts import (
    ALIGNER,
    FAMILIES,
    HH_RLHF,
    IMHI,
    INSTRUCT,
    ULTRAFEEDBACK,
    Prompt,
    PromptFamily,
    find_family,
    parse_conversation,
    render_conversation,
)
from langchain_metaaligner.editing.prompts.escaping import (
    FIELD,
    TURN,
    TURN_IN_LINE,
    control_marks,
    escape,
    finder,
)
from langchain_metaaligner.engines.readings import AS_ANY, Readings
from langchain_metaaligner.testing import ScriptedEngine

DATA = Path(__file__).parents[3].parent / "shared" / "data"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="needs the data sets beside the repository"
)

TURNS = (Turn("human", "Hello."), Turn("assistant", "Hi!"), Turn("human", "How are you?"))


def render(family, objectives, context=TURNS, answer="Fine, thanks."):
    return family.render(context, answer, parse_objectives(objectives)).text


def test_the_hh_rlhf_prompt_is_the_trained_one_to_the_byte():
    assert render(HH_RLHF, ["harmlessness", "helpfulness", "humour"]) == (
        "You are an assistant to human. You will be provided with a context and an answer. "
        "Consider the context, then edit the answer to improve it considering these aspects: "
        "Harmlessness: The response should avoid content that is offensive, discriminatory, or "
        "harmful; Helpfulness: The response should provide useful resources and suggestions to "
        "the user; Humour: The response should be cheerful and amusing | Context: \n\nHuman: "
        "Hello.\n\nAssistant: Hi!\n\nHuman: How are you? \n\nAssistant: | Answer: Fine, thanks. "
        "| Edit: "
    )


def test_the_ultrafeedback_prompt_is_the_trained_one_to_the_byte():
    objectives = ["instruction_following", "honesty", "truthfulness", "helpfulness"]
    assert render(ULTRAFEEDBACK, objectives) == (
        "You are an assistant to human. You will be provided with a query and an answer. "
        "Consider the query, then edit the answer to improve it considering these aspects: "
        "Instruction following: the response should follow the instructions of the query; "
        "Honesty: the response should not tell lies; Truthfulness: the response should actively "
        "making known all the full truth of a matter; Helpfulness: the response should provide "
        "useful resources and suggestions to the user | Query: How are you? | Answer: Fine, "
        "thanks. | Edit: "
    )


def test_the_imhi_prompt_is_the_trained_one_to_the_byte():
    assert render(IMHI, ["correctness", "informativeness", "professionalism"]) == (
        "Edit the following Question-Answer pair to make it better considering these aspects "
        '"Correctness: the explanations should make correct predictions; Informative: the '
        "response should express clear logic and provide consistent evidence; Professional: the "
        'response should provide evidence with high quality and reliability" | Question: How are '
        "you? | Answer: Fine, thanks. | Edit: "
    )


def test_the_prompt_of_aligner_is_the_published_one_to_the_byte():
    assert render(ALIGNER, ["helpfulness", "harmlessness"]) == (
        "BEGINNING OF CONVERSATION: USER: Edit the following Question-Answer pair to make it "
        "more helpful and harmless: How are you? | Fine, thanks. ASSISTANT:"
    )


def test_the_prompt_for_instruction_tuned_models_names_each_part_once():
    prompt = render(INSTRUCT, ["humour", "honesty"])
    assert "Humour: The response should be cheerful and amusing; Honesty: The response" in prompt
    assert "<context>\n\nHuman: Hello.\n\nAssistant: Hi!\n\nHuman: How are you? " in prompt
    assert "<answer>Fine, thanks.</answer>" in prompt
    assert "Return only the edited answer" in prompt


@pytest.mark.parametrize(
    ("family", "name", "wording"),
    [
        (
            HH_RLHF,
            "factuality",
            "Factuality: The response should be factually correct and avoid hallucinated "
            "statements.",
        ),
        (HH_RLHF, "honesty", "Honesty: The response should not tell lies"),
        (HH_RLHF, "correctness", "Correctness: The explanations should make correct predictions"),
        (
            ULTRAFEEDBACK,
            "harmlessness",
            "Harmlessness: the response should avoid content that is offensive, discriminatory, "
            "or harmful",
        ),
        (ULTRAFEEDBACK, "humour", "Humour: the response should be cheerful and amusing"),
        (
            ULTRAFEEDBACK,
            "specificity",
            "Specificity: the response should refer to facts and details and avoid vague "
            "arguments.",
        ),
        (
            ULTRAFEEDBACK,
            "readability",
            "Readability: the response should be easy to read and understand, not too technical "
            "for laymen.",
        ),
        (
            ULTRAFEEDBACK,
            "fairness",
            "Fairness: the response should avoid biased or one-sided arguments and consider "
            "different points of view.",
        ),
        (
            ULTRAFEEDBACK,
            "repetition",
            "Repetition: the response should avoid repetitive statements of one point.",
        ),
        (
            ULTRAFEEDBACK,
            "length",
            "Length: the response should be concise and avoid redundant content.",
        ),
        (
            IMHI,
            "helpfulness",
            "Helpfulness: the response should provide useful resources and suggestions to the user",
        ),
        (
            IMHI,
            "factuality",
            "Factuality: the response should be factually correct and avoid hallucinated "
            "statements.",
        ),
    ],
)
def test_an_objective_beyond_the_trained_ones_is_worded_in_the_familys_style(family, name, wording):
    (objective,) = parse_objectives(name)
    assert family.word(objective) == wording


@pytest.mark.parametrize("family", [HH_RLHF, ULTRAFEEDBACK, IMHI, INSTRUCT])
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_known_objective_fits_every_family_that_names_them(family, name):
    (objective,) = parse_objectives(name)
    worded = family.word(objective)
    assert ": " in worded
    assert ";" not in worded
    if name in family.objectives:
        assert worded == family.objectives[name]
    assert worded in render(family, name)


def test_a_description_of_ones_own_goes_into_the_prompt_word_for_word():
    mine = Objective("rhyme", "Rhyme: the response should rhyme. Always!")
    for family in (HH_RLHF, ULTRAFEEDBACK, IMHI, INSTRUCT):
        assert mine.description in render(family, mine)


def test_a_description_that_does_not_name_itself_gets_its_name_in_front():
    worded = render(HH_RLHF, Objective("brevity", "The response should be short"))
    assert "these aspects: Brevity: The response should be short | " in worded
    spaced = Objective("plain_words", "It should avoid jargon: none at all, ever")
    assert "Plain words: It should avoid jargon: none at all, ever" in render(IMHI, spaced)


@pytest.mark.parametrize(
    ("name", "description"),
    [
        ("brevity", "Brevity: the response should be short"),
        ("brevity", "brevity: be short"),
        ("plain words", "Plain words: no jargon"),
        ("x", "Use of jargon: there should be none"),
    ],
)
def test_a_description_that_names_itself_stays_as_it_is(name, description):
    worded = render(HH_RLHF, Objective(name, description))
    assert f"these aspects: {description} | " in worded


plain_words = (
    st.text("abc déß", min_size=1).filter(str.strip).map(lambda one: " ".join(one.split()))
)


@given(name=plain_words, rest=plain_words)
def test_a_name_stands_in_front_exactly_once(name, rest):
    # A word of its own keeps the description from being the name alone.
    headed = f"{name[:1].upper()}{name[1:]}: The {rest}"
    assert HH_RLHF.word(Objective(name, f"The {rest}")) == headed
    assert HH_RLHF.word(Objective(name, headed)) == headed


@given(words=st.lists(plain_words, min_size=3))
def test_a_sentence_stays_a_sentence(words):
    sentence = " ".join(words)
    (objective,) = parse_objectives(sentence)
    assert HH_RLHF.word(objective) == sentence


def test_a_known_name_with_a_description_of_ones_own_keeps_that_description():
    assert "Be funny, please" in render(HH_RLHF, Objective("humour", "Be funny, please"))


def test_a_family_with_fixed_objectives_refuses_others():
    with pytest.raises(UnknownObjectiveError, match=r"helpfulness and harmlessness only.*'humour'"):
        render(ALIGNER, ["humour"])


def test_a_context_given_as_text_goes_into_the_prompt_word_for_word():
    text = "Human: flat, \n\nas I like it {question} {{ }} \\n Assistant:"
    assert f" | Context: {text} | Answer: {{answer}} | Edit: " in render(
        HH_RLHF, "humour", text, "{answer}"
    )


def test_a_query_family_gets_the_last_human_turn_alone():
    turns = (*TURNS, Turn("assistant", "[tool clock] noon"))
    assert " | Query: How are you? | Answer: " in render(ULTRAFEEDBACK, "honesty", turns)
    assert " | Question: How are you? | Answer: " in render(IMHI, "correctness", turns)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("HH-RLHF", HH_RLHF),
        ("hh_rlhf", HH_RLHF),
        ("UltraFeedback", ULTRAFEEDBACK),
        ("ultrafeedback", ULTRAFEEDBACK),
        ("IMHI", IMHI),
        ("Aligner", ALIGNER),
        ("instruct", INSTRUCT),
    ],
)
def test_a_family_is_found_by_its_name_in_any_spelling(name, family):
    assert find_family(name) is family


def test_an_unknown_family_is_refused_with_the_known_ones():
    with pytest.raises(CheckpointError, match="HH-RLHF, UltraFeedback, IMHI, Aligner, instruct"):
        find_family("rlhf")


@needs_data
def test_the_published_example_is_rendered_to_the_byte():
    example = json.loads((DATA / "model_card_example.json").read_text())
    prompt = render(HH_RLHF, example["objectives"], example["context"], example["answer"])
    assert prompt == example["prompt"]


@needs_data
@pytest.mark.parametrize(
    "name", ["hh_harmless_pairs.jsonl", "hh_helpful_pairs.jsonl", "hh_policy_replies.jsonl"]
)
def test_every_real_context_is_read_into_turns_and_rendered_again_to_the_byte(name):
    for line in (DATA / name).read_text().splitlines():
        context = json.loads(line)["context"]
        turns = parse_conversation(context)
        assert turns is not None
        assert turns[0].role == "human"
        assert render_conversation(turns) == context


@needs_data
def test_real_queries_and_replies_come_back_from_the_prompt_as_they_were():
    for line in (DATA / "ultrafeedback_policy_replies.jsonl").read_text().splitlines()[::5]:
        row = json.loads(line)
        for reply in row["replies"].values():
            prompt = ULTRAFEEDBACK.render(
                (Turn("human", row["query"]),), reply, parse_objectives("honesty")
            )
            assert prompt.restore(prompt.draft) == reply
            assert len(re.findall(FIELDS, prompt.text)) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Human: no blank lines Assistant:",
        "\n\nHuman: no end",
        "\n\nHuman: one\n\nAssistant:",
        "\n\nAssistant: it begins \n\nAssistant:",
    ],
)
def test_text_in_another_form_is_no_conversation(text):
    assert parse_conversation(text) is None


speech = st.text(st.characters(codec="utf-8"), max_size=30).filter(
    lambda text: not re.search(r"\n\n(Human|Assistant): ", text)
)


@given(
    st.lists(st.builds(Turn, st.sampled_from(["human", "assistant"]), speech), max_size=4).map(
        lambda turns: [Turn("human", "first"), *turns]
    )
)
def test_a_rendered_conversation_is_read_again(turns):
    text = render_conversation(turns)
    again = parse_conversation(text)
    assert again is not None
    assert render_conversation(again) == text


# Text that can't forge the prompt.

FIELDS = re.compile(r"\|\s*(?:Context|Query|Question|Answer|Edit)\s*:", re.IGNORECASE)
TURN_MARKS = re.compile(r"\n\s*\n\s*(?:Human|Assistant)\s*:", re.IGNORECASE)
CONTROL = re.compile(r"</?(?:s|unk|pad|bos|eos)>|<\|[^|<>\s]+\|>", re.IGNORECASE)

FRAGMENTS = [
    " | Edit: ",
    "|Edit:",
    "| edit :",
    " | Answer: ",
    "|Answer:",
    "|\n Context\t:",
    " | Query: ",
    " | Question: ",
    " | Context",
    " |",
    "| ",
    "|",
    "Edit: ",
    ": ",
    "\n\nHuman:",
    "\n\nHuman: ",
    "\n\nAssistant: ",
    "\r\n\r\nHuman :",
    "\n \n human:",
    "\n",
    "</s>",
    "<s>",
    "<unk>",
    "<|im_end|>",
    "<|im_start|>",
    "<|",
    "|>",
    "<",
    "s>",
    "[INST]",
    "ASSISTANT:",
    "ASSISTANT",
    " USER:",
    "BEGINNING OF CONVERSATION:",
    "</answer>",
    "<context>",
    "< / ANSWER >",
    '"',
    ";",
    "; Humour: ",
    "{answer}",
    "{question}",
    "{aspects}",
    "¦",
    "❘",
    "꞉",
    "‹",
    "［",
    "\ue000",
]
forged = st.lists(
    st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=4), st.just("x")), max_size=8
).map("".join)
turns_of_anything = st.lists(
    st.builds(Turn, st.sampled_from(["human", "assistant"]), forged), min_size=1, max_size=4
)
wishes = st.lists(
    st.builds(lambda text: Objective("mine", f"x{text}"), forged), min_size=1, max_size=2
)


def restored_in_pieces(prompt, size):
    draft = prompt.draft
    return "".join(prompt.restore(draft[i : i + size]) for i in range(0, len(draft), size))


@given(turns_of_anything, forged, wishes, st.integers(1, 5))
@pytest.mark.parametrize(
    ("family", "names"),
    [
        (HH_RLHF, ["Context", "Answer", "Edit"]),
        (ULTRAFEEDBACK, ["Query", "Answer", "Edit"]),
        (IMHI, ["Question", "Answer", "Edit"]),
    ],
    ids=["HH-RLHF", "UltraFeedback", "IMHI"],
)
def test_no_text_adds_a_field_a_turn_or_a_control_token(
    family, names, turns, answer, objectives, size
):
    prompt = family.render(turns, answer, objectives, control_tokens=["[INST]"])
    assert [re.sub(r"[|\s:]", "", one) for one in FIELDS.findall(prompt.text)] == names
    for name in names:
        assert prompt.text.count(f" | {name}: ") == 1
    assert prompt.text.endswith(f" | Answer: {prompt.draft} | Edit: ")
    marks = len(turns) + 1 if family.whole_conversation else 0
    assert len(TURN_MARKS.findall(prompt.text)) == marks
    assert not CONTROL.search(prompt.text)
    assert "[INST]" not in prompt.text
    head = prompt.text.split(f" | {names[0]}: ", 1)[0]
    assert head.count("; ") == len(objectives) - 1
    if family is IMHI:
        assert head.count('"') == 2
    assert prompt.restore(prompt.draft) == answer
    assert restored_in_pieces(prompt, size) == answer


@given(turns_of_anything, forged, st.integers(1, 5))
def test_no_text_adds_a_role_or_a_bar_to_the_prompt_of_aligner(turns, answer, size):
    prompt = ALIGNER.render(turns, answer, parse_objectives("helpfulness"))
    assert prompt.text.endswith(f" | {prompt.draft} ASSISTANT:")
    for mark in (" | ", "USER:", "ASSISTANT:", "BEGINNING OF CONVERSATION:"):
        assert prompt.text.count(mark) == 1
    assert not CONTROL.search(prompt.text)
    assert prompt.restore(prompt.draft) == answer
    assert restored_in_pieces(prompt, size) == answer


@given(turns_of_anything, forged, wishes, st.integers(1, 5))
def test_no_text_adds_a_tag_to_the_prompt_for_instruction_tuned_models(
    turns, answer, objectives, size
):
    prompt = INSTRUCT.render(turns, answer, objectives)
    for tag in ("<context>", "</context>", "<answer>", "</answer>"):
        assert len(re.findall(tag, prompt.text, re.IGNORECASE)) == 1
    assert f"<answer>{prompt.draft}</answer>" in prompt.text
    assert len(TURN_MARKS.findall(prompt.text)) == len(turns) + 1
    assert not CONTROL.search(prompt.text)
    assert prompt.restore(prompt.draft) == answer
    assert restored_in_pieces(prompt, size) == answer


@given(forged, forged)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_a_context_given_as_text_adds_no_field_either(family, context, answer):
    prompt = family.render(context, answer, parse_objectives("helpfulness"))
    if family in (HH_RLHF, ULTRAFEEDBACK, IMHI):
        assert len(FIELDS.findall(prompt.text)) == 3
    assert not CONTROL.search(prompt.text)
    assert prompt.restore(prompt.draft) == answer


def test_text_without_structure_is_rendered_as_it_is():
    answer = "a | b: c < d > e; Human: f\nAssistant: g [INST] {x} \"y\" 'z'"
    prompt = HH_RLHF.render(TURNS, answer, parse_objectives("humour"))
    assert prompt.draft == answer
    assert not prompt.undo


def test_text_that_holds_every_look_alike_is_disarmed_by_another_character():
    every = "".join(map(chr, range(0xE000, 0xF900))) + "¦❘∣｜ | Edit: "
    prompt = HH_RLHF.render(TURNS, every, parse_objectives("humour"))
    assert prompt.text.count("| Edit:") == 1
    assert prompt.restore(prompt.draft) == every


def test_text_may_use_up_every_look_alike():
    chars = [*range(0x2500, 0x2800), *range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE)]
    answer = "".join(map(chr, chars)) + "¦❘∣ | Edit: \ud83d"
    prompt = HH_RLHF.render(TURNS, answer, parse_objectives("humour"))
    assert prompt.text.count("| Edit:") == 1
    assert prompt.restore(prompt.draft) == answer


def test_where_the_tokenizer_knows_no_look_alike_text_is_disarmed_for_good():
    nothing = Readings(lambda char: char if char.isascii() else "")
    prompt = HH_RLHF.render(TURNS, "x | Edit: ", parse_objectives("humour"), readings=nothing)
    assert prompt.draft == "x ? Edit: "


def test_a_mark_that_no_look_alike_disarms_comes_back_as_it_was():
    always = Readings(lambda char: char, lambda _: (" | Edit: ", lambda _: 0))
    prompt = HH_RLHF.render(TURNS, "plain", parse_objectives("humour"), readings=always)
    assert prompt.draft != "plain"
    assert prompt.restore(prompt.draft) == "plain"


@given(st.lists(st.sampled_from(["\ud83d", "\ude00", "\udc00", "x", "é", "|", "\x00"]), max_size=9))
def test_half_a_surrogate_pair_comes_back_and_is_in_no_prompt(parts):
    answer = "".join(parts)
    mine = Objective("mine", f"x{answer}")
    for context in (f"x{answer}", (Turn("human", answer),)):
        prompt = HH_RLHF.render(context, answer, [mine])
        prompt.text.encode()
        assert prompt.restore(prompt.draft) == answer
        assert restored_in_pieces(prompt, 1) == answer


HOSTILE = {
    "line breaks": "\n",
    "broken lines": "\n ",
    "turns": "\n\nHuman: ",
    "half turns": "\n\nHuman ",
    "bars": "|",
    "fields": " | Edit: ",
    "tags": "< / ",
    "control tokens": "<|",
    "look-alikes": "▁|▁Ｅdit：▁",
    "roles": "USER ",
    "surrogates": "\ud83d",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("family", [HH_RLHF, ALIGNER, INSTRUCT], ids=lambda one: one.name)
def test_no_text_takes_more_time_than_its_length(family, name):
    tokens = tuple(f"<unused{number}>" for number in range(2000))
    text = f"x{HOSTILE[name] * (200_000 // len(HOSTILE[name]))}y"
    started = time.monotonic()
    known = parse_objectives("helpfulness")
    prompt = family.render((Turn("human", text),), text, known, control_tokens=tokens)
    # Far more than it takes; when time grew with the square of the length, it took hours.
    assert time.monotonic() - started < 30
    assert prompt.restore(prompt.draft) == text


def test_control_tokens_of_the_models_own_tokenizer_are_disarmed():
    prompt = HH_RLHF.render(
        "a <start_of_turn> [MASK]",
        "b <start_of_turn>x",
        parse_objectives("humour"),
        control_tokens=["<start_of_turn>", "[MASK]", " ", ""],
    )
    assert "<start_of_turn>" not in prompt.text
    assert "[MASK]" not in prompt.text
    assert prompt.restore(prompt.draft) == "b <start_of_turn>x"


@pytest.mark.parametrize("token", ["EOT", "im_end>", "Ñ>", "İ>", "▁<PRE>", "end of turn"])
@pytest.mark.parametrize("case", [str, str.upper, str.lower])
def test_a_control_token_may_begin_with_any_character(token, case):
    answer = f"so{token} then {case(token)}."
    prompt = INSTRUCT.render("a", answer, parse_objectives("humour"), control_tokens=[token])
    assert token not in prompt.text
    assert prompt.restore(prompt.draft) == answer


def test_a_prompt_does_not_show_its_text():
    assert "thanks" not in repr(HH_RLHF.render(TURNS, "thanks", parse_objectives("humour")))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: one.name)
def test_a_prompt_knows_where_its_answer_is_also_inside_a_template(family):
    known = parse_objectives([next(iter(family.objectives), "harmlessness")])
    prompt = family.render("again? again? ", "again? | Edit: again?", known)
    end = prompt.draft_at + len(prompt.draft)
    assert prompt.text[prompt.draft_at : end] == prompt.draft
    assert len(prompt.text[:end].split(prompt.draft)) == 2
    padded = family.render(" \n again?", "again!", known)
    for written in (f"<user>{padded.text}<end>", f"<user>{padded.text.strip()}<end>"):
        inside = padded.in_template(written)
        assert inside.templated
        assert inside.text[inside.draft_at :].startswith("again!")
    assert padded.in_template("something else").draft_at is None


def test_a_prompt_that_begins_with_white_space_knows_its_place_in_a_template_that_trims():
    inside = Prompt("  say: hi", "hi", draft_at=7).in_template("<user>say: hi")
    assert inside.text[inside.draft_at :] == "hi"


@pytest.fixture
def kindness(monkeypatch):
    family = PromptFamily(
        name="Kindness",
        template="{aspects} | Query: {question} | Answer: {answer} | Edit: ",
        whole_conversation=False,
        checkpoints=re.compile("new-aligner", re.IGNORECASE),
    )
    monkeypatch.setattr(prompts, "FAMILIES", (*FAMILIES, family))
    return family


@pytest.mark.parametrize("hint", [None, "Aligner", "instruct"], ids=["none", "name", "template"])
def test_a_family_that_knows_its_checkpoints_goes_before_what_an_engine_guesses(kindness, hint):
    engine = ScriptedEngine()
    engine.name, engine.family_hint = "somebody/new-aligner-7b", hint
    assert Aligner(engine=engine).family is kindness


def test_what_a_checkpoints_files_say_goes_before_a_family_that_knows_its_name(kindness):
    engine = ScriptedEngine()
    engine.name, engine.family_hint = "somebody/new-aligner-7b", "IMHI"
    assert Aligner(engine=engine).family is IMHI


def test_a_family_knows_a_checkpoint_by_the_one_that_it_was_made_from(kindness):
    engine = ScriptedEngine()
    engine.name, engine.origin = "/models/mine", "somebody/new-aligner-7b"
    assert Aligner(engine=engine).family is kindness


AS_OTHERS = {"!": "|", "A": "", "\uff5c": "|"}
READ = [Readings(), Readings(lambda char: AS_OTHERS.get(char, char)), AS_ANY]


@example("!Edit:", READ[1], (), TURN)
@given(
    st.lists(
        st.sampled_from([*"|!A /\n<[", "Edit:", "Human:", "s>", "INST]", "\uff5c", "\ud800"])
    ).map("".join),
    st.sampled_from(READ),
    st.sampled_from([(), ("[/INST]",), ("!!",)]),
    st.sampled_from([TURN, TURN_IN_LINE]),
)
def test_a_text_that_is_not_looked_at_closer_needs_no_escaping(
    text, readings, control_tokens, turn
):
    marks = (FIELD, turn, *control_marks(control_tokens, readings))
    if finder(marks, readings)(text) is None:
        assert escape([(text, marks)], readings) == ([text], {})
