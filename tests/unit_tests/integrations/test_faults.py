"""Whatever fails, wherever it fails, the reply becomes what the error policy says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage

from langchain_metaaligner import (
    ChatMetaAligner,
    Edit,
    EditTimeout,
    Engine,
    MetaAlignerError,
    MetaAlignerMiddleware,
    MetaAlignerRunnable,
    OverloadedError,
    Request,
)
from tests.unit_tests.integrations.middleware.parts import ASKED, RAW, Policy, final
from tests.unit_tests.integrations.ways import WAYS, by_turns, in_pairs, merged

BLOCKED = "This answer can't be shown."
EDITED = "an edited answer"
POLICIES = ("raise", "pass", "block", "shadow")
FACES = ("runnable", "middleware", "chat model")


class Panic(BaseException):
    """As what a panic in compiled code, such as a tokenizer's, arrives in Python."""


FAULTS = {
    "an error": ValueError("broken"),
    "no memory": MemoryError(),
    "a lost connection": ConnectionResetError("reset"),
    "a timeout": EditTimeout("late"),
    "an overload": OverloadedError("full"),
    "a cancellation of its own": asyncio.CancelledError(),
    "an end of iteration": StopIteration(),
    "a panic": Panic("broken"),
    "an exit": SystemExit(3),
}
# The parts of an edit before anything of it can have been read.
STAGES = ("family", "window", "tokenizer", "template", "edit", "when")
RESULTS = {
    "an empty edit": Edit(""),
    "an edit of white space": Edit(" \n"),
    "an edit cut short": Edit("rawword00 and", finish_reason="length"),
    "an edit that is no text": Edit(None),  # type: ignore[arg-type]
    "no edit": None,
    "a text": "rawword00",
    "an agreement that is no number": Edit(EDITED, agreement=float("nan")),
    "a usage that is no count": Edit(EDITED, usage={"output_tokens": -1}),
}


def by_turns_in_pairs(*dimensions: Any, turns: Any) -> list[tuple[Any, ...]]:
    """Cases with each pair of values, among which the values of one more dimension take turns."""
    cases = in_pairs(*dimensions)
    return [(*case, turn) for case, turn in by_turns(cases, turns)]


class Faulty(Engine):
    """Fails at one stage of an edit, for as long as it has a fault.

    Args:
        stage: Where it fails.
        fault: The error that it raises there, or the result that it gives.
    """

    name = "faulty"

    def __init__(self, stage: str, fault: Any) -> None:
        self.stage, self.fault, self.mended = stage, fault, False

    def reach(self, stage: str) -> None:
        if stage == self.stage and not self.mended:
            raise self.fault

    @property
    def family_hint(self) -> str:  # type: ignore[override]
        self.reach("family")
        return "instruct"

    @property
    def window(self) -> int:  # type: ignore[override]
        self.reach("window")
        return 500

    def count_tokens(self, text: str) -> int:
        self.reach("tokenizer")
        return len(text.split())

    def apply_chat_template(self, messages: Any) -> str:
        self.reach("template")
        return f"<user>{messages[0]['content']}<assistant>"

    def make(self) -> Any:
        self.reach("edit")
        return self.fault if self.stage == "result" and not self.mended else Edit(EDITED)

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        return [self.make() for _ in requests]

    def stream(self, request: Request) -> Iterator[str]:
        made = self.make()
        if made == Edit(EDITED):
            yield EDITED[:3]
            self.reach("stream")
            yield EDITED[3:]
        return made


class Teller(BaseCallbackHandler):
    """A handler that an application wants to hear about: its errors are raised."""

    raise_error = True

    def __init__(self, engine: Faulty) -> None:
        self.engine = engine

    def on_chat_model_start(self, serialized, messages, *, tags=(), **kwargs):
        if "metaaligner" in (tags or ()):
            self.engine.reach("callbacks")


class Stiff(AIMessage):
    """A message of a class that can't have another text."""

    def model_copy(self, *, update=None, deep=False):
        if EDITED in str(update):
            raise RuntimeError("this message can't be changed")
        return super().model_copy(update=update, deep=deep)


class Case:
    """A face whose edits fail, and what became of one reply.

    Attributes:
        shown: Everything that the consumer got, in order.
        error: What was raised.
        told: What `on_edit` was given.
    """

    def __init__(self, face: str, engine: Faulty, policy: str, reply: AIMessage | None = None):
        self.face, self.engine = face, engine
        self.told: list[Any] = []

        def on_edit(record: Any) -> None:
            self.told.append(record)
            engine.reach("on_edit")

        def when(reply: Any, context: Any) -> bool:
            engine.reach("when")
            return True

        options: Any = {
            "engine": engine,
            "on_edit": on_edit,
            "when": when,
            "block_message": BLOCKED,
        }
        options |= {"apply": False} if policy == "shadow" else {"on_error": policy}
        model = Policy(replies=[reply or final()])
        self.asked: Any = "What now?"
        if face == "runnable":
            self.made: Any = model | MetaAlignerRunnable(["harmlessness"], **options)
        elif face == "chat model":
            self.made = ChatMetaAligner(model, ["harmlessness"], **options)
        else:
            edits = MetaAlignerMiddleware(["harmlessness"], **options)
            self.made, self.asked = create_agent(model, tools=[], middleware=[edits]), ASKED

    def run(self, how: str) -> Case:
        self.shown: list[Any] = []
        self.error: BaseException | None = None
        try:
            self._run(how)
        except BaseException as error:
            self.error = error
        return self

    def _run(self, how: str) -> None:
        config: Any = {"callbacks": [Teller(self.engine)]}
        modes = {} if self.face != "middleware" else {"stream_mode": ["messages", "values"]}

        async def call() -> None:
            if how == "ainvoke":
                self.shown.append(await self.made.ainvoke(self.asked, config))
            elif how == "abatch":
                self.shown += await self.made.abatch([self.asked], config)
            else:
                async for piece in self.made.astream(self.asked, config, **modes):
                    self.shown.append(piece)

        if how == "invoke":
            self.shown.append(self.made.invoke(self.asked, config))
        elif how == "batch":
            self.shown += self.made.batch([self.asked], config)
        elif how == "stream":
            for piece in self.made.stream(self.asked, config, **modes):
                self.shown.append(piece)
        else:
            asyncio.run(call())

    @property
    def text(self) -> str:
        """The text of the reply that the consumer has in the end."""
        last = self.shown[-1]
        if self.face == "middleware":
            return (last[1] if isinstance(last, tuple) else last)["messages"][-1].text
        return merged(self.shown).text

    def becomes(self, policy: str) -> None:
        """Check what became of the reply, whose edit has failed."""
        if policy == "raise":
            assert isinstance(self.error, Exception)
            assert [one.status for one in self.told] == ["failed"]
        else:
            assert self.error is None
            assert self.text == (BLOCKED if policy == "block" else RAW)
            wanted = "blocked" if policy == "block" else "passed"
            assert [one.status for one in self.told] == [wanted]
        assert self.told[0].original == RAW
        if policy in ("raise", "block"):
            self.hides()
        self.goes_on(shadow=policy == "shadow")

    def hides(self) -> None:
        """Check that nothing of the unedited reply has reached the consumer."""
        assert "rawword" not in f"{self.shown}{self.error}"

    def goes_on(self, *, shadow: bool = False) -> None:
        """Check that the next reply is edited."""
        self.engine.mended = True
        self.told.clear()
        self.run("invoke")
        assert (self.error, self.text) == (None, RAW if shadow else EDITED)
        assert [one.status for one in self.told] == ["shadow" if shadow else "edited"]


@pytest.mark.parametrize(
    ("stage", "fault", "policy", "face", "how"), in_pairs(STAGES, FAULTS, POLICIES, FACES, WAYS)
)
def test_what_fails_before_an_edit_goes_as_the_policy_says(stage, fault, policy, face, how):
    case = Case(face, Faulty(stage, FAULTS[fault]), policy)
    if stage == "window":  # read anew for each edit, by then in another place
        case.goes_on(shadow=policy == "shadow")
        case.told.clear()
        case.engine.mended = False
    case.run(how)
    if policy == "raise" and stage != "when":
        assert isinstance(case.error, MetaAlignerError)
    case.becomes(policy)


@pytest.mark.parametrize(
    ("result", "policy", "face", "how"), in_pairs(RESULTS, POLICIES, FACES, WAYS)
)
def test_what_is_no_edit_goes_as_the_policy_says(result, policy, face, how):
    Case(face, Faulty("result", RESULTS[result]), policy).run(how).becomes(policy)


@pytest.mark.parametrize(
    ("policy", "face", "how", "fault"),
    by_turns_in_pairs(POLICIES[:3], FACES, ["stream", "astream"], turns=FAULTS),
)
def test_what_fails_after_a_part_was_read_is_raised_whatever_the_policy(policy, face, how, fault):
    case = Case(face, Faulty("stream", FAULTS[fault]), policy).run(how)
    assert isinstance(case.error, MetaAlignerError)
    assert [one.status for one in case.told] == ["failed"]
    case.hides()
    case.goes_on()


@pytest.mark.parametrize(("face", "how", "fault"), by_turns_in_pairs(FACES, WAYS, turns=FAULTS))
def test_what_on_edit_raises_changes_nothing(face, how, fault):
    case = Case(face, Faulty("on_edit", FAULTS[fault]), "block").run(how)
    assert (case.error, case.text) == (None, EDITED)
    assert [one.status for one in case.told] == ["edited"]
    case.goes_on()


# A chat model has one run for both, which tells of the policy's call.
@pytest.mark.parametrize(("policy", "face", "how"), in_pairs(POLICIES[:3], FACES[:2], WAYS))
def test_what_a_handler_raises_on_purpose_is_raised_whatever_the_policy(policy, face, how):
    case = Case(face, Faulty("callbacks", OSError("the disk is full")), policy).run(how)
    assert str(case.error) == "the disk is full"
    case.hides()
    case.goes_on()


@pytest.mark.parametrize(("policy", "face", "how"), in_pairs(POLICIES[:3], FACES, WAYS[:4]))
def test_a_message_that_takes_no_other_text_goes_as_the_policy_says(policy, face, how):
    case = Case(face, Faulty("none", None), policy, Stiff(RAW)).run(how)
    told = {"raise": "failed", "pass": "passed", "block": "blocked"}[policy]
    assert [one.status for one in case.told] == [told]
    if policy == "raise":
        assert "can't be changed" in str(case.error)
        case.hides()
    else:
        assert case.text == (RAW if policy == "pass" else BLOCKED)
