"""Attention kernels of the torch backend and the choice between them."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx2.backends import neighbourhood
from ltx2.backends.torch_fused import trains
from ltx2.errors import UserError

KERNELS = ("auto", "sdpa", "chunked", "flash", "sage")
NEIGHBOURHOOD_KERNELS = ("plain", "natten")
_PACKAGES = {"flash": "flash_attn", "sage": "sageattention"}
# Scores of one block: 2 MB in bfloat16, which the second-level cache about holds.
BLOCK_SCORES = 2**20
# With fewer scores per head the fused kernel is faster than one call per head.
MANY_SCORES = 2**16


@dataclass
class _Choice:
    kernel: str = "auto"
    neighbourhood: str = "plain"


_choice = _Choice()


def choose_attention(kernel: str) -> None:
    """Select the kernel for this process: one of `KERNELS`. Raises UserError when it is absent."""
    if kernel not in KERNELS:
        raise UserError(f"backend.attention={kernel} is unknown; use one of {', '.join(KERNELS)}")
    package = _PACKAGES.get(kernel)
    if package:
        _require("attention", kernel, package, "auto")
    _choice.kernel = kernel


def choose_neighbourhood(kernel: str) -> None:
    """Select the kernel of `neighbourhood_attention`: plain, or natten where it is installed."""
    if kernel not in NEIGHBOURHOOD_KERNELS:
        known = ", ".join(NEIGHBOURHOOD_KERNELS)
        raise UserError(f"backend.neighbourhood={kernel} is unknown; use one of {known}")
    if kernel == "natten":
        _require("neighbourhood", kernel, "natten", "plain")
    _choice.neighbourhood = kernel


def _require(key: str, kernel: str, package: str, otherwise: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"backend.{key}={kernel} needs the package '{package}', which is not installed;"
            f" install it (CUDA only) or use backend.{key}={otherwise}"
        )
    if not torch.cuda.is_available():
        raise UserError(f"backend.{key}={kernel} needs CUDA; use backend.{key}={otherwise}")


def attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float
) -> Tensor:
    kernel = _choice.kernel
    if bias is not None:
        bias = bias.reshape((1,) * (4 - bias.ndim) + tuple(bias.shape))
    plain = bias is None and not causal and k.shape[1] == q.shape[1]
    if kernel == "flash" and plain and q.dtype != torch.float32:
        from flash_attn import flash_attn_func

        heads_last = (a.transpose(1, 2) for a in (q, k, v))
        return flash_attn_func(*heads_last, softmax_scale=scale).transpose(1, 2)
    if kernel == "sage" and plain and q.dtype != torch.float32:
        from sageattention import sageattn

        return sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=scale)
    cpu_half = q.device.type == "cpu" and q.dtype == torch.bfloat16
    large = q.shape[2] * k.shape[2] >= MANY_SCORES and not torch.compiler.is_compiling()
    chunks = kernel == "chunked" or (kernel == "auto" and cpu_half and large and not causal)
    if trains(q, k, v, bias) and cpu_half:
        return product_attention(q, k, v, bias, causal, scale)
    if chunks and not trains(q, k, v, bias):
        return chunked_attention(q, k, v, bias, causal, scale)
    if bias is not None and causal:  # the fused kernels take one or the other
        bias, causal = bias + causal_bias(q, k), False
    bias = None if bias is None else bias.to(q.dtype)
    grouped = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def neighbourhood_attention(
    q: Tensor, k: Tensor, v: Tensor, kernel: tuple[int, int, int], first: int
) -> Tensor:
    if _choice.neighbourhood == "plain" or not q.is_cuda:
        return neighbourhood.neighbourhood_attention(q, k, v, kernel, first)
    natten = importlib.import_module("natten")
    # It takes queries for all keys only; the windows of those added are computed and dropped.
    frames = q.shape[1]
    after = k.shape[1] - first - frames
    full = F.pad(q, (0, 0, 0, 0, 0, 0, 0, 0, first, after))
    return natten.na3d(full, k, v, kernel_size=kernel, scale=1.0)[:, first : first + frames]


def causal_bias(q: Tensor, k: Tensor) -> Tensor:
    """(T, S) float32: minus infinity where a key follows its query, else zero."""
    return torch.full((q.shape[2], k.shape[2]), float("-inf"), device=q.device).triu(1)


def product_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """Two matrix products that autograd differentiates.

    In bfloat16 on the CPU the backward pass of the fused kernel takes ten times as long.
    """
    if k.shape[1] != q.shape[1]:
        repeats = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = (q * scale) @ k.transpose(-1, -2)
    for addition in (bias, causal_bias(q, k) if causal else None):
        scores = scores if addition is None else scores + addition.to(q.dtype)
    return torch.softmax(scores, -1) @ v


def chunked_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """One head and one block of query rows at a time, as two matrix products.

    The fused CPU kernel runs bfloat16 at the speed of float32. Products run it 2.5 times faster,
    and scores that stay in the cache make the softmax twice as fast.
    """
    batch, heads, rows, keys = *q.shape[:3], k.shape[2]
    if causal:
        bias = causal_bias(q, k) if bias is None else bias + causal_bias(q, k)
    if bias is not None:
        bias = bias.to(q.dtype).expand(batch, heads, rows, keys)
    columns = k.transpose(-1, -2) * scale
    # In the order of tokens, so that joining the heads copies nothing.
    out = torch.empty(batch, rows, heads, v.shape[-1], dtype=q.dtype, device=q.device)
    step = max(1, BLOCK_SCORES // keys)
    for sample, head in itertools.product(range(batch), range(heads)):
        shared = head * k.shape[1] // heads
        values = v[sample, shared].contiguous()
        for start in range(0, rows, step):
            part = slice(start, start + step)
            scores = q[sample, head, part] @ columns[sample, shared]
            if bias is not None:
                scores += bias[sample, head, part]
            torch.softmax(scores, -1, out=scores)
            torch.mm(scores, values, out=out[sample, part, head])
    return out.transpose(1, 2)
