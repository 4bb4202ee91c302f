"""res_2s: second-order exponential integrator with noise injection, two model calls per step.

The reference sums in float64; here every sum has at most three terms whose weights come from
float64, so float32 arrays stay within 1e-6 of it. Source: sampling spec, section 9.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ltx2 import ops
from ltx2.diffusion.loop import Denoiser, States, Step, each, estimate, moved
from ltx2.diffusion.noise import NoiseSource, standardised
from ltx2.diffusion.state import LatentState, blend
from ltx2.diffusion.steps import res2s_coefficients, sde_step
from ltx2.ops import Array

# Inserted before a final 0: the log step to 0 would be infinite.
SIGMA_END = 0.0011
# The midpoint's share of fresh noise is fixed; only the full step follows `eta`.
SUBSTEP_ETA = 0.5
# Refinement is for steps that are short on the log scale and not close to the end.
REFINE_BELOW_STEP = 0.5
REFINE_ABOVE_SIGMA = 0.03


@dataclass
class Res2s:
    """Draws per step: substep noise video, audio; then step noise video, audio.

    `refine` moves the anchor to agree with the midpoint. `masked_sigma` gives partly kept tokens
    their own noise level instead of blending them after the noise.
    """

    step_noise: NoiseSource
    substep_noise: NoiseSource
    eta: float = 0.5
    refine: bool = True
    masked_sigma: bool = False

    def model_calls(self, sigmas: Sequence[float]) -> int:
        """Two per interval, one more for a list that ends in 0."""
        return 2 * (len(sigmas) - 1) + (sigmas[-1] == 0)

    def steps(self, states: States, sigmas: Sequence[float], denoiser: Denoiser) -> Iterator[Step]:
        """One step more than intervals when the list ends in 0: from 0.0011 to the estimate."""
        ends_clean = sigmas[-1] == 0
        levels = [*sigmas[:-1], SIGMA_END] if ends_clean else list(sigmas)
        for index, (sigma, sigma_next) in enumerate(pairwise(levels)):
            states = self._step(states, sigma, sigma_next, denoiser, index)
            yield Step(index, sigma, sigma_next, *states)
        if ends_clean:
            last = len(levels) - 1
            blended, _ = estimate(denoiser, states, SIGMA_END, last)
            yield Step(last, SIGMA_END, 0.0, *each(moved, states, blended))

    def _step(
        self, states: States, sigma: float, sigma_next: float, denoiser: Denoiser, index: int
    ) -> States:
        h = math.log(sigma / sigma_next)
        a21, b1, b2 = res2s_coefficients(h)
        middle = math.sqrt(sigma * sigma_next)

        anchors = each(lambda s: ops.f32(s.latent), states)
        first = each(ops.f32, estimate(denoiser, states, sigma, index)[0])
        halfway = each(lambda x, d: x + (h * a21) * (d - x), anchors, first)
        halfway = each(
            lambda s, x, y: self._inject(s, x, y, (sigma, middle), substep=True),
            states, anchors, halfway,
        )  # fmt: skip
        if self.refine and h < REFINE_BELOW_STEP and sigma > REFINE_ABOVE_SIGMA:
            anchors = each(lambda y, d: _refined(y, d, h * a21), halfway, first)
        middles = each(moved, states, halfway)
        second = each(ops.f32, estimate(denoiser, middles, middle, index)[0])
        target = each(
            lambda x, d1, d2: x + h * (b1 * (d1 - x) + b2 * (d2 - x)), anchors, first, second
        )
        ends = each(
            lambda s, x, z: self._inject(s, x, z, (sigma, sigma_next), substep=False),
            states, anchors, target,
        )  # fmt: skip
        return each(moved, states, ends)

    def _inject(
        self,
        state: LatentState,
        sample: Array,
        target: Array,
        sigmas: tuple[float, float],
        substep: bool,
    ) -> Array:
        source = self.substep_noise if substep else self.step_noise
        eta = SUBSTEP_ETA if substep else self.eta
        noise = ops.asarray(standardised(source.normal(sample.shape, "float64")), sample)
        if self.masked_sigma:
            mask = state.mask.astype(np.float64)
            return sde_step(sample, target, sigmas[0] * mask, sigmas[1] * mask, noise, eta)
        return blend(sde_step(sample, target, *sigmas, noise, eta), state)


def _refined(halfway: Array, denoised: Array, weight: float) -> Array:
    """Where `anchor <- halfway - weight * (denoised - anchor)` settles.

    The reference repeats that line 100 times; each pass shrinks the distance to this point by
    `weight`, at most 0.23, so the hundred passes end here.
    """
    return (halfway - weight * denoised) * (1 / (1 - weight))
