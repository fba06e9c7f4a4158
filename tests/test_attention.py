"""Attention to near tokens: by the definition, triple by triple, and what even attention gives."""

from __future__ import annotations

import pytest
import torch

from stagescope.engine import attention
from stagescope.engine.protocol import OFFSETS


def by_definition(pattern: torch.Tensor) -> tuple[list[list[float]], list[int]]:
    """Sums of each head and what they are divided by: one loop over every (q, j)."""
    n_heads, n_tokens, _ = pattern.shape
    near = {k: [(q, q - j) for q in range(n_tokens) for j in range(1, k + 1) if q - j >= 0] for k in OFFSETS}
    apart = {k: [(q, q - j) for q in range(k + 1, n_tokens) for j in range(1, k + 1)] for k in OFFSETS}
    pairs = [[(q, 0) for q in range(1, n_tokens)], *near.values(), *apart.values()]
    sums = [[sum(pattern[h, q, key].item() for q, key in some) for some in pairs] for h in range(n_heads)]
    return sums, [len(some) for some in pairs]


@pytest.mark.parametrize("n_tokens", [1, 2, 6, 7, 17, 40])
def test_sums_are_those_of_every_triple_that_exists(n_tokens):
    scores = torch.randn(2, 3, n_tokens, n_tokens, generator=torch.Generator().manual_seed(n_tokens))
    pattern = scores.masked_fill(torch.ones(n_tokens, n_tokens).triu(1).bool(), -torch.inf).softmax(-1)
    which = attention.triples(n_tokens)
    found = attention.reduced(pattern, which)
    for row in range(2):
        sums, counts = by_definition(pattern[row])
        torch.testing.assert_close(found[row], torch.tensor(sums, dtype=torch.float32), rtol=1e-5, atol=1e-5)
        assert which.sum((0, 1)).tolist() == counts


def test_no_sink_never_reads_key_0():
    """What is added to key 0 changes the sink and prev{k}, and no_sink not at all. For k = 5 queries begin at 6."""
    pattern = torch.rand(1, 1, 30, 30)
    more = pattern.clone()
    more[..., 0] += 1
    change = attention.reduced(more, attention.triples(30)) - attention.reduced(pattern, attention.triples(30))
    k = len(OFFSETS)
    assert (change[..., : 1 + k] > 0.5).all() and (change[..., 1 + k :] == 0).all()
    assert attention.triples(6).sum((0, 1))[1 + k + OFFSETS.index(5)] == 0
    assert attention.triples(7).sum((0, 1))[1 + k + OFFSETS.index(5)] == 5


def test_even_attention_gives_the_uniform_line():
    n_tokens = 23
    even = torch.ones(n_tokens, n_tokens).tril()
    even = even / even.sum(-1, keepdim=True)
    which = attention.triples(n_tokens)
    torch.testing.assert_close(attention.reduced(even[None, None], which)[0, 0], attention.uniform(which))
