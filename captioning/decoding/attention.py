"""Attention of a search: few queries at a time, over keys and values that are kept.

Touches no files. B pictures, R rows (open captions), H heads, d numbers a head, P patches of a
picture, T tokens read so far.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class KeysValues(NamedTuple):
    """What attention reads in one layer."""

    keys: Tensor
    """(B, H, P, d) of pictures, or (R, H, T, d) of captions."""
    values: Tensor
    """The same shape."""


class FewReaders(KeysValues):
    """Keys and values laid out in memory for few queries on a CPU: keys number by number."""

    @classmethod
    def of(cls, memory: KeysValues) -> KeysValues:
        """The same keys and values; on a GPU as they are."""
        if memory.keys.is_cuda:
            return memory
        return cls(memory.keys.mT.contiguous().mT, memory.values.contiguous())


def attend(queries: Tensor, memory: KeysValues) -> Tensor:
    """(B, H, Q, d) queries -> (B, H, Q, d).

    Torch's own attention is made for many queries: for one to ten a picture, two plain products
    take a quarter to two thirds of its time on a CPU.
    """
    if not isinstance(memory, FewReaders):
        return F.scaled_dot_product_attention(queries, *memory)
    scores = queries * queries.shape[-1] ** -0.5 @ memory.keys.mT
    return scores.softmax(-1) @ memory.values


def of_pictures(memory: KeysValues, pictures: Tensor) -> KeysValues:
    """Keys and values of some pictures (B'), laid out as they were."""
    values = memory.values.index_select(0, pictures)
    if isinstance(memory, FewReaders):
        return FewReaders(memory.keys.mT.index_select(0, pictures).mT, values)
    return KeysValues(memory.keys.index_select(0, pictures), values)


class KVCache:
    """Keys and values of the tokens that each row has read so far, in one layer."""

    def __init__(self) -> None:
        self._past: KeysValues | None = None
        self._rows: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor) -> KeysValues:
        """Append (R, H, 1, d) of the newest token; returns all (R, H, T, d)."""
        if self._past is not None:
            keys, values = self._append(self._past.keys, keys), self._append(self._past[1], values)
        self._past, self._rows = KeysValues(keys, values), None
        return self._past

    def reorder(self, rows: Tensor) -> None:
        """Let new row r go on from old row `rows[r]`; done with the next token, in one copy."""
        self._rows = rows if self._rows is None else self._rows[rows]

    def _append(self, past: Tensor, newest: Tensor) -> Tensor:
        if self._rows is None:
            return torch.cat([past, newest], dim=2)
        if torch.is_grad_enabled():  # what is written into a part has no gradient
            return torch.cat([past.index_select(0, self._rows), newest], dim=2)
        length = past.shape[2]
        joined = newest.new_empty(*newest.shape[:2], length + 1, newest.shape[3])
        torch.index_select(past, 0, self._rows, out=joined[:, :, :length])
        joined[:, :, length:] = newest
        return joined
