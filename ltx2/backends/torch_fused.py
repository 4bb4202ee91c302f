"""Fused CPU kernels of the torch backend for inference, made of torch's own operations.

A large temporary costs a CPU more than the arithmetic on it: its pages are fresh, and the system
clears them first. So normalisations run over blocks of rows that stay in the second-level cache,
in float32 whatever the dtype, and each block is written straight to where it is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx2.backends.torch_padding import empty_padded, fill_borders

# Elements of one block: 1 MB in float32.
BLOCK = 2**18
# Below this many multiplications the fused linear kernel costs more than it saves.
LARGE_PRODUCT = 2**22

Index = tuple[int | slice, ...]

_linear_pointwise: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def trains(*arrays: Tensor | None) -> bool:
    """Whether gradients of any of `arrays` are wanted."""
    return torch.is_grad_enabled() and any(a is not None and a.requires_grad for a in arrays)


def serves(x: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernels of this file apply: on the CPU, with nothing to differentiate.

    A compiler makes its own kernels, of the plain operations.
    """
    if torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" and x.ndim > 1 and not trains(x, *others)


def serves_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether `linear` applies and is worth its call."""
    large = x.numel() * weight.shape[0] >= LARGE_PRODUCT
    known = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.bfloat16)
    return large and known and _linear_pointwise is not None and serves(x, weight, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """The product, its bias and the activation in one pass over the result."""
    activation, form = ("gelu", "tanh") if gelu else ("none", "")
    return _linear_pointwise(x, weight, bias, activation, [], form)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    wide = None if weight is None else weight.float()
    for index in blocks(x.shape):
        unit = _unit(x[index], eps)
        out[index] = unit if wide is None else unit.mul_(wide)
    return out


def norm_modulate(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float, silu: bool
) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _norm_into(out, x, scale, shift, eps, silu)
    return out


def norm_silu_padded(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    widths: Sequence[tuple[int, int]],
    modes: Sequence[str],
) -> Tensor:
    """silu of the modulated norm, with borders of `widths` per axis; no copy is made to pad."""
    out, inner = empty_padded(x, widths)
    _norm_into(inner, x, scale, shift, eps, silu=True)
    fill_borders(out, widths, modes)
    return out


def norm_rotate(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """The split layout: cos, sin (B, T, N, D/2) for x (B, T, N*D)."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    wide = weight.float()
    for index in blocks(x.shape):
        unit = _unit(x[index], eps).mul_(wide)
        a, b = unit.view(*unit.shape[:-1], cos.shape[2], 2, -1).unbind(-2)
        c, s = _part(cos, index).float(), _part(sin, index).float()
        turned = out[index].view(*unit.shape[:-1], cos.shape[2], 2, -1)
        turned[..., 0, :] = torch.mul(a, c).addcmul_(b, s, value=-1)
        turned[..., 1, :] = torch.mul(b, c).addcmul_(a, s)
    return out


def blocks(shape: Sequence[int]) -> Iterator[Index]:
    """Indices of pieces of at most `BLOCK` elements, each within one sample; rows stay whole.

    A small array is one piece, index ().
    """
    if math.prod(shape) <= BLOCK:
        yield ()
        return

    def cut(chosen: Index, sizes: Sequence[int]) -> Iterator[Index]:
        row = math.prod(sizes[1:]) * shape[-1]
        if len(sizes) > 1 and (not chosen or row > BLOCK):
            for i in range(sizes[0]):
                yield from cut((*chosen, i), sizes[1:])
            return
        step = max(1, BLOCK // max(1, row))
        for start in range(0, sizes[0], step):
            yield (*chosen, slice(start, start + step))

    yield from cut((), shape[:-1])


def _norm_into(
    out: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float, silu: bool
) -> None:
    for index in blocks(x.shape):
        unit = _unit(x[index], eps)
        if scale is not None and shift is not None:
            factor = _part(scale, index).float() + 1
            torch.addcmul(_part(shift, index).float(), unit, factor, out=unit)
        out[index] = F.silu(unit, inplace=True) if silu else unit


def _part(a: Tensor, index: Index) -> Tensor:
    """`a[index]` where axes of length one broadcast."""
    if not index:
        return a
    every = (0 if isinstance(i, int) else slice(None) for i in index)
    return a[tuple(e if n == 1 else i for n, e, i in zip(a.shape, every, index, strict=False))]


def _unit(rows: Tensor, eps: float) -> Tensor:
    """Rows (..., C) in float32 divided by their root mean square, in fresh memory."""
    wide = rows.float()
    size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    factor = size.square_().div_(rows.shape[-1]).add_(eps).rsqrt_()
    return wide * factor if wide is rows else wide.mul_(factor)
