"""Real servers and pools that fork, and processes that end while the model is at work."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit_tests.tiny import save

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TIME = 120  # seconds for a process on a busy machine

COMMON = """
import asyncio, os, signal, sys, threading, time
import torch
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langchain_metaaligner import Aligner, MetaAlignerRunnable
from langchain_metaaligner.errors import EngineError

HH = "\\n\\nHuman: hi\\n\\nAssistant:"
ITEM = (HH, "hello world", "humour")
aligner = Aligner(sys.argv[1], family="hh-rlhf", max_new_tokens=int(sys.argv[2]), dtype="float32")

def long_passes():
    "Every pass is half a second inside of torch, without the interpreter's lock."
    matrix, began = torch.randn(700, 700), threading.Event()
    def hook(*_):
        began.set()
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            torch.linalg.matrix_power(matrix, 8)
    aligner.load().engine.model.register_forward_pre_hook(hook)
    return began

def edit():
    pieces = []
    try:
        pieces.extend(aligner.stream(*ITEM))
    except EngineError:  # a random model never stops
        pass
    return [*pieces, *map(str, aligner.align_batch([ITEM], return_exceptions=True))]

async def aedit():
    pieces = []
    try:
        async for piece in aligner.astream(*ITEM):
            pieces.append(piece)
    except EngineError:
        pass
    return [*pieces, *map(str, await aligner.aalign_batch([ITEM], return_exceptions=True))]
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("tiny"), config={"max_position_embeddings": 2048})


def started(script: str, checkpoint: Path, *, tokens: int = 8) -> subprocess.Popen[str]:
    # With two, OpenMP has helper threads, which do not live on in a forked process.
    cores = "2" if "os.fork()" in script else "1"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": cores}
    return subprocess.Popen(
        [sys.executable, "-c", COMMON + script, str(checkpoint), str(tokens)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=TIME)
    finally:
        process.kill()
    return process.returncode, out, err


FORKS = {
    "os.fork": """
before = asyncio.run(aedit())
child = os.fork()
if not child:
    os._exit(0 if asyncio.run(aedit()) == edit() == before else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
""",
    "a pool of multiprocessing": """
import multiprocessing
def work(_):
    return asyncio.run(aedit()), edit()
before = asyncio.run(aedit())
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(work, range(4)) == [(before, before)] * 4
""",
    "an executor of processes": """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
def work(_):
    return asyncio.run(aedit()), edit()
before = asyncio.run(aedit())
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
    assert list(pool.map(work, range(4))) == [(before, before)] * 4
""",
    "a fork while threads edit": """
def keep_on():
    while True:
        edit()
for _ in range(3):
    threading.Thread(target=keep_on, daemon=True).start()
before = edit()
for _ in range(4):
    child = os.fork()
    if not child:
        os._exit(0 if asyncio.run(aedit()) == edit() == before else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
""",
    "a child that forks and ends as any process": """
edit()
child = os.fork()
if not child:
    asyncio.run(aedit())
    grandchild = os.fork()
    if not grandchild:
        edit()
        sys.exit(7)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
""",
}


@pytest.mark.parametrize("way", FORKS)
def test_edits_work_in_forked_processes(way, checkpoint):
    code, _, err = ended(started(FORKS[way], checkpoint))
    assert code == 0, err


EXITS = {
    "at the end of the script": (
        """
began = long_passes()
threading.Thread(target=edit, daemon=True).start()
began.wait()
""",
        0,
    ),
    "by sys.exit in an event loop": (
        """
began = long_passes()
async def main():
    task = asyncio.ensure_future(aedit())
    while not began.is_set():
        await asyncio.sleep(0.01)
    sys.exit(5)
asyncio.run(main())
""",
        5,
    ),
    "by an error in an event loop": (
        """
began = long_passes()
async def main():
    stream = aligner.astream(*ITEM)
    await anext(stream)
    task = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.1)
    raise ValueError
asyncio.run(main())
""",
        1,
    ),
    "with a stream that nobody closed": (
        """
began = long_passes()
stream = aligner.stream(*ITEM)
next(stream)
threading.Thread(target=lambda: next(stream), daemon=True).start()
time.sleep(0.1)
""",
        0,
    ),
    "while prefilling": (
        """
began = long_passes()
class Slow(FakeListChatModel):
    sleep: float = 0.2
chain = Slow(responses=["many words " * 100]) | MetaAlignerRunnable(
    model=sys.argv[1], family="hh-rlhf", dtype="float32", eager=True)
threading.Thread(target=lambda: list(chain.stream([HumanMessage("hi")])), daemon=True).start()
began.wait()
""",
        0,
    ),
    "while the weights are loaded": (
        """
import transformers
began = threading.Event()
real = transformers.AutoModelForCausalLM.from_pretrained
def slow(*args, **kwargs):
    began.set()
    matrix = torch.randn(700, 700)
    while True:
        torch.linalg.matrix_power(matrix, 8)
transformers.AutoModelForCausalLM.from_pretrained = slow
threading.Thread(target=edit, daemon=True).start()
began.wait()
time.sleep(0.1)
""",
        0,
    ),
}


@pytest.mark.parametrize("way", EXITS)
def test_a_process_that_ends_in_the_middle_of_a_pass_ends_as_without_one(way, checkpoint):
    script, expected = EXITS[way]
    code, _, err = ended(started(script, checkpoint, tokens=1000))
    assert code == expected, err
    assert "terminate" not in err
    assert "Fatal" not in err


SIGNALLED = {
    "a stream": """
for piece in aligner.stream(*ITEM):
    print("ready", flush=True)
""",
    "an asynchronous stream": """
async def main():
    async for piece in aligner.astream(*ITEM):
        print("ready", flush=True)
asyncio.run(main())
""",
    "a chain's stream": """
edits = MetaAlignerRunnable(engine=aligner.engine, family="hh-rlhf", max_new_tokens=1000)
chain = FakeListChatModel(responses=["hello world"]) | edits
for piece in chain.stream([HumanMessage("hi")]):
    print("ready", flush=True)
""",
    "an edit": """
threading.Thread(target=lambda: began.wait() and print("ready", flush=True)).start()
edit()
""",
    "an asynchronous edit": """
threading.Thread(target=lambda: began.wait() and print("ready", flush=True)).start()
asyncio.run(aedit())
""",
}


@pytest.mark.parametrize("what", SIGNALLED)
@pytest.mark.parametrize("by", ["interrupt", "termination"])
def test_a_signal_ends_the_process_as_without_a_pass(what, by, checkpoint):
    handler = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\nbegan = long_passes()\n"
    process = started(handler + SIGNALLED[what], checkpoint, tokens=1000)
    assert process.stdout
    if not process.stdout.readline():
        pytest.fail(ended(process)[2])
    time.sleep(0.1)
    process.send_signal(signal.SIGINT if by == "interrupt" else signal.SIGTERM)
    code, _, err = ended(process)
    assert code == (-signal.SIGINT if by == "interrupt" else 143), err
    assert "terminate" not in err
    assert "Fatal" not in err


SERVER = """
import asyncio, os
from langchain_metaaligner import Aligner

ITEM = ("\\n\\nHuman: hi\\n\\nAssistant:", "hello world", "humour")
aligner = Aligner(os.environ["CHECKPOINT"], family="hh-rlhf", max_new_tokens=20, dtype="float32")

async def edit():
    pieces = []
    try:
        async for piece in aligner.astream(*ITEM):
            pieces.append(piece)
    except Exception as error:  # a random model never stops
        pieces.append(str(error))
    return pieces

at_start = asyncio.run(edit())

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError("only HTTP")
    same = await edit() == at_start
    body = f"{os.getpid()} {same}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [
        (b"content-length", str(len(body)).encode()), (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
"""


def asked(server: Path) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIME)
        connection.connect(str(server))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        said = b""
        while piece := connection.recv(4096):
            said += piece
    return said.decode().rpartition("\r\n\r\n")[2]


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT], ids=["graceful", "quick"])
def test_two_preloaded_workers_of_gunicorn_edit_and_end_cleanly(by, checkpoint, tmp_path):
    (tmp_path / "app.py").write_text(SERVER)
    server = tmp_path / "server"
    environment = {"PYTHONPATH": str(ROOT), "CHECKPOINT": str(checkpoint), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "--preload", "--workers=2", "--worker-class=asgi"),
            *(f"--bind=unix:{server}", f"--chdir={tmp_path}", "app:app"),
        ],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + TIME
        while not server.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        with ThreadPoolExecutor(16) as pool:
            said = list(pool.map(lambda _: asked(server), range(32)))
    finally:
        process.send_signal(by)
        code, _, err = ended(process)
    assert {one.split()[1] for one in said} == {"True"}, err
    assert len({one.split()[0] for one in said}) == 2, err
    assert code == 0, err
    assert "terminate" not in err
    assert "SIGABRT" not in err
