"""What is forked from a process that has edited can edit, and no lock or thread is missed."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading
import time
import warnings

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage

from langchain_metaaligner import Aligner, MetaAlignerRunnable
from langchain_metaaligner.engines import processes, threads
from langchain_metaaligner.testing import ScriptedEngine

ITEM = ("context", "an answer", "humour")


def in_child(work) -> str:
    """What work returns in a forked process, or its error, or that it hangs."""
    read, write = os.pipe()
    with warnings.catch_warnings():  # from Python 3.12 on, of threads that are alive
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            said = str(work())
        except BaseException as error:
            said = repr(error)
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    try:
        ready, _, _ = select.select([read], [], [], 20)
        return os.read(read, 1000).decode() if ready else "hangs"
    finally:
        os.close(read)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def everything(aligner: Aligner) -> str:
    async def tasks() -> list[str]:
        whole = (await aligner.aalign(*ITEM)).text
        pieces = "".join([piece async for piece in aligner.astream(*ITEM)])
        return [whole, pieces]

    async_ones = asyncio.run(tasks())
    return " ".join({aligner.align(*ITEM).text, "".join(aligner.stream(*ITEM)), *async_ones})


def test_an_aligner_that_edited_in_threads_and_tasks_edits_in_a_child_too():
    engine = ScriptedEngine("edited")
    aligner = Aligner(engine=engine, timeout=15)
    engine.window = 500  # so that prompts are prepared in the pool
    assert everything(aligner) == "edited"
    assert in_child(lambda: everything(aligner)) == "edited"


def test_a_chain_made_before_the_fork_streams_in_a_child():
    chain = FakeListChatModel(responses=["hi"]) | MetaAlignerRunnable(engine=ScriptedEngine("ok"))

    async def stream() -> str:
        return "".join([chunk.text async for chunk in chain.astream([HumanMessage("hi")])])

    assert asyncio.run(stream()) == "ok"
    assert in_child(lambda: asyncio.run(stream())) == "ok"


@pytest.mark.parametrize("held", [processes.Lock, processes.Gate])
def test_a_lock_that_another_thread_holds_is_free_in_a_child(held, monkeypatch):
    monkeypatch.setattr(processes, "_PATIENCE", 0.05)
    lock, taken, over = held(), threading.Event(), threading.Event()

    def hold():
        with lock:
            taken.set()
            over.wait(30)

    def take():
        with lock:
            return "free"

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(30)
    assert in_child(take) == "free"
    over.set()
    holder.join()


def test_a_fork_waits_for_the_work_in_progress_but_not_for_its_own():
    gate, inside = processes.Gate(), threading.Event()
    done = []

    def work():
        with gate:
            inside.set()
            time.sleep(0.05)
            done.append(True)

    worker = threading.Thread(target=work)
    worker.start()
    assert inside.wait(30)
    assert in_child(lambda: done) == "[True]"
    worker.join()
    began = time.monotonic()
    with gate:
        assert in_child(lambda: "forked") == "forked"
    assert time.monotonic() - began < 5
    with gate:  # and it was opened again
        pass


def test_a_pool_with_its_threads_busy_works_in_a_child():
    pool, over = threads.Pool("busy", 1), threading.Event()
    pool.submit(lambda: over.wait(30))
    waiting = pool.submit(lambda: "here")
    assert in_child(lambda: pool.submit(lambda: "there").result(10)) == "there"
    over.set()
    assert waiting.result(30) == "here"


class Limit(Exception):  # noqa: N818 - named as Celery's
    """As Celery raises in a job whose time is over."""


class Handler:
    def __init__(self, error):
        self.error = error

    def method(self, number, frame):
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        raise self.error

    def any_arguments(self, *arguments):
        raise self.error


@pytest.mark.parametrize("error", [SystemExit(3), Limit()], ids=["an exit", "a time limit"])
@pytest.mark.parametrize("handler", [Handler.method, Handler.any_arguments])
def test_what_a_signal_handler_raises_is_no_failure_of_the_edit_that_it_interrupts(error, handler):
    def interrupted(request):
        signal.raise_signal(signal.SIGUSR1)

    aligner = Aligner(engine=ScriptedEngine(interrupted))
    step = MetaAlignerRunnable(aligner=aligner, on_error="pass")
    chain = FakeListChatModel(responses=["hello"]) | step
    ways = (
        lambda: aligner.align(*ITEM),
        lambda: list(aligner.stream(*ITEM)),
        lambda: chain.invoke([HumanMessage("hi")]),
        lambda: list(chain.stream([HumanMessage("hi")])),
    )
    before = signal.getsignal(signal.SIGUSR1)
    try:
        for way in ways:
            signal.signal(signal.SIGUSR1, handler.__get__(Handler(error)))
            with pytest.raises(type(error)):
                way()
    finally:
        signal.signal(signal.SIGUSR1, before)
