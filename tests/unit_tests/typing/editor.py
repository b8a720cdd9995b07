"""An editor, as far as a language server can tell."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Editor:
    """Asks a language server over its standard input, one question at a time.

    Args:
        server: The server's process.
        settings: Its settings, by section.
    """

    def __init__(self, server: subprocess.Popen[bytes], settings: dict[str, Any]) -> None:
        self._server = server
        self._settings = settings
        self._asked = 0

    def tell(self, method: str, **params: Any) -> None:
        self._send({"method": method, "params": params})

    def ask(self, method: str, **params: Any) -> Any:
        self._asked += 1
        self._send({"id": self._asked, "method": method, "params": params})
        while True:
            message = self._receive()
            if "method" in message:
                if "id" in message:
                    self._send({"id": message["id"], "result": self._reply(message)})
            elif message["id"] == self._asked:
                assert "error" not in message, message["error"]
                return message["result"]

    def hover(self, file: Path, text: str, word: str) -> str:
        """What the editor shows over a word of a file that it has open.

        Args:
            file: Where the file is said to be; the server reads the text instead.
            text: What is in it.
            word: The word, which stands in the text once.

        Returns:
            The words of the hover, in Markdown.
        """
        document = {"uri": file.as_uri(), "languageId": "python", "version": 1, "text": text}
        self.tell("textDocument/didOpen", textDocument=document)
        before = text[: text.index(word)]
        place = {
            "line": before.count("\n"),
            "character": len(before) - (before.rfind("\n") + 1) + 1,
        }
        found = self.ask("textDocument/hover", textDocument={"uri": file.as_uri()}, position=place)
        self.tell("textDocument/didClose", textDocument={"uri": file.as_uri()})
        return found["contents"]["value"] if found else ""

    def _reply(self, message: dict[str, Any]) -> Any:
        if message["method"] == "workspace/configuration":
            return [
                self._settings.get(one.get("section", "")) for one in message["params"]["items"]
            ]
        return None

    def _send(self, message: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._server.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._server.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        length = 0
        while header := self._server.stdout.readline().strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        assert length, "the language server has ended"
        return json.loads(self._server.stdout.read(length))


@contextmanager
def opened(
    command: Sequence[str | Path], folder: Path, settings: dict[str, Any]
) -> Iterator[Editor]:
    """Start a language server on a folder, and end it.

    Args:
        command: What starts it.
        folder: The folder that the editor has open.
        settings: The server's settings, by section.

    Yields:
        The editor.
    """
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        editor = Editor(server, settings)
        try:
            editor.ask(
                "initialize",
                processId=None,
                rootUri=folder.as_uri(),
                capabilities={
                    "workspace": {"configuration": True, "workspaceFolders": True},
                    "textDocument": {"hover": {"contentFormat": ["markdown"]}},
                },
                workspaceFolders=[{"uri": folder.as_uri(), "name": folder.name}],
            )
            editor.tell("initialized")
            yield editor
            editor.ask("shutdown")
            editor.tell("exit")
        finally:
            server.kill()
