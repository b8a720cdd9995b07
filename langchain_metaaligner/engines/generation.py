"""Edit-draft decoding for transformers' `generate`, usable without the rest of this package.

```python
from langchain_metaaligner.engines.generation import edit_draft_decoding

model.generate(**inputs, custom_generate=edit_draft_decoding, draft_ids=answer_ids)
```

With `caution=` the output leaves the draft only where another token is likelier by a margin.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any
from weakref import WeakKeyDictionary

import torch

from langchain_metaaligner.engines.caution import next_token
from langchain_metaaligner.engines.local.decoder import bad_number, costs_for
from langchain_metaaligner.engines.local.drafting import Drafter
from langchain_metaaligner.engines.local.forward import Forward, ForwardInput, horizon_of
from langchain_metaaligner.engines.local.packed_forward import choose_forward

_known: WeakKeyDictionary[Any, Forward] = WeakKeyDictionary()


@dataclass(slots=True, eq=False)
class _Sequence:
    """One row of the batch.

    Attributes:
        ids: `[1, tokens]`: prompt and output so far in `generate`'s form, including padding.
        prompt: The prompt's tokens, without padding.
        made: The output's tokens so far.
        drafter: Proposes the next draft.
        cache: The model's keys and values.
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

    def room(self, forward: Forward) -> int:
        """Return the maximum length of a draft."""
        if not forward.drafts:
            return 0
        horizon = horizon_of(forward)
        return 1 << 30 if horizon is None else horizon - len(self.prompt) - len(self.made)


def edit_draft_decoding(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generation_config: Any = None,
    draft_ids: Any = None,
    caution: float = 0.0,
    **model_kwargs: Any,
) -> torch.Tensor:
    """Generate the same output as `generate`, faster, with the help of a draft.

    Without `caution`, greedy output in float32 is the same token for token, except where two tokens
    are exactly tied; so is sampled output of a single sequence with the same seed. In shorter
    formats, nearly tied tokens may be chosen differently. Every logits processor and stopping
    criterion is called for each token.

    With a custom function, `generate` itself silently ignores `streamer`, `tokenizer` and
    `synced_gpus`, and fails with `stop_strings`, which need the tokenizer. In a batch, each
    sequence may have its own draft.

    Args:
        model: The model; passed by `generate`.
        input_ids: `[sequences, prompt_tokens]`: the prompts, padded on the left; passed by
            `generate`.
        logits_processor: Passed by `generate`.
        stopping_criteria: Passed by `generate`.
        generation_config: Passed by `generate`.
        draft_ids: The expected output: token ids, or a list of them for each sequence, as lists
            or a tensor `[draft_tokens]` or `[sequences, draft_tokens]`. Tokenise it as an output,
            without a beginning-of-text token and without an end token.
        caution: By how much another token must be likelier than the draft's next one for the
            output to leave the draft after its first three tokens, in nats, by the scores that the
            logits processors return; after that, decoding is plain. 0 gives `generate`'s output.
        **model_kwargs: Further model inputs from `generate`; only `attention_mask` is used.

    Returns:
        `[sequences, tokens]`: each prompt with its output, padded on the right.

    Raises:
        EngineError: The model's scores are NaN or infinite.
        ValueError: Beam search or returned scores were requested, which can't be drafted, or the
            number of drafts does not fit the number of sequences; or `caution` is no number from
            0 on, or was given with sampling.
    """
    if generation_config.num_beams > 1 or generation_config.return_dict_in_generate:
        message = (
            "edit_draft_decoding returns one greedy or sampled output for each sequence, as ids."
            " Leave num_beams at 1 and return_dict_in_generate off, or don't use custom_generate."
        )
        raise ValueError(message)
    if not (isfinite(caution) and caution >= 0) or (caution and generation_config.do_sample):
        message = (
            f"caution={caution} must be a number of nats, 0 or more, and 0 when sampling: it is a"
            " margin between the likeliest token and the draft's. Leave it out, or set"
            " do_sample=False."
        )
        raise ValueError(message)
    ends = _ends(generation_config)
    forward = _known.get(model)
    if forward is None:
        forward = _known[model] = choose_forward(model)
    rows = _sequences(model, forward, input_ids, model_kwargs.get("attention_mask"), draft_ids)
    left = list(rows)
    while left:
        parts, drafts = [], []
        for row in left:
            draft = row.drafter.propose(row.made, row.room(forward), shared=len(left) > 1)
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
                caution=caution,
                ends=ends,
                dtype=logits.dtype,
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
    caution: float,
    ends: Sequence[int],
    dtype: torch.dtype,
) -> int:
    """Choose one token after another while the draft predicts them.

    Args:
        row: The row; the chosen tokens are appended to it.
        draft: The tokens that were drafted.
        logits: `[1 + drafted_tokens, vocabulary]`.
        processors: `generate`'s logits processors.
        criteria: `generate`'s stopping criteria.
        sample: Whether to sample; else the likeliest token is chosen.
        caution: As for `edit_draft_decoding`.
        ends: Tokens that end the output.
        dtype: The format in which the model computes.

    Returns:
        How many tokens of the draft were chosen.

    Raises:
        EngineError: The scores are NaN or infinite.
    """
    cautious = caution > 0 and row.drafter.together
    for place in range(len(logits)):
        scores = logits[place : place + 1].clone()
        for processor in processors:
            scores = processor(row.ids, scores)
        highest = float(scores.max())
        if not isfinite(highest):
            raise bad_number(highest, dtype)
        if sample:
            chosen = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1)
        else:
            chosen = scores.argmax(dim=-1, keepdim=True)
            if cautious:
                token = next_token(
                    row.drafter.draft,
                    len(row.made),
                    int(chosen),
                    scores[0],
                    ends=ends,
                    caution=caution,
                )
                chosen = torch.full_like(chosen, token)
        row.ids = torch.cat([row.ids, chosen], dim=-1)
        row.made.append(int(chosen))
        row.ended = any(bool(torch.as_tensor(one(row.ids, scores)).all()) for one in criteria)
        if row.ended or place == len(draft) or row.made[-1] != draft[place]:
            return place
    return len(draft)


def _ends(config: Any) -> list[int]:
    given = config.eos_token_id
    if given is None:
        return []
    return torch.as_tensor(given).flatten().tolist()


def _sequences(
    model: Any, forward: Forward, input_ids: torch.Tensor, mask: torch.Tensor | None, drafts: Any
) -> list[_Sequence]:
    """Make the rows of a batch; `input_ids` and `mask` are `[sequences, prompt_tokens]`."""
    given = _lists(drafts, len(input_ids))
    rows = []
    for number, draft in enumerate(given):
        ids = input_ids[number : number + 1]
        real = ids[0] if mask is None else ids[0][mask[number].bool()]
        prompt = [int(token) for token in real]
        drafter = Drafter([draft], costs_for(model), len(prompt), context=prompt)
        rows.append(
            _Sequence(ids, prompt, [], drafter, forward.new_cache(len(prompt) + len(draft) + 64))
        )
    return rows


def _lists(drafts: Any, count: int) -> list[list[int]]:
    """Turn drafts in any of the accepted forms into one list for each sequence."""
    if drafts is None:
        return [[] for _ in range(count)]
    if isinstance(drafts, torch.Tensor):
        drafts = drafts.tolist()
    if not drafts or isinstance(drafts[0], int):
        drafts = [drafts] * count
    if count % len(drafts):
        message = f"There are {len(drafts)} drafts for {count} sequences; give one for each."
        raise ValueError(message)
    # num_return_sequences repeats each prompt, so its draft is repeated too.
    return [list(map(int, one)) for one in drafts for _ in range(count // len(drafts))]


def _padded(rows: Sequence[_Sequence], input_ids: torch.Tensor, config: Any) -> torch.Tensor:
    """Pad the rows on the right to `[sequences, tokens]`."""
    pad = config.pad_token_id
    if pad is None:
        pad = next(iter(_ends(config)), None)
    width = max(row.ids.shape[1] for row in rows)
    whole = input_ids.new_full((len(rows), width), 0 if pad is None else int(pad))
    for number, row in enumerate(rows):
        whole[number, : row.ids.shape[1]] = row.ids[0]
    return whole
