"""How a thing moved: its track, fitted by every motion of the pocket world.

Tracks are complex numbers x + iy in shorter sides, y downwards; times are shares of the clip.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ltx2.pocket.world import CONTACTS, COVERED, DIRECTIONS, GROWTH, TURNS, reach_of

OTHER = "other"
# Fewer frames show no motion.
LEAST_FRAMES = 6
# Wobble of a thing that stays where it is, rms in shorter sides, and the largest that no motion
# explains and that still is none.
_STILL, _WOBBLE = 0.012, 0.03
# The share of the track's variance that its motion explains.
_EXPLAINED = 0.7
# By how much a bounce may come early or late, in shares of the clip.
_SHIFTS = np.linspace(-0.06, 0.06, 13)


@dataclass(frozen=True)
class Path:
    """Words of a motion, or OTHER; `speed` is None where the motion has none, or it cannot be told.

    `contacts`: shares of the clip at which a bouncing thing touches the ground.
    """

    motion: str
    speed: str | None = None
    contacts: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Fit:
    motion: str
    error: float
    amount: complex  # of the fitted basis
    rate: int = 0
    shift: float = 0.0


def read_path(
    track: np.ndarray, radius: np.ndarray, visible: np.ndarray, box: tuple[float, float]
) -> Path | None:
    """The motion of a thing of which centre and radius were seen at (F,) frames.

    `box`: width and height of the part of the frame in which it moves. None: too few frames.
    """
    u = np.linspace(0, 1, len(track))[visible]
    track, radius = track[visible], radius[visible]
    if len(u) < LEAST_FRAMES:
        return None
    begin, rate = _line(u, radius)
    growth = (begin + rate) / max(begin, 1e-6)
    still = _fit("still", track, np.zeros(len(u)))
    if growth > math.sqrt(GROWTH["slow"]) and still.error < 2 * _WOBBLE:
        return Path("growing", _nearer(growth, GROWTH))
    if still.error < _STILL:
        return Path("still")
    best = min(_moving_fits(u, track), key=lambda fit: fit.error)
    if best.error**2 > (1 - _EXPLAINED) * still.error**2:
        return Path("still" if still.error < _WOBBLE else OTHER)
    reach = reach_of(float(np.percentile(radius, 90)))
    return _path(best, [side - 2 * reach for side in box])


def _moving_fits(u: np.ndarray, track: np.ndarray) -> list[_Fit]:
    fits = [_fit("straight", track, u)]
    for turns in TURNS.values():
        circles = [np.exp(2j * np.pi * way * turns * u) for way in (1, -1)]
        fits += [_fit("circling", track, circle, turns) for circle in circles]
    for count in CONTACTS.values():
        for shift in _SHIFTS:
            bounce = -1j * np.abs(np.cos(np.pi * count * (u - shift)))
            fit = _fit("bouncing", track, bounce, count, shift)
            if fit.amount.real > 0 and abs(fit.amount.imag) < 0.3 * fit.amount.real:
                fits.append(fit)
    return fits


def _fit(
    motion: str, track: np.ndarray, basis: np.ndarray, rate: int = 0, shift: float = 0.0
) -> _Fit:
    """Least squares of the track by a constant and `basis` (F,), outliers weighing less."""
    weight, amount = np.ones(len(track)), 0j
    away = np.abs(track)
    for _ in range(3):
        total = weight.sum()
        centred = basis - (weight * basis).sum() / total
        moved = track - (weight * track).sum() / total
        power = (weight * np.abs(centred) ** 2).sum()
        amount = complex((weight * centred.conj() * moved).sum() / power) if power > 0 else 0j
        away = np.abs(moved - amount * centred)
        weight = 1 / (1 + (away / (2.5 * np.median(away) + 1e-4)) ** 2)
    # One frame in ten may be anywhere.
    kept = np.sort(away)[: math.ceil(0.9 * len(away))]
    return _Fit(motion, float(np.sqrt(np.square(kept).mean())), amount, rate, shift)


def _path(fit: _Fit, room: list[float]) -> Path:
    """Words of a fit in a `room` of so much width and height."""
    if fit.motion == "circling":
        return Path("circling", _of_rate(fit.rate, TURNS))
    if fit.motion == "bouncing":
        contacts = tuple((k + 0.5) / fit.rate + fit.shift for k in range(fit.rate))
        return Path("bouncing", _of_rate(fit.rate, CONTACTS), contacts)
    octant = round(cmath.phase(fit.amount) / (math.pi / 4))
    way = tuple(round(math.sin(octant * math.pi / 4 + quarter)) for quarter in (math.pi / 2, 0))
    motion = next(name for name, direction in DIRECTIONS.items() if direction == way)
    lengths = abs(fit.amount.real), abs(fit.amount.imag)
    # A diagonal covers as much of the width as of the height: of the smaller room.
    space = min(room) if all(way) else room[way[0] == 0]
    length = sum(lengths) / 2 if all(way) else max(lengths)
    return Path(motion, _nearer(length / space, COVERED) if space > 0.02 else None)


def _line(u: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Value at the beginning and change over the clip: medians, as Theil and Sen have it."""
    first, second = np.triu_indices(len(u), 1)
    far = u[second] - u[first] > 0.25
    first, second = first[far], second[far]
    rate = float(np.median((values[second] - values[first]) / (u[second] - u[first])))
    return float(np.median(values - rate * u)), rate


def _nearer(value: float, table: Mapping[str, float]) -> str:
    """The word whose number is the nearer one, as a ratio."""
    slow, fast = table["slow"], table["fast"]
    return "slow" if value < math.sqrt(slow * fast) else "fast"


def _of_rate(rate: int, table: Mapping[str, int]) -> str:
    return next(word for word, number in table.items() if number == rate)
