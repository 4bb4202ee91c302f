"""Linear layers with low-rank additions (LoRA): beside the weight, or added into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ltx2 import ops
from ltx2.nn.layers import Linear
from ltx2.nn.quant import QuantisedLinear
from ltx2.ops import Array


@dataclass(frozen=True)
class Factors:
    """One LoRA's addition `strength * up @ down` to a weight (out, in).

    `strength` is the user's, times alpha / rank where the file has an alpha.
    """

    down: Array  # (rank, in)
    up: Array  # (out, rank)
    strength: float


@dataclass
class LoraLinear:
    """base(x) + up (down x): any number of LoRAs, joined along the rank, strengths in `up`.

    `base` is any layer from (..., in) to (..., out), so quantised weights need no unpacking.
    """

    base: Linear | QuantisedLinear
    down: Array  # (rank, in)
    up: Array  # (out, rank)

    @classmethod
    def join(cls, base: Linear | QuantisedLinear, factors: Sequence[Factors]) -> LoraLinear:
        """`base` with all `factors` beside it."""
        ups = [ops.like(ops.f32(f.up) * f.strength, f.up) for f in factors]
        return cls(base, ops.concat([f.down for f in factors], 0), ops.concat(ups, 1))

    @property
    def weight(self) -> Array:
        """The base's weight, for those who ask for dtype or shape; it has no LoRA in it."""
        return self.base.weight

    def __call__(self, x: Array) -> Array:
        return self.base(x) + ops.linear(ops.linear(x, self.down), self.up)


class Fused:
    """Marks a layer whose weight has LoRAs added in; the weight without them is gone."""


@dataclass
class FusedLinear(Fused, Linear):
    """A Linear with LoRAs in its weight."""


def weight_delta(factors: Sequence[Factors]) -> Array:
    """Sum of strength * up @ down (out, in), in the dtype of the factors.

    Rounds where the reference does: the first strength goes into `up`, and the sum is rounded
    after each product (a fused multiply-add).
    """
    first, *others = factors
    delta = _product(ops.like(ops.f32(first.up) * first.strength, first.up), first.down)
    for more in others:
        product = _product(ops.f32(more.up), ops.f32(more.down))
        delta = ops.like(ops.f32(delta) + product * more.strength, delta)
    return delta


def fuse(base: Linear, factors: Sequence[Factors]) -> FusedLinear:
    """weight + delta in the dtype of the weight, rounded to the factors' dtype first."""
    delta = weight_delta(factors)
    weight = ops.like(delta + ops.like(base.weight, delta), base.weight)
    return FusedLinear(weight, base.bias)


def _product(up: Array, down: Array) -> Array:
    """(out, rank) @ (rank, in)."""
    return ops.linear(up, down.swapaxes(0, 1))
