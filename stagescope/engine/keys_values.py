"""Keys and values of the positions before, so that a token more costs one position.

transformers hands a cache to every attention, which gives it new keys and values by `update` and gets all of them back.
Each row of a batch keeps its own, at every place of its executed order: a layer that runs twice has them twice, so that
repeats and groups are as right as a plain order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

Kept = dict[int, tuple[Tensor, Tensor]]  # layer -> its keys and values [H, room, d], at one place of one row


class Past(Cache):
    """Stands for the cache while the model prepares what its blocks take: so many positions came before, at every layer.

    room: positions that will be kept in all.
    """

    def __init__(self, n_layers: int, length: int, room: int):
        super().__init__(layers=[_Before(length) for _ in range(n_layers)])
        self.length, self.room = length, room


class _Before(DynamicLayer):
    def __init__(self, length: int):
        super().__init__()
        self.length = length

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0


class Rows:
    """The cache of one block call: what the rows of its batch keep at this place."""

    def __init__(self, kept: list[Kept], layer: int, past: Past):
        self.kept, self.layer, self.past, self.used = kept, layer, past, False

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, n, d] of new positions are kept; they come back with all before them."""
        self.used = True
        begin, end = self.past.length, self.past.length + keys.shape[2]
        for row, kept in enumerate(self.kept):
            if self.layer not in kept:
                kept[self.layer] = tuple(new.new_empty(new.shape[1], self.past.room, new.shape[3]) for new in (keys, values))
            for whole, new in zip(kept[self.layer], (keys, values), strict=True):
                whole[:, begin:end] = new[row]
        if not begin:
            return keys, values
        if len(self.kept) == 1:
            return tuple(whole[None, :, :end] for whole in self.kept[0][self.layer])
        both = zip(*(kept[self.layer] for kept in self.kept), strict=True)
        return tuple(torch.stack([whole[:, :end] for whole in rows]) for rows in both)


@torch.inference_mode()
def copied(kept: Kept) -> Kept:
    return {layer: (keys.clone(), values.clone()) for layer, (keys, values) in kept.items()}


def bytes_of(kept: Kept) -> int:
    return sum(tensor.numel() * tensor.element_size() for both in kept.values() for tensor in both)
