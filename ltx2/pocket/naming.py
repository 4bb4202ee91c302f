"""The words for what was seen of a pocket clip: colours, background, shapes, blurry or dim."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from ltx2.pocket.seeing import GRID, Blob, View
from ltx2.pocket.world import BACKGROUNDS, BLUR, COLOURS, DIM, SHAPES, signed_distance

# What has no corners, and the share of a shape's corners from which on it is that shape: decoders
# round them off.
_ROUND, _LEAST_CORNERS = "circle", 1 / 3
# A blurry outline has at least so much of the flaw's softness.
_SOFT = 0.7
# A soft thing shows from this share of its colour on, a noisy one up to this.
_SHARES = np.linspace(0.7, 1.05, 8)


@dataclass(frozen=True)
class Colours:
    """Names of the background and of each thing's colour; how much of the latter is there.

    `dim`: whether all is as dark as the flaw.
    """

    background: str
    things: tuple[str, ...]
    shares: tuple[float, ...]
    dim: bool


def name_colours(seen: View) -> Colours:
    """The names that explain all colours best, the clip being dim or not."""
    cost, usual = _named(seen, 1.0)
    dim_cost, dim = _named(seen, DIM)
    return dim if dim_cost < cost else usual


def _named(seen: View, gain: float) -> tuple[float, Colours]:
    """Total squared distance, and names, if all is `gain` times as bright."""
    costs = {
        name: _square(seen.background - gain * np.array(rgb)) for name, rgb in BACKGROUNDS.items()
    }
    background = min(costs, key=lambda name: costs[name])
    total, names, shares = costs[background], [], []
    for blob in seen.blobs:
        found = {
            name: _towards(blob.colour - seen.background, gain * np.array(rgb) - seen.background)
            for name, rgb in COLOURS.items()
        }
        name = min(found, key=lambda name: found[name])
        cost, share = found[name]
        total += cost
        names.append(name)
        shares.append(share)
    return total, Colours(background, tuple(names), tuple(shares), gain != 1)


def _towards(colour: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Squared distance of a colour from a share of `wanted`, both less background; the share."""
    costs = [(_square(colour - share * wanted) + 0.1 * (1 - share) ** 2) for share in _SHARES]
    best = int(np.argmin(costs))
    return costs[best], float(_SHARES[best])


def _square(values: np.ndarray) -> float:
    return float(np.square(values).sum())


def name_shape(blob: Blob) -> str:
    """The shape whose harmonic moments are those of the blob; a circle has none."""
    moments = np.array(_harmonics(blob.silhouette, GRID))
    # How far towards the corners of each shape.
    scores = {
        shape: float(corners @ moments / (corners @ corners))
        for shape, corners in ((shape, _corners(shape)) for shape in SHAPES if shape != _ROUND)
    }
    best = max(scores, key=lambda shape: scores[shape])
    return best if scores[best] > _LEAST_CORNERS else _ROUND


def _harmonics(silhouette: np.ndarray, grid: np.ndarray) -> tuple[float, float]:
    """Mean of Im z^3 and Re z^4 over a silhouette, z = x + iy about its centroid where its area is
    pi: how much of a triangle, and of a cross (above 0) or a square (below) it is.

    Both are harmonic functions, so that no round blur changes them.
    """
    z = grid[None, :] + 1j * grid[:, None]
    weight = silhouette * np.clip((grid[-1] - np.abs(z)) / 0.2, 0, 1)
    total = weight.sum()
    z = (z - (weight * z).sum() / total) / math.sqrt(total * (grid[1] - grid[0]) ** 2 / math.pi)
    three, four = ((weight * z**power).sum() / total for power in (3, 4))
    return float(three.imag), float(four.real)


@cache
def _corners(shape: str) -> np.ndarray:
    line = np.linspace(-2, 2, 801)
    inside = signed_distance(shape, line[None, :], line[:, None]) < 0
    return np.array(_harmonics(inside.astype(np.float64), line))


@cache
def equal_area(shape: str) -> tuple[float, float]:
    """Of a shape of radius 1: the radius of the circle of equal area, and how far its centroid is
    below its centre."""
    line = (np.arange(600) + 0.5) / 200 - 1.5
    inside = signed_distance(shape, line[None, :], line[:, None]) < 0
    area = inside.sum() / 200**2
    return math.sqrt(area / math.pi), float((inside * line[:, None]).sum() / inside.sum())


def is_blurry(blob: Blob, shape: str, radius: float) -> bool:
    """Whether the outline of a blob, which is a `shape` of that radius, is as soft as the flaw."""
    line = np.linspace(-2, 2, 81)
    distance = signed_distance(shape, line[None, :], line[:, None])
    flawed = np.clip(0.5 - distance * radius / BLUR, 0, 1)
    wanted = _soft_area(flawed / flawed.max(), line) * radius**2
    return _soft_area(blob.silhouette, GRID) * blob.size**2 > _SOFT * wanted


def _soft_area(cover: np.ndarray, grid: np.ndarray) -> float:
    """Area of what is neither thing nor background."""
    cover = np.clip(cover, 0, 1)
    return float((cover * (1 - cover)).sum()) * float(grid[1] - grid[0]) ** 2
