"""Tokenises prompts and edits exactly as the engines do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from langchain_metaaligner.editing.prompts import PromptFamily
from langchain_metaaligner.engines.local.tokenizer import PromptTokenizer
from langchain_metaaligner.errors import TrainingError
from langchain_metaaligner.training.data.example import TrainingExample

IGNORED = -100
"""Label of a token that takes no part in the loss."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenised example.

    Attributes:
        input_ids: Prompt, edit and the end-of-sequence token.
        labels: The same, with `IGNORED` for the prompt.
    """

    input_ids: list[int]
    labels: list[int]


def encode(codec: PromptTokenizer, family: PromptFamily, example: TrainingExample) -> Encoded:
    """Tokenise one example, prompt and edit separately, with no control token from either text.

    Args:
        codec: The codec of the base.
        family: The prompt family that the aligner will be used with.
        example: The example.

    Returns:
        Tokens and labels of the same length; only the edit and the end token have labels.

    Raises:
        TrainingError: The tokenizer has no end-of-sequence token.
        EngineError: The family needs a chat template, and the tokenizer has none.
    """
    end = codec.tokenizer.eos_token_id
    if end is None:
        message = (
            "The tokenizer of the base has no end-of-sequence token, so no edit would ever end."
            " Set eos_token in its tokenizer_config.json."
        )
        raise TrainingError(message)
    prompt, edit = example.render(family)
    if family.chat:
        prompt = codec.chat([{"role": "user", "content": prompt}])
    head = codec.encode(prompt, templated=family.chat)
    # The engine drafts an answer with the first spelling.
    tail = [*codec.spellings(edit)[0], end]
    return Encoded([*head, *tail], [IGNORED] * len(head) + tail)


def to_dataset(encoded: Iterable[Encoded]) -> Any:
    """Convert examples to the form that the trainer reads.

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
