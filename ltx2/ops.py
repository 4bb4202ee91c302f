"""The array operations that every model, sampler and pipeline is built from.

Each function picks its implementation by the type of its first array: torch tensors go to
`ltx2.backends.torch`, MLX arrays to `ltx2.backends.mlx`. Activations are channels-last.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # torch.Tensor or mlx.core.array; the docstrings give shapes
Pads = Sequence[tuple[int, int]]

_BACKENDS = {"torch": "ltx2.backends.torch", "mlx": "ltx2.backends.mlx"}
View = Callable[[ModuleType], Any]
_view: list[View] = []


# A plain table, not functools.cache: torch.compile follows a look-up in it.
_modules: dict[type, Any] = {}


def _module(kind: type) -> Any:
    for base in kind.__mro__:
        root = base.__module__.partition(".")[0]
        if root in _BACKENDS:
            module = importlib.import_module(_BACKENDS[root])
            _modules[kind] = _view[0](module) if _view else module
            return _modules[kind]
    raise TypeError(f"{kind.__module__}.{kind.__name__} is not an array of a known backend")


def _of(x: Array) -> Any:
    kind: type = type(x)
    return _modules.get(kind) or _module(kind)


def view_backends(view: View | None) -> None:
    """Call the ops through `view(module)` instead of the backend's module; None: directly.

    For debugging: see `ltx2.backends.mixed`.
    """
    _view[:] = [] if view is None else [view]
    _modules.clear()


# --- creation, dtypes, host -----------------------------------------------------------------


def asarray(host: np.ndarray, ref: Array) -> Array:
    """A NumPy array on the device of `ref`; float64 becomes float32, other dtypes are kept."""
    return _of(ref).asarray(host, ref)


def to_numpy(x: Array) -> np.ndarray:
    """A NumPy copy; half precision becomes float32, float8 its bytes. Waits for the result."""
    return _of(x).to_numpy(x)


def f32(x: Array) -> Array:
    """`x` in float32."""
    return _of(x).f32(x)


def like(x: Array, ref: Array) -> Array:
    """`x` in the dtype of `ref`."""
    return _of(x).like(x, ref)


def to_fp8(x: Array) -> Array:
    """`x` rounded to float8 e4m3 codes; values must lie within +-448."""
    return _of(x).to_fp8(x)


def from_fp8(codes: Array) -> Array:
    """The float32 values of e4m3 codes."""
    return _of(codes).from_fp8(codes)


def from_fp4(codes: Array) -> Array:
    """Bytes (out, n) of two e2m1 codes each, the first in the high half -> float32 (out, 2 n)."""
    return _of(codes).from_fp4(codes)


def zeros(shape: Sequence[int], ref: Array) -> Array:
    """Zeros with the dtype and device of `ref`."""
    return _of(ref).zeros(tuple(shape), ref)


def settle(index: int, *arrays: Array) -> None:
    """A place where a lazy backend may evaluate; `index` counts the places of one forward pass.

    Long unevaluated graphs trip the Metal watchdog, so MLX evaluates at every few places.
    """
    _of(arrays[0]).settle(index, *arrays)


def evaluate(*arrays: Array) -> None:
    """Compute now on a lazy backend, so that what the arrays were made of can be freed."""
    _of(arrays[0]).evaluate(*arrays)


# --- elementwise ----------------------------------------------------------------------------


def silu(x: Array) -> Array:
    """x * sigmoid(x)."""
    return _of(x).silu(x)


def gelu(x: Array) -> Array:
    """GELU, tanh approximation (never the erf form: every LTX-2 part uses tanh)."""
    return _of(x).gelu(x)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return _of(x).sigmoid(x)


def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return _of(x).tanh(x)


def exp(x: Array) -> Array:
    """e^x."""
    return _of(x).exp(x)


def log(x: Array) -> Array:
    """Natural logarithm."""
    return _of(x).log(x)


def sin(x: Array) -> Array:
    """Sine of radians."""
    return _of(x).sin(x)


def sqrt(x: Array) -> Array:
    """Square root."""
    return _of(x).sqrt(x)


def leaky_relu(x: Array, slope: float) -> Array:
    """x where positive, slope * x elsewhere."""
    return _of(x).leaky_relu(x, slope)


def clamp(x: Array, low: float | None = None, high: float | None = None) -> Array:
    """`x` limited to [low, high]; None leaves that side open."""
    return _of(x).clamp(x, low, high)


def where(condition: Array, a: Array, b: Array | float) -> Array:
    """`a` where the boolean `condition` holds, else `b`; broadcasts."""
    return _of(condition).where(condition, a, b)


def multiply_add(a: Array, b: Array, c: Array) -> Array:
    """a * b + c with broadcasting, in one pass where the backend has it."""
    return _of(a).multiply_add(a, b, c)


# --- shape ----------------------------------------------------------------------------------


def concat(arrays: Sequence[Array], axis: int) -> Array:
    """Arrays joined along an existing axis."""
    return _of(arrays[0]).concat(arrays, axis)


def stack(arrays: Sequence[Array], axis: int) -> Array:
    """Arrays joined along a new axis."""
    return _of(arrays[0]).stack(arrays, axis)


def broadcast_to(x: Array, shape: Sequence[int]) -> Array:
    """`x` expanded to `shape` without copying where the backend can."""
    return _of(x).broadcast_to(x, tuple(shape))


def take(x: Array, index: np.ndarray | Array, axis: int) -> Array:
    """Slices of `x` along `axis` at the integers `index` (any rank; host or device array)."""
    if isinstance(index, np.ndarray):
        index = _counted_from_zero(index, x.shape[axis])
    return _of(x).take(x, index, axis)


def _counted_from_zero(index: np.ndarray, n: int) -> np.ndarray:
    # Frameworks disagree about negative indices, and MLX reads foreign memory beyond the end.
    if index.size and not -n <= index.min() <= index.max() < n:
        raise IndexError(f"index {index.min()} to {index.max()} is outside an axis of length {n}")
    return np.where(index < 0, index + n, index)


def pad(x: Array, widths: Pads, modes: str | Sequence[str] = "zeros") -> Array:
    """Pads each axis of `x` by (before, after).

    `modes` is one name or one per axis: zeros, edge (repeat the border), reflect (border not
    repeated; needs more than `width` samples), circular.
    """
    names = [modes] * len(widths) if isinstance(modes, str) else list(modes)
    return _of(x).pad(x, [tuple(w) for w in widths], names)


def flatten_contiguous(x: Array) -> Array:
    """`x` laid out in row-major order (a no-op where it already is)."""
    return _of(x).flatten_contiguous(x)


# --- reductions -----------------------------------------------------------------------------


def std(x: Array) -> float:
    """Standard deviation over the whole array with Bessel's correction, as a float."""
    return _of(x).std(x)


def amin(x: Array, axes: Sequence[int]) -> Array:
    """Minimum over `axes`, which are kept with length one."""
    return _of(x).amin(x, tuple(axes))


def amax(x: Array, axes: Sequence[int]) -> Array:
    """Maximum over `axes`, which are kept with length one."""
    return _of(x).amax(x, tuple(axes))


# --- layers ---------------------------------------------------------------------------------


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x (..., in), weight (out, in), bias (out,) -> (..., out)."""
    return _of(x).linear(x, weight, bias)


def quantise(weight: Array, mode: str, group: int) -> tuple[Array, Array, Array | None]:
    """(out, in) -> packed codes, scales (out, in / group) and offsets of the same shape.

    mode int8 or int4: value = scale * code + offset, both in the dtype of `weight`; mxfp8: e4m3
    codes times a power of two per 32, stored as exponent + 127, and no offsets. The packing is
    MLX's: codes follow each other from the low bits of a word to the high ones.
    """
    return _of(weight).quantise(weight, mode, group)


def dequantise(codes: Array, scales: Array, offsets: Array | None, mode: str, group: int) -> Array:
    """The float32 values (out, in) of what `quantise` made."""
    return _of(codes).dequantise(codes, scales, offsets, mode, group)


def quantised_linear(
    x: Array,
    codes: Array,
    scales: Array,
    offsets: Array | None,
    bias: Array | None,
    mode: str,
    group: int,
) -> Array:
    """`linear` with a weight that `quantise` made."""
    return _of(x).quantised_linear(x, codes, scales, offsets, bias, mode, group)


def fp8_linear(x: Array, weight: Array, scale: float | Array) -> Array:
    """e4m3 codes x (..., in), weight (out, in) -> their product times `scale`, in float32.

    On devices with float8 products the result is rounded to bfloat16.
    """
    return _of(x).fp8_linear(x, weight, scale)


def rms_norm(x: Array, weight: Array | None = None, eps: float = 1e-6) -> Array:
    """x / sqrt(mean(x^2, last axis) + eps), times `weight` (C,) if given. Sums in float32."""
    return _of(x).rms_norm(x, weight, eps)


def linear_gelu(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """gelu(linear(x, weight, bias)), in one pass where the backend has it."""
    return _of(x).linear_gelu(x, weight, bias)


def norm_modulate(
    x: Array,
    scale: Array | None = None,
    shift: Array | None = None,
    eps: float = 1e-6,
    silu: bool = False,
) -> Array:
    """rms_norm(x) * (1 + scale) + shift, then SiLU if asked; x (B, ..., C).

    scale and shift, both or neither, have the rank of `x` and broadcast to it.
    """
    return _of(x).norm_modulate(x, scale, shift, eps, silu)


def rotate(x: Array, cos: Array, sin: Array, split: bool) -> Array:
    """Rotary embedding of x (B, T, N*D); cos, sin and `split` as in `nn.rope.Rope`."""
    return _of(x).rotate(x, cos, sin, split)


def norm_rotate(x: Array, weight: Array, eps: float, cos: Array, sin: Array, split: bool) -> Array:
    """rotate(rms_norm(x, weight, eps), cos, sin, split), in one pass where the backend has it."""
    return _of(x).norm_rotate(x, weight, eps, cos, sin, split)


def layer_norm(x: Array, eps: float = 1e-6) -> Array:
    """(x - mean) / sqrt(var + eps) over the last axis; no weight, no bias."""
    return _of(x).layer_norm(x, eps)


def group_norm(x: Array, groups: int, weight: Array, bias: Array, eps: float) -> Array:
    """x (B, ..., C): statistics over all positions and the channels of one group; affine (C,)."""
    return _of(x).group_norm(x, groups, weight, bias, eps)


def attention(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Array:
    """softmax(q k^T * scale + bias) v with q (B, N, T, D) and k, v (B, N', S, D), N' dividing N.

    `bias` is additive and broadcasts to (B, N, T, S); every row needs one unmasked key.
    `scale` is 1 / sqrt(D) unless given. `causal` needs T == S.
    """
    return _of(q).attention(q, k, v, bias, causal, q.shape[-1] ** -0.5 if scale is None else scale)


def neighbourhood_attention(
    q: Array, k: Array, v: Array, kernel: tuple[int, int, int], first: int = 0
) -> Array:
    """Every query attends to a window of `kernel` (time, height, width) keys around it, scale 1.

    k, v (B, F, H, W, N, D); q (B, F', H, W, N, D) are the frames from `first` on. Along an axis of
    length L the window of query i begins at i - size // 2, shifted inward into 0 to L - size.
    Raises UserError for a grid smaller than the kernel.
    """
    return _of(q).neighbourhood_attention(q, k, v, kernel, first)


def conv1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int = 1,
    pad: tuple[int, int] = (0, 0),
    dilation: int = 1,
    groups: int = 1,
) -> Array:
    """x (B, T, C) -> (B, T', C'); zero padding; weight in the backend's layout (see `Param`)."""
    return _of(x).conv(x, weight, bias, (stride,), [pad], ["zeros"], (dilation,), groups)


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: tuple[int, int] = (1, 1),
    pad: Pads = ((0, 0), (0, 0)),
    modes: str | Sequence[str] = "zeros",
    groups: int = 1,
) -> Array:
    """x (B, H, W, C) -> (B, H', W', C'); one padding mode for all axes or one each."""
    names = [modes] * 2 if isinstance(modes, str) else list(modes)
    return _of(x).conv(x, weight, bias, stride, [tuple(p) for p in pad], names, (1, 1), groups)


def conv3d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: tuple[int, int, int] = (1, 1, 1),
    pad: Pads = ((0, 0), (0, 0), (0, 0)),
    modes: str | Sequence[str] = "zeros",
) -> Array:
    """x (B, F, H, W, C) -> (B, F', H', W', C'); one padding mode for all axes or one each.

    Split along an axis before an index would pass the backend's safe range.
    """
    names = [modes] * 3 if isinstance(modes, str) else list(modes)
    return _of(x).conv(x, weight, bias, stride, [tuple(p) for p in pad], names, (1, 1, 1), 1)


def norm_silu_conv3d(
    x: Array,
    scale: Array | None,
    shift: Array | None,
    eps: float,
    weight: Array,
    bias: Array | None,
    pads: Pads,
    modes: Sequence[str],
) -> Array:
    """conv3d(norm_modulate(x, scale, shift, eps, silu=True), weight, bias) at stride one.

    The parts of a residual block in one op: the padded input is written once.
    """
    widths = [tuple(p) for p in pads]
    return _of(x).norm_silu_conv3d(x, scale, shift, eps, weight, bias, widths, list(modes))


def conv_transpose1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Array:
    """x (B, T, C) -> (B, (T - 1) * stride - 2 * padding + k, C'); groups: 1, or C (depthwise)."""
    return _of(x).conv_transpose1d(x, weight, bias, stride, padding, groups)
