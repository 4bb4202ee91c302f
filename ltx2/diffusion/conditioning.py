"""Conditioning that acts on the tokens to be generated: images, masks, time regions.

An item is applied to a state before noise; strength 1 keeps the given content, 0 ignores it.
Source: sampling spec, section 12. Items that add tokens are in `ltx2.diffusion.appended`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ltx2 import ops
from ltx2.diffusion.state import LatentState
from ltx2.errors import UserError
from ltx2.models.latents import pack_video
from ltx2.ops import Array


class Conditioning(Protocol):
    """One conditioning item."""

    def apply(self, state: LatentState) -> LatentState: ...


def condition(state: LatentState, items: Iterable[Conditioning]) -> LatentState:
    """The state with `items` applied in order."""
    for item in items:
        state = item.apply(state)
    return state


@dataclass(frozen=True)
class LatentIndex:
    """An image or clip, (B, F, H, W, C), written over the latent frames from `index` on."""

    latent: Array
    index: int = 0
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        assert state.grid is not None, "only a video has latent frames"
        frames, height, width = self.latent.shape[1:4]
        check_size((height, width), state)
        if not 0 <= self.index <= state.grid[0] - frames:
            raise UserError(
                f"a conditioning clip of {frames} latent frames at latent frame {self.index} does "
                f"not fit into {state.grid[0]}; use 0 to {state.grid[0] - frames}"
            )
        start = self.index * height * width
        stop = start + frames * height * width
        tokens = ops.like(pack_video(self.latent), state.clean)
        clean = ops.concat([state.clean[:, :start], tokens, state.clean[:, stop:]], axis=1)
        mask = state.mask.copy()
        mask[:, start:stop] = 1 - self.strength
        return replace(state, clean=clean, mask=mask)


@dataclass(frozen=True)
class AudioIndex:
    """Sound tokens (B, T, C) written over the audio latent frames from `index` on."""

    tokens: Array
    index: int = 0
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        start, stop = self.index, self.index + self.tokens.shape[1]
        if not 0 <= start <= stop <= state.target_tokens:
            raise UserError(
                f"sound of {stop - start} latent frames at {start} does not fit into"
                f" {state.target_tokens}"
            )
        tokens = ops.like(self.tokens, state.clean)
        clean = ops.concat([state.clean[:, :start], tokens, state.clean[:, stop:]], axis=1)
        mask = state.mask.copy()
        mask[:, start:stop] = 1 - self.strength
        return replace(state, clean=clean, mask=mask)


@dataclass(frozen=True)
class MaskedLatent:
    """A whole clip (B, F, H, W, C) kept where `mask` (B or 1, F, H, W) is 1 (inpainting)."""

    latent: Array
    mask: np.ndarray
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        if state.grid is None or tuple(self.latent.shape[1:4]) != tuple(state.grid):
            raise UserError(
                f"the latent to keep is {tuple(self.latent.shape[1:4])} (frames, height, width), "
                f"the target {state.grid}; give a clip of the target's size"
            )
        target = state.target_tokens
        kept = np.broadcast_to(
            self.mask.reshape(self.mask.shape[0], -1, 1), (state.mask.shape[0], target, 1)
        ).astype(np.float32)
        clean, amount = state.clean[:, :target], ops.asarray(kept, state.clean)
        mixed = ops.f32(clean) * (1 - amount) + ops.f32(pack_video(self.latent)) * amount
        mask = state.mask.copy()
        mask[:, :target] = mask[:, :target] * (1 - kept) + (1 - self.strength) * kept
        joined = ops.concat([ops.like(mixed, clean), state.clean[:, target:]], axis=1)
        return replace(state, clean=joined, mask=mask)


@dataclass(frozen=True)
class TimeRegion:
    """Only tokens whose time overlaps [start_seconds, end_seconds) are generated (retake)."""

    start_seconds: float
    end_seconds: float

    def apply(self, state: LatentState) -> LatentState:
        if not self.start_seconds < self.end_seconds:
            raise UserError(
                f"time region [{self.start_seconds:g}, {self.end_seconds:g}) s is empty; "
                "the end must be after the start"
            )
        target = state.target_tokens
        start, end = state.positions[:, 0, :target, 0], state.positions[:, 0, :target, 1]
        mask = state.mask.copy()
        mask[:, :target, 0] = (end > self.start_seconds) & (start < self.end_seconds)
        return replace(state, mask=mask)


def check_size(size: tuple[int, int], state: LatentState) -> None:
    """UserError unless latent (height, width) `size` is that of the video being generated."""
    assert state.grid is not None, "only a video has a height and width"
    if tuple(size) != tuple(state.grid[1:]):
        raise UserError(
            f"the conditioning latent is {size[0]} x {size[1]} (height x width), the video "
            f"{state.grid[1]} x {state.grid[2]}; resize the image or clip to the video's size"
        )
