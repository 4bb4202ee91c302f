"""Weights in few bits for MLX, whose own kernels multiply with them packed."""

from __future__ import annotations

import mlx.core as mx

# e2m1: a sign bit and these magnitudes.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# What MLX calls the modes: (name, bits).
KERNELS = {"int8": ("affine", 8), "int4": ("affine", 4), "mxfp8": ("mxfp8", 8)}


def from_fp4(codes: mx.array) -> mx.array:
    values = mx.array([*E2M1, *(-v for v in E2M1)])
    pairs = mx.stack([codes >> 4, codes & 15], axis=-1)
    return mx.take(values, pairs).reshape(codes.shape[0], -1)


def quantise(w: mx.array, mode: str, group: int) -> tuple[mx.array, mx.array, mx.array | None]:
    name, bits = KERNELS[mode]
    codes, scales, *biases = mx.quantize(w, group_size=group, bits=bits, mode=name)
    return codes, scales, biases[0] if biases else None


def dequantise(
    codes: mx.array, scales: mx.array, biases: mx.array | None, mode: str, group: int
) -> mx.array:
    name, bits = KERNELS[mode]
    if biases is not None:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return mx.dequantize(
        codes, scales, biases, group_size=group, bits=bits, mode=name, dtype=mx.float32
    )


def quantised_linear(
    x: mx.array,
    codes: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    bias: mx.array | None,
    mode: str,
    group: int,
) -> mx.array:
    name, bits = KERNELS[mode]
    given = x.dtype
    if mx.default_device() == mx.cpu:
        # The CPU kernel adds up in the dtype of its input: half precision would lose digits.
        x = x.astype(mx.float32)
        if biases is not None:
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    y = mx.quantized_matmul(
        x, codes, scales, biases, transpose=True, group_size=group, bits=bits, mode=name
    ).astype(given)
    return y if bias is None else y + bias


def fp8_linear(x: mx.array, weight: mx.array, scale: float | mx.array) -> mx.array:
    return (mx.from_fp8(x, mx.float32) @ mx.from_fp8(weight, mx.float32).T) * scale
