"""Padding on torch: one copy of the array, then only the borders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ltx2.backends.convolution import border_indices

Widths = Sequence[tuple[int, int]]


def pad(x: Tensor, widths: Widths, modes: Sequence[str]) -> Tensor:
    if all(m == "zeros" for m, w in zip(modes, widths, strict=True) if any(w)):
        flat = [n for w in reversed(widths) for n in w]
        return F.pad(x, flat) if any(flat) else x
    if torch.is_grad_enabled() and x.requires_grad:
        return _joined(x, widths, modes)
    out, inner = empty_padded(x, widths)
    inner.copy_(x)
    fill_borders(out, widths, modes)
    return out


def _joined(x: Tensor, widths: Widths, modes: Sequence[str]) -> Tensor:
    """The same in pieces that are joined, which autograd follows and writing in place is not."""
    for axis, (width, mode) in enumerate(zip(widths, modes, strict=True)):
        if not any(width):
            continue
        if mode == "zeros":
            low, high = (x.new_zeros([*x.shape[:axis], n, *x.shape[axis + 1 :]]) for n in width)
        else:
            indices = border_indices(x.shape[axis], *width, mode)
            low, high = (_planes(x, axis, index) for index in indices)
        x = torch.cat([low, x, high], axis)
    return x


def empty_padded(x: Tensor, widths: Widths) -> tuple[Tensor, Tensor]:
    """Room for `x` with borders of `widths` per axis, and the part of it where `x` belongs."""
    shape = [n + sum(w) for n, w in zip(x.shape, widths, strict=True)]
    if len(shape) == 3 and x.stride(1) == 1:
        # Sequences (B, T, C) leave a convolution channels-first in memory: the next one wants that.
        out = x.new_empty([shape[0], shape[2], shape[1]]).movedim(1, -1)
    else:
        out = x.new_empty(shape)
    return out, out[tuple(slice(w[0], w[0] + n) for n, w in zip(x.shape, widths, strict=True))]


def fill_borders(out: Tensor, widths: Widths, modes: Sequence[str]) -> None:
    """Each axis fills its borders from inside, whole planes, so that corners come out right."""
    for axis, (width, mode) in enumerate(zip(widths, modes, strict=True)):
        if any(width):
            _fill_border(out, axis, width, mode)


def _fill_border(out: Tensor, axis: int, width: tuple[int, int], mode: str) -> None:
    n = out.shape[axis] - sum(width)
    low, inner, high = out.split([width[0], n, width[1]], dim=axis)
    if mode == "zeros":
        low.zero_()
        high.zero_()
        return
    first, last = border_indices(n, *width, mode)
    low.copy_(_planes(inner, axis, first))
    high.copy_(_planes(inner, axis, last))


def _planes(x: Tensor, axis: int, index: np.ndarray) -> Tensor:
    """`x` at the integers `index` along `axis`; a view where there is only one."""
    if len(index) == 1:
        return x.narrow(axis, int(index[0]), 1)
    return x.index_select(axis, torch.from_numpy(index).to(x.device))
