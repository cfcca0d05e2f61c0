"""The cache whose rows come and go: the same entries as transformers' own would hold, whatever is cut, kept and joined."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, LlamaConfig
from transformers.cache_utils import DynamicSlidingWindowLayer

from safesteer_interp.decoding.cache import ROOM, GrowingLayer, drop_left, fork, growing_cache, join, joinable
from safesteer_interp.decoding.prefix import filled_up

CONFIG = LlamaConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, num_key_value_heads=2)


def entries(rows: int, length: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, 2, length, 4, generator=torch.Generator().manual_seed(seed))


def filled(rows: int, length: int, seed: int) -> DynamicCache:
    cache = growing_cache(CONFIG)
    cache.update(entries(rows, length, seed), entries(rows, length, seed + 100), 0)
    return cache


def test_a_growing_cache_holds_what_a_dynamic_one_holds() -> None:
    ours, theirs = growing_cache(CONFIG), DynamicCache(config=CONFIG)
    for step, length in enumerate((5, 1, 1, ROOM, 3, 1)):
        for cache in (ours, theirs):
            cache.update(entries(3, length, step), entries(3, length, step + 100), 0)
        if step == 2:
            for cache in (ours, theirs):
                cache.crop(-1)
        if step == 4:
            for cache in (ours, theirs):
                cache.batch_select_indices(torch.tensor([2, 1, 0]))
    for name in ("keys", "values"):
        assert torch.equal(getattr(ours.layers[0], name), getattr(theirs.layers[0], name))
    assert ours.get_seq_length() == theirs.get_seq_length()


def test_a_row_that_leaves_is_filled_in_place() -> None:
    cache = filled(5, 6, 0)
    layer, before = cache.layers[0], cache.layers[0].keys.clone()
    storage = layer.keys.data_ptr()
    order = filled_up([0, 2, 4], 5)
    assert order.tolist() == [0, 4, 2], "row 4 fills the place of row 1; rows 0 and 2 stay"
    cache.batch_select_indices(order)
    assert layer.keys.data_ptr() == storage and torch.equal(layer.keys, before[order])
    cache.batch_select_indices(torch.tensor([1, 0, 2]))  # not possible in place
    assert torch.equal(layer.keys, before[[4, 0, 2]])


@pytest.mark.parametrize(("ours", "theirs"), [(9, 4), (4, 9), (6, 6)])
def test_rows_join_at_the_right(ours: int, theirs: int) -> None:
    cache, other = filled(2, ours, 0), filled(3, theirs, 1)
    mine, joining = cache.layers[0].keys.clone(), other.layers[0].keys.clone()
    join(cache, other, torch.tensor([2, 0]))
    keys, width = cache.layers[0].keys, max(ours, theirs)
    assert keys.shape == (4, 2, width, 4)
    assert torch.equal(keys[:2, :, width - ours :], mine) and torch.equal(keys[2:, :, width - theirs :], joining[[2, 0]])
    assert not keys[:2, :, : width - ours].any() and not keys[2:, :, : width - theirs].any()
    new = entries(4, 1, 5)
    cache.update(new, new, 0)
    assert torch.equal(cache.layers[0].keys[:, :, -1:], new)
    assert torch.equal(other.layers[0].keys, joining), "the other cache is left as it was"


def test_columns_are_dropped_and_the_room_before_them_is_used_again() -> None:
    cache = filled(2, 10, 0)
    before = cache.layers[0].keys.clone()
    drop_left(cache, 4)
    assert torch.equal(cache.layers[0].keys, before[:, :, 4:]) and cache.get_seq_length() == 6
    storage = cache.layers[0]._storage["keys"]
    cache.batch_select_indices(torch.tensor([0]))
    join(cache, filled(1, 8, 1), torch.tensor([0]))
    assert cache.layers[0]._storage["keys"] is storage, "there was room"
    keys = cache.layers[0].keys
    assert torch.equal(keys[0, :, 2:], before[0, :, 4:]) and not keys[0, :, :2].any()
    assert torch.equal(keys[1], entries(1, 8, 1)[0])


def test_a_fork_writes_nothing_onto_the_original() -> None:
    cache = filled(2, 5, 0)
    before = cache.layers[0].keys.clone()
    forked = fork(cache)
    forked.batch_select_indices(torch.arange(2))
    forked.update(entries(2, 1, 3), entries(2, 1, 3), 0)
    forked.layers[0].keys[:] = 0
    assert torch.equal(cache.layers[0].keys, before) and cache.get_seq_length() == 5


def test_sliding_windows_join_too() -> None:
    def sliding(rows: int, length: int, seed: int) -> DynamicCache:
        cache = DynamicCache(config=CONFIG)
        cache.layers = [DynamicSlidingWindowLayer(sliding_window=6)]
        cache.update(entries(rows, length, seed), entries(rows, length, seed), 0)
        return cache

    cache, other = sliding(1, 9, 0), sliding(2, 3, 1)
    assert joinable(cache)
    join(cache, other, torch.tensor([1]))
    layer = cache.layers[0]
    assert layer.keys.shape[2] == 5 and layer.cumulative_length == 9
    assert torch.equal(layer.keys[0], entries(1, 9, 0)[0, :, 4:]) and torch.equal(layer.keys[1, :, 2:], entries(2, 3, 1)[1])
    drop_left(cache, 6)
    assert layer.cumulative_length == 3 and layer.keys.shape[2] == 3
    assert torch.equal(layer.keys[1], entries(2, 3, 1)[1])
    assert not joinable(DynamicCache(config=CONFIG)) and isinstance(growing_cache(CONFIG).layers[0], GrowingLayer)
