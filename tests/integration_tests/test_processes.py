"""Real servers and pools that fork, and processes that end while the model is at work."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from tests.unit_tests.tiny import save

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TIME = 60  # seconds for a process on a busy machine

COMMON = """
aligner = Aligner(sys.argv[1], family="hh-rlhf", max_new_tokens=int(sys.argv[2]), dtype="float32")
HH = "\\n\\nHuman: hi\\n\\nAssistant:"
ITEM = (HH, "hello world", "humour")

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

# Importing the libraries takes longer than any of the scripts, so it is done once: this process
# runs no script itself, but forks for each, before any thread has started. The child runs it at
# the top level, and ends as any process ends.
PARENT = """
import asyncio, json, os, signal, sys, threading, time
import torch, transformers
from transformers.models.llama import modeling_llama, tokenization_llama
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langchain_metaaligner import Aligner, MetaAlignerRunnable
from langchain_metaaligner.engines.local import engine
from langchain_metaaligner.errors import EngineError

while asked := sys.stdin.readline():
    asked = json.loads(asked)
    child = os.fork()
    if not child:
        break
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
for name, number in {"out": 1, "err": 2}.items():
    os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT), number)
sys.argv = ["-c", *asked["arguments"]]
torch.set_num_threads(asked["cores"])
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # inherited from a job in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
exec(asked["script"])
"""


class Script:
    """A script that runs in a process of its own.

    Args:
        parent: The process that forks for it.
        folder: Where its output goes.
        script: What it does.
        arguments: The checkpoint and the length of the edits.
    """

    def __init__(
        self, parent: subprocess.Popen[str], folder: Path, script: str, *arguments: object
    ) -> None:
        self._parent = parent
        self._out, self._err = folder / "out", folder / "err"
        asked = {
            "script": COMMON + script,
            "arguments": [str(one) for one in arguments],
            "out": str(self._out),
            "err": str(self._err),
            # With two, OpenMP has helper threads, which do not live on in a forked process.
            "cores": 2 if "os.fork()" in script else 1,
        }
        print(json.dumps(asked), file=self._stream(parent.stdin), flush=True)
        self.pid = int(self._stream(parent.stdout).readline())
        self._limit = threading.Timer(TIME, self.send, [signal.SIGKILL])
        self._limit.start()

    def send(self, signal_: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal_)

    def wait_for_output(self) -> None:
        end = time.monotonic() + TIME
        while not (self._out.exists() and self._out.stat().st_size):
            assert time.monotonic() < end, self._err.read_text()
            time.sleep(0.01)

    def ended(self) -> tuple[int, str]:
        """The exit status and the errors."""
        code = int(self._stream(self._parent.stdout).readline())
        self._limit.cancel()
        return code, self._err.read_text()

    def _stream(self, stream: IO[str] | None) -> IO[str]:
        assert stream
        return stream


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("tiny"), config={"max_position_embeddings": 2048})


@pytest.fixture(scope="module")
def parent():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def started(parent, checkpoint, tmp_path):
    def start(script: str, *, tokens: int = 8) -> Script:
        return Script(parent, tmp_path, script, checkpoint, tokens)

    return start


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
def test_edits_work_in_forked_processes(way, started):
    code, err = started(FORKS[way]).ended()
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
    "with edits in its last words": (
        """
import atexit
atexit.register(edit)  # called after the model's thread has been ended
threading.Thread(target=edit).start()
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
def test_a_process_that_ends_in_the_middle_of_a_pass_ends_as_without_one(way, started):
    script, expected = EXITS[way]
    code, err = started(script, tokens=1000).ended()
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
def test_a_signal_ends_the_process_as_without_a_pass(what, by, started):
    handler = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\nbegan = long_passes()\n"
    process = started(handler + SIGNALLED[what], tokens=1000)
    process.wait_for_output()
    time.sleep(0.1)
    process.send(signal.SIGINT if by == "interrupt" else signal.SIGTERM)
    code, err = process.ended()
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
        try:
            _, err = process.communicate(timeout=TIME)
        finally:
            process.kill()
    code = process.returncode
    assert {one.split()[1] for one in said} == {"True"}, err
    assert len({one.split()[0] for one in said}) == 2, err
    assert code == 0, err
    assert "terminate" not in err
    assert "SIGABRT" not in err
