"""Good engines pass the suite, and each of the broken ones fails where it is broken."""

from __future__ import annotations

import threading
import time

import pytest

from langchain_metaaligner import Edit, EditTimeout, Engine, load_engine
from langchain_metaaligner.testing import EngineConformance, ScriptedEngine
from tests.unit_tests import scripted


class TestScriptedEngine(EngineConformance):
    @pytest.fixture
    def engine(self):
        return ScriptedEngine()


class TestScriptedEngineThatTakesItsTime(EngineConformance):
    @pytest.fixture
    def engine(self):
        return ScriptedEngine("An edit.", delay=0.02)


class TestAnEngineOfOneMethod(EngineConformance):
    @pytest.fixture
    def engine(self):
        class Least(Engine):
            def edit(self, requests):
                return [Edit(request.draft) for request in requests]

        return Least()


class TestAnObjectThatIsNoEngineByClass(EngineConformance):
    @pytest.fixture
    def engine(self):
        return scripted.ScriptedEngine()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from tests.unit_tests.tiny import save  # loads torch

    return save(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.mark.torch
class TestLocalEngine(EngineConformance):
    @pytest.fixture
    def engine(self, checkpoint):
        loaded = load_engine(str(checkpoint), dtype="float32")
        yield loaded
        loaded.close()


class Good(Engine):
    """What the broken ones do right."""

    def edit(self, requests):
        return [Edit(request.draft) for request in requests]


class ShortList(Good):
    def edit(self, requests):
        return super().edit(requests)[:1]


class ShortListForEach(Good):
    def edit_each(self, requests):
        return self.edit(requests)[1:]


class Late(Good):
    keeps_deadlines = True

    def edit(self, requests):
        time.sleep(1.0)
        return super().edit(requests)


class GivesUpLate(Good):
    keeps_deadlines = True

    def edit(self, requests):
        if requests[0].deadline is not None:
            time.sleep(0.6)
            raise EditTimeout("late")
        return super().edit(requests)


class TooLateToBegin(Good):
    keeps_deadlines = True


class NoAgreement(Good):
    def edit(self, requests):
        return [Edit(request.draft, agreement=float("nan")) for request in requests]


class NeverCloses(Good):
    def stream(self, request):
        try:
            yield request.draft
            yield ""
        finally:
            threading.Event().wait()


class GoesOnWhenClosed(Good):
    def stream(self, request):
        class Pieces(list):
            def __iter__(self):
                return self

            def __next__(self):
                return "more"

            def close(self):
                pass

        return Pieces()


class BlocksTheLoop(Good):
    async def aedit(self, requests):
        threading.Event().wait(0.4)
        return self.edit(requests)


class BlocksTheLoopInItsStream(Good):
    async def astream(self, request):
        threading.Event().wait(0.4)
        yield request.draft


class StreamsAsynchronouslyNoTexts(Good):
    async def astream(self, request):
        yield request


class GoesOnWhenClosedAsynchronously(Good):
    def astream(self, request):
        class Pieces:
            def __aiter__(self):
                return self

            async def __anext__(self):
                return "more"

            async def aclose(self):
                pass

        return Pieces()


class StreamsAnotherText(Good):
    def stream(self, request):
        yield "one thing"
        return Edit("and another")


class Raises(Good):
    def edit(self, requests):
        raise OSError("no device")


class WarmsWithThePromptAlone(Good):
    def warm(self, prompt):
        pass


BROKEN = {
    ShortList: ("test_it_makes_an_edit_for_each_request", "1 items for 3 requests"),
    ShortListForEach: ("test_it_makes_each_edit_by_itself", "2 items for 3 requests"),
    Late: ("test_it_is_never_late", "after"),
    GivesUpLate: ("test_it_is_never_late", "s after its deadline"),
    TooLateToBegin: ("test_it_is_never_late", "after the deadline; expected EditTimeout"),
    NoAgreement: ("test_it_makes_an_edit_for_each_request", "agreement=nan"),
    NeverCloses: ("test_its_stream_can_be_closed", "close() of a stream has not ended"),
    GoesOnWhenClosed: ("test_its_stream_can_be_closed", "goes on with 'more'"),
    BlocksTheLoop: ("test_it_leaves_the_event_loop_free", "held up the event loop for 0.4"),
    BlocksTheLoopInItsStream: ("test_it_leaves_the_event_loop_free", "astream held up"),
    StreamsAsynchronouslyNoTexts: (
        "test_its_asynchronous_stream_joins_to_the_edit",
        "astream gave [Request",
    ),
    GoesOnWhenClosedAsynchronously: (
        "test_its_asynchronous_stream_can_be_closed",
        "goes on with 'more'",
    ),
    StreamsAnotherText: ("test_its_stream_joins_to_the_edit", "'one thing'"),
    Raises: ("test_it_makes_an_edit_for_each_request", "no device"),
    WarmsWithThePromptAlone: ("test_it_loads_and_warms", "unexpected keyword argument"),
    object: ("test_it_is_an_engine", "edit(requests)"),
}


class Impatient(EngineConformance):
    patience, grace = 5.0, 0.3


@pytest.mark.parametrize(
    ("kind", "found"), BROKEN.items(), ids=lambda one: getattr(one, "__name__", "")
)
def test_a_broken_engine_is_found_out_with_what_is_wrong(kind, found):
    test, said = found
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - a test fails with no Exception
        getattr(Impatient(), test)(kind())
    assert said in str(raised.value)


TESTS = [name for name in vars(EngineConformance) if name.startswith("test_")]


@pytest.mark.parametrize("test", TESTS)
def test_what_the_broken_ones_do_right_is_good(test):
    getattr(Impatient(), test)(Good())
