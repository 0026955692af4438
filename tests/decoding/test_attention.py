"""Attention of a search reads what torch's own reads, and a cache goes on from the right rows."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
import torch.nn.functional as F

from captioning.decoding.attention import KeysValues, KVCache


def test_few_queries_read_what_torchs_attention_reads() -> None:
    memory = KeysValues(torch.randn(3, 2, 7, 4), torch.randn(3, 2, 7, 4))
    queries = torch.randn(3, 2, 5, 4)
    laid_out = memory.for_few()
    expected = F.scaled_dot_product_attention(queries, *memory)
    torch.testing.assert_close(laid_out.read(queries), expected)
    assert laid_out.keys.mT.is_contiguous()
    kept = torch.tensor([2, 0])
    fewer = laid_out.of_pictures(kept)
    assert type(fewer) is type(laid_out)
    assert fewer.keys.mT.is_contiguous()
    torch.testing.assert_close(fewer.read(queries[kept]), expected[kept])


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
def test_a_cache_goes_on_from_the_rows_that_were_chosen_even_twice_before_a_token(
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    with mode():
        check_cache()


def check_cache() -> None:
    """Reordering twice, then a token."""
    first, second = torch.randn(2, 4, 1, 1, 3), torch.randn(2, 3, 1, 1, 3)
    cache = KVCache()
    cache.update(*first)
    cache.reorder(torch.tensor([3, 1, 0, 2]))
    cache.reorder(torch.tensor([0, 0, 1]))
    keys, values = cache.update(*second)
    rows = torch.tensor([3, 3, 1])
    assert keys.equal(torch.cat([first[0][rows], second[0]], dim=2))
    assert values.equal(torch.cat([first[1][rows], second[1]], dim=2))
