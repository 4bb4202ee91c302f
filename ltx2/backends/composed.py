"""What the fused ops mean, said in plain ops: for backends without the kernel, and for training."""

from __future__ import annotations

from ltx2 import ops
from ltx2.ops import Array, Pads


def norm_modulate(
    x: Array, scale: Array | None, shift: Array | None, eps: float, silu: bool
) -> Array:
    x = ops.rms_norm(x, None, eps)
    if scale is not None and shift is not None:
        x = ops.multiply_add(x, scale + 1, shift)
    return ops.silu(x) if silu else x


def norm_silu_conv3d(
    x: Array,
    scale: Array | None,
    shift: Array | None,
    eps: float,
    weight: Array,
    bias: Array | None,
    pads: Pads,
    modes: list[str],
) -> Array:
    x = norm_modulate(x, scale, shift, eps, silu=True)
    return ops.conv3d(x, weight, bias, pad=pads, modes=modes)


def rotate(x: Array, cos: Array, sin: Array, split: bool) -> Array:
    if split:
        parts = x.reshape(*x.shape[:2], cos.shape[2], 2, -1)
        a, b = parts[..., 0, :], parts[..., 1, :]
        return ops.stack([a * cos - b * sin, b * cos + a * sin], axis=-2).reshape(x.shape)
    pairs = x.reshape(*x.shape[:2], -1, 2)
    swapped = ops.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    return x * cos + swapped * sin


def norm_rotate(x: Array, weight: Array, eps: float, cos: Array, sin: Array, split: bool) -> Array:
    return rotate(ops.rms_norm(x, weight, eps), cos, sin, split)


def linear_gelu(x: Array, weight: Array, bias: Array | None) -> Array:
    return ops.gelu(ops.linear(x, weight, bias))
