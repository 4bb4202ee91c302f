"""Linear, convolution and normalisation layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltx2 import ops
from ltx2.nn.module import Param
from ltx2.ops import Array


@dataclass
class Linear:
    """(..., in) -> (..., out)."""

    weight: Array  # (out, in)
    bias: Array | None = None  # (out,)

    @classmethod
    def declare(cls, width: int, out: int, bias: bool = True) -> Linear:
        return cls(Param((out, width)), Param((out,)) if bias else None)

    def __call__(self, x: Array) -> Array:
        return ops.linear(x, self.weight, self.bias)


def linear_gelu(layer: Linear, x: Array) -> Array:
    """gelu(layer(x)); in one pass unless the layer has additions of its own."""
    if isinstance(layer, Linear):
        return ops.linear_gelu(x, layer.weight, layer.bias)
    return ops.gelu(layer(x))


@dataclass
class RMSNorm:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""

    weight: Array  # (C,)
    eps: float = 1e-6

    @classmethod
    def declare(cls, width: int, eps: float = 1e-6) -> RMSNorm:
        return cls(Param((width,)), eps)

    def __call__(self, x: Array) -> Array:
        return ops.rms_norm(x, self.weight, self.eps)


@dataclass
class GroupNorm:
    """(B, ..., C): statistics over all positions and one group's channels."""

    weight: Array  # (C,)
    bias: Array  # (C,)
    groups: int
    eps: float

    @classmethod
    def declare(cls, width: int, groups: int, eps: float) -> GroupNorm:
        return cls(Param((width,)), Param((width,)), groups, eps)

    def __call__(self, x: Array) -> Array:
        return ops.group_norm(x, self.groups, self.weight, self.bias, self.eps)


def _kernel(out: int, width: int, kernel: tuple[int, ...]) -> Param:
    return Param((out, width, *kernel), kind="conv")


@dataclass
class Conv1d:
    """(B, T, C) -> (B, T', C'); zero padding."""

    weight: Array
    bias: Array | None = None
    stride: int = 1
    pad: tuple[int, int] = (0, 0)
    dilation: int = 1

    @classmethod
    def declare(
        cls, width: int, out: int, kernel: int, bias: bool = True, **options: Any
    ) -> Conv1d:
        weight = _kernel(out, width, (kernel,))
        return cls(weight, Param((out,)) if bias else None, **options)

    def __call__(self, x: Array) -> Array:
        return ops.conv1d(x, self.weight, self.bias, self.stride, self.pad, self.dilation)


@dataclass
class Conv2d:
    """(B, H, W, C) -> (B, H', W', C')."""

    weight: Array
    bias: Array | None = None
    stride: tuple[int, int] = (1, 1)
    pad: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
    modes: str | tuple[str, ...] = "zeros"

    @classmethod
    def declare(
        cls, width: int, out: int, kernel: int, bias: bool = True, **options: Any
    ) -> Conv2d:
        weight = _kernel(out, width, (kernel, kernel))
        return cls(weight, Param((out,)) if bias else None, **options)

    def __call__(self, x: Array) -> Array:
        return ops.conv2d(x, self.weight, self.bias, self.stride, self.pad, self.modes)


@dataclass
class Conv3d:
    """(B, F, H, W, C) -> (B, F', H', W', C')."""

    weight: Array
    bias: Array | None = None
    stride: tuple[int, int, int] = (1, 1, 1)
    pad: tuple[tuple[int, int], ...] = ((0, 0), (0, 0), (0, 0))
    modes: str | tuple[str, ...] = "zeros"

    @classmethod
    def declare(
        cls, width: int, out: int, kernel: int, bias: bool = True, **options: Any
    ) -> Conv3d:
        weight = _kernel(out, width, (kernel, kernel, kernel))
        return cls(weight, Param((out,)) if bias else None, **options)

    def __call__(self, x: Array) -> Array:
        return ops.conv3d(x, self.weight, self.bias, self.stride, self.pad, self.modes)


@dataclass
class ConvTranspose1d:
    """(B, T, C) -> (B, (T - 1) * stride - 2 * padding + k, C')."""

    weight: Array
    bias: Array | None = None
    stride: int = 1
    padding: int = 0

    @classmethod
    def declare(
        cls, width: int, out: int, kernel: int, stride: int, padding: int
    ) -> ConvTranspose1d:
        weight = Param((width, out, kernel), kind="conv_transpose")
        return cls(weight, Param((out,)), stride, padding)

    def __call__(self, x: Array) -> Array:
        return ops.conv_transpose1d(x, self.weight, self.bias, self.stride, self.padding)
