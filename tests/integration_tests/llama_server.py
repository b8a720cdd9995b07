"""llama.cpp's own server, in a process of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request

TIME = 120.0  # seconds for a server to start on a busy machine
SERVE = """
import sys, threading, xllamacpp
given = xllamacpp.CommonParams()
given.model.path, given.port = sys.argv[1], int(sys.argv[2])
given.hostnames, given.n_ctx, given.n_parallel = ["127.0.0.1"], 2048, 2
given.cpuparams.n_threads = given.cpuparams_batch.n_threads = 1
given.verbosity, given.warmup = -1, False
server = xllamacpp.Server(given)
print("ready", flush=True)
threading.Event().wait()
"""


class LlamaServer:
    """llama.cpp's server in a process of its own, which can be killed and started again."""

    def __init__(self, model: str) -> None:
        self._model = model
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", SERVE, self._model, str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.kill()
        self._process.wait(TIME)

    def busy(self) -> bool:
        """Whether it is working on an edit."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/slots", timeout=TIME) as told:
            return any(slot["is_processing"] for slot in json.load(told))
