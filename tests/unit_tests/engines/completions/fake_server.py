"""A server in a thread that plays each kind of server, and may fail in many ways."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MARK = "| Edit: "  # the prompt's end; what follows it in an echo is the answer
END = "</s>"
REPLY = "It is better now. "
OWNERS = {"vllm": "vllm", "sglang": "sglang", "llama": "llamacpp"}


class FakeServer:
    """Answers each prompt with the same reply, word by word.

    Attributes:
        kind: `vllm`, `sglang`, `llama`, `ollama`, `lmstudio` or `other`.
        reply: What its model writes after any prompt.
        gap: By how many nats its model prefers its own words to those of an answer.
        merges: Whether its tokens begin with the space before them, instead of ending with it.
        faults: What happens to the next completions; each is used once.
        pages: Replies to other paths: a status, or an object.
        asked: Path and body of each request, in order.
        headers: The headers of the last request.
        gone: Set when a client has closed its connection in the middle of a reply.
    """

    def __init__(self, kind: str = "vllm", models: tuple[str, ...] = ("hh-rlhf",)) -> None:
        self.kind, self.models = kind, models
        self.reply, self.gap, self.merges = REPLY, 5.0, False
        self.window, self.begins, self.template = 1000, 1, True
        self.faults: deque[str] = deque()
        self.pages: dict[str, Any] = {}
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.headers: Mapping[str, str] = {}
        self.gone = threading.Event()
        self.pause = 0.0
        self.busy = self.most_busy = self.connections = 0
        self._lock = threading.Lock()
        self._ids: dict[str, int] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *args: object) -> None: ...

            def setup(self) -> None:
                super().setup()
                server.connections += 1

            def do_GET(self) -> None:
                server.answer(self, self.path, {})

            def do_POST(self) -> None:
                size = int(self.headers.get("content-length", 0))
                server.answer(self, self.path, json.loads(self.rfile.read(size)))

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *args: object) -> None: ...

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def bodies(self, path: str = "/v1/completions") -> list[Mapping[str, Any]]:
        """What was sent to a path, without the question at the start whether it answers."""
        found = [body for asked, body in self.asked if asked == path]
        return [body for body in found if "cat sat on the mat" not in str(body.get("prompt"))]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # -- what it says ------------------------------------------------------------------------------

    def answer(self, handler: Any, path: str, body: Mapping[str, Any]) -> None:
        self.asked.append((path, body))
        self.headers = {name.lower(): value for name, value in handler.headers.items()}
        if not self.template and (path == "/v1/chat/completions" or "messages" in body):
            said = {"error": {"message": "The model does not define a chat template."}}
            return self._send(handler, said, 400)
        if path in self.pages:
            told = self.pages[path]
            if isinstance(told, int):
                return self._send(handler, {"error": {"message": "no"}}, told)
            return self._send(handler, told)
        if path in ("/v1/completions", "/v1/chat/completions", "/api/generate", "/api/chat"):
            with self._lock:
                self.busy += 1
                self.most_busy = max(self.most_busy, self.busy)
            try:
                return self._complete(handler, path, body)
            finally:
                with self._lock:
                    self.busy -= 1
        told = self._page(path, body)
        if told is None:
            return self._send(handler, {"error": {"message": "not found"}}, 404)
        return self._send(handler, told)

    def _page(self, path: str, body: Mapping[str, Any]) -> Any:
        kind = self.kind
        if path == "/v1/models":
            entry: dict[str, Any] = {"object": "model", "owned_by": OWNERS.get(kind, "someone")}
            if kind in ("vllm", "sglang"):
                entry["max_model_len"] = self.window
            return {"object": "list", "data": [{"id": one, **entry} for one in self.models]}
        if path == "/tokenize" and kind in ("vllm", "sglang", "llama"):
            if "messages" in body:
                text, special = f"<user>{body['messages'][0]['content']}<assistant>", True
            elif kind == "llama":
                text, special = body["content"], body["add_special"]
            else:
                text, special = body["prompt"], body["add_special_tokens"]
            return {"tokens": [1] * self.begins * special + self.ids(text)}
        pages = {
            "vllm": {"/version": {"version": "0.15.0"}},
            "sglang": {
                "/model_info": {"model_path": "hh-rlhf", "is_generation": True},
                "/server_info": {"speculative_algorithm": None, "model_path": "some/hh-rlhf"},
            },
            "llama": {
                "/props": {
                    "default_generation_settings": {
                        "n_ctx": self.window,
                        "params": {"speculative.types": "none"},
                    },
                    "model_path": "/models/MetaAligner-HH-RLHF-7B.gguf",
                    "chat_template": "",
                }
            },
            "ollama": {
                "/api/tags": {"models": [{"name": one} for one in self.models]},
                "/api/show": {
                    "template": "{{ .Prompt }}",
                    "parameters": "num_ctx                        2048",
                    "model_info": {"llama.context_length": 8192},
                    "details": {},
                },
            },
            "lmstudio": {
                "/api/v0/models": {
                    "data": [
                        {"id": one, "state": "loaded", "loaded_context_length": self.window}
                        for one in self.models
                    ]
                }
            },
        }
        found = pages.get(kind, {}).get(path)
        if found is None and kind == "lmstudio":
            return {"error": f"Unexpected endpoint or method. ({path})"}
        return found

    # -- completions -------------------------------------------------------------------------------

    def _complete(self, handler: Any, path: str, body: Mapping[str, Any]) -> None:
        fault = self.faults.popleft() if self.faults and self._is_edit(body) else ""
        if fault[:3].isdigit():
            status, _, after = fault.partition(":")
            headers = {"Retry-After": after} if after else {}
            prompt = str(body.get("prompt") or body.get("messages"))
            said = {"error": {"message": f"trouble with {prompt}", "type": "x"}}
            return self._send(handler, said, int(status), headers=headers)
        if fault == "reset":
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.connection.close()
            handler.close_connection = True
            return None
        if fault == "stall":
            self._wait_for_goodbye(handler, 30.0)
            handler.close_connection = True
            return None
        if fault == "garbage":
            return self._send(handler, "{\x00 not json", kind="application/json")
        if fault == "html":
            return self._send(handler, "<html>hello</html>", kind="text/html")
        if fault == "list":
            return self._send(handler, "[1, 2]", kind="application/json")
        if fault == "in band":
            return self._send(handler, {"error": {"message": "out of memory", "code": 500}})
        if body.get("echo"):
            return self._echo(handler, body)
        text, reason = self._written(path, body)
        if fault == "no choices":
            return self._send(handler, {"object": "text_completion", "choices": []})
        if fault == "abort":
            reason = "abort"
        if not body.get("stream"):
            time.sleep(self.pause)
            if fault == "half":
                made = json.dumps(self._whole(path, body, text, reason))
                return self._send(handler, made[: len(made) // 2], kind="application/json")
            return self._send(handler, self._whole(path, body, text, reason))
        return self._stream(handler, path, body, text, reason, half=fault == "half")

    def _is_edit(self, body: Mapping[str, Any]) -> bool:
        return "cat sat on the mat" not in str(body.get("prompt"))

    def _written(self, path: str, body: Mapping[str, Any]) -> tuple[str, str]:
        prompt = body.get("prompt")
        text = self.text(prompt) if isinstance(prompt, list) else prompt or ""
        begun = text.partition(MARK)[2] if MARK in text else ""
        words = self.words(self.reply)
        done = self.words(begun)
        left = words[len(done) :] if words[: len(done)] == done else words
        asked = body.get("options", body)
        most = asked.get("max_tokens") or asked.get("num_predict") or 16
        return "".join(left[:most]), "stop" if len(left) < most else "length"

    def _whole(self, path: str, body: Mapping[str, Any], text: str, reason: str) -> Any:
        usage = self._usage(body, text)
        if path == "/api/generate":
            return {"response": text, "done": True, "done_reason": reason, **usage}
        if path == "/api/chat":
            said = {"role": "assistant", "content": text}
            return {"message": said, "done": True, "done_reason": reason, **usage}
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        if path == "/v1/completions":
            choice["text"] = text
        else:
            choice["message"] = {"role": "assistant", "content": text}
        return {"choices": [choice], **usage}

    def _usage(self, body: Mapping[str, Any], text: str) -> dict[str, Any]:
        prompt = body.get("prompt") or body["messages"][0]["content"]
        read = len(prompt) if isinstance(prompt, list) else len(self.ids(prompt)) + self.begins
        wrote = len(self.words(text))
        if self.kind == "ollama":
            return {"prompt_eval_count": read, "eval_count": wrote}
        told: dict[str, Any] = {"usage": {"prompt_tokens": read, "completion_tokens": wrote}}
        if self.kind == "llama":
            told["timings"] = {"draft_n": 4, "draft_n_accepted": 3}
        if self.kind == "vllm":
            drafts = {"num_draft_tokens": 4, "num_accepted_draft_tokens": 3}
            told["metrics"] = {"speculative_decoding": drafts}
        return told

    def _stream(
        self,
        handler: Any,
        path: str,
        body: Mapping[str, Any],
        text: str,
        reason: str,
        *,
        half: bool,
    ) -> None:
        native = path.startswith("/api/")
        handler.send_response(200)
        kind = "application/x-ndjson" if native else "text/event-stream; charset=utf-8"
        handler.send_header("Content-Type", kind)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()

        def send(made: str) -> None:
            data = f"{made}\n" if native else f": ping\n\ndata: {made}\n\n"
            raw = data.encode()
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))

        words = self.words(text)
        try:
            for at, word in enumerate(words):
                if self.pause and self._wait_for_goodbye(handler, self.pause):
                    return
                if half and at == len(words) // 2:
                    handler.close_connection = True
                    return
                if native:
                    said: Any = {"message": {"role": "assistant", "content": word}}
                    said = {"response": word} if path == "/api/generate" else said
                    send(json.dumps({**said, "done": False}))
                else:
                    part = (
                        {"text": word}
                        if path == "/v1/completions"
                        else {"delta": {"content": word}}
                    )
                    send(json.dumps({"choices": [{"index": 0, **part, "finish_reason": None}]}))
            if native:
                send(json.dumps(self._whole(path, body, "", reason)))
            else:
                last = {"text": ""} if path == "/v1/completions" else {"delta": {}}
                send(json.dumps({"choices": [{"index": 0, **last, "finish_reason": reason}]}))
                if (body.get("stream_options") or {}).get("include_usage"):
                    send(json.dumps({"choices": [], **self._usage(body, text)}))
                send("[DONE]")
            handler.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.gone.set()
            handler.close_connection = True

    def _wait_for_goodbye(self, handler: Any, seconds: float) -> bool:
        handler.connection.settimeout(seconds)
        try:
            gone = handler.connection.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            gone = True
        if gone:
            self.gone.set()
        return gone

    # -- log-probabilities -------------------------------------------------------------------------

    def _echo(self, handler: Any, body: Mapping[str, Any]) -> None:
        given = body["prompt"]
        prompts = given if isinstance(given, list) and isinstance(given[0], list) else [given]
        choices = [self._scored(one) for one in prompts]
        self._send(handler, {"choices": choices, "usage": {"prompt_tokens": 1}})

    def _scored(self, prompt: Any) -> Any:
        words = [END] if isinstance(prompt, str) else []
        words += self.words(prompt) if isinstance(prompt, str) else self.names(prompt)
        text = "".join(word for word in words if word != END)
        answer = text.partition(MARK)[2] if MARK in text else ""
        before = len(words)
        while before and len("".join(words[before:])) < len(answer):
            before -= 1
        wanted = self.words(self.reply)
        own: list[float | None] = []
        top: list[dict[str, float] | None] = []
        follows = True
        for at, word in enumerate(words):
            if at == 0:
                own.append(None)
                top.append(None)
                continue
            place = at - before
            likely = wanted[place] if 0 <= place < len(wanted) else word
            if place < 0 or not follows or likely.strip() == word.strip():
                own.append(-0.25)
                top.append({word: -0.25})
            else:
                follows = False
                own.append(-0.1 - self.gap)
                top.append({likely: -0.1, word: -0.1 - self.gap})
        ends = not answer or not follows or len(words) - before >= len(wanted)
        words.append(END if ends else wanted[len(words) - before])
        own.append(-0.1)
        top.append({words[-1]: -0.1, **({} if ends else {END: -0.1 - self.gap})})
        offsets, place = [], 0
        for word in words:
            offsets.append(place)
            place += len(word) if word != END else 0
        told = {"tokens": words, "token_logprobs": own, "top_logprobs": top, "text_offset": offsets}
        return {"text": text, "logprobs": told, "finish_reason": "stop" if ends else "length"}

    # -- tokens ------------------------------------------------------------------------------------

    def words(self, text: str) -> list[str]:
        return re.findall(r" ?[^ ]+| " if self.merges else r"[^ ]+ ?| ", text)

    def ids(self, text: str) -> list[int]:
        with self._lock:
            return [self._ids.setdefault(word, len(self._ids) + 2) for word in self.words(text)]

    def names(self, ids: list[int]) -> list[str]:
        known = {index: word for word, index in self._ids.items()} | {1: END}
        return [known[index] for index in ids]

    def text(self, ids: list[int]) -> str:
        return "".join(name for name in self.names(ids) if name != END)

    def _send(
        self,
        handler: Any,
        told: Any,
        status: int = 200,
        *,
        kind: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        data = (told if isinstance(told, str) else json.dumps(told)).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)


Start = Callable[..., FakeServer]
