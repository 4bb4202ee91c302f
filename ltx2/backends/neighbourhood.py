"""Neighbourhood attention in plain ops: blocks of queries against the keys that they can see.

A block's keys are a box a little larger than one window, so each score matrix is small and dense;
what lies outside a query's own window is masked. Blocks along the width share one call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from einops import rearrange

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.ops import Array

Kernel = tuple[int, int, int]

BLOCK = 4  # queries along an axis; a larger block shares more keys, and masks more of them
GATHERED = 2**25  # elements of the keys of one call


@dataclass(frozen=True)
class Band:
    """Queries along one axis, the range of keys they see, and 0 or -inf for each pair."""

    queries: slice
    keys: slice
    bias: np.ndarray


@dataclass(frozen=True)
class Columns:
    """Blocks of equal size along the width; the last one may begin inside the one before."""

    queries: np.ndarray  # (blocks, queries)
    keys: np.ndarray  # (blocks, keys)
    bias: np.ndarray  # (blocks, queries, keys)

    @property
    def places(self) -> np.ndarray:
        """Where each column is found among the flattened queries."""
        return np.unique(self.queries, return_index=True)[1]


def window_starts(length: int, size: int) -> np.ndarray:
    """First key of the window of each of `length` queries, shifted inward at the borders."""
    if size > length:
        raise UserError(
            f"an attention window of {size} positions does not fit into {length}; the clip or its"
            " tiles are too small for this decoder"
        )
    return np.clip(np.arange(length) - size // 2, 0, length - size)


def _bias(starts: np.ndarray, keys: np.ndarray, size: int) -> np.ndarray:
    """starts (..., queries), keys (..., keys) -> (..., queries, keys) float32."""
    first, key = starts[..., :, None], keys[..., None, :]
    inside = (first <= key) & (key < first + size)
    return np.where(inside, 0, -np.inf).astype(np.float32)


def bands(starts: np.ndarray, size: int) -> Iterator[Band]:
    """The blocks of one axis."""
    for low in range(0, len(starts), BLOCK):
        own = starts[low : low + BLOCK]
        keys = np.arange(own[0], own[-1] + size)
        queries = slice(low, low + len(own))
        yield Band(queries, slice(int(keys[0]), int(keys[-1]) + 1), _bias(own, keys, size))


def columns(length: int, size: int) -> Columns:
    """The blocks along the width."""
    starts, block = window_starts(length, size), min(BLOCK, length)
    seen = min(block + size - 1, length)
    first = np.minimum(np.arange(0, length, block), length - block)
    queries = first[:, None] + np.arange(block)
    keys = np.minimum(starts[first], length - seen)[:, None] + np.arange(seen)
    return Columns(queries, keys, _bias(starts[queries], keys, size))


def neighbourhood_attention(q: Array, k: Array, v: Array, kernel: Kernel, first: int) -> Array:
    lengths = k.shape[1:4]
    times = window_starts(lengths[0], kernel[0])[first : first + q.shape[1]]
    rows = window_starts(lengths[1], kernel[1])
    across = columns(lengths[2], kernel[2])
    done = []
    for time in bands(times, kernel[0]):
        strip = []
        for row in bands(rows, kernel[1]):
            own, seen = (slice(None), time.queries, row.queries), (slice(None), time.keys, row.keys)
            strip.append(_row(q[own], k[seen], v[seen], (time, row), across))
            ops.evaluate(strip[-1])
        done.append(_joined(strip, 2))
    return _joined(done, 1)


def _row(q: Array, k: Array, v: Array, sides: tuple[Band, Band], across: Columns) -> Array:
    """One row of blocks: q (B, f, h, W, N, D), k and v (B, f', h', W, N, D) -> like q."""
    times, rows = (ops.asarray(side.bias, q) for side in sides)
    per_block = int(np.prod(k.shape)) // k.shape[3] * across.keys.shape[1]
    step, done = max(1, GATHERED // per_block), []
    for low in range(0, len(across.queries), step):
        part = slice(low, low + step)
        bias = _sum_bias(times, rows, ops.asarray(across.bias[part], q))
        keys, values = (ops.take(x, across.keys[part], 3) for x in (k, v))
        done.append(_blocks(ops.take(q, across.queries[part], 3), keys, values, bias))
    return ops.take(_joined(done, 3), across.places, 3)


def _sum_bias(times: Array, rows: Array, table: Array) -> Array:
    """(f, f'), (h, h') and (n, w, w') -> (n, 1, f h w, f' h' w')."""
    total = times[None, :, None, None, :, None, None] + rows[None, None, :, None, None, :, None]
    total = total + table[:, None, None, :, None, None, :]
    return rearrange(total, "n f h w g i j -> n 1 (f h w) (g i j)")


def _blocks(q: Array, k: Array, v: Array, bias: Array) -> Array:
    """q (B, f, h, n, w, N, D), k and v (B, f', h', n, w', N, D) -> (B, f, h, n w, N, D)."""
    batch, frames, height, _, width = q.shape[:5]
    pattern = "b f h n w e d -> (b n) e (f h w) d"
    if batch > 1:
        bias = ops.concat([bias] * batch, 0)
    q, k, v = (rearrange(x, pattern) for x in (q, k, v))
    y = ops.attention(q, k, v, bias, scale=1.0)
    sizes = {"b": batch, "f": frames, "h": height, "w": width}
    return rearrange(y, "(b n) e (f h w) d -> b f h (n w) e d", **sizes)


def _joined(parts: list[Array], axis: int) -> Array:
    return parts[0] if len(parts) == 1 else ops.concat(parts, axis)
