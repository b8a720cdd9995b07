"""Attention over one sequence: the numbers of the fused one, the same bits in any pass."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from langchain_metaaligner.engines.local.attention import (
    CausalMask,
    attend,
    attend_at_once,
)

HEADS = [(4, 2), (3, 3), (9, 3), (4, 1), (7, 1)]
FORMATS = [torch.float32, torch.bfloat16]


def roomy(tokens: torch.Tensor) -> torch.Tensor:
    """Keys or values as a cache holds them: with room for whole blocks, and zeros there."""
    return torch.nn.functional.pad(tokens, (0, 0, 0, -tokens.shape[1] % 256))


def inputs(heads: int, kept: int, seen: int, new: int, dtype: torch.dtype, size: int = 16):
    torch.manual_seed(seen * 1000 + new)
    query = torch.randn(1, heads, new, size, dtype=dtype)
    keys, values = torch.randn(2, kept, seen + new, size, dtype=dtype)
    return query, keys, values


@pytest.fixture(params=[attend, attend_at_once])
def way(request):
    return request.param


def wanted(query, keys, values, scale=None):
    """In float32, one query at a time."""
    groups = query.shape[1] // keys.shape[0]
    keys, values = (one.float().repeat_interleave(groups, 0)[None] for one in (keys, values))
    new, all_tokens = query.shape[2], keys.shape[2]
    made = [
        scaled_dot_product_attention(
            query.float()[:, :, at : at + 1],
            keys[:, :, : all_tokens - new + at + 1],
            values[:, :, : all_tokens - new + at + 1],
            scale=scale,
        )
        for at in range(new)
    ]
    return torch.cat(made, dim=2).transpose(1, 2)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([attend, attend_at_once]),
    st.sampled_from(HEADS),
    st.integers(0, 200),
    st.sampled_from([1, 2, 31, 32, 33, 127, 128, 129, 300]),
    st.sampled_from(FORMATS),
    st.sampled_from([None, 0.5]),
)
def test_new_tokens_see_what_was_before_them(way, heads, seen, new, dtype, scale) -> None:
    query, keys, values = inputs(*heads, seen, new, dtype)
    made = way(query, roomy(keys), roomy(values), CausalMask(seen, new), scale)
    assert made.shape == (1, new, heads[0], 16)
    assert made.dtype == dtype
    exact = dtype == torch.float32
    torch.testing.assert_close(
        made.float(), wanted(query, keys, values, scale), atol=1e-5 if exact else 0.1, rtol=0.01
    )


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(HEADS),
    st.sampled_from([8, 16, 64]),
    st.sampled_from(FORMATS),
    st.sampled_from([0, 1000, 1200]),
    st.lists(st.sampled_from([1, 2, 3, 5, 24, 33, 64, 100]), min_size=1, max_size=8),
)
def test_a_token_gets_the_same_bits_however_tokens_are_cut_into_passes(
    heads, size, dtype, first, cuts
) -> None:
    cuts = [first, *cuts] if first else cuts
    whole = sum(cuts)
    query, keys, values = inputs(*heads, 0, whole, dtype, size)
    keys, values = roomy(keys), roomy(values)
    at_once = attend(query, keys, values, CausalMask(0, whole), None)
    made, seen = [], 0
    for new in cuts:
        part = query[:, :, seen : seen + new]
        longer = torch.cat([keys, keys], dim=1)[:, : keys.shape[1] + 256]  # a larger buffer
        longer[:, seen + new :] = 0
        made.append(attend(part, longer, values, CausalMask(seen, new), None))
        seen += new
    assert torch.equal(torch.cat(made, dim=1), at_once)


@pytest.mark.parametrize("new", [5, 64, 200])
def test_one_sight_serves_all_layers_and_what_comes_later_is_never_seen(way, new) -> None:
    sight = CausalMask(10, new)
    for layer in range(2):
        query, keys, values = inputs(4, 2, 10, new, torch.bfloat16)
        keys, values = roomy(keys), roomy(values)
        made = way(query, keys, values, sight, None)
        keys[:, new + 9 :], values[:, new + 9 :] = 50.0, 50.0 + layer
        after = way(query, keys, values, sight, None)
        assert torch.equal(made[:, :-1], after[:, :-1])
        assert not torch.equal(made[:, -1], after[:, -1])


def test_a_sight_serves_layers_with_other_groups_of_heads_too(way) -> None:
    sight = CausalMask(3, 40)
    for heads, kept in ((4, 2), (4, 1), (2, 2)):
        query, keys, values = inputs(heads, kept, 3, 40, torch.bfloat16)
        made = way(query, roomy(keys), roomy(values), sight, None)
        torch.testing.assert_close(made.float(), wanted(query, keys, values), atol=0.03, rtol=0.01)
