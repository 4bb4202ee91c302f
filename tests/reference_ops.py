"""NumPy oracles of the ops in float64, and the comparison that every op test uses."""

from __future__ import annotations

import itertools
import math

import numpy as np

DTYPES = ("fp32", "bf16")
NUMPY_MODES = {"zeros": "constant", "edge": "edge", "reflect": "reflect", "circular": "wrap"}
# float32 to 1e-5; bfloat16 has 8 bits, and a result may be rounded a few times on the way.
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 4e-3}


def draw(*shape: int, dtype: str = "fp32", seed: int = 0) -> np.ndarray:
    """Normal float32 draws that `dtype` holds exactly, so that only the op itself rounds."""
    return rounded(np.random.default_rng(seed).standard_normal(shape), dtype)


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """`x` as float32 after rounding to `dtype`."""
    x = np.asarray(x, np.float32)
    if dtype == "fp16":
        return x.astype(np.float16).astype(np.float32)
    if dtype == "bf16":
        bits = np.ascontiguousarray(x).view(np.uint32)
        even = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
        return even.view(np.float32).reshape(x.shape)
    return x


def assert_close(backend, got, want, dtype: str = "fp32", tolerance: float | None = None) -> None:
    """`got` is an array of the backend in `dtype`, shaped and valued like the float64 `want`."""
    example = backend.array(np.zeros(1, np.float32), dtype)
    assert type(got) is type(example)
    assert got.dtype == example.dtype
    assert tuple(got.shape) == np.shape(want)
    limit = TOLERANCE[dtype] if tolerance is None else tolerance
    np.testing.assert_allclose(backend.numpy(got), want, rtol=limit, atol=limit)


def pad(x: np.ndarray, widths, modes) -> np.ndarray:
    for axis, (width, mode) in enumerate(zip(widths, modes, strict=True)):
        only = [width if a == axis else (0, 0) for a in range(x.ndim)]
        x = np.pad(x, only, mode=NUMPY_MODES[mode])
    return x


def conv(x, weight, bias, stride, pads, modes, dilation, groups: int = 1) -> np.ndarray:
    """x (B, *space, C), weight (out, in / groups, *kernel); plain loops over the outputs."""
    x = pad(x.astype(np.float64), [(0, 0), *pads, (0, 0)], ["zeros", *modes, "zeros"])
    kernel = weight.shape[2:]
    space = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(x.shape[1:-1], kernel, stride, dilation, strict=True)
    ]
    out = np.zeros((x.shape[0], *space, weight.shape[0]))
    width, per_group = weight.shape[1], weight.shape[0] // groups
    for place in itertools.product(*map(range, space)):
        spans = [
            slice(p * s, p * s + (k - 1) * d + 1, d)
            for p, s, k, d in zip(place, stride, kernel, dilation, strict=True)
        ]
        window = x[(slice(None), *spans)]
        for o in range(weight.shape[0]):
            first = o // per_group * width
            taps = np.moveaxis(weight[o], 0, -1)
            value = (window[..., first : first + width] * taps).reshape(x.shape[0], -1).sum(1)
            out[(slice(None), *place, o)] = value
    return out if bias is None else out + bias


def conv_transpose1d(x, weight, bias, stride: int, padding: int) -> np.ndarray:
    """x (B, T, C), weight (in, out, k): every input adds its scaled kernel to the output."""
    batch, time, _ = x.shape
    _, out, k = weight.shape
    full = np.zeros((batch, (time - 1) * stride + k, out))
    for t in range(time):
        full[:, t * stride : t * stride + k] += np.einsum("bi,iok->bko", x[:, t], weight)
    full = full[:, padding : full.shape[1] - padding]
    return full if bias is None else full + bias


def attention(q, k, v, bias=None, causal: bool = False, scale: float | None = None) -> np.ndarray:
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    groups = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, groups, 1), np.repeat(v, groups, 1)
    scores = q @ k.swapaxes(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def group_norm(x, groups: int, weight, bias, eps: float) -> np.ndarray:
    grouped = x.astype(np.float64).reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean = grouped.mean((1, 3), keepdims=True)
    variance = grouped.var((1, 3), keepdims=True)
    return ((grouped - mean) / np.sqrt(variance + eps)).reshape(x.shape) * weight + bias
