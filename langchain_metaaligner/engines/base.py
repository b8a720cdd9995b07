"""The protocol between the aligner and whatever runs its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

FinishReason = Literal["stop", "length"]


class TokenAgreement(NamedTuple):
    """How likely the model was to write one token of the answer, after all that came before it.

    Attributes:
        start: The first of the answer's characters that the token stands for.
        end: The character behind the last one. Tokens that are parts of one character have the
            same two.
        log_probability: Natural logarithm; 0 where the model was sure of it.
    """

    start: int
    end: int
    log_probability: float


@dataclass(frozen=True, slots=True)
class Request:
    """One edit to make.

    Attributes:
        prompt: The whole prompt, byte for byte; it ends where the edit begins.
        draft: The answer as it stands in the prompt: a good guess of the edit.
        max_new_tokens: Most tokens that the edit may have.
        stop: Texts at which the edit ends; they are not part of it.
        temperature: 0 decodes greedily.
        deadline: Time of `time.monotonic()` at which the work must stop with `EditTimeout`, in
            seconds; `None` for no limit.
        keep_above: Agreement from which on the draft itself is the edit, with nothing decoded:
            one pass, of the whole draft, decides. `None` never keeps it so.
        token_agreement: Whether the edit is to tell the agreement of each of the draft's tokens.
        templated: The prompt was written by the model's chat template, so its control tokens
            are meant as such and no beginning-of-text token is to be added. Otherwise the
            prompt is plain text in which nothing counts as a control token.
    """

    prompt: str = field(repr=False)
    draft: str = field(default="", repr=False)
    max_new_tokens: int = 1024
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    deadline: float | None = None
    keep_above: float | None = None
    token_agreement: bool = False
    templated: bool = False


@dataclass(frozen=True, slots=True)
class Edit:
    """What an engine made of one request.

    Attributes:
        text: The edited answer, without stop text and control tokens.
        finish_reason: `stop` at an end token or a stop text, `length` where tokens ran out.
        usage: `input_tokens`, `output_tokens` and `total_tokens`, where the engine counts.
        passes: Forward passes of the model that this edit took part in.
        agreement: Mean log-probability per token (natural logarithm) of the draft under the
            model; `None` where the engine can't tell, or no pass saw all of it.
        token_agreement: The same for each token of the draft, in order, where it was asked for;
            `None` where it was not or the engine can't tell of all of them.
    """

    text: str = field(repr=False)
    finish_reason: FinishReason = "stop"
    usage: Mapping[str, int] | None = None
    passes: int | None = None
    agreement: float | None = None
    token_agreement: tuple[TokenAgreement, ...] | None = None


class EngineLike(Protocol):
    """What serves as an engine, too: an object with a method `edit`."""

    def edit(self, requests: Any, /) -> Any:
        """Make all edits, in the order of the requests."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Runs an aligner's model.

    Any object with these three methods will do. An engine may also have `window: int` (tokens
    that prompt and edit share), `count_tokens(text) -> int`, `control_tokens` (an iterable of
    strings that its tokenizer reads as control tokens), `apply_chat_template(messages) -> str`
    (for the `instruct` family; `messages` are dicts with `role` and `content`), `name: str` (what
    records call the model), `family_hint: str | None` (the checkpoint's prompt family, where it
    is known), `keeps_deadlines: bool` (the engine itself stops at a request's deadline),
    `edit_each(requests)` and `aedit_each(requests)` (as `edit` and `aedit`, which they go before,
    but with an error of this package in the place of each edit that failed), `warm(prompt)`
    (prefill what a prompt will begin with), `load()` and `close()`. A generator returned by
    `stream` may return the whole `Edit` when it ends.
    """

    def edit(self, requests: Sequence[Request]) -> list[Edit]:
        """Make all edits, in the order of the requests."""
        ...

    async def aedit(self, requests: Sequence[Request]) -> list[Edit]:
        """Make all edits without blocking the event loop; cancelling stops the work."""
        ...

    def stream(self, request: Request) -> Iterator[str]:
        """Yield the pieces of one edit as they are made; `.close()` stops the work."""
        ...
