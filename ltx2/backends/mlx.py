"""MLX implementation of the ops (Metal, CUDA, CPU)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2.backends.composed import linear_gelu as linear_gelu
from ltx2.backends.composed import norm_modulate as norm_modulate
from ltx2.backends.composed import norm_rotate as norm_rotate
from ltx2.backends.composed import norm_silu_conv3d as norm_silu_conv3d
from ltx2.backends.composed import rotate as rotate
from ltx2.backends.convolution import (
    border_indices,
    native_padding,
    padded_size,
    split_convolution,
)
from ltx2.backends.memory import host_free_bytes
from ltx2.backends.mlx_quantised import dequantise as dequantise
from ltx2.backends.mlx_quantised import fp8_linear as fp8_linear
from ltx2.backends.mlx_quantised import from_fp4 as from_fp4
from ltx2.backends.mlx_quantised import quantise as quantise
from ltx2.backends.mlx_quantised import quantised_linear as quantised_linear
from ltx2.backends.neighbourhood import neighbourhood_attention as neighbourhood_attention
from ltx2.errors import UserError

# Arrays of 2^31 elements and more are unreliable in MLX: such a convolution is split.
SAFE_ELEMENTS = 2**31 - 1
# A Metal command buffer of about 10 s is killed: evaluate at every so many places of a forward.
EVALUATE_EVERY = 8


def asarray(host: np.ndarray, ref: mx.array) -> mx.array:
    # A copy in row-major order: MLX refuses negative strides.
    return mx.array(np.array(host, np.float32 if host.dtype == np.float64 else None, order="C"))


def to_numpy(x: mx.array) -> np.ndarray:
    x = x.astype(mx.float32) if x.dtype in (mx.bfloat16, mx.float16) else x
    return np.array(x)


def f32(x: mx.array) -> mx.array:
    return x.astype(mx.float32)


def like(x: mx.array, ref: mx.array) -> mx.array:
    return x.astype(ref.dtype)


def to_fp8(x: mx.array) -> mx.array:
    return mx.to_fp8(x)


def from_fp8(codes: mx.array) -> mx.array:
    return mx.from_fp8(codes, mx.float32)


def zeros(shape: tuple[int, ...], ref: mx.array) -> mx.array:
    return mx.zeros(shape, ref.dtype)


def settle(index: int, *arrays: mx.array) -> None:
    if index % EVALUATE_EVERY == EVALUATE_EVERY - 1:
        mx.eval(*arrays)


def evaluate(*arrays: mx.array) -> None:
    mx.eval(*arrays)


sigmoid = mx.sigmoid
tanh = mx.tanh
exp = mx.exp
log = mx.log
sin = mx.sin
sqrt = mx.sqrt


def silu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(x)


def gelu(x: mx.array) -> mx.array:
    # 0.5 * (1 + tanh(z)) = sigmoid(2z), without the cancellation that costs bfloat16 its digits.
    return x * mx.sigmoid(x * (1.5957691216057308 + 0.07135481282940562 * x * x))


def leaky_relu(x: mx.array, slope: float) -> mx.array:
    return mx.where(x > 0, x, slope * x)


def clamp(x: mx.array, low: float | None, high: float | None) -> mx.array:
    return x if low is None and high is None else mx.clip(x, low, high)


def where(condition: mx.array, a: mx.array, b: mx.array | float) -> mx.array:
    return mx.where(condition, a, b)


def multiply_add(a: mx.array, b: mx.array, c: mx.array) -> mx.array:
    return a * b + c


def concat(arrays: Sequence[mx.array], axis: int) -> mx.array:
    return mx.concatenate(list(arrays), axis=axis)


def stack(arrays: Sequence[mx.array], axis: int) -> mx.array:
    return mx.stack(list(arrays), axis=axis)


def broadcast_to(x: mx.array, shape: tuple[int, ...]) -> mx.array:
    return mx.broadcast_to(x, shape)


def take(x: mx.array, index: np.ndarray | mx.array, axis: int) -> mx.array:
    if not isinstance(index, mx.array):
        index = mx.array(np.asarray(index, np.int32))
    return mx.take(x, index, axis=axis)


def flatten_contiguous(x: mx.array) -> mx.array:
    return mx.contiguous(x)


def pad(x: mx.array, widths: list[tuple[int, int]], modes: list[str]) -> mx.array:
    if all(m == "zeros" for m, w in zip(modes, widths, strict=True) if any(w)):
        return mx.pad(x, widths) if any(any(w) for w in widths) else x
    for axis, ((before, after), mode) in enumerate(zip(widths, modes, strict=True)):
        if not before and not after:
            continue
        if mode == "zeros":
            x = mx.pad(x, [(before, after) if a == axis else (0, 0) for a in range(x.ndim)])
            continue
        first, last = border_indices(x.shape[axis], before, after, mode)
        x = mx.concatenate([take(x, first, axis), x, take(x, last, axis)], axis=axis)
    return x


def std(x: mx.array) -> float:
    x = x.astype(mx.float32)
    centred = x - _total(x) / x.size
    return float(mx.sqrt(_total(centred * centred) / (x.size - 1)))


def _total(x: mx.array) -> mx.array:
    """Sum of all elements in two stages: the CPU kernel adds in sequence and would lose digits."""
    flat, width = x.reshape(-1), math.isqrt(x.size)
    whole = x.size // width * width
    return flat[:whole].reshape(-1, width).sum(1).sum() + flat[whole:].sum()


def amin(x: mx.array, axes: tuple[int, ...]) -> mx.array:
    return mx.min(x, axis=axes, keepdims=True)


def amax(x: mx.array, axes: tuple[int, ...]) -> mx.array:
    return mx.max(x, axis=axes, keepdims=True)


def linear(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)


def rms_norm(x: mx.array, weight: mx.array | None, eps: float) -> mx.array:
    return mx.fast.rms_norm(x, weight, eps)


def layer_norm(x: mx.array, eps: float) -> mx.array:
    return mx.fast.layer_norm(x, None, None, eps)


def group_norm(x: mx.array, groups: int, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    grouped = x.astype(mx.float32).reshape(*x.shape[:-1], groups, -1)
    centred = grouped - _group_mean(grouped)
    normed = centred * mx.rsqrt(_group_mean(centred * centred) + eps)
    return (normed.reshape(x.shape) * weight + bias).astype(x.dtype)


def _group_mean(x: mx.array) -> mx.array:
    """Mean of (B, ..., groups, C / groups) per sample and group, kept broadcastable.

    One axis after another: the CPU kernel adds in sequence, so long sums would lose digits.
    """
    for axis in (*range(1, x.ndim - 2), x.ndim - 1):
        x = x.mean(axis=axis, keepdims=True)
    return x


def attention(
    q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None, causal: bool, scale: float
) -> mx.array:
    if bias is not None and causal:
        rows, keys = q.shape[2], k.shape[2]
        band = mx.where(mx.arange(keys)[None] > mx.arange(rows)[:, None], -mx.inf, 0.0)
        bias, causal = bias + band, False
    mask = "causal" if causal else None if bias is None else bias.astype(q.dtype)
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)


_CONVOLUTIONS: dict[int, Any] = {1: mx.conv1d, 2: mx.conv2d, 3: mx.conv3d}


def conv(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None,
    stride: Sequence[int],
    pads: list[tuple[int, int]],
    modes: list[str],
    dilation: Sequence[int],
    groups: int,
) -> mx.array:
    """Convolution over the axes between batch and channels; weight (out, *kernel, in / groups)."""
    rank = len(pads)
    native, rest = native_padding(pads, modes)
    fits = padded_size(x.shape, pads, weight.shape[0]) <= SAFE_ELEMENTS
    if not fits:
        native, rest = (0,) * rank, pads
    x = pad(x, [(0, 0), *rest, (0, 0)], ["zeros", *modes, "zeros"])

    def unwrap(values: Sequence[int]) -> int | tuple[int, ...]:
        return values[0] if rank == 1 else tuple(values)

    def run(piece: mx.array) -> mx.array:
        y = _CONVOLUTIONS[rank](
            piece, weight, unwrap(stride), unwrap(native), unwrap(dilation), groups
        )
        return y if bias is None else y + bias

    if fits:
        return run(x)
    kernel = weight.shape[1:-1]
    return split_convolution(x, run, kernel, stride, dilation, weight.shape[0], SAFE_ELEMENTS)


def conv_transpose1d(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None,
    stride: int,
    padding: int,
    groups: int,
) -> mx.array:
    if groups == 1:
        y = mx.conv_transpose1d(x, weight, stride=stride)
    else:
        y = _depthwise_transpose(x, weight, stride)
    # Cropped here: MLX returns too few samples for a padding beyond the kernel.
    y = y[:, padding : y.shape[1] - padding]
    return y if bias is None else y + bias


def _depthwise_transpose(x: mx.array, weight: mx.array, stride: int) -> mx.array:
    """Zeros between the samples and a plain depthwise convolution, which has a Metal kernel."""
    batch, count, channels = x.shape
    gaps = [mx.zeros_like(x)] * (stride - 1)
    spread = mx.stack([x, *gaps], axis=2).reshape(batch, count * stride, channels)
    spread = spread[:, : (count - 1) * stride + 1]
    reach = weight.shape[1] - 1
    return mx.conv1d(spread, weight[:, ::-1], padding=reach, groups=channels)


# --- device ---------------------------------------------------------------------------------

DTYPES = {"fp32": mx.float32, "bf16": mx.bfloat16, "fp16": mx.float16}
# As safetensors names them; float8 codes stay bytes.
STORED = {
    "F32": mx.float32, "BF16": mx.bfloat16, "F16": mx.float16, "F8_E4M3": mx.uint8,
    "U8": mx.uint8, "I8": mx.int8, "U32": mx.uint32,
}  # fmt: skip


class TensorFile:
    """Tensors of one safetensors file; MLX maps the file and reads on evaluation."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._tensors: Any = self._map()

    def _map(self) -> Any:
        # The format is named because the file may be called anything.
        return mx.load(self._path, format="safetensors")

    def get(self, name: str) -> mx.array:
        # An array that was read keeps its data: it is let go, and mapped again if asked twice.
        if name not in self._tensors:
            self._tensors = self._map()
        return self._tensors.pop(name)


@dataclass
class MlxBackend:
    """Device, dtypes and loading for MLX. `device`: auto, gpu or cpu."""

    device: str = "auto"
    name: str = "mlx"

    def __post_init__(self) -> None:
        gpu = mx.is_available(mx.gpu)
        if self.device not in ("auto", "gpu", "cpu") or (self.device == "gpu" and not gpu):
            valid = "auto, gpu, cpu" if gpu else "auto, cpu"
            raise UserError(f"backend.device={self.device} is not available here; use {valid}")
        self.device = ("gpu" if gpu else "cpu") if self.device == "auto" else self.device
        mx.set_default_device(mx.gpu if self.device == "gpu" else mx.cpu)

    @property
    def kind(self) -> str:
        """cpu, metal or cuda."""
        return "cpu" if self.device == "cpu" else "metal" if mx.metal.is_available() else "cuda"

    @property
    def fast_bf16(self) -> bool:
        """Whether bfloat16 matrix products are faster than float32 ones on this device."""
        return self.device == "gpu"

    def array(self, host: np.ndarray, dtype: str = "fp32") -> mx.array:
        """A host array on the device: floats in `dtype`, integers and booleans as they are."""
        host = np.array(host, order="C")
        x = mx.array(host.astype(np.float32) if host.dtype == np.float64 else host)
        return x.astype(DTYPES[dtype]) if host.dtype.kind == "f" else x

    def numpy(self, x: mx.array) -> np.ndarray:
        return to_numpy(x)

    def open(self, path: str) -> TensorFile:
        return TensorFile(str(path))

    def from_bytes(self, raw: np.ndarray, dtype: str, shape: tuple[int, ...]) -> mx.array:
        """Stored bytes as an array of a safetensors `dtype`; a copy."""
        if dtype == "F64":
            return mx.array(raw.view(np.float64).astype(np.float32)).reshape(shape)
        return mx.array(raw).view(STORED[dtype]).reshape(shape)

    def place(self, x: mx.array, dtype: str, kind: str = "plain") -> mx.array:
        """A stored tensor in `dtype`; convolution kernels become (out, *kernel, in)."""
        if kind == "conv":
            x = mx.moveaxis(x, 1, -1)
        elif kind == "conv_transpose":
            x = x.transpose(1, 2, 0)
        x = mx.contiguous(x.astype(DTYPES[dtype]))
        mx.eval(x)
        return x

    def place_codes(self, x: mx.array) -> mx.array:
        """Stored codes of a quantised weight, read now."""
        x = mx.contiguous(x)
        mx.eval(x)
        return x

    @property
    def has_fp8_products(self) -> bool:
        """Whether the device multiplies float8 matrices itself: MLX has no such kernel."""
        return False

    def decode_fp8(self, x: mx.array) -> mx.array:
        """float8_e4m3 codes (uint8) as float32 values."""
        return mx.from_fp8(x, mx.float32)

    def normal(self, shape: tuple[int, ...], seed: int) -> mx.array:
        """Normal draws of MLX's own generator (not portable between backends)."""
        return mx.random.normal(shape, key=mx.random.key(seed))

    def transfers(self) -> None:
        """Nothing is copied to where weights are used: memory is unified."""

    def compiled(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call: MLX builds its graph lazily, and evaluates it in one go."""
        return call

    def inference(self) -> AbstractContextManager[None]:
        """A context for inference; MLX keeps no activations anyway."""
        return nullcontext()

    def synchronize(self) -> None:
        mx.synchronize()

    def free(self) -> None:
        """Return cached device memory."""
        mx.clear_cache()

    def free_bytes(self) -> int:
        """Memory that new arrays can take."""
        if self.device == "cpu":
            return host_free_bytes()
        details = mx.device_info()
        limit = details.get("max_recommended_working_set_size", details.get("memory_size"))
        if limit is None:
            return host_free_bytes()
        return max(0, int(limit) - mx.get_active_memory())

    def activation_bytes(self, dtype: str) -> int:
        """Bytes that a stack of 3-D convolutions takes per element of its largest activation.

        Measured on the CPU, where MLX unfolds its input for the 27 taps of a kernel: 71 copies in
        float32 whatever `dtype`. On a GPU nothing is unfolded.
        """
        return 72 * 4 if self.device == "cpu" else 8 * DTYPES[dtype].size

    def peak_bytes(self) -> int | None:
        """Peak memory of MLX arrays since `reset_peak`."""
        return mx.get_peak_memory()

    def reset_peak(self) -> None:
        mx.reset_peak_memory()

    def describe(self) -> dict[str, str | bool]:
        details = mx.device_info() if hasattr(mx, "device_info") else {}
        return {
            "backend": "mlx",
            "version": version("mlx"),
            "device": self.device,
            "device_name": str(details.get("device_name", self.device)),
            "fast_bf16": self.fast_bf16,
        }
