"""Rotary position embedding: tables on the host, rotation on the device.

Source: spec transformer.md section 9. Angles reach 1.6e4 rad, where float32 is spaced by 1e-3, so
the order of rounding matters: a float64 frequency grid rounded to float32, all else in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltx2 import ops
from ltx2.ops import Array


@dataclass(frozen=True)
class RopeOptions:
    """Architecture values of one rotary embedding; `max_pos` has one entry per position axis."""

    dim: int
    heads: int
    max_pos: tuple[float, ...]
    theta: float = 10000.0
    split: bool = True
    float64_grid: bool = True


@dataclass(frozen=True)
class Rope:
    """cos, sin: (B, T, N, D/2) for the split layout, (B, T, N*D) for the interleaved one."""

    cos: Array
    sin: Array
    split: bool


def midpoints(positions: np.ndarray) -> np.ndarray:
    """Intervals (B, A, T, 2) -> midpoints (B, A, T), float32."""
    positions = np.asarray(positions, np.float32)
    return (positions[..., 0] + positions[..., 1]) / np.float32(2)


def frequencies(options: RopeOptions) -> np.ndarray:
    """The K = dim // (2 A) frequencies theta^(k / (K - 1)) * pi / 2, float32."""
    count = options.dim // (2 * len(options.max_pos))
    if options.float64_grid:
        grid = np.linspace(0.0, 1.0, count, dtype=np.float64)
        return (np.power(np.float64(options.theta), grid) * (np.pi / 2)).astype(np.float32)
    grid = np.linspace(0.0, 1.0, count, dtype=np.float32)
    return np.power(np.float32(options.theta), grid) * np.float32(np.pi / 2)


def angles(middle: np.ndarray, options: RopeOptions) -> np.ndarray:
    """Midpoints (B, A, T) -> angles (B, T, K * A), frequency-major with the axis fastest."""
    scaled = [
        m / np.float32(p) for m, p in zip(middle.swapaxes(0, 1), options.max_pos, strict=True)
    ]
    u = np.stack(scaled, -1).astype(np.float32) * np.float32(2) - np.float32(1)  # (B, T, A)
    phi = frequencies(options)[:, None] * u[..., None, :]
    return phi.reshape(*phi.shape[:2], -1)


def host_tables(middle: np.ndarray, options: RopeOptions) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin as in `Rope`, float32. Missing angles are padded in front with the identity."""
    # float64 cosines of the float32 angles: exact range reduction.
    phi = angles(middle, options).astype(np.float64)
    cos, sin = np.cos(phi).astype(np.float32), np.sin(phi).astype(np.float32)
    if not options.split:
        cos, sin = np.repeat(cos, 2, -1), np.repeat(sin, 2, -1)
    width = options.dim // 2 if options.split else options.dim
    front = [(0, 0), (0, 0), (width - cos.shape[-1], 0)]
    cos = np.pad(cos, front, constant_values=1.0)
    sin = np.pad(sin, front)
    if options.split:
        shape = (*cos.shape[:2], options.heads, width // options.heads)
        cos, sin = cos.reshape(shape), sin.reshape(shape)
    return cos, sin


def rope_table(middle: np.ndarray, options: RopeOptions, ref: Array) -> Rope:
    """Table for midpoints (B, A, T) on the device and in the dtype of `ref`."""
    cos, sin = host_tables(middle, options)
    place = [ops.like(ops.asarray(table, ref), ref) for table in (cos, sin)]
    return Rope(place[0], place[1], options.split)


def rotate(x: Array, rope: Rope) -> Array:
    """Rotate x (B, T, N*D); heads see different frequency bands."""
    return ops.rotate(x, rope.cos, rope.sin, rope.split)


def index_positions(count: int) -> np.ndarray:
    """Positions 0..count-1 as midpoints (1, 1, T): the text connectors count tokens."""
    return np.arange(count, dtype=np.float32)[None, None]


def max_positions(values: Sequence[float]) -> tuple[float, ...]:
    """Metadata list as a tuple of floats."""
    return tuple(float(v) for v in values)
