"""Padding and splitting rules of convolutions that both backends share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.ops import Array, Pads

_NUMPY_MODES = {"edge": "edge", "reflect": "reflect", "circular": "wrap"}


def border_indices(n: int, before: int, after: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Which of `n` samples stand in the border before and after them; for all modes but zeros.

    Raises UserError for a reflection wider than the samples it could show.
    """
    if mode not in _NUMPY_MODES:
        known = ", ".join(("zeros", *_NUMPY_MODES))
        raise UserError(f"padding mode '{mode}' is unknown; use one of {known}")
    if mode == "reflect" and max(before, after) >= n:
        raise UserError(
            f"reflect padding by {max(before, after)} needs more than {max(before, after)} samples"
            f" along the axis, which has {n}; use a larger size"
        )
    index = np.pad(np.arange(n), (before, after), mode=_NUMPY_MODES[mode])  # type: ignore[call-overload]
    return index[:before], index[before + n :]


def native_padding(
    pads: Pads, modes: Sequence[str]
) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """What a kernel pads itself (symmetric zeros), and what is left to do before it."""
    native = tuple(
        before if before == after and mode == "zeros" else 0
        for (before, after), mode in zip(pads, modes, strict=True)
    )
    rest = [(0, 0) if n else (p[0], p[1]) for n, p in zip(native, pads, strict=True)]
    return native, rest


def padded_size(shape: Sequence[int], pads: Pads, out_channels: int) -> int:
    """Elements of the padded input (B, *space, C) or, if more, of the output at stride one."""
    space = math.prod(n + sum(p) for n, p in zip(shape[1:-1], pads, strict=True))
    return shape[0] * space * max(shape[-1], out_channels)


def split_convolution(
    x: Array,
    run: Callable[[Array], Array],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    out_channels: int,
    limit: int,
) -> Array:
    """`run` over overlapping pieces of the already padded `x` (B, *space, C), joined again.

    `run` convolves without padding. Pieces are cut along the longest spatial axis and, if one
    slice is still too large, along the next; each piece has at most `limit` elements in and out,
    as far as single outputs allow.
    """
    space = x.shape[1:-1]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    out = [(n - r) // s + 1 for n, r, s in zip(space, reach, stride, strict=True)]
    size = max(math.prod(x.shape), x.shape[0] * math.prod(out) * out_channels)
    axis = max(range(len(out)), key=lambda a: out[a])
    if size <= limit or out[axis] <= 1:
        return run(x)
    pieces = min(out[axis], max(2, -(-size // limit)))
    step = -(-out[axis] // pieces)
    results = []
    for start in range(0, out[axis], step):
        stop = min(start + step, out[axis])
        low, high = start * stride[axis], (stop - 1) * stride[axis] + reach[axis]
        piece = x[tuple([slice(None)] * (axis + 1) + [slice(low, high)])]
        results.append(split_convolution(piece, run, kernel, stride, dilation, out_channels, limit))
    return ops.concat(results, axis + 1)
