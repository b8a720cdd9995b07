"""What the completions engine asks of the transport that reaches a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

from langchain_metaaligner.engines.base import FinishReason, TokenAgreement

Prompt = str | tuple[int, ...]
"""A prompt: its text, or the ids of its tokens."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a transport has found out about its model.

    Attributes:
        kind: What runs the model, such as `vLLM`, for messages and for the log.
        model: The model's name; the prompt family may be told by it.
        origin: Another name of the model that may tell the family: its file, or its base.
        family: The prompt family, if the model's file names it.
        window: How many tokens the prompt and the edit may have together; `None` if unknown.
        completes: Whether it continues plain prompts.
        chats: Whether it has a chat template; `None` if that is not known.
        counts: Whether `Transport.count` counts tokens. If not, their number is estimated.
        scores: Whether it gives the log-probabilities of a prompt's tokens.
        scores_templated: Whether it does so in its chat template, too.
        speculates: Whether it drafts tokens; `None` if that is not known.
        flags: What makes its edits faster, if it doesn't speculate, as one sentence.
        slots: How many edits it works on at the same time; `None` if unknown.
    """

    kind: str
    model: str
    origin: str = ""
    family: str | None = None
    window: int | None = None
    completes: bool = True
    chats: bool | None = None
    counts: bool = False
    scores: bool = False
    scores_templated: bool = False
    speculates: bool | None = None
    flags: str = ""
    slots: int | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A completion to make.

    A transport sends every setting that changes the text, so that nothing is inherited from a
    server's or a model's defaults: no top-k, top-p, min-p, penalties or anything else that reshapes
    the distribution.

    Attributes:
        prompt: The prompt, byte for byte. With `chat`, it is the text of the only user message.
        max_tokens: Maximum number of new tokens.
        stop: Texts that end the completion. The engine ends it there even if the transport does
            not.
        temperature: Sampling temperature; 0 decodes greedily.
        seed: Seed of the samples.
        chat: Whether the model's chat template is put around the prompt. If not, the prompt is
            plain text: one beginning-of-text token is added if the model uses one, and, where that
            can be chosen, nothing in it is read as a control token.
        pieces: Whether somebody reads the pieces as they come. If not, one piece is enough.
        deadline: Time at which the result is worthless, in seconds of `time.monotonic()`. The
            engine itself stops the call then; the transport may give up earlier if it sees that it
            can't be in time.
    """

    prompt: Prompt = field(repr=False)
    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0
    chat: bool = False
    pieces: bool = False
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a completion.

    Attributes:
        text: The new text, without control tokens; may be empty.
        finish_reason: Given with the last text. A completion that ends without it has failed.
        usage: `input_tokens`, `output_tokens` and, where told, `draft_tokens` and
            `accepted_draft_tokens`. The last one given counts.
    """

    text: str = field(default="", repr=False)
    finish_reason: FinishReason | None = None
    usage: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """How likely the model finds each token of an answer after its prompt.

    Attributes:
        tokens: The answer's tokens with their log-probabilities, in order.
        likeliest: For each of them, the log-probability of the likeliest token in its place.
        end: Log-probability of an end token after the whole answer, or the highest that it can be.
        after: Log-probability of the likeliest token there; the same as `end` if that is an end.
        prompts: For each number of kept tokens, from none to all, the prompt of what follows.
        input_tokens: The prompt's number of tokens.
    """

    tokens: tuple[TokenAgreement, ...]
    likeliest: tuple[float, ...]
    end: float
    after: float
    prompts: tuple[Prompt, ...] = field(repr=False)
    input_tokens: int


class Transport(ABC):
    """Reaches a model that completes texts.

    All methods run in one event loop, in a thread of the engine's own. None may block it: blocking
    work goes into a thread (`asyncio.to_thread`, or a pool of `engines.threads`). A call that is
    cancelled, or whose generator is closed, must stop the model before its next token, or as soon
    as that is possible.

    In a forked process, the engine makes a new transport; the old one is dropped without `close`.

    Errors are this package's own. They have `retryable` set rightly and contain no text of prompts,
    answers or secrets.
    """

    @abstractmethod
    async def open(self) -> Served:
        """Connect to the model or load it, and find out what it is.

        It is called before anything else. If it fails, it may be called again.

        Returns:
            What was found out.

        Raises:
            CheckpointError: There is no such model, or it can't be used.
            EngineError: It can't be reached.
        """

    @abstractmethod
    def complete(self, call: Call) -> AsyncGenerator[Piece, None]:
        """Complete a prompt.

        Args:
            call: What to complete.

        Returns:
            The pieces. The engine closes the generator if it reads no further.

        Raises:
            EngineError: It failed; raised by the generator.
            OverloadedError: The model has too much to do; raised by the generator.
        """

    async def score(
        self, prompt: str, answer: str, deadline: float | None, *, chat: bool
    ) -> Scores | None:
        """Ask how likely an answer is after its prompt; only called if `Served.scores`.

        Args:
            prompt: The prompt.
            answer: The answer.
            deadline: As in `Call`.
            chat: As in `Call`. The prompts of the scores are then those of the template.

        Returns:
            The scores; `None` if there are none for this answer.

        Raises:
            EngineError: It failed.
        """
        return None

    async def count(self, text: str) -> int:
        """Count a text's tokens, as a plain prompt; only called if `Served.counts`.

        Args:
            text: The text.

        Returns:
            The number of tokens, with a beginning-of-text token if one is added.

        Raises:
            EngineError: It failed.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Close connections, or free the model; by default does nothing."""
        return
