"""Attention kernels of the torch backend and the choice between them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ltx2.errors import UserError

KERNELS = ("auto", "sdpa", "chunked", "flash", "sage")
_PACKAGES = {"flash": "flash_attn", "sage": "sageattention"}
# Rows of one block of scores: 512 x 2048 bf16 scores of 32 heads stay in the last-level cache.
CHUNK_ROWS = 512


@dataclass
class _Choice:
    kernel: str = "auto"


_choice = _Choice()


def choose_attention(kernel: str) -> None:
    """Select the kernel for this process: one of `KERNELS`. Raises UserError when it is absent."""
    if kernel not in KERNELS:
        raise UserError(f"backend.attention={kernel} is unknown; use one of {', '.join(KERNELS)}")
    package = _PACKAGES.get(kernel)
    if package and importlib.util.find_spec(package) is None:
        raise UserError(
            f"backend.attention={kernel} needs the package '{package}', which is not installed;"
            f" install it (CUDA only) or use backend.attention=auto"
        )
    if package and not torch.cuda.is_available():
        raise UserError(f"backend.attention={kernel} needs CUDA; use backend.attention=auto")
    _choice.kernel = kernel


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
    if kernel == "chunked" or (kernel == "auto" and cpu_half and plain):
        return chunked_attention(q, k, v, bias, causal, scale)
    if bias is not None and causal:  # the fused kernels take one or the other
        bias, causal = bias + causal_bias(q, k), False
    bias = None if bias is None else bias.to(q.dtype)
    grouped = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def causal_bias(q: Tensor, k: Tensor) -> Tensor:
    """(T, S) float32: minus infinity where a key follows its query, else zero."""
    return torch.full((q.shape[2], k.shape[2]), float("-inf"), device=q.device).triu(1)


def chunked_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """Blocks of query rows through two matrix products.

    The fused CPU kernel runs bfloat16 at the speed of float32; plain products run it 2.5x faster.
    """
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    rows, keys = q.shape[2], k.shape[2]
    if causal:
        bias = causal_bias(q, k) if bias is None else bias + causal_bias(q, k)
    if bias is not None:
        bias = bias.expand(*torch.broadcast_shapes(bias.shape, (1, 1, rows, keys)))
    kt = (k * scale).transpose(-1, -2)
    out = torch.empty(*q.shape[:3], v.shape[-1], dtype=q.dtype, device=q.device)
    for start in range(0, rows, CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        scores = q[:, :, part] @ kt
        if bias is not None:
            scores = scores + bias[:, :, part].to(scores.dtype)
        out[:, :, part] = torch.softmax(scores, -1) @ v
    return out
