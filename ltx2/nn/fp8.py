"""Linear layers whose weights are float8 (e4m3) codes with one scale (spec loading.md 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltx2 import ops
from ltx2.nn.lora import Factors, weight_delta
from ltx2.ops import Array

# The largest value of e4m3; larger ones must be clamped before the cast or become NaN.
LARGEST = 448.0


def quantised(x: Array, factor: float) -> Array:
    """e4m3 codes of x * factor, clamped to the range of the format."""
    return ops.to_fp8(ops.clamp(ops.f32(x) * factor, -LARGEST, LARGEST))


@dataclass
class Fp8Linear:
    """(..., in) -> (..., out); `weight` holds e4m3 codes, the scales are floats."""

    weight: Array  # (out, in), codes
    weight_scale: float
    input_scale: float | None
    bias: Array | None = None

    @classmethod
    def requantised(
        cls, weight: Array, input_scale: float | None, bias: Array | None = None
    ) -> Fp8Linear:
        """A layer with `weight` (out, in) in float8 under a fresh scale: max |w| / 448."""
        lowest, highest = (
            float(ops.to_numpy(f(ops.f32(weight), (0, 1)))[0, 0]) for f in (ops.amin, ops.amax)
        )
        # Many values are ties of the format: rounded in the reference's order, reciprocal first.
        factor = np.float32(1) / np.float32(max(-lowest, highest)) * np.float32(LARGEST)
        scale = float(np.float32(1) / factor)
        return cls(quantised(weight, float(factor)), scale, input_scale, bias)

    def dequantised(self) -> Array:
        """The weight (out, in) as float32."""
        return ops.from_fp8(self.weight) * self.weight_scale

    def __call__(self, x: Array) -> Array:
        """Weight-only quantisation: the weight is unpacked to the dtype of `x` at use."""
        return ops.linear(x, ops.like(self.dequantised(), x), self.bias)

    def quantised_input(self, x: Array) -> Array:
        """`x` as e4m3 values in float32, in units of `input_scale`."""
        assert self.input_scale is not None, "the file has no input_scale"
        return ops.from_fp8(quantised(x, 1 / self.input_scale))

    def fast(self, x: Array) -> Array:
        """The product of float8 activations and float8 weights, as float8 hardware computes it."""
        assert self.input_scale is not None, "the file has no input_scale"
        product = ops.linear(self.quantised_input(x), ops.from_fp8(self.weight))
        y = product * (self.input_scale * self.weight_scale)
        return ops.like(y if self.bias is None else y + ops.f32(self.bias), x)

    def fused(self, factors: Sequence[Factors]) -> Fp8Linear:
        """With LoRAs added into the weight and the sum quantised anew."""
        weight = self.dequantised() + ops.f32(weight_delta(factors))
        return Fp8Linear.requantised(weight, self.input_scale, self.bias)
