"""Attention over one row: what the fused one gives, whatever the format and the pass."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from langchain_metaaligner.engines.local.packed_forward import CausalMask, attend


def inputs(heads: int, kept: int, seen: int, new: int, dtype: torch.dtype, size: int = 16):
    torch.manual_seed(seen * 1000 + new)
    query = torch.randn(1, heads, new, size, dtype=dtype)
    keys, values = torch.randn(2, kept, seen + new, size, dtype=dtype)
    return query, keys, values


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
    st.sampled_from([(4, 2), (3, 3), (9, 3), (4, 1)]),
    st.integers(0, 200),
    st.sampled_from([1, 2, 31, 32, 33, 127, 128, 129, 300]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from([None, 0.5]),
)
def test_new_tokens_see_what_was_before_them(heads, seen, new, dtype, scale) -> None:
    query, keys, values = inputs(*heads, seen, new, dtype)
    made = attend(query, keys, values, CausalMask(seen, new), scale)
    assert made.shape == (1, new, heads[0], 16)
    assert made.dtype == dtype
    exact = dtype == torch.float32
    torch.testing.assert_close(
        made.float(), wanted(query, keys, values, scale), atol=1e-5 if exact else 0.1, rtol=0.01
    )


@pytest.mark.parametrize("new", [5, 64, 200])
def test_one_sight_serves_all_layers_and_what_comes_later_is_never_seen(new) -> None:
    sight = CausalMask(10, new)
    for layer in range(2):
        query, keys, values = inputs(4, 2, 10, new, torch.bfloat16)
        made = attend(query, keys, values, sight, None)
        keys[:, -1], values[:, -1] = 50.0, 50.0 + layer
        after = attend(query, keys, values, sight, None)
        assert torch.equal(made[:, :-1], after[:, :-1])
        assert not torch.equal(made[:, -1], after[:, -1])


def test_a_sight_serves_layers_with_other_groups_of_heads_too() -> None:
    sight = CausalMask(3, 40)
    for heads, kept in ((4, 2), (4, 1), (2, 2)):
        query, keys, values = inputs(heads, kept, 3, 40, torch.bfloat16)
        made = attend(query, keys, values, sight, None)
        torch.testing.assert_close(made.float(), wanted(query, keys, values), atol=0.03, rtol=0.01)
