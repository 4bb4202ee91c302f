"""Single-term guidance rules: what each adds to the conditioned x0 estimate.

Estimates are (B, ..., C); results are float32. Source: sampling spec, section 11.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ltx2 import ops
from ltx2.ops import Array


def cfg_delta(cond: Array, uncond: Array, scale: float) -> Array:
    """Classifier-free guidance: away from the negative prompt; scale 1 is off."""
    return (scale - 1) * (ops.f32(cond) - ops.f32(uncond))


def stg_delta(cond: Array, perturbed: Array, scale: float) -> Array:
    """Spatio-temporal guidance: away from the perturbed pass; scale 0 is off."""
    return scale * (ops.f32(cond) - ops.f32(perturbed))


def cfg_star_delta(cond: Array, uncond: Array, scale: float) -> Array:
    """Guidance away from the part of the negative estimate that the positive one explains."""
    cond, uncond = ops.f32(cond), ops.f32(uncond)
    return (scale - 1) * (cond - _projection(cond, uncond) * uncond)


def apg_delta(
    cond: Array, uncond: Array, scale: float, eta: float = 1.0, threshold: float = 0.0
) -> Array:
    """Adaptive projected guidance: the part along `cond` is weighted by `eta`.

    `threshold` > 0 caps the norm of the difference over its last three axes.
    """
    cond = ops.f32(cond)
    return (scale - 1) * _projected(cond - ops.f32(uncond), cond, eta, threshold)


@dataclass
class StatefulApg:
    """Projected guidance with momentum; one object per stream and run. Scale 0 is off."""

    scale: float
    eta: float = 1.0
    threshold: float = 5.0
    momentum: float = 0.0
    _average: Array | None = field(default=None, init=False, repr=False)

    def delta(self, cond: Array, uncond: Array) -> Array:
        """What to add to `cond` at this step."""
        cond = ops.f32(cond)
        gap = cond - ops.f32(uncond)
        if self.momentum != 0:
            if self._average is not None:
                gap = self.momentum * self._average + gap
            self._average = gap
        return self.scale * _projected(gap, cond, self.eta, self.threshold)


def _projected(gap: Array, cond: Array, eta: float, threshold: float) -> Array:
    if threshold > 0:
        lead, rest = gap.shape[:-3], math.prod(gap.shape[-3:])
        norm = ops.sqrt((gap * gap).reshape(*lead, rest).sum(axis=-1))
        # 1e-30 only keeps a vanished difference from dividing by zero.
        shrink = ops.clamp(threshold / ops.clamp(norm, low=1e-30), high=1.0)
        gap = gap * shrink.reshape(*lead, 1, 1, 1)
    parallel = _projection(gap, cond) * cond
    return eta * parallel + (gap - parallel)


def _projection(a: Array, b: Array) -> Array:
    """<a, b> / (<b, b> + 1e-8) per sample, shaped to multiply `b`."""
    shape = (a.shape[0], *(1 for _ in a.shape[1:]))
    a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
    return ((a * b).sum(axis=-1) / ((b * b).sum(axis=-1) + 1e-8)).reshape(shape)
