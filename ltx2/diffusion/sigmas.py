"""Noise levels: the schedules a run can follow, each a tuple of floats from the start down to 0.

Values are rounded to float32, which is what the reference computes in (sampling spec, section 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from ltx2.errors import UserError

Sigmas = tuple[float, ...]

# The lists that distilled models were trained on.
DISTILLED: Sigmas = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
STAGE_2: Sigmas = (0.909375, 0.725, 0.421875, 0.0)
STAGE_2_TILED: Sigmas = (0.625, 0.4, 0.0)


def ltx2_sigmas(
    steps: int,
    tokens: int = 4096,
    max_shift: float = 2.05,
    base_shift: float = 0.95,
    stretch: bool = True,
    terminal: float = 0.1,
) -> Sigmas:
    """`steps` + 1 levels shifted towards 1, the more the more tokens the latent has.

    With `stretch` the last level before 0 becomes `terminal`. The official pipelines use 4096
    tokens whatever the size, except the HQ one. Source: sampling spec, section 2.1.
    """
    _check_steps(steps)
    time = np.linspace(1, 0, steps + 1)[:-1]
    shift = math.exp(base_shift + (max_shift - base_shift) * (tokens - 1024) / (4096 - 1024))
    sigmas = shift / (shift + (1 / time - 1))
    # A single step has nothing to stretch: its only level is 1.
    if stretch and steps > 1:
        sigmas = 1 - (1 - sigmas) * (1 - terminal) / (1 - sigmas[-1])
    return _rounded([*sigmas, 0])


def linear_quadratic_sigmas(
    steps: int, threshold: float = 0.025, linear_steps: int | None = None
) -> Sigmas:
    """Linear steps down to 1 - `threshold`, then a parabola to 0.

    `linear_steps` is half of `steps` unless given. Source: sampling spec, section 2.3.
    """
    _check_steps(steps)
    if steps == 1:
        return (1.0, 0.0)
    linear = steps // 2 if linear_steps is None else linear_steps
    if not 0 < linear < steps:
        raise UserError(f"linear_steps={linear} must be between 1 and steps - 1 = {steps - 1}")
    rest = linear - threshold * steps
    a = rest / (linear * (steps - linear) ** 2)
    b = threshold / linear - 2 * rest / (steps - linear) ** 2
    i = np.arange(steps)
    values = np.where(i < linear, i * threshold / linear, a * i**2 + b * i + a * linear**2)
    return _rounded([*(1 - values), 0])


def beta_sigmas(
    steps: int, alpha: float = 0.6, beta: float = 0.6, shift: float = 2.37, length: int = 10000
) -> Sigmas:
    """Levels at quantiles of Beta(alpha, beta) in a table of `length` shifted levels.

    Quantiles that fall on one table entry merge. Source: sampling spec, section 2.3.
    """
    _check_steps(steps)
    time = np.arange(1, length + 1) / length
    table = math.exp(shift) / (math.exp(shift) + (1 / time - 1))
    quantiles = [beta_quantile(1 - i / steps, alpha, beta) for i in range(steps)]
    # Medians fall between two entries: drop the quantile's own error, then round half to even.
    index = dict.fromkeys(round(round(q * (length - 1), 6)) for q in quantiles)
    return _rounded([*table[list(index)], 0])


def beta_quantile(probability: float, alpha: float, beta: float) -> float:
    """x in [0, 1] with P(X <= x) = `probability` for X ~ Beta(alpha, beta), to 1e-12."""
    if probability in (0, 1):
        return float(probability)
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        below = _beta_cdf(middle, alpha, beta) < probability
        low, high = (middle, high) if below else (low, middle)
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function for 0 < x < 1, by its continued fraction."""
    if x > (a + 1) / (a + b + 2):
        # The fraction converges fast only below the mean.
        return 1 - _beta_cdf(1 - x, b, a)
    log_scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    scale = math.exp(log_scale + a * math.log(x) + b * math.log1p(-x)) / a
    value = 1.0
    for m in range(60, 0, -1):  # 60 pairs of terms: far below float64 rounding at these arguments
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        value = 1 + even / (1 + odd / value)
    first = -(a + b) * x / (a + 1)
    return scale / (1 + first / value)


def validate_sigmas(sigmas: Iterable[float]) -> Sigmas:
    """The levels as floats; UserError unless strictly decreasing from at most 1 down to 0."""
    values = tuple(float(s) for s in sigmas)
    shown = ", ".join(f"{s:g}" for s in values)
    if len(values) < 2 or not values[-1] == 0:
        raise UserError(f"sigmas=[{shown}] must hold at least two values and end with 0")
    if not 0 < values[0] <= 1:
        raise UserError(f"sigmas=[{shown}] starts at {values[0]:g}; start in (0, 1]")
    for i, (sigma, following) in enumerate(pairwise(values), start=2):
        if not following < sigma:
            raise UserError(
                f"sigmas=[{shown}] must strictly decrease, but value {i} ({following:g}) "
                f"follows {sigma:g}"
            )
    return values


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise UserError(f"steps={steps} must be at least 1")


def _rounded(values: list[float]) -> Sigmas:
    return tuple(float(v) for v in np.asarray(values, np.float32))
