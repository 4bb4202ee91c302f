"""Samplers that call the model once per step, and the table of all samplers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from ltx2.diffusion.loop import Denoiser, Sampler, States, Step, drawn, each, estimate, moved
from ltx2.diffusion.noise import NoiseSource, TorchNoise
from ltx2.diffusion.res2s import Res2s
from ltx2.diffusion.state import LatentState, blend
from ltx2.diffusion.steps import (
    ancestral_step,
    cfg_pp_step,
    euler_step,
    to_denoised,
    to_velocity,
)
from ltx2.errors import UserError, nearest
from ltx2.ops import Array

# (state, blended x0, unconditional x0 or None, sigma, sigma_next, stream 0|1) -> latent
Update = Callable[[LatentState, Array, Any, float, float, int], Array]


def _single_pass(
    update: Update, states: States, sigmas: Sequence[float], denoiser: Denoiser
) -> Iterator[Step]:
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        blended, uncond = estimate(denoiser, states, sigma, index)

        def advance(
            state: LatentState, x0: Array, free: Any, stream: int, s=sigma, n=sigma_next
        ) -> LatentState:
            return moved(state, update(state, x0, free, s, n, stream))

        states = each(advance, states, blended, uncond, (0, 1))
        yield Step(index, sigma, sigma_next, *states)


class _OneCallPerStep:
    def model_calls(self, sigmas: Sequence[float]) -> int:
        """Denoiser calls that a run over `sigmas` makes."""
        return len(sigmas) - 1


@dataclass
class Euler(_OneCallPerStep):
    """First order, deterministic: the default of all pipelines but the HQ one."""

    def steps(self, states: States, sigmas: Sequence[float], denoiser: Denoiser) -> Iterator[Step]:
        def update(state, x0, _uncond, sigma, sigma_next, _stream):
            return euler_step(state.latent, x0, sigma, sigma_next)

        return _single_pass(update, states, sigmas, denoiser)


@dataclass
class EulerAncestral(_OneCallPerStep):
    """Euler that replaces part of the noise at every step; `eta` 0 draws nothing.

    `noise` is the sampler's own stream: video before audio at every step but the last.
    """

    noise: NoiseSource
    eta: float = 1.0
    s_noise: float = 1.0

    def steps(self, states: States, sigmas: Sequence[float], denoiser: Denoiser) -> Iterator[Step]:
        def update(state, x0, _uncond, sigma, sigma_next, _stream):
            if sigma_next == 0 or self.eta == 0:
                return ancestral_step(state.latent, x0, sigma, sigma_next, eta=self.eta)
            noise = drawn(self.noise.normal(state.latent.shape), state)
            step = ancestral_step(
                state.latent, x0, sigma, sigma_next, noise, self.eta, self.s_noise
            )
            return blend(step, state)

        return _single_pass(update, states, sigmas, denoiser)


@dataclass
class CfgPlusPlus(_OneCallPerStep):
    """CFG++: needs a denoiser that returns the unconditional estimates."""

    noise: NoiseSource
    eta: float = 1.0
    s_noise: float = 1.0

    def steps(self, states: States, sigmas: Sequence[float], denoiser: Denoiser) -> Iterator[Step]:
        def update(state, x0, uncond, sigma, sigma_next, _stream):
            if uncond is None:
                raise UserError("sampler=cfg_pp needs guidance with cfg other than 1")
            if sigma_next == 0:
                return x0
            noise = None
            if self.eta > 0:
                noise = drawn(self.noise.normal(state.latent.shape), state)
            step = cfg_pp_step(
                state.latent, x0, uncond, sigma, sigma_next, noise, self.eta, self.s_noise
            )
            return blend(step, state)

        return _single_pass(update, states, sigmas, denoiser)


@dataclass
class GradientEstimation(_OneCallPerStep):
    """Euler along a velocity extrapolated from the last two; suits 20 to 30 steps."""

    gamma: float = 2.0

    def steps(self, states: States, sigmas: Sequence[float], denoiser: Denoiser) -> Iterator[Step]:
        previous: dict[int, Array] = {}

        def update(state, x0, _uncond, sigma, sigma_next, stream):
            if sigma_next == 0:
                return x0
            velocity = to_velocity(state.latent, x0, sigma)
            before = previous.get(stream, velocity)
            previous[stream] = velocity
            corrected = self.gamma * (velocity - before) + before
            x0 = to_denoised(state.latent, corrected, sigma)
            return euler_step(state.latent, x0, sigma, sigma_next)

        return _single_pass(update, states, sigmas, denoiser)


SAMPLERS: dict[str, type] = {
    "euler": Euler,
    "euler_ancestral": EulerAncestral,
    "gradient_estimation": GradientEstimation,
    "cfg_pp": CfgPlusPlus,
    "res_2s": Res2s,
}
# The reference's offset between a run's seed and its sampler's own noise stream.
NOISE_SEED_OFFSET = 10000
# Step and substep stream of the reference's second-order sampler, whatever the run's seed.
RES_2S_SEEDS = (-1, 9999)


def make_sampler(
    name: str, seed: int, options: Mapping[str, Any] | None = None, noise_seed: int | None = None
) -> Sampler:
    """A sampler for one run, with its own noise streams on the host.

    `seed` is the run's. `noise_seed` replaces the seed that a sampler derives from it, or for
    res_2s the fixed ones. UserError for an unknown name or option.
    """
    if name not in SAMPLERS:
        known = ", ".join(SAMPLERS)
        raise UserError(f"sampler '{name}' is not one of {known}{nearest(name, SAMPLERS)}")
    streams = _noise_streams(name, seed, noise_seed)
    if noise_seed is not None and not streams:
        raise UserError(f"noise_seed={noise_seed} has no effect: sampler '{name}' draws no noise")
    allowed = [f.name for f in fields(SAMPLERS[name]) if f.name not in streams]
    for option in options or {}:
        if option not in allowed:
            known = ", ".join(allowed) or "none"
            raise UserError(f"sampler '{name}' has no option '{option}'; its options: {known}")
    return SAMPLERS[name](**(options or {}), **streams)


def _noise_streams(name: str, seed: int, noise_seed: int | None) -> dict[str, NoiseSource]:
    if name in ("euler", "gradient_estimation"):
        return {}
    if name == "res_2s":
        step, substep = (noise_seed, noise_seed + 1) if noise_seed is not None else RES_2S_SEEDS
        return {"step_noise": TorchNoise(step), "substep_noise": TorchNoise(substep)}
    return {"noise": TorchNoise(seed + NOISE_SEED_OFFSET if noise_seed is None else noise_seed)}
