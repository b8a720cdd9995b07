"""Splits prompts and edits into tokens, just as the engines do when they ask for an edit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from langchain_metaaligner.editing.prompts import PromptFamily
from langchain_metaaligner.engines.local.tokenizer import TextCodec
from langchain_metaaligner.errors import TrainingError
from langchain_metaaligner.training.data.example import TrainingExample

IGNORED = -100
"""The label of a token that is given, not learned."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenised example.

    Attributes:
        input_ids: Prompt, edit and the end token.
        labels: The same, with `IGNORED` for the prompt.
    """

    input_ids: list[int]
    labels: list[int]


def encode(codec: TextCodec, family: PromptFamily, example: TrainingExample) -> Encoded:
    """Split one example: prompt and edit apart, nothing in them a control token.

    Args:
        codec: The base's codec.
        family: The prompts that the aligner will be asked with.
        example: What is asked, and the edit that is wanted.

    Returns:
        Tokens and labels of the same length; only the edit and the end token have labels.

    Raises:
        TrainingError: The tokenizer has no end token.
        EngineError: The family wants a chat template, and the tokenizer has none.
    """
    end = codec.tokenizer.eos_token_id
    if end is None:
        message = (
            "The base's tokenizer has no end token, so no edit would ever end. Set eos_token in"
            " its tokenizer_config.json."
        )
        raise TrainingError(message)
    prompt, edit = example.render(family)
    if family.chat:
        prompt = codec.chat([{"role": "user", "content": prompt}])
    head = codec.encode(prompt, templated=family.chat)
    # The first spelling is the one that the engine drafts an answer with.
    tail = [*codec.spellings(edit)[0], end]
    return Encoded([*head, *tail], [IGNORED] * len(head) + tail)


def rows(encoded: Iterable[Encoded]) -> Any:
    """Put examples into the form that the trainer reads.

    Args:
        encoded: The examples.

    Returns:
        A `datasets.Dataset` with the columns `input_ids` and `labels`.
    """
    from datasets import Dataset

    kept = list(encoded)
    return Dataset.from_dict(
        {"input_ids": [e.input_ids for e in kept], "labels": [e.labels for e in kept]}
    )
