"""Edit-draft decoding for `generate` of transformers, without anything else of this package.

```python
from langchain_metaaligner.engines.generation import edit_draft_decoding

model.generate(**inputs, custom_generate=edit_draft_decoding, draft_ids=answer_ids)
```
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from langchain_metaaligner.engines.local.decoder import costs_for
from langchain_metaaligner.engines.local.drafting import Drafter
from langchain_metaaligner.engines.local.forward import Forward, ForwardInput
from langchain_metaaligner.engines.local.packed_forward import choose_forward

_known: WeakKeyDictionary[Any, Forward] = WeakKeyDictionary()


@dataclass(slots=True, eq=False)
class _Sequence:
    """One row of the batch.

    Attributes:
        ids: Everything so far as `generate` has it, padding included.
        prompt: The prompt's tokens.
        made: The tokens since.
        drafter: Says what to try next.
        cache: What the model keeps.
        ended: Whether a stopping criterion was met.
    """

    ids: torch.Tensor
    prompt: list[int]
    made: list[int]
    drafter: Drafter
    cache: Any
    ended: bool = False

    def unseen(self) -> list[int]:
        return [*self.prompt, *self.made][self.cache.length :]


def edit_draft_decoding(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generation_config: Any = None,
    draft_ids: Any = None,
    **model_kwargs: Any,
) -> torch.Tensor:
    """Generate what `generate` would, with a draft of the output to go by.

    Greedy output in float32 is the same token for token, up to exact ties; so is sampled output
    of a single sequence with the same seed. In shorter formats near ties may turn out otherwise.
    Every logits processor and stopping criterion is asked token by token.

    `generate` itself drops a `streamer`, a `tokenizer` and `synced_gpus` without a word when it
    is given a function, and fails with `stop_strings`, which need the tokenizer. Several
    sequences may have drafts of their own.

    Args:
        model: The model; `generate` gives it.
        input_ids: The prompts, padded on the left; `generate` gives them.
        logits_processor: `generate` makes it.
        stopping_criteria: `generate` makes them.
        generation_config: `generate` makes it.
        draft_ids: What the output may look like: ids, or ids for each sequence. Tokenise it as an
            output: without a beginning-of-text token, and without an end token.
        **model_kwargs: What else `generate` gives the model; only the attention mask is used.

    Returns:
        The sequences, each with its prompt, filled up on the right.

    Raises:
        ValueError: What was asked for can't be drafted: beams, or scores to be returned.
    """
    if generation_config.num_beams > 1 or generation_config.return_dict_in_generate:
        message = (
            "edit_draft_decoding makes one greedy or sampled output for each sequence, as ids."
            " Leave num_beams at 1 and return_dict_in_generate off, or leave custom_generate out."
        )
        raise ValueError(message)
    forward = _known.get(model)
    if forward is None:
        forward = _known[model] = choose_forward(model)
    rows = _sequences(model, forward, input_ids, model_kwargs.get("attention_mask"), draft_ids)
    left = list(rows)
    while left:
        parts, drafts = [], []
        for row in left:
            draft = row.drafter.propose(row.made, 1 << 30) if forward.drafts else []
            parts.append(ForwardInput(row.cache, row.unseen() + draft, len(draft) + 1))
            drafts.append(draft)
        logits = forward.run(parts)
        start = 0
        for row, part, draft in zip(left, parts, drafts, strict=True):
            end = start + part.keep
            accepted = _go_on(
                row,
                draft,
                logits[start:end].to(row.ids.device, torch.float32),
                logits_processor,
                stopping_criteria,
                sample=generation_config.do_sample,
            )
            row.cache.length -= len(draft) - accepted
            row.drafter.learn(accepted)
            start = end
        left = [row for row in left if not row.ended]
    return _padded(rows, input_ids, generation_config)


def _go_on(
    row: _Sequence,
    draft: Sequence[int],
    logits: torch.Tensor,
    processors: Iterable[Any],
    criteria: Iterable[Any],
    *,
    sample: bool,
) -> int:
    """Choose token after token for as long as the draft has foreseen it.

    Returns:
        How many of the draft's tokens were chosen.
    """
    for place in range(len(logits)):
        scores = logits[place : place + 1].clone()
        for processor in processors:
            scores = processor(row.ids, scores)
        if sample:
            chosen = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1)
        else:
            chosen = scores.argmax(dim=-1, keepdim=True)
        row.ids = torch.cat([row.ids, chosen], dim=-1)
        row.made.append(int(chosen))
        row.ended = any(bool(torch.as_tensor(one(row.ids, scores)).all()) for one in criteria)
        if row.ended or place == len(draft) or row.made[-1] != draft[place]:
            return place
    return len(draft)


def _sequences(
    model: Any, forward: Forward, input_ids: torch.Tensor, mask: torch.Tensor | None, drafts: Any
) -> list[_Sequence]:
    given = _lists(drafts, len(input_ids))
    rows = []
    for number, draft in enumerate(given):
        ids = input_ids[number : number + 1]
        real = ids[0] if mask is None else ids[0][mask[number].bool()]
        prompt = [int(token) for token in real]
        drafter = Drafter([draft], costs_for(model), len(prompt))
        rows.append(
            _Sequence(ids, prompt, [], drafter, forward.new_cache(len(prompt) + len(draft) + 64))
        )
    return rows


def _lists(drafts: Any, count: int) -> list[list[int]]:
    """One draft for each sequence, however they were given."""
    if drafts is None:
        return [[] for _ in range(count)]
    if isinstance(drafts, torch.Tensor):
        drafts = drafts.tolist()
    if not drafts or isinstance(drafts[0], int):
        drafts = [drafts] * count
    if count % len(drafts):
        message = f"There are {len(drafts)} drafts for {count} sequences; give one for each."
        raise ValueError(message)
    # num_return_sequences repeats each prompt; its draft goes with each of them.
    return [list(map(int, one)) for one in drafts for _ in range(count // len(drafts))]


def _padded(rows: Sequence[_Sequence], input_ids: torch.Tensor, config: Any) -> torch.Tensor:
    pad = config.pad_token_id
    if pad is None:
        ends = config.eos_token_id
        pad = ends[0] if isinstance(ends, list) else ends
    width = max(row.ids.shape[1] for row in rows)
    whole = input_ids.new_full((len(rows), width), 0 if pad is None else int(pad))
    for number, row in enumerate(rows):
        whole[number, : row.ids.shape[1]] = row.ids[0]
    return whole
