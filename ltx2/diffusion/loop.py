"""The sampling loop's parts that all samplers share: what a denoiser is, and one step's record.

A sampler is a generator: it yields after every step, so that the caller decides when to wait for
the device, log, preview or stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ltx2 import ops
from ltx2.diffusion.state import LatentState, blend
from ltx2.ops import Array

States = tuple[LatentState | None, LatentState | None]  # video, audio


@dataclass(frozen=True)
class Denoised:
    """x0 estimates (B, T, C) of both streams, not yet blended; unconditional ones for CFG++."""

    video: Array | None
    audio: Array | None
    uncond_video: Array | None = None
    uncond_audio: Array | None = None


class Denoiser(Protocol):
    """The model with its prompt and guidance."""

    def __call__(
        self, video: LatentState | None, audio: LatentState | None, sigma: float, step: int
    ) -> Denoised: ...


@dataclass(frozen=True)
class Step:
    """The streams after step `index`, which went from `sigma` to `sigma_next`."""

    index: int
    sigma: float
    sigma_next: float
    video: LatentState | None
    audio: LatentState | None


class Sampler(Protocol):
    """How latents move from one noise level to the next. One object serves one run."""

    def steps(
        self, states: States, sigmas: Sequence[float], denoiser: Denoiser
    ) -> Iterator[Step]: ...

    def model_calls(self, sigmas: Sequence[float]) -> int:
        """Denoiser calls that a run over `sigmas` makes."""
        ...


def denoise(
    sampler: Sampler, states: States, sigmas: Sequence[float], denoiser: Denoiser
) -> Iterator[Step]:
    """Run `sampler` over `sigmas` (decreasing), yielding after every step.

    `states` are (video, audio), already noised to `sigmas[0]`; either may be None.
    """
    assert any(s is not None for s in states), "nothing to denoise"
    yield from sampler.steps(states, tuple(float(s) for s in sigmas), denoiser)


def each(function: Callable[..., Any], *pairs: Sequence[Any]) -> tuple[Any, Any]:
    """`function` over the video and the audio part of `pairs`, None for an absent stream."""
    video, audio = (
        None if parts[0] is None else function(*parts) for parts in zip(*pairs, strict=True)
    )
    return video, audio


def estimate(
    denoiser: Denoiser, states: States, sigma: float, step: int
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Blended x0 estimates of (video, audio), and the unconditional ones as they came."""
    result = denoiser(*states, sigma, step)
    blended = each(lambda s, d: blend(d, s), states, (result.video, result.audio))
    return blended, (result.uncond_video, result.uncond_audio)


def moved(state: LatentState, latent: Array) -> LatentState:
    """The stream with another latent, rounded to the state dtype."""
    return replace(state, latent=ops.like(latent, state.latent))


def drawn(noise: np.ndarray, state: LatentState) -> Array:
    """Host noise on the device, rounded to the state dtype as a draw in that dtype would be."""
    return ops.like(ops.asarray(noise, state.latent), state.latent)
