from __future__ import annotations

import asyncio
import copy
import pickle
import threading

import pytest

from langchain_metaaligner import Aligner, CheckpointError, Edit, Engine, Request
from langchain_metaaligner.engines.base import as_engine

REQUEST = Request("p", "d")


class Least(Engine):
    """Has the one method that there must be."""

    def edit(self, requests):
        return [Edit(f"{request.draft}!") for request in requests]


class Plain:
    """The same without the class."""

    def edit(self, requests):
        return [Edit(f"{request.draft}!") for request in requests]


both = pytest.mark.parametrize("kind", [Least, Plain])


@both
def test_one_method_makes_an_engine(kind):
    engine = as_engine(kind())
    assert engine.edit([REQUEST]) == engine.edit_each([REQUEST]) == [Edit("d!")]
    assert asyncio.run(engine.aedit([REQUEST])) == [Edit("d!")]
    assert asyncio.run(engine.aedit_each([REQUEST])) == [Edit("d!")]
    assert list(engine.stream(REQUEST)) == ["d!"]
    assert engine.name == kind.__name__
    assert (engine.window, engine.family_hint, engine.origin) == (None, None, "")
    assert (engine.keeps_deadlines, engine.prefills, engine.reports_agreement) == (False,) * 3
    assert not engine.keeps_caution
    assert tuple(engine.control_tokens) == ()
    assert engine.count_tokens("né") == 3
    assert engine.apply_chat_template([{"role": "user", "content": "hi"}]) is None
    engine.load()
    engine.warm("p")
    engine.close()


@both
def test_one_method_is_enough_for_an_aligner(kind):
    aligner = Aligner(engine=kind()).load()
    assert aligner.align("Hello?", "Hi", "readability").text == "Hi!"
    assert asyncio.run(aligner.aalign("Hello?", "Hi", "readability")).text == "Hi!"
    assert list(aligner.stream("Hello?", "Hi", "readability")) == ["Hi!"]
    aligner.warm("Hello?", "readability")
    assert isinstance(kind(), Engine)


def test_an_engine_is_taken_as_it_is():
    engine = Least()
    assert as_engine(engine) is engine
    assert as_engine(as_engine(plain := Plain())).edit([REQUEST]) == plain.edit([REQUEST])


def test_what_an_object_has_of_an_engine_is_used():
    class Full(Plain):
        name, window, keeps_deadlines, control_tokens = "full", 7, True, ("<x>",)
        calls = ()

        def count_tokens(self, text):
            return 5

        def edit_each(self, requests):
            return [Edit("each")]

        def apply_chat_template(self, messages):
            return "written"

    inner = Full()
    engine = as_engine(inner)
    assert (engine.name, engine.window, engine.keeps_deadlines) == ("full", 7, True)
    assert engine.count_tokens("text") == 5
    assert engine.edit_each([REQUEST]) == [Edit("each")]
    assert engine.apply_chat_template([]) == "written"
    assert engine.calls == ()
    inner.window = None
    assert engine.window is None
    with pytest.raises(AttributeError):
        _ = engine.something_else


def test_a_window_means_nothing_where_an_object_counts_no_tokens():
    class Says(Plain):
        window = 3

    assert as_engine(Says()).window is None


def test_what_only_a_model_can_tell_is_not_asked_for_before_it_is_needed():
    class Asked(Plain):
        asked = 0

        @property
        def window(self):
            self.asked += 1
            return 7

        def count_tokens(self, text):
            return 1

    inner = Asked()
    engine = as_engine(inner)
    assert inner.asked == 0
    assert engine.window == 7


WARM = {
    "the prompt alone": lambda told: lambda prompt: told(prompt),
    "as in 0.1": lambda told: lambda prompt, *, templated=False, gone=None: told(prompt, gone),
    "as it is": lambda told: (
        lambda prompt, *, templated=False, cancelled=None: told(prompt, cancelled)
    ),
    "anything": lambda told: lambda prompt, **given: told(prompt, given["cancelled"]),
}


@pytest.mark.parametrize("made", WARM.values(), ids=WARM)
def test_an_object_is_warmed_with_what_its_method_takes(made):
    inner, told, cancelled = Plain(), [], threading.Event()
    inner.warm = made(lambda *given: told.append(given))
    engine = as_engine(inner)
    assert engine.prefills
    engine.warm("the beginning", templated=True, cancelled=cancelled)
    assert told in ([("the beginning",)], [("the beginning", cancelled)])


class NoEdit:
    async def aedit(self, requests):
        return []


@pytest.mark.parametrize("thing", [object(), "a-model", NoEdit(), Plain, Least, None])
def test_what_can_not_edit_is_refused_with_what_an_engine_is(thing):
    with pytest.raises(CheckpointError, match=r"edit\(requests\).*docs/your_own_engine\.md"):
        as_engine(thing)
    assert not isinstance(thing, Engine)


def test_copies_and_pickles_of_an_adapted_object_edit_too():
    for again in (
        copy.deepcopy(as_engine(Plain())),
        pickle.loads(pickle.dumps(as_engine(Plain()))),
    ):
        assert again.edit([REQUEST]) == [Edit("d!")]


def test_an_engine_s_thread_sees_the_callers_context_and_is_no_pool_s():
    class Tells(Least):
        def edit(self, requests):
            return [Edit(threading.current_thread().name)]

    assert asyncio.run(Tells().aedit([REQUEST])) == [Edit("metaaligner-engine")]


def test_what_an_object_forwards_or_learns_as_it_loads_counts():
    class Learns(Plain):
        def count_tokens(self, text):
            return len(text)

        def load(self):
            self.window = 99

    class Proxy:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

    learns = Learns()
    engine, proxy = as_engine(learns), as_engine(Proxy(learns))
    assert (engine.window, proxy.window) == (None, None)
    engine.load()
    assert (engine.window, proxy.window) == (99, 99)
