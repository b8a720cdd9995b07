"""Runs the model over rows of tokens, one token a pass, until each row has ended."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from langchain_metaaligner.engines.base import Edit, FinishReason, Request
from langchain_metaaligner.engines.tokenizing import OutputText
from langchain_metaaligner.errors import EngineError


@dataclass(slots=True)
class Row:
    """One request on its way through the model.

    Attributes:
        prompt: The prompt's tokens.
        limit: Most tokens of output.
        temperature: 0 takes the likeliest token.
        output: The text so far.
        finish: Why it ended, once it has.
        passes: Forward passes that it took part in.
        piece: Text that the last pass made sure of.
    """

    prompt: list[int]
    limit: int
    temperature: float
    output: OutputText
    finish: FinishReason | None = None
    passes: int = 0
    piece: str = ""

    @classmethod
    def start(cls, request: Request, prompt: list[int], output: OutputText, window: int) -> Row:
        """Begin a request.

        Args:
            request: The request.
            prompt: Its prompt's tokens.
            output: Its text, still empty.
            window: Tokens that prompt and output share.

        Returns:
            The row.

        Raises:
            EngineError: The prompt is empty or leaves no room for an output.
        """
        if not prompt:
            message = "The prompt is empty; expected a text to continue."
            raise EngineError(message)
        room = window - len(prompt)
        if room <= 0:
            message = (
                f"The prompt has {len(prompt)} tokens, but the window holds {window} for prompt"
                " and edit together. Shorten the context or the answer."
            )
            raise EngineError(message)
        row = cls(prompt, min(request.max_new_tokens, room), request.temperature, output)
        if row.limit <= 0:
            row.finish = "length"
        return row

    def push(self, token: int, ends: frozenset[int]) -> None:
        """Take the token that a pass has chosen."""
        self.passes += 1
        if token in ends:
            self.finish = "stop"
            self.piece = self.output.finish()
            return
        self.piece = self.output.push(token)
        if self.output.stopped:
            self.finish = "stop"
        elif len(self.output.ids) >= self.limit:
            self.finish = "length"
            self.piece += self.output.finish()

    def edit(self) -> Edit:
        """The finished edit; its usage counts no end token and nothing behind a stop text."""
        made = self.output.used_tokens()
        return Edit(
            text=self.output.text,
            finish_reason=self.finish or "length",
            usage={
                "input_tokens": len(self.prompt),
                "output_tokens": made,
                "total_tokens": len(self.prompt) + made,
            },
            passes=self.passes,
        )


def generate(model: Any, rows: Sequence[Row], *, pad: int, ends: frozenset[int]) -> Iterator[None]:
    """Advance all rows, a token each per pass, until every one has ended.

    Nothing of the model is changed, its configurations least of all, and nothing is inherited
    from them: no sampling, no penalties, and the cache is on whatever `use_cache` says there.

    Args:
        model: A causal model of transformers.
        rows: The rows; they fill as it goes. They are padded on the left.
        pad: Fills up short rows; masked.
        ends: Tokens that end a row.

    Yields:
        Once after each forward pass. Not going on, or closing the generator, stops the work.
    """
    live = [row for row in rows if row.finish is None]
    if not live:
        return
    width = max(len(row.prompt) for row in live)
    device = _input_device(model)
    ids = torch.tensor([[pad] * (width - len(r.prompt)) + r.prompt for r in live], device=device)
    mask = torch.tensor(
        [[0] * (width - len(r.prompt)) + [1] * len(r.prompt) for r in live], device=device
    )
    takes = inspect.signature(model.forward).parameters
    cache: Any = None
    while True:
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": True}
        if "position_ids" in takes:
            arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if "logits_to_keep" in takes:
            arguments["logits_to_keep"] = 1
        with torch.inference_mode():
            output = model(**arguments, past_key_values=cache, return_dict=True)
            cache = getattr(output, "past_key_values", None)
            tokens = _choose(output.logits[:, -1].float(), [row.temperature for row in live])
        if cache is None:
            message = (
                f"{type(model).__name__} keeps no key-value cache that this engine knows."
                " Use a model of the LLaMA kind."
            )
            raise EngineError(message)
        for row, token in zip(live, tokens, strict=True):
            if row.finish is None:
                row.push(token, ends)
        yield
        if all(row.finish is not None for row in live):
            return
        ids = torch.tensor([[token] for token in tokens], device=device)
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=-1)


def _choose(logits: torch.Tensor, temperatures: Sequence[float]) -> list[int]:
    """The next token of each row."""
    chosen: list[int] = logits.argmax(dim=-1).tolist()
    for index, temperature in enumerate(temperatures):
        if temperature > 0:
            odds = torch.softmax(logits[index] / temperature, dim=-1)
            chosen[index] = int(torch.multinomial(odds, num_samples=1))
    return chosen


def _input_device(model: Any) -> torch.device:
    """Where token ids go; offloaded embeddings are nowhere until accelerate brings them."""
    device: torch.device = model.get_input_embeddings().weight.device
    return torch.device("cpu") if device.type == "meta" else device
