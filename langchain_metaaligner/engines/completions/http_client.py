"""Asks a server over HTTP, with retries, and turns whatever goes wrong into errors of ours."""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from langchain_metaaligner.errors import (
    CheckpointError,
    EngineError,
    MetaAlignerError,
    OverloadedError,
    without_quotes,
)

T = TypeVar("T")

TRIES = 6
"""How often a request is sent whose failure may pass."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds between two tries
_LONGEST_WAIT = 60.0  # seconds that a server may ask for, if there is no deadline
_CONNECT, _SILENCE = 10.0, 600.0  # seconds without a connection, and without a byte
_SAID = 300  # characters of a server's own message
_IDS = re.compile(r"\[\s*\d+(?:\s*,\s*\d+){3,}[^\]]*\]?")  # a prompt's tokens
_STREAMED = "X-Stainless-Raw-Response"  # how openai's client is told to leave the reply unread
_BUSY = frozenset({429, 503, 529})
_REFUSED = frozenset({401, 403})
_PASSING = frozenset({408, 409, 425, 429})


class ServerError(EngineError):
    """A server's reply that is no completion.

    Args:
        message: What happened.
        status: The HTTP status; 0 if there was no reply.
        retryable: As for `EngineError`.
        pause: Seconds that the server asks to wait.
    """

    def __init__(
        self, message: str, status: int = 0, *, retryable: bool = False, pause: float | None = None
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.status, self.pause = status, pause

    def plain(self) -> EngineError:
        """The error for whoever knows nothing of HTTP."""
        return EngineError(*self.args, retryable=self.retryable)

    def raise_if_lasting(self) -> None:
        """Raise what another question would meet as well: a server that is down, or a bad key."""
        if self.retryable or self.status in _REFUSED or not self.status:
            raise self.plain() from None


class HttpClient:
    """Sends JSON and reads JSON, a stream of events or lines of JSON, over kept connections.

    Args:
        url: The address up to and with `/v1`, without secrets, for messages.
        base: The same address, to send to.
        key: The key, if the server wants one.
        connections: The most connections.
    """

    def __init__(self, url: str, base: str, key: str | None, connections: int) -> None:
        self.url, self.base, self._key = url, base, key
        self._connections = connections
        self._client: Any = None

    async def get(self, path: str, *, needed: bool = False) -> Any:
        """Ask for a page.

        Args:
            path: Its path after the base, or its whole address.
            needed: Whether to ask again while the server is busy or starting.

        Returns:
            Its JSON, or its text if it is plain text; `None` if there is no such page.

        Raises:
            EngineError: There is no connection, or a page that is needed can't be had.
        """
        for tried in range(1, TRIES + 1):
            try:
                return await self._page(path)
            except ServerError as error:
                if not error.status or (needed and error.status in _REFUSED):
                    raise
                if not needed or not error.retryable:
                    return None
                if tried == TRIES:
                    raise _last(error) from None
                pause = self._pause(error, tried)
            await asyncio.sleep(pause)
        return None

    async def _page(self, path: str) -> Any:
        try:
            async with asyncio.timeout(_CONNECT), self._response("get", path, None) as response:
                text = (await response.read()).decode("utf-8", "replace")
        except TimeoutError:
            message = self._says(f"has not answered in {_CONNECT:.0f} s")
            raise ServerError(message, retryable=True) from None
        try:
            return json.loads(text)
        except ValueError:
            return text if "text/plain" in response.headers.get("content-type", "") else None

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        deadline: float | None,
        *texts: str,
        tries: int = TRIES,
    ) -> Any:
        """Send JSON and read JSON, again after failures that may pass.

        Args:
            path: The path after the base, or a whole address.
            body: What is sent.
            deadline: As in `Call`.
            *texts: What must not be quoted in errors.
            tries: How often it is sent at most.

        Returns:
            The whole reply.

        Raises:
            EngineError: There is no reply, or it is an error or no JSON.
        """
        async for reply in self.stream(path, body, deadline, *texts, read=_first, tries=tries):
            return reply
        raise ServerError(self._says("sent an empty reply"), retryable=True)

    async def stream(
        self,
        path: str,
        body: Mapping[str, Any],
        deadline: float | None,
        *texts: str,
        read: Callable[[AsyncGenerator[Any, None]], AsyncGenerator[T, None]],
        tries: int = TRIES,
    ) -> AsyncGenerator[T, None]:
        """Send JSON and read a reply, again after failures before anything of it was read.

        Args:
            path: The path after the base, or a whole address.
            body: What is sent.
            deadline: As in `Call`.
            *texts: What must not be quoted in errors.
            read: Makes pieces of the JSON objects of a reply. Its errors count as the server's.
            tries: How often it is sent at most.

        Yields:
            The pieces.

        Raises:
            EngineError: As for `post`.
        """
        for tried in range(1, tries + 1):
            begun = False
            try:
                async with (
                    self._response("post", path, body, texts) as response,
                    aclosing(read(self._objects(response, texts))) as pieces,
                ):
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except ServerError as error:
                if begun or not error.retryable or tried == tries:
                    raise _last(error) from None
                pause = self._pause(error, tried)
                if deadline is not None and time.monotonic() + pause >= deadline:
                    raise _last(error) from None
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @asynccontextmanager
    async def _response(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        texts: tuple[str, ...] = (),
    ) -> AsyncIterator[Any]:
        """A reply whose status is a good one, closed at the end."""
        import openai

        headers: dict[str, Any] = {
            _STREAMED: "stream",
            # What is left out would be taken from OpenAI's environment variables.
            "OpenAI-Organization": openai.Omit(),
            "OpenAI-Project": openai.Omit(),
            **({} if self._key else {"Authorization": openai.Omit()}),
        }
        options: Any = {"headers": headers, "max_retries": 0}
        client, response = self._opened(), None
        try:
            if method == "get":
                response = await client.get(path, cast_to=object, options=options)
            else:
                response = await client.post(path, cast_to=object, body=body, options=options)
            yield response
        except openai.APIStatusError as error:
            raise self._refused(error, texts) from None
        except Exception as error:
            if not _is_of_connection(error):
                raise
            # Its message may quote the request, whose prompt must not get into logs.
            kind = type(error.__cause__ or error).__name__
            message = (
                f"The connection to {self.url} failed ({kind}). The answer was not edited. Check"
                " that the server runs and that the address is right."
            )
            raise ServerError(message, retryable=True) from None
        finally:
            if response is not None:
                await response.close()

    async def _objects(self, response: Any, texts: tuple[str, ...]) -> AsyncGenerator[Any, None]:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            async for line in response.iter_lines():
                name, _, data = line.partition(":")
                if name == "data" and (data := data.strip()) and data != "[DONE]":
                    yield self._parsed(data, texts)
        elif kind == "application/x-ndjson":
            async for line in response.iter_lines():
                if line.strip():
                    yield self._parsed(line, texts)
        elif kind == "application/json" or kind.endswith("+json"):
            yield self._parsed((await response.read()).decode("utf-8", "replace"), texts)
        else:
            message = f"answered with {kind or 'no type'!r} instead of JSON; is this its address?"
            raise ServerError(self._says(message), response.status_code)

    def _parsed(self, text: str, texts: tuple[str, ...]) -> Any:
        try:
            made = json.loads(text)
        except ValueError:
            message = self._says("sent something that is not JSON")
            raise ServerError(message, retryable=True) from None
        if not isinstance(made, dict):
            raise ServerError(self._says("sent JSON that is no object"), retryable=True)
        if error := made.get("error"):
            status = _status_in(error)
            raise ServerError(
                self._says(f"broke off with an error: {_said(made, texts)}"),
                status,
                retryable=not status or status >= 500 or status in _PASSING,
            )
        return made

    def _refused(self, error: Any, texts: tuple[str, ...]) -> ServerError | CheckpointError:
        status = int(error.status_code)
        body = error.body if isinstance(error.body, dict) else {}
        said = _said(body if "error" in body else {"error": body}, texts)
        if status in _REFUSED:
            message = self._says(
                f"refuses the key ({status}). Give the right one with api_key=, or in the"
                " environment variable METAALIGNER_API_KEY"
            )
            return ServerError(message, status)
        return ServerError(
            self._says(f"answered with status {status}{said and f': {said}'}"),
            status,
            retryable=status >= 500 or status in _PASSING,
            pause=_asked_for(error.response.headers),
        )

    def _says(self, what: str) -> str:
        return f"The server at {self.url} {what}. The answer was not edited."

    def _pause(self, error: ServerError, tried: int) -> float:
        if error.pause is not None:
            return error.pause
        pause: float = min(_FIRST_PAUSE * 2 ** (tried - 1), _LONGEST_PAUSE)
        return pause * random.uniform(0.75, 1.0)

    def _opened(self) -> Any:
        if self._client is None:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

            self._client = AsyncOpenAI(
                api_key=self._key or "-",  # one must be given; it is not sent
                base_url=self.base,
                timeout=Timeout(_SILENCE, connect=_CONNECT, pool=None),
                max_retries=0,
                http_client=DefaultAsyncHttpxClient(limits=_limits(self._connections)),
            )
        return self._client


async def _first(replies: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    async for reply in replies:
        yield reply
        return


def _is_of_connection(error: Exception) -> bool:
    """Whether a connection failed, while it was opened or later."""
    # openai's client has had two HTTP libraries, neither of which need be installed.
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or library in {"openai", "httpx", "httpx2", "anyio"}


def _limits(connections: int) -> Any:
    from openai import DEFAULT_CONNECTION_LIMITS

    return type(DEFAULT_CONNECTION_LIMITS)(
        max_connections=connections + 4,  # counts of tokens go beside the edits
        max_keepalive_connections=connections,
    )


def _last(error: ServerError) -> MetaAlignerError:
    """The error that is raised when there are no more tries."""
    if error.status in _BUSY:
        return OverloadedError(str(error))
    return error


def _said(body: Mapping[str, Any], texts: tuple[str, ...]) -> str:
    """What a server says about its error, without what it quotes of a prompt."""
    error = body.get("error")
    said = error.get("message") if isinstance(error, Mapping) else error
    if not isinstance(said, str):
        return ""
    said = _IDS.sub("[…]", " ".join(without_quotes(said, *texts).split()))
    return said[:_SAID].rstrip(".")


def _status_in(error: Any) -> int:
    code = error.get("code") if isinstance(error, Mapping) else None
    return code if isinstance(code, int) and 400 <= code <= 599 else 0


def _asked_for(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait; in seconds, in milliseconds, or until a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        return seconds if 0 <= seconds <= _LONGEST_WAIT else _LONGEST_WAIT
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    if date is None:
        return None
    return min(max(0.0, email.utils.mktime_tz(date) - time.time()), _LONGEST_WAIT)
