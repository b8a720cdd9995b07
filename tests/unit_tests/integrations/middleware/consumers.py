"""The ways of reading an agent, and what each must show of it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from langchain_core._api import LangChainBetaWarning, LangChainDeprecationWarning

MODES = ["values", "updates", "messages", "custom", "tasks", "debug", "checkpoints"]


@dataclass(frozen=True)
class Way:
    """A way of reading.

    Attributes:
        name: What it is called.
        read: Gives all that a consumer sees of a target and its input; may be asynchronous.
        messages: Whether it streams messages.
    """

    name: str
    read: Callable[..., Iterator[Any] | AsyncIterator[Any]]
    messages: bool = False

    def seen(self, target: Any, given: Any, config: Any = None) -> list[Any]:
        """All that a consumer sees."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LangChainBetaWarning)
            warnings.simplefilter("ignore", LangChainDeprecationWarning)
            parts = self.read(target, given, config)
            if isinstance(parts, AsyncIterator):
                return asyncio.run(_collected(parts))
            return list(parts)


async def _collected(parts: AsyncIterator[Any]) -> list[Any]:
    return [part async for part in parts]


def streamed(modes: Any, *, is_async: bool, **options: Any) -> Way:
    def read(target: Any, given: Any, config: Any) -> Any:
        method = target.astream if is_async else target.stream
        return method(given, config, stream_mode=modes, **options)

    told = "".join(f", {name}={value}" for name, value in options.items())
    shown = modes if isinstance(modes, str) else "all modes"
    return Way(f"{'a' * is_async}stream, {shown}{told}", read, messages="messages" in modes)


def events(version: str, **options: Any) -> Way:
    async def read(target: Any, given: Any, config: Any) -> AsyncIterator[Any]:
        async for event in target.astream_events(given, config, version=version, **options):
            yield event

    return Way(f"astream_events, {version}", read)


def events_v3(*, is_async: bool) -> Way:
    def read(target: Any, given: Any, config: Any) -> Iterator[Any]:
        yield from target.stream_events(given, config, version="v3")

    async def aread(target: Any, given: Any, config: Any) -> AsyncIterator[Any]:
        async for event in await target.astream_events(given, config, version="v3"):
            yield event

    return Way(f"{'a' * is_async}stream_events, v3", aread if is_async else read)


def messages_v3(*, is_async: bool) -> Way:
    def read(target: Any, given: Any, config: Any) -> Iterator[Any]:
        for message in target.stream_events(given, config, version="v3").messages:
            yield {"id": message.message_id, "pieces": list(message.text)}

    async def aread(target: Any, given: Any, config: Any) -> AsyncIterator[Any]:
        stream = await target.astream_events(given, config, version="v3")
        async for message in stream.messages:
            yield {"id": message.message_id, "pieces": [one async for one in message.text]}

    name = f"{'a' * is_async}stream_events, v3, messages"
    return Way(name, aread if is_async else read, messages=True)


def invoked() -> list[Way]:
    def read(target: Any, given: Any, config: Any) -> Iterator[Any]:
        yield target.invoke(given, config)

    async def aread(target: Any, given: Any, config: Any) -> AsyncIterator[Any]:
        yield await target.ainvoke(given, config)

    return [Way("invoke", read), Way("ainvoke", aread)]


# The policy's run is an event like any other in v1 and v2; its tag tells it apart.
FILTERED = {"exclude_tags": ["nostream"]}
WAYS = [
    *invoked(),
    *[streamed(mode, is_async=False) for mode in MODES if mode != "checkpoints"],
    *[streamed(mode, is_async=True) for mode in MODES if mode != "checkpoints"],
    streamed(MODES, is_async=False),
    streamed(MODES, is_async=True),
    streamed(MODES, is_async=False, subgraphs=True),
    streamed(MODES, is_async=True, subgraphs=True),
    streamed(MODES, is_async=False, version="v2"),
    streamed(MODES, is_async=True, version="v2"),
    events("v1", **FILTERED),
    events("v2", **FILTERED),
    events_v3(is_async=False),
    events_v3(is_async=True),
    messages_v3(is_async=False),
    messages_v3(is_async=True),
]
STREAMS_OF_MESSAGES = [way for way in WAYS if way.messages]
# One of each kind, for what does not hang on the way of reading.
TELLING_WAYS = [
    streamed(MODES, is_async=False, subgraphs=True),
    streamed(MODES, is_async=True, version="v2"),
    messages_v3(is_async=True),
]


def texts_by_id(parts: list[Any]) -> dict[str, list[str]]:
    """The pieces of text that a stream of messages brought, by the message's id."""
    texts: dict[str, list[str]] = {}
    for part in parts:
        if isinstance(part, dict) and "pieces" in part:
            assert part["id"] not in texts
            texts[part["id"]] = part["pieces"]
        elif (message := _message_in(part)) is not None:
            texts.setdefault(message.id, []).append(message.text)
    return texts


def _message_in(part: Any) -> Any:
    if isinstance(part, dict):  # version="v2"
        return part["data"][0] if part["type"] == "messages" else None
    if len(part) == 3:  # subgraphs=True
        part = part[1:]
    if isinstance(part[0], str):  # several modes
        return part[1][0] if part[0] == "messages" else None
    return part[0]
