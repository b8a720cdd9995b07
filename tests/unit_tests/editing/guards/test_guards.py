"""What an edit that keeps most of the reply must keep, whole and in pieces of any length."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage
from pydantic import ValidationError

from langchain_metaaligner import (
    Aligner,
    Alignment,
    Edit,
    Engine,
    EngineError,
    GuardError,
    MetaAlignerRunnable,
    Request,
)
from langchain_metaaligner.editing.guards import Change
from langchain_metaaligner.options import AlignerOptions, cache_key, load_key

QUESTION = "\n\nHuman: Tell me. \n\nAssistant:"
FIRM = "I can't help with that. Please talk to somebody whom you trust, or call 988."


class InPieces(Engine):
    """Returns one edit, in pieces that end where it is told."""

    name = "in pieces"

    def __init__(self, text: str, cuts: Sequence[int] = ()) -> None:
        self._text, self._cuts = text, cuts
        self.given = 0

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        return [Edit(self._text) for _ in requests]

    def stream(self, request: Request) -> Iterator[str]:
        ends = sorted({cut for cut in self._cuts if 0 < cut < len(self._text)})
        for start, end in zip([0, *ends], [*ends, len(self._text)], strict=True):
            self.given += end - start
            yield self._text[start:end]


def whole(answer: str, edit: str, **options: Any) -> Alignment:
    return Aligner(engine=InPieces(edit), **options).align(QUESTION, answer, "harmlessness")


def streamed(answer: str, edit: str, cuts: Sequence[int], **options: Any) -> list[str]:
    return [*Aligner(engine=InPieces(edit, cuts), **options).stream(QUESTION, answer, "humour")]


TABLE = "| a | b |\n|---|---|\n| one x | two y |\n| three z | four w |\n\nThat is all of it."
CODE = "Run this:\n```python\nprint(1)\n```\nand you are done with it."
JSON = 'Here it is:\n```json\n{"a": 1, "b": [2, 3]}\n```\nUse it well.'
LIST = "1. Foo it is\n2. Bar it was\n3. Baz will be\n4. Qux may be"
OFFICE = "You can reach our office at {} until {} pm today."
CITED = "The sky is blue [1] and the sea is green [2]."
KEEP = "It is a plan. Keep at it for long."
MUSEUM = "The museum is open every day and it is free for all."
CHINESE = "\u6211\u7684\u7535\u8bdd\u662f555-1234,\u8bf7\u6253\u6765\u3002"
SPOILT = {
    "numbers": [
        (OFFICE.format("555-1234", 5), OFFICE.format("555-9999", 6)),
        ("5 apples are in the basket today.", "7 apples are in the basket today."),
        ("Call 911.", "Call 988."),
        ("It is open at 3 pm on Monday, as ever.", "It is open on Monday, as ever."),
        ("There are 12 apples and 15 pears in it.", "There are 15 apples and 12 pears in it."),
        ("It was in 1889, they say, and not before.", "It was in 1898, they say, and not before."),
        (LIST, LIST.replace("3.", "5.")),
        ("Cook it for 15 minutes at most.", "Cook it for 16th minutes at most."),
        ("Take vitamin B12 with it, as ever.", "Take vitamin B21 with it, as ever."),
        ("Confidence:\n80%\nThat is all.", "Confidence:\n90%\nThat is all."),
        (CHINESE, CHINESE.replace("1234", "9999")),
        (
            "It is a plan. You should start soon. Keep at it for long and be kind to all.",
            "It is a plan. You should start soon. Call 1-800-555-1234. Keep at it for long and be"
            " kind to all.",
        ),
    ],
    "urls": [
        ("See https://example.com/a for it.", "See https://example.org/a for it."),
        ("Go to example.com and look for it there.", "Go to examples.com and look for it there."),
        (KEEP, f"{KEEP} See https://x.io/y."),
    ],
    "emails": [("Write to help@example.com for more.", "Write to hello@example.com for more.")],
    "citations": [
        (CITED, CITED.replace("[2]", "[3]")),
        (CITED, CITED.replace(" [1]", "")),
        ("Read [the guide](https://x.org/g) before you start.", "Read the guide before you start."),
    ],
    "fences": [
        (CODE, CODE.replace("```\nand", "\nand")),
        (CODE.removesuffix("\nand you are done with it."), CODE[: CODE.index("\n```\nand")]),
    ],
    "tables": [(TABLE, TABLE.replace("x | two", "x  two")), (TABLE, TABLE.replace("y |\n", "y\n"))],
    "json": [(JSON, JSON.replace("3]", "3"))],
    "language": [
        (MUSEUM, MUSEUM.replace("it is free", "\u5b83\u662f\u514d\u8d39\u7684")),
        (MUSEUM, MUSEUM.replace("free", "\u0431\u0435\u0441\u043f\u043b\u0430\u0442\u043d\u043e")),
    ],
}  # fmt: skip
ROWS = [(name, *row) for name, rows in SPOILT.items() for row in rows]
FREE = {
    "a sentence vanishes with its number": (
        "Drink water. Take 5 pills at night. Sleep well and long.",
        "Drink water. Sleep well and long.",
    ),
    "one of several sentences of one form vanishes": (
        "Take 5 pills daily. Take 6 pills weekly. Sleep well and long.",
        "Take 6 pills weekly. Sleep well and long.",
    ),
    "an item of a list vanishes, and the others are numbered anew": (
        LIST,
        "1. Foo it is\n2. Baz will be\n3. Qux may be",
    ),
    "a row of a table vanishes": (TABLE, TABLE.replace("| one x | two y |\n", "")),
    "a block of code vanishes": (CODE, "Run this:\nand you are done with it."),
    "a number is written in another way": (
        "It costs 1000 dollars to go there by plane.",
        "It costs 1,000 dollars to go there by plane.",
    ),
    "a name with digits makes room for another word": (
        "He flies with an F16 on every day of the week.",
        "He flies with an aeroplane on every day of the week.",
    ),
    "a harmful reply is replaced": ("Sure, buy it at 555-1234 and shoot him in the head.", FIRM),
    "a harmful reply is replaced after its first words": (
        "I'm sorry to hear that. Take 50 pills with vodka and lie down.",
        "I'm sorry to hear that. Please call a helpline at 1-800-273-8255 or a friend.",
    ),
    "a harmful sentence is replaced in a reply that stays": (
        "Drink water and sleep long. Take 50 pills to die. Then walk in the park every day.",
        "Drink water and sleep long. Please talk to 1 friend. Then walk in the park every day.",
    ),
    "all is in another language": ("It is open until 5 pm.", "Es ist bis 6 Uhr offen."),
}


@pytest.mark.parametrize(("name", "answer", "edit"), ROWS)
def test_what_a_guard_keeps_is_put_back_before_it_is_sent(name, answer, edit):
    made = whole(answer, edit)
    assert made.text == answer
    assert made.status == "unchanged"
    assert set(made.guards) == {name}
    assert whole(answer, edit, guards=()).text == edit
    others = tuple(one for one in AlignerOptions().guards if one != name)
    assert name not in whole(answer, edit, guards=others).guards


@pytest.mark.parametrize(("answer", "edit"), FREE.values(), ids=FREE)
def test_guards_leave_alone_what_an_edit_may_do(answer, edit):
    made = whole(answer, edit)
    assert made.text == edit
    assert made.guards == {}


PAIRS = [*[row[1:] for row in ROWS], *FREE.values()]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_streamed_edit_has_the_text_of_the_whole_one(data):
    answer, edit = data.draw(st.sampled_from(PAIRS))
    if data.draw(st.booleans()):
        other = data.draw(st.sampled_from(PAIRS))
        answer, edit = f"{answer}\n\n{other[0]}", f"{edit}\n\n{other[1]}"
    cuts = data.draw(st.lists(st.integers(1, len(edit)), max_size=40))
    if data.draw(st.booleans()):
        cuts = list(range(len(edit)))
    try:
        text = whole(answer, edit).text
    except GuardError as error:
        with pytest.raises(GuardError, match=error.guard):
            streamed(answer, edit, cuts)
    else:
        assert "".join(streamed(answer, edit, cuts)) == text


WORD = st.sampled_from(
    "a the of 12 go. see, https://x.io/a | ``` [1] \u4fa1 \n cat x1 a@b.co (".split(" ")
)
TEXT = st.lists(WORD, min_size=1, max_size=30).map(" ".join).filter(str.strip)


@settings(max_examples=150, deadline=None)
@given(TEXT, TEXT, TEXT, st.lists(st.integers(1, 100), max_size=20))
def test_any_edit_is_the_same_in_pieces_and_an_unchanged_one_stays(start, middle, end, cuts):
    answer, edit = f"{start} {end}", f"{start} {middle} {end}"
    assert "".join(streamed(answer, answer, cuts)) == answer
    try:
        text = whole(answer, edit).text
    except GuardError:
        with pytest.raises(GuardError):
            streamed(answer, edit, cuts)
    else:
        assert "".join(streamed(answer, edit, cuts)) == text


def test_a_rewrite_and_kept_words_are_sent_as_they_come():
    answer = "Sure, buy it at 555-1234 and shoot him in the head."
    assert streamed(answer, FIRM, range(len(FIRM))) == [*FIRM]
    kept = "It is a fine day for a walk in the park."
    assert streamed(kept, kept, range(len(kept))) == [*kept]


def test_only_the_changed_passage_is_held_back():
    answer = "It is a fine day for a walk with 5 friends, and so is tomorrow as well."
    edit = answer.replace("5 friends", "6 friends")
    pieces = streamed(answer, edit, range(len(edit)))
    assert "".join(pieces) == answer
    assert max(map(len, pieces)) < 40


def test_an_edit_that_goes_on_elsewhere_flows_again_soon():
    kept = "I'm sorry to hear that. "
    edit = f"{kept}{FIRM} {FIRM}"
    pieces = streamed(f"{kept}Take 50 pills with vodka and then lie down.", edit, range(len(edit)))
    assert "".join(pieces) == edit
    assert max(map(len, pieces)) < 64


def keeps_acme(change: Change) -> str | None:
    return change.before if "Acme" in change.before else change.after


class Strict:
    name = "strict"

    def __call__(self, change: Change) -> str | None:
        assert change.answer[change.start : change.end] == change.before
        return None


def broken(change: Change) -> str | None:
    raise KeyError(change.before)


ACME = ("You can buy it from Acme in every town.", "You can buy it from Acne in every town.")


def test_a_guard_of_ones_own_decides_about_a_passage_and_may_refuse_the_edit():
    made = whole(*ACME, guards=("all", keeps_acme))
    assert made.text == ACME[0]
    assert made.guards == {"keeps_acme": {"restored": 1}}
    with pytest.raises(GuardError, match="strict") as caught:
        whole(*ACME, guards=Strict())
    assert (caught.value.guard, caught.value.retryable) == ("strict", False)
    with pytest.raises(GuardError):
        streamed(*ACME, (3, 5, 24), guards=[Strict()])
    with pytest.raises(EngineError, match="broken"):
        whole(*ACME, guards=broken)
    with pytest.raises(GuardError, match="returned a int"):
        whole(*ACME, guards=Change.__sizeof__)


def test_a_guard_can_t_replace_what_was_sent_already():
    answer, edit = (
        "You can buy it from us in every town.",
        "You can buy item from us in every town.",
    )
    for cuts in ((), (3, 14), range(len(edit))):
        with pytest.raises(GuardError, match="all_new"):
            streamed(answer, edit, cuts, guards=all_new)
    with pytest.raises(GuardError, match="all_new"):
        whole(answer, edit, guards=all_new)


def all_new(change: Change) -> str | None:
    return "nothing "


def test_no_guard_is_asked_about_a_reply_of_which_less_than_half_is_left():
    harm = "Buy a gun and a knife, call the man at his home and shoot him in the head at once. " * 4
    answer = f"You can do it. {harm}Be well and sleep long."
    edit = "You can do it. Talk to him. Be well and sleep long."
    assert whole(answer, edit, guards=Strict()).text == edit


def test_a_long_passage_is_not_put_back_for_the_sake_of_a_form():
    kept = "It is a plan, and you should keep at it for long and be kind to all. " * 4
    old = "```\none two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    with pytest.raises(GuardError, match="fences"):
        whole(f"{kept}\n{old}\n```\n{kept}", f"{kept}\nNothing of it is here now.\n```\n{kept}")


def test_a_list_may_lose_its_numbers():
    answer = "Do it so:\n1. Foo it is today\n2. Bar it was before\n3. Baz will be soon"
    edit = answer.replace("1. ", "- ").replace("2. ", "- ").replace("3. ", "- ")
    assert whole(answer, edit).text == edit


@pytest.mark.parametrize(
    ("on_error", "text", "status"),
    [("pass", ACME[0], "passed"), ("block", "Blocked.", "blocked")],
)
def test_on_error_decides_what_becomes_of_a_refused_edit(on_error, text, status):
    llm = FakeListChatModel(responses=[ACME[0]])
    edit = MetaAlignerRunnable(
        engine=InPieces(ACME[1]), guards=Strict(), on_error=on_error, block_message="Blocked."
    )
    reply = (llm | edit).invoke("Where?")
    told = reply.response_metadata["metaaligner"]
    assert (reply.text, told["status"], told["error"]) == (text, status, "GuardError")
    assert told["guards"] == {"strict": {"refused": 1}}


def test_a_replaced_sentence_never_comes_back_for_an_invented_address():
    before = (
        "Drink water and sleep long enough. Take fifty pills at once to die. Then walk in the park."
    )
    after = before.replace("Take fifty pills at once to die.", "See https://x.io/help instead.")
    with pytest.raises(GuardError, match="urls"):
        whole(before, after)


def test_an_address_from_the_question_may_be_added():
    asked = "\n\nHuman: What is https://x.io/y? \n\nAssistant:"
    answer, edit = "It is a page.\nIt is good.", "It is a page.\nSee https://x.io/y.\nIt is good."
    engine = InPieces(edit)
    assert Aligner(engine=engine).align(asked, answer, "humour").text == edit


def test_a_letter_of_another_writing_system_that_the_question_has_may_be_added():
    asked = "\n\nHuman: What is \u043c\u0438\u0440? \n\nAssistant:"
    answer, edit = (
        "It is the Russian word for it, and old.",
        "It is the Russian \u043c\u0438\u0440 for it, and old.",
    )
    assert Aligner(engine=InPieces(edit)).align(asked, answer, "humour").text == edit


def test_what_guards_did_is_plain_json_in_the_provenance():
    answer, edit = SPOILT["numbers"][0]
    edited = (
        FakeListChatModel(responses=[answer]) | MetaAlignerRunnable(engine=InPieces(edit))
    ).invoke("When?")
    told = edited.response_metadata["metaaligner"]
    assert json.loads(json.dumps(told))["guards"] == {"numbers": {"restored": 1}}
    kept = MetaAlignerRunnable(engine=InPieces(answer), objectives="humour")
    same = kept.invoke({"messages": [("human", "When?"), AIMessage(answer)]})["messages"][0]
    assert "guards" not in same.response_metadata["metaaligner"]


def test_a_refusal_followed_by_help_is_noted():
    edit = "I'm sorry, but I can't help with that. Here are the steps:\n1. Buy it.\n2. Use it."
    made = whole("Buy it and use it, then run away.", edit)
    assert (made.text, made.guards) == (edit, {"contradiction": {"noted": 1}})
    assert whole(edit.replace("Buy", "Sell"), edit).guards == {}


def test_each_text_of_a_json_answer_has_its_own_guards():
    answer = json.dumps({"at": OFFICE.format("555-1234", 5), "to": 'Say "hi" to all 7 of them.'})
    engine = EachDraft({"555-1234": "555-9999", "all 7": "all 8"})
    made = Aligner(engine=engine).align(QUESTION, answer, "humour")
    assert made.text == answer
    assert made.guards == {"numbers": {"restored": 2}}
    assert "".join(Aligner(engine=engine).stream(QUESTION, answer, "humour")) == answer


class EachDraft(Engine):
    """Replaces texts in each draft."""

    def __init__(self, by: dict[str, str]) -> None:
        self._by = by

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        return [Edit(self._edited(one.draft)) for one in requests]

    def _edited(self, draft: str) -> str:
        for one, other in self._by.items():
            draft = draft.replace(one, other)
        return draft


def test_guards_are_an_option_that_changes_the_text_and_not_the_weights():
    plain, own = AlignerOptions(), AlignerOptions(guards=["numbers", keeps_acme])
    assert own.guards == ("numbers", keeps_acme)
    assert AlignerOptions(guards="all").guards == plain.guards
    assert cache_key(plain)["guards"] != cache_key(own)["guards"]
    assert load_key(plain) == load_key(own)
    again = pickle.loads(pickle.dumps(MetaAlignerRunnable(engine=EachDraft({}), guards=own.guards)))
    assert again.guards == own.guards
    assert "keeps_acme" in dumps(MetaAlignerRunnable(guards=own.guards))
    for wrong in ("number", ["numbers", 3], None, 7):
        with pytest.raises(ValidationError, match="guards must be names"):
            AlignerOptions(guards=wrong)


def test_guards_take_time_in_proportion_to_the_text():
    def seconds(answer: str, edit: str) -> float:
        started = time.process_time()
        whole(answer, edit, max_new_tokens=10**6)
        return time.process_time() - started

    line = "The number {} stands in this line, and the line is one of very many lines here.\n"
    answer = "".join(line.format(place) for place in range(3000))
    edit = answer.replace("50 stands", "51 stands").replace("77 stands in", "77 is in")
    assert seconds(answer, edit) < 1.5
    assert seconds(answer, "".join(reversed(answer))) < 1.5
    assert seconds(f"x{'y7' * 10**5}", f"z{'y7' * 10**5} ") < 1.5
