"""The tokens of one stream while they are denoised, and what every sampler does with them.

Latents are backend arrays in the run's state dtype; masks and positions are host tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ltx2 import ops
from ltx2.ops import Array


@dataclass(frozen=True)
class LatentState:
    """One stream: `target_tokens` tokens to generate, then appended conditioning tokens."""

    latent: Array  # (B, T, C) at the current sigma
    clean: Array  # (B, T, C) what tokens with mask < 1 are held to
    mask: np.ndarray  # (B, T, 1) float32; 1 generate, 0 keep the clean token
    positions: np.ndarray  # (B, A, T, 2) float32 [start, end); seconds, pixels, pixels
    target_tokens: int
    attention_mask: np.ndarray | None = None  # (B, T, T) float32, row = query
    keyframes_mask: np.ndarray | None = None  # (B, T, 1) float32, video only
    frozen: bool = False
    grid: tuple[int, int, int] | None = None  # latent (F, H, W) of the target, video only
    slots: KeyframeSpan | None = None

    def sigmas(self, sigma: float) -> np.ndarray:
        """(B,) float32: the noise level the model is told; 0 for a frozen stream."""
        return np.full(self.latent.shape[0], 0.0 if self.frozen else sigma, np.float32)


@dataclass(frozen=True)
class KeyframeSpan:
    """Where generated keyframes lie among the tokens: `count` frames from token `start`."""

    start: int
    count: int


def initial_state(
    latent: Array, positions: np.ndarray, grid: tuple[int, int, int] | None = None
) -> LatentState:
    """A stream to be generated whole, before conditioning and noise.

    `latent` (B, T, C): zeros, or where this stage starts; `positions` (1 or B, A, T, 2).
    A video gives its latent `grid`; its first frame's tokens are marked as keyframes.
    """
    batch, tokens, _ = latent.shape
    if grid is not None and grid[0] * grid[1] * grid[2] != tokens:
        raise ValueError(f"grid {grid} does not hold {tokens} tokens")
    keyframes = None
    if grid is not None:
        keyframes = np.zeros((batch, tokens, 1), np.float32)
        keyframes[:, : grid[1] * grid[2]] = 1
    return LatentState(
        latent=latent,
        clean=latent,
        mask=np.ones((batch, tokens, 1), np.float32),
        positions=np.broadcast_to(positions, (batch, *positions.shape[1:])),
        target_tokens=tokens,
        keyframes_mask=keyframes,
        grid=grid,
    )


def freeze(state: LatentState) -> LatentState:
    """The stream held at its clean tokens, mask and sigma 0 in every pass.

    The last thing to do to a state: after conditioning and after its noise was drawn.
    """
    return replace(state, latent=state.clean, mask=np.zeros_like(state.mask), frozen=True)


def noised(state: LatentState, noise: np.ndarray, scale: float) -> LatentState:
    """The stream at noise level `scale`, tokens with mask < 1 pulled to their clean value.

    `noise` has the shape of the latent and is rounded to its dtype first.
    """
    latent, clean = ops.f32(state.latent), ops.f32(state.clean)
    drawn = ops.f32(ops.like(ops.asarray(noise, latent), state.latent))
    mixed = latent + scale * (drawn - latent)
    held = clean + ops.asarray(state.mask, latent) * (mixed - clean)
    return replace(state, latent=ops.like(held, state.latent))


def blend(denoised: Array, state: LatentState) -> Array:
    """An estimate (B, T, C) with the kept tokens put back; the dtype of `denoised`."""
    if (state.mask == 1).all():
        return denoised
    mask = ops.asarray(state.mask, denoised)
    mixed = ops.f32(denoised) * mask + ops.f32(state.clean) * (1 - mask)
    return ops.like(mixed, denoised)


def timesteps(state: LatentState, sigma: float | np.ndarray) -> np.ndarray:
    """(B, T) float32: the noise level of each token, mask * sigma; one sigma or (B,) of them."""
    return state.mask[..., 0] * np.asarray(sigma, np.float32).reshape(-1, 1)


def cleared(state: LatentState) -> Array:
    """(B, target_tokens, C): the latent without appended tokens."""
    return state.latent[:, : state.target_tokens]


def generated_keyframes(state: LatentState) -> Array:
    """(B, K, H, W, C): the generated keyframe slots; each decodes as a clip of one frame."""
    assert state.slots is not None and state.grid is not None, "the stream has no keyframe slots"
    _, height, width = state.grid
    start, count = state.slots.start, state.slots.count
    tokens = state.latent[:, start : start + count * height * width]
    return tokens.reshape(tokens.shape[0], count, height, width, tokens.shape[-1])
