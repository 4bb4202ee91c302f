"""Linear layers whose weights stay quantised in memory and are unpacked, layer by layer, at use."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from einops import rearrange

from ltx2 import ops
from ltx2.ops import Array

# Inputs that share a scale in NVFP4; rows and columns of the tiles in which the scales stand.
NVFP4_GROUP, TILE_ROWS, TILE_COLUMNS = 16, 128, 4


def scalar(value: float, ref: Array) -> Array:
    """A float32 array () on the device of `ref`.

    The value itself where a placeholder stands for `ref`, because a file is only being checked.
    """
    if not hasattr(ref, "shape"):
        return value
    return ops.asarray(np.asarray(value, np.float32), ref)


class QuantisedLinear:
    """(..., in) -> (..., out); a weight in few bits, a bias in the dtype of the activations."""

    weight: Array
    bias: Array | None

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight that is represented."""
        raise NotImplementedError

    def dequantised(self) -> Array:
        """The weight (out, in) as float32."""
        raise NotImplementedError

    def __call__(self, x: Array) -> Array:
        """Weight-only quantisation: the weight is unpacked to the dtype of `x`."""
        return ops.linear(x, ops.like(self.dequantised(), x), self.bias)


@dataclass
class PackedLinear(QuantisedLinear):
    """Codes in 4 or 8 bits with a scale per group of inputs, packed as MLX packs them."""

    weight: Array  # codes (out, in * bits / 32 or 8)
    scales: Array  # (out, in / group)
    biases: Array | None  # (out, in / group), the value of code 0; none for mxfp8
    bias: Array | None
    mode: str  # int8, int4 or mxfp8
    group: int

    @classmethod
    def quantised(cls, weight: Array, bias: Array | None, mode: str, group: int) -> PackedLinear:
        """`weight` (out, in), whose inputs must be a multiple of `group`, in the bits of `mode`."""
        return cls(*ops.quantise(weight, mode, group), bias, mode, group)

    @property
    def shape(self) -> tuple[int, int]:
        return self.scales.shape[0], self.scales.shape[1] * self.group

    def dequantised(self) -> Array:
        return ops.dequantise(self.weight, self.scales, self.biases, self.mode, self.group)

    def __call__(self, x: Array) -> Array:
        packed = self.weight, self.scales, self.biases
        return ops.quantised_linear(x, *packed, self.bias, self.mode, self.group)


@dataclass
class NvFp4Linear(QuantisedLinear):
    """e2m1 codes with an e4m3 scale per 16 inputs and one scale for all (spec loading.md 8)."""

    weight: Array  # bytes (out, in / 2), element 2j in the high half of byte j
    weight_scale: Array  # e4m3 codes in tiles of 128 rows and 4 columns
    weight_scale_2: float
    bias: Array | None = None
    scale: Array = field(init=False, repr=False)  # weight_scale_2, as `Fp8Linear.scales`

    group: ClassVar[int] = NVFP4_GROUP

    def __post_init__(self) -> None:
        self.scale = scalar(self.weight_scale_2, self.weight)

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], 2 * self.weight.shape[1]

    def dequantised(self) -> Array:
        out, width = self.shape
        scales = untiled(ops.from_fp8(self.weight_scale), out, width // self.group)
        values = ops.from_fp4(self.weight).reshape(out, -1, self.group)
        return (values * (scales * self.scale)[..., None]).reshape(out, width)


def tiled_shape(rows: int, columns: int) -> tuple[int, int]:
    """Shape in which (rows, columns) scales are stored: both padded to whole tiles."""
    return (
        math.ceil(rows / TILE_ROWS) * TILE_ROWS,
        math.ceil(columns / TILE_COLUMNS) * TILE_COLUMNS,
    )


def untiled(scales: Array, rows: int, columns: int) -> Array:
    """(rows, columns) from the stored order: tiles of 32 lines, each with rows r, r + 32, ..."""
    height, width = tiled_shape(rows, columns)
    whole = rearrange(
        scales.reshape(height // TILE_ROWS, width // TILE_COLUMNS, 32, 4, TILE_COLUMNS),
        "down across line quarter column -> (down quarter line) (across column)",
    )
    return whole[:rows, :columns]
