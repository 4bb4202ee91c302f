"""One update of one stream's latent: from `sigma` to `sigma_next`, given the x0 estimate.

Coefficients are Python floats (float64), arrays are summed in float32 and returned in the dtype
of `x`. `noise` arguments are backend arrays shaped like `x`. Formulas: sampling spec, sections
6 to 10.
"""

from __future__ import annotations

import math

import numpy as np

from ltx2 import ops
from ltx2.ops import Array

FLOAT32_EPS = float(np.finfo(np.float32).eps)


def to_velocity(x: Array, denoised: Array, sigma: float) -> Array:
    """(x - denoised) / sigma, rounded to the dtype of `x`."""
    return ops.like((ops.f32(x) - ops.f32(denoised)) / sigma, x)


def to_denoised(x: Array, velocity: Array, timesteps: Array | float) -> Array:
    """x - velocity * timesteps; a float or a float32 array that broadcasts over (B, T, C)."""
    return ops.like(ops.f32(x) - ops.f32(velocity) * timesteps, x)


def euler_step(x: Array, denoised: Array, sigma: float, sigma_next: float) -> Array:
    """A straight line along the velocity, which the reference rounds to the dtype of `x`."""
    velocity = ops.f32(to_velocity(x, denoised, sigma))
    return ops.like(ops.f32(x) + velocity * (sigma_next - sigma), x)


def ancestral_step(
    x: Array,
    denoised: Array,
    sigma: float,
    sigma_next: float,
    noise: Array | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Array:
    """Euler to below `sigma_next`, then noise back up to it; `eta` 0 is Euler without noise."""
    if sigma_next == 0:
        return ops.like(denoised, x)
    down = sigma_next * (1 + (sigma_next / sigma - 1) * eta)
    ratio = down / sigma
    moved = ratio * ops.f32(x) + (1 - ratio) * ops.f32(denoised)
    if eta > 0:
        scale = (1 - sigma_next) / (1 - down)
        spread = math.sqrt(max(0.0, sigma_next**2 - (down * scale) ** 2))
        moved = scale * moved + (s_noise * spread) * ops.f32(noise)
    return ops.like(moved, x)


def cfg_pp_step(
    x: Array,
    denoised: Array,
    uncond: Array,
    sigma: float,
    sigma_next: float,
    noise: Array | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Array:
    """CFG++: the direction comes from the unconditional estimate, the target from `denoised`."""
    if sigma_next == 0:
        return ops.like(denoised, x)
    alpha, alpha_next = max(1 - sigma, FLOAT32_EPS), max(1 - sigma_next, FLOAT32_EPS)
    level, level_next = sigma / alpha, sigma_next / alpha_next
    kept = max(0.0, level**2 - level_next**2) / level**2
    up = min(eta * level_next * math.sqrt(kept), level_next)
    down = alpha_next * math.sqrt(max(0.0, level_next**2 - up**2))
    direction = (ops.f32(x) - alpha * ops.f32(uncond)) / sigma
    moved = alpha_next * ops.f32(denoised) + down * direction
    if up > 0:
        moved = moved + (alpha_next * s_noise * up) * ops.f32(noise)
    return ops.like(moved, x)


def sde_coefficients(
    sigma_next: float | np.ndarray, up: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(alpha ratio, sigma down) for noise of level `up` that ends at `sigma_next`."""
    rest = np.sqrt(np.maximum(0.0, np.square(sigma_next) - np.square(up)))
    alpha = (1 - np.asarray(sigma_next)) + rest
    return alpha, rest / alpha


def sde_step(
    sample: Array,
    target: Array,
    sigma: float | np.ndarray,
    sigma_next: float | np.ndarray,
    noise: Array,
    eta: float = 0.5,
) -> Array:
    """`target` at `sigma_next` with part of its noise replaced by fresh `noise`.

    `sample` is where the deterministic move from `sigma` started. Sigmas may be (B, T, 1) float64
    host arrays; where a sigma_next is 0 the target is returned.
    """
    sigma, sigma_next = np.asarray(sigma, np.float64), np.asarray(sigma_next, np.float64)
    up = np.minimum(sigma_next * eta, sigma_next * 0.9999)
    alpha, down = sde_coefficients(sigma_next, up)
    moves = (up > 0) & (sigma > sigma_next)
    gap = np.where(moves, sigma - sigma_next, 1.0)
    # alpha * (x0 + down * eps) with x0 and eps read off the line from `sample` to `target`,
    # collected into one weight each: float32 sums then lose nothing to cancellation.
    pull = (sigma - down) / gap
    weights = (
        np.where(moves, alpha * (1 - pull), 0.0),
        np.where(moves, alpha * pull, 1.0),
        np.where(moves, up, 0.0),
    )
    first, second, third = (_weight(w, sample) for w in weights)
    total = first * ops.f32(sample) + second * ops.f32(target) + third * ops.f32(noise)
    return ops.like(total, sample)


def _weight(value: np.ndarray, ref: Array) -> Array | float:
    return ops.asarray(value, ref) if value.ndim else float(value)


def res2s_coefficients(h: float) -> tuple[float, float, float]:
    """(a21, b1, b2) of the second-order exponential integrator for the log step `h` > 0."""
    phi1 = -math.expm1(-h) / h
    b2 = 2 * (math.expm1(-h) + h) / h**2
    return -math.expm1(-h / 2) / h, phi1 - b2, b2
