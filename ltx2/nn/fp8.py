"""Linear layers whose weights are float8 (e4m3) codes with one scale (spec loading.md 5, 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ltx2 import ops
from ltx2.nn.lora import Factors, Fused, weight_delta
from ltx2.nn.quant import QuantisedLinear, scalar
from ltx2.ops import Array

# The largest value of e4m3; larger ones must be clamped before the cast or become NaN.
LARGEST = 448.0
# Instead of zero, where it divides.
SMALLEST = 1e-12


def quantised(x: Array, factor: float | Array) -> Array:
    """e4m3 codes of x * factor, clamped to the range of the format."""
    return ops.to_fp8(ops.clamp(ops.f32(x) * factor, -LARGEST, LARGEST))


@dataclass
class Fp8Linear(QuantisedLinear):
    """(..., in) -> (..., out); `weight` holds e4m3 codes, the scales are floats.

    It computes with `scales`, the same as arrays: compiled code is made for every float it meets.
    `multiplies` also rounds the activations to float8, for the devices' own float8 products.
    """

    weight: Array  # (out, in), codes
    weight_scale: float
    input_scale: float | None
    bias: Array | None = None
    multiplies: bool = False
    scales: tuple[Array, Array | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        given = self.input_scale
        own = None if given is None else scalar(given, self.weight)
        self.scales = scalar(self.weight_scale, self.weight), own

    @classmethod
    def requantised(
        cls, weight: Array, input_scale: float | None, bias: Array | None = None
    ) -> Fp8Linear:
        """A layer with `weight` (out, in) in float8 under a fresh scale: max |w| / 448."""
        # Many values are ties of the format: rounded in the reference's order, reciprocal first.
        factor = np.float32(1) / np.float32(largest(weight) or LARGEST) * np.float32(LARGEST)
        scale = float(np.float32(1) / factor)
        return cls(quantised(weight, float(factor)), scale, input_scale, bias)

    @classmethod
    def cast(cls, weight: Array, bias: Array | None = None) -> Fp8Linear:
        """A layer with `weight` and `bias` rounded to float8 as they are, without scales."""
        if bias is not None:
            bias = ops.like(ops.from_fp8(quantised(bias, 1)), bias)
        return cls(quantised(weight, 1), 1.0, None, bias)

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def dequantised(self) -> Array:
        """The weight (out, in) as float32."""
        return ops.from_fp8(self.weight) * self.scales[0]

    def __call__(self, x: Array) -> Array:
        """With the weight unpacked to the dtype of `x`, or in float8 if the layer `multiplies`."""
        return self.fast(x) if self.multiplies else super().__call__(x)

    def quantised_input(self, x: Array) -> Array:
        """`x` as e4m3 values in float32, in units of `input_scale`."""
        return ops.from_fp8(quantised(x, 1 / self._input_scale(x)))

    def fast(self, x: Array) -> Array:
        """The product of float8 activations and float8 weights, as float8 hardware computes it."""
        scale = self._input_scale(x)
        y = ops.fp8_linear(quantised(x, 1 / scale), self.weight, scale * self.scales[0])
        return ops.like(y if self.bias is None else y + ops.f32(self.bias), x)

    def _input_scale(self, x: Array) -> Array:
        """The file's, or where it has none what makes the largest of `x` the format's largest."""
        if self.scales[1] is not None:
            return self.scales[1]
        wide = ops.f32(x.reshape(-1, x.shape[-1]))
        most = ops.amax(ops.where(wide < 0, -wide, wide), (0, 1))
        # (1,), so that it broadcasts over activations of any rank.
        return ops.clamp(most, SMALLEST).reshape(1) / LARGEST

    def fused(self, factors: Sequence[Factors]) -> FusedFp8Linear:
        """With LoRAs added into the weight and the sum quantised anew."""
        weight = self.dequantised() + ops.f32(weight_delta(factors))
        made = FusedFp8Linear.requantised(weight, self.input_scale, self.bias)
        made.multiplies = self.multiplies
        assert isinstance(made, FusedFp8Linear)
        return made


@dataclass
class FusedFp8Linear(Fused, Fp8Linear):
    """An Fp8Linear with LoRAs in its weight."""


def largest(weight: Array) -> float:
    """max |w| of (out, in)."""
    wide = ops.f32(weight)
    low, high = (float(ops.to_numpy(f(wide, (0, 1)))[0, 0]) for f in (ops.amin, ops.amax))
    return max(-low, high)
