"""Asks a server that listens on a Unix socket, which no other user of the machine can reach."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MOST = 90  # characters of a socket's path; the system allows about 104
_PATIENCE = 60.0  # seconds


class UnixHttp:
    """The address of a server on a Unix socket, in a folder of this process's own.

    Attributes:
        path: The socket.
        key: The key that the server must ask for.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="metaaligner-"))
        if len(str(self._folder)) > _MOST:
            self._folder.rmdir()
            self._folder = Path(tempfile.mkdtemp(prefix="metaaligner-", dir="/tmp"))
        self._owner = os.getpid()
        self.path = self._folder / "llama.sock"
        self.key = secrets.token_hex(16)

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """Send a request and wait for the reply.

        Args:
            path: The path of the URL.
            body: What is sent, as JSON.

        Returns:
            The status and the reply.

        Raises:
            OSError: The server can't be reached.
            ValueError: The reply is not JSON.
        """
        connection = _Connection(self.path)
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
            connection.request("POST", path, json.dumps(body), headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def remove(self) -> None:
        """Remove the socket; a forked process leaves its parent's alone."""
        if os.getpid() == self._owner:
            shutil.rmtree(self._folder, ignore_errors=True)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE)
        self.sock.connect(str(self._path))
