"""The tests that every engine should pass; they need pytest."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pytest

from langchain_metaaligner.engines import deadlines, threads
from langchain_metaaligner.engines.base import Edit, Engine, Request, as_engine
from langchain_metaaligner.engines.waits import Ended
from langchain_metaaligner.errors import EditTimeout, MetaAlignerError

T = TypeVar("T")

_BEAT = 0.01  # seconds between two heartbeats of an event loop


class EngineConformance:
    """The tests that every engine should pass.

    Subclass it in a test module and define how to make the engine:

    ```python
    class TestMyEngine(EngineConformance):
        @pytest.fixture
        def engine(self):
            return MyEngine()
    ```

    Attributes:
        prompts: Prompts of the requested edits, each with its draft. Override them if the model
            needs other prompts.
        max_new_tokens: Maximum length of each edit, in tokens.
        patience: Seconds that a call may take before it counts as stuck.
        grace: Seconds by which a call may miss its deadline: the time of the longest forward pass
            or step.
        held_up: Seconds for which the event loop must not be blocked.
    """

    prompts: Sequence[tuple[str, str]] = (
        ("Edit this answer: It is good. | Edit: ", "It is good."),
        (
            "Edit this answer: Nobody knows, and nobody will. | Edit: ",
            "Nobody knows, and nobody will.",
        ),
        ("Edit this answer: Ünïcode 漢字 😀 | Edit: ", "Ünïcode 漢字 😀"),
    )
    max_new_tokens: int = 16
    patience: float = 60.0
    grace: float = 0.5
    held_up: float = 0.25

    @pytest.fixture
    def engine(self) -> Any:
        """The engine under test; override it."""
        pytest.fail("Override the fixture `engine`: it returns the engine to test.")

    def requests(self) -> list[Request]:
        """Make the requests that the engine is given."""
        return [
            Request(prompt, draft, max_new_tokens=self.max_new_tokens, draft_at=prompt.rfind(draft))
            for prompt, draft in self.prompts
        ]

    # -- what it is ---------------------------------------------------------------------------

    def test_it_is_an_engine(self, engine: Any) -> None:
        """It has a method `edit`, and its attributes have valid values."""
        one = as_engine(engine)
        expect(isinstance(one.name, str) and one.name, f"name is {one.name!r}; expected a text")
        window = one.window
        expect(
            window is None or (isinstance(window, int) and window > 0),
            f"window is {window!r}; expected None or a number of tokens",
        )
        hint = one.family_hint
        expect(hint is None or isinstance(hint, str), f"family_hint is {hint!r}; expected a text")
        for name in ("control_tokens", "template_marks"):
            said = list(getattr(one, name))
            expect(
                all(isinstance(text, str) and text for text in said),
                f"{name} are {said!r:.80}; expected texts, none of them empty",
            )

    def test_it_counts_tokens(self, engine: Any) -> None:
        """`count_tokens` gives plausible numbers: a text has about as many as its half, or more."""
        one = as_engine(engine)
        for prompt, _ in self.prompts:
            whole, half = one.count_tokens(prompt), one.count_tokens(prompt[: len(prompt) // 2])
            expect(
                isinstance(whole, int) and whole > 0,
                f"count_tokens({prompt!r}) is {whole!r}; expected a number of tokens",
            )
            # The half may end inside a word, which can take more tokens than the whole word.
            expect(
                half <= whole + 8, f"half of {prompt!r} has {half} tokens, all of it only {whole}"
            )

    def test_it_loads_and_warms(self, engine: Any) -> None:
        """`load` and `warm` can be called at any time, more than once."""
        one, cancelled = as_engine(engine), threading.Event()

        def warm() -> None:
            one.warm(self.prompts[0][0], templated=False, cancelled=cancelled)

        for _ in range(2):
            self._in_time(one.load, "load()")
            self._in_time(warm, "warm(prompt, templated=..., cancelled=...)")

    # -- edits --------------------------------------------------------------------------------

    def test_it_makes_an_edit_for_each_request(self, engine: Any) -> None:
        """`edit` returns a valid edit for each request, for one request and for several."""
        one = as_engine(engine)
        requests = self.requests()
        self._check(self._in_time(lambda: one.edit(requests), "edit(requests)"), requests)
        self._check(self._in_time(lambda: one.edit(requests[:1]), "edit([request])"), requests[:1])

    def test_it_makes_edits_asynchronously(self, engine: Any) -> None:
        """`aedit` returns a valid edit for each request, like `edit`."""
        one, requests = as_engine(engine), self.requests()
        made = self._in_time(lambda: asyncio.run(_awaited(one.aedit(requests))), "aedit(requests)")
        self._check(made, requests)

    def test_it_makes_each_edit_by_itself(self, engine: Any) -> None:
        """`edit_each` and `aedit_each` return a valid edit for each request."""
        one, requests = as_engine(engine), self.requests()
        self._check(self._in_time(lambda: one.edit_each(requests), "edit_each(requests)"), requests)
        self._check(
            self._in_time(
                lambda: asyncio.run(_awaited(one.aedit_each(requests))), "aedit_each(requests)"
            ),
            requests,
        )

    def test_it_edits_with_every_option(self, engine: Any) -> None:
        """All options of a request are accepted, even if the engine ignores them."""
        one = as_engine(engine)
        for options in (
            {"keep_above": -1e9},
            {"token_agreement": True},
            {"caution": 2.0},
            {"temperature": 1.0},
            {"stop": ("\n\nHuman:", "never to come")},
            {"max_new_tokens": 1},
            {"draft": "", "draft_at": None},
        ):
            request = replace(self.requests()[0], **options)
            made = self._in_time(partial(one.edit, [request]), f"edit with {options}")
            self._check(made, [request])

    def test_it_reports_agreement_where_it_says_so(self, engine: Any) -> None:
        """An engine with `reports_agreement` reports the agreement of a draft."""
        one = as_engine(engine)
        if not one.reports_agreement:
            return
        request = replace(self.requests()[0], token_agreement=True)
        (made,) = self._check(self._in_time(lambda: one.edit([request]), "edit"), [request])
        expect(made.agreement is not None, "agreement is None, but reports_agreement is True")

    def test_threads_may_share_it(self, engine: Any) -> None:
        """Several threads may edit at the same time."""
        one, requests = as_engine(engine), self.requests()
        going = [threads.start(lambda: one.edit(requests), "conformance") for _ in range(4)]
        for made in going:
            self._check(self._result(made, "edit(requests) in four threads"), requests)

    # -- time ---------------------------------------------------------------------------------

    def test_it_is_never_late(self, engine: Any) -> None:
        """With a deadline, there is an edit before it or an `EditTimeout` soon after it.

        For an engine without `keeps_deadlines`, the caller stops waiting at the deadline. An
        engine with it must stop by itself, here as in use.
        """
        one = as_engine(engine)
        one.load()
        for seconds in (-1.0, 0.05):
            for way, call in self._ways(one).items():
                deadline = time.monotonic() + seconds
                requests = [replace(self.requests()[0], deadline=deadline)]
                started = time.monotonic()
                made = self._in_time(partial(call, requests), way)
                late = time.monotonic() - max(deadline, started)
                if isinstance(made, EditTimeout):
                    expect(late < self.grace, f"{way} ended {late:.2f} s after its deadline")
                    continue
                if isinstance(made, BaseException):
                    raise made
                expect(
                    late < (0 if seconds < 0 else self.grace),
                    f"{way} gave an edit {late + max(0.0, -seconds):.2f} s after the deadline;"
                    " expected EditTimeout. An engine that can't stop in time must leave"
                    " keeps_deadlines at False",
                )

    def test_it_leaves_the_event_loop_free(self, engine: Any) -> None:
        """Other tasks can run while `aedit` works, and while `astream` does."""
        one, requests = as_engine(engine), self.requests()
        one.load()
        ways: dict[str, Callable[[], Awaitable[Any]]] = {
            "aedit": lambda: one.aedit(requests),
            "astream": lambda: _aread(one, requests[0]),
        }
        for way, call in ways.items():
            gap, others = self._in_time(partial(asyncio.run, _longest_gap(call)), way)
            expect(
                gap - others < self.held_up,
                f"{way} held up the event loop for {gap:.2f} s. Await the blocking work, or leave"
                f" {way} out: by default, {way[1:]} runs in a thread",
            )

    def test_cancelling_ends_the_wait(self, engine: Any) -> None:
        """A task that awaits `aedit` can be cancelled."""
        one, requests = as_engine(engine), self.requests()

        async def cancelled() -> None:
            task = asyncio.ensure_future(_awaited(one.aedit(requests)))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

        self._in_time(lambda: asyncio.run(cancelled()), "aedit(requests) that was cancelled")

    # -- streams ------------------------------------------------------------------------------

    def test_its_stream_joins_to_the_edit(self, engine: Any) -> None:
        """The pieces of a stream are texts; joined, they are the edit, if it returns one."""
        one = as_engine(engine)
        for request in self.requests():
            pieces, made = self._in_time(partial(_read, one.stream, request), "stream(request)")
            wrong = [piece for piece in pieces if not isinstance(piece, str)]
            expect(not wrong, f"a stream gave {wrong[:1]!r:.80}; expected texts")
            if made is not None:
                (edit,) = self._check([made], [request])
                expect(
                    edit.text == "".join(pieces),
                    f"pieces joined are {''.join(pieces)!r:.80}, but the edit is {edit.text!r:.80}",
                )

    def test_its_asynchronous_stream_joins_to_the_edit(self, engine: Any) -> None:
        """`astream` gives texts as `stream` does."""
        one = as_engine(engine)
        for request in self.requests():
            pieces, made = self._in_time(
                lambda request=request: asyncio.run(_aread(one, request)),  # type: ignore[misc]
                "astream(request)",
            )
            wrong = [piece for piece in pieces if not isinstance(piece, str)]
            expect(not wrong, f"astream gave {wrong[:1]!r:.80}; expected texts")
            if made is not None:
                (edit,) = self._check([made], [request])
                expect(
                    edit.text == "".join(pieces),
                    f"pieces of astream joined are {''.join(pieces)!r:.80}, but the edit is"
                    f" {edit.text!r:.80}",
                )

    def test_its_asynchronous_stream_can_be_closed(self, engine: Any) -> None:
        """`aclose()` ends an asynchronous stream, both before and after its first piece."""
        one, request = as_engine(engine), self.requests()[0]

        async def closed(pieces_before: int) -> Any:
            pieces = aiter(one.astream(request))
            for _ in range(pieces_before):
                await anext(pieces, None)
            close = getattr(pieces, "aclose", None)
            expect(callable(close), f"astream gave a {type(pieces).__name__} without aclose()")
            await close()  # type: ignore[misc]
            return await anext(pieces, None)

        for pieces_before in (0, 1):
            work = partial(asyncio.run, closed(pieces_before))
            more = self._in_time(work, "aclose() of an asynchronous stream")
            expect(more is None, f"a closed astream goes on with {more!r:.80}; expected it to end")

    def test_its_stream_can_be_closed(self, engine: Any) -> None:
        """`close()` ends a stream, both before and after its first piece."""
        one, request = as_engine(engine), self.requests()[0]
        for pieces_before in (0, 1):
            pieces = self._in_time(lambda: iter(one.stream(request)), "stream(request)")
            close = getattr(pieces, "close", None)
            expect(callable(close), f"a stream is a {type(pieces).__name__} without close()")
            for _ in range(pieces_before):
                self._in_time(partial(next, pieces, None), "a stream's first piece")
            closing = threads.start(close, "conformance")  # type: ignore[arg-type]
            self._result(closing, "close() of a stream", self.grace + 1.0)
            more = self._in_time(partial(next, pieces, None), "a closed stream")
            expect(more is None, f"a closed stream goes on with {more!r:.80}; expected it to end")

    # -- how it is called ---------------------------------------------------------------------

    def _ways(self, engine: Engine) -> dict[str, Callable[[list[Request]], Any]]:
        """Return all ways to make an edit, called as the aligner calls them."""
        return {
            "edit": lambda requests: deadlines.edit(engine, requests)[0],
            "aedit": lambda requests: asyncio.run(deadlines.aedit(engine, requests))[0],
            "stream": lambda requests: _read_or_error(engine, requests[0]),
            "astream": lambda requests: asyncio.run(_aread_or_error(engine, requests[0])),
        }

    def _check(self, made: Any, requests: Sequence[Request]) -> list[Edit]:
        try:
            found = deadlines.checked_each(made, requests)
        except MetaAlignerError as error:
            pytest.fail(str(error), pytrace=False)
        for one in found:
            if isinstance(one, MetaAlignerError):
                pytest.fail(str(one), pytrace=False)
        return [one for one in found if isinstance(one, Edit)]

    def _in_time(self, work: Callable[[], T], what: str) -> T:
        return self._result(threads.start(work, "conformance"), what)

    def _result(self, made: Future[T], what: str, patience: float | None = None) -> T:
        seconds = self.patience if patience is None else patience
        try:
            return made.result(seconds)
        except TimeoutError:
            if made.done():
                raise
            pytest.fail(f"{what} has not ended after {seconds:g} s", pytrace=False)


def expect(held: Any, otherwise: str) -> None:
    """Fail the test with a message unless a condition is true.

    Args:
        held: The condition.
        otherwise: The message, without a full stop.
    """
    if not held:
        pytest.fail(f"{otherwise}.", pytrace=False)


async def _awaited(work: Any) -> Any:
    return await work


def _read(stream: Callable[[Request], Iterator[str]], request: Request) -> tuple[list[str], Any]:
    found: list[str] = []
    pieces = iter(stream(request))
    while True:
        try:
            found.append(next(pieces))
        except StopIteration as end:
            return found, end.value


def _read_or_error(engine: Engine, request: Request) -> Any:
    try:
        return _read(partial(deadlines.stream, engine), request)[1]
    except MetaAlignerError as error:
        return error


async def _aread(engine: Engine, request: Request) -> tuple[list[str], Any]:
    found: list[str] = []
    pieces = aiter(engine.astream(request))
    while True:
        try:
            found.append(await anext(pieces))
        except StopAsyncIteration as end:
            return found, end.args[0] if end.args else None


async def _aread_or_error(engine: Engine, request: Request) -> Any:
    pieces = deadlines.Pieces(engine, request)
    try:
        while not isinstance(piece := await pieces.anext(), Ended):
            pass
    except MetaAlignerError as error:
        return error
    return piece.value


async def _longest_gap(call: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
    """Measure how long the event loop stood still during a call, and a separate thread too.

    A pause of the thread means that the machine was busy; only the engine's part must be short.

    Returns:
        The longest pause of the event loop and of the thread, in seconds.
    """
    ended = threading.Event()

    def beside() -> float:
        gap, last = 0.0, time.monotonic()
        while not ended.wait(_BEAT):
            last, gap = (now := time.monotonic()), max(gap, now - last)
        return gap

    async def inside() -> float:
        gap, last = 0.0, time.monotonic()
        while not ended.is_set():
            await asyncio.sleep(_BEAT)
            last, gap = (now := time.monotonic()), max(gap, now - last)
        return gap

    others = threads.start(beside, "conformance")
    beating = asyncio.ensure_future(inside())
    await asyncio.sleep(0)
    try:
        await call()
    finally:
        ended.set()
    return await beating, others.result()
