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

    def read(self, queries: Tensor) -> Tensor:
        """(B, H, Q, d) queries -> (B, H, Q, d)."""
        return F.scaled_dot_product_attention(queries, self.keys, self.values)

    def of_pictures(self, pictures: Tensor) -> "KeysValues":
        """Those of some pictures (B'), laid out as they were."""
        return KeysValues(*(part.index_select(0, pictures) for part in self))

    def for_few(self) -> "KeysValues":
        """The same, laid out for few queries where that pays: on a CPU."""
        if self.keys.device.type != "cpu":
            return self
        return _ForFew(self.keys.mT.contiguous().mT, self.values.contiguous())


class _ForFew(KeysValues):
    """Keys lie in memory number by number.

    Torch's own attention is made for many queries: for one to ten a picture, two plain products
    take a quarter to two thirds of its time on a CPU.
    """

    def read(self, queries: Tensor) -> Tensor:
        scores = queries * queries.shape[-1] ** -0.5 @ self.keys.mT
        return scores.softmax(-1) @ self.values

    def of_pictures(self, pictures: Tensor) -> KeysValues:
        keys = self.keys.mT.index_select(0, pictures).mT
        return _ForFew(keys, self.values.index_select(0, pictures))


class KVCache:
    """Keys and values of the tokens that each row has read so far, in one layer."""

    def __init__(self) -> None:
        self._past: KeysValues | None = None
        self._rows: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor) -> KeysValues:
        """Append (R, H, 1, d) of the newest token; returns all (R, H, T, d)."""
        if self._past is not None:
            keys = self._append(self._past.keys, keys)
            values = self._append(self._past.values, values)
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
