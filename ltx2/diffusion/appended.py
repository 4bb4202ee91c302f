"""Conditioning by extra tokens: keyframes, references, slots for generated keyframes.

Extra tokens go to the end, start as latent 0 and are cut off after sampling. Source: sampling
spec, section 12.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ltx2 import ops
from ltx2.diffusion.conditioning import Conditioning, check_size
from ltx2.diffusion.state import KeyframeSpan, LatentState
from ltx2.errors import UserError
from ltx2.models.latents import VideoScale, pack_video, video_positions
from ltx2.ops import Array


def append(
    state: LatentState,
    tokens: Array,
    positions: np.ndarray,
    strength: float,
    marked: bool = False,
    latent: Array | None = None,
) -> LatentState:
    """The state with `tokens` (B, M, C) as clean content and `positions` (1 or B, A, M, 2).

    The new tokens start from `latent`, 0 unless given. If the state has an attention mask they
    see the target and themselves, but no other appended group.
    """
    batch, count, _ = tokens.shape
    tokens = ops.like(tokens, state.latent)
    start = ops.zeros(tokens.shape, tokens) if latent is None else ops.like(latent, state.latent)
    mask = np.full((batch, count, 1), 1 - strength, np.float32)
    keyframes = state.keyframes_mask
    if keyframes is not None:
        keyframes = np.concatenate([keyframes, np.full_like(mask, marked)], 1)
    attention = state.attention_mask
    if attention is not None:
        attention = _with_group(state, attention, np.ones((batch, count)))
    positions = np.broadcast_to(positions, (batch, *positions.shape[1:])).astype(np.float32)
    return replace(
        state,
        latent=ops.concat([state.latent, start], axis=1),
        clean=ops.concat([state.clean, tokens], axis=1),
        mask=np.concatenate([state.mask, mask], 1),
        positions=np.concatenate([state.positions, positions], 2),
        keyframes_mask=keyframes,
        attention_mask=attention,
    )


def _with_group(state: LatentState, attention: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """`attention` (B, T, T) extended by M tokens that see the target with `strength` (B, M)."""
    batch, tokens, _ = attention.shape
    total, target = tokens + strength.shape[1], state.target_tokens
    wider = np.zeros((batch, total, total), np.float32)
    wider[:, :tokens, :tokens] = attention
    wider[:, tokens:, tokens:] = 1
    wider[:, tokens:, :target] = strength[:, :, None]
    wider[:, :target, tokens:] = strength[:, None, :]
    return wider


@dataclass(frozen=True)
class KeyframeIndex:
    """An image or clip (B, F, H, W, C) shown at pixel frame `frame` as extra tokens.

    `pixel_frames` is what the latent covers, 1 + time scale * (F - 1) unless given.
    """

    latent: Array
    frame: int
    fps: float
    scale: VideoScale
    strength: float = 1.0
    pixel_frames: int | None = None

    def apply(self, state: LatentState) -> LatentState:
        grid = self.latent.shape[1:4]
        check_size(grid[1:], state)
        positions = video_positions(tuple(grid), 1.0, self.scale, causal=self.frame == 0)
        positions[:, 0] += self.frame
        single = self.pixel_frames == 1 if self.pixel_frames is not None else grid[0] == 1
        if single:
            positions[:, 0, :, 1] = positions[:, 0, :, 0] + 1
        positions[:, 0] /= np.float32(self.fps)
        return append(state, pack_video(self.latent), positions, self.strength)


@dataclass(frozen=True)
class Reference:
    """A reference video (B, F, H, W, C), encoded `downscale` times smaller (IC-LoRA).

    `temporal` S: it holds frame 0 and then every S-th frame.
    """

    latent: Array
    fps: float
    scale: VideoScale
    strength: float = 1.0
    downscale: int = 1
    temporal: int = 1

    def apply(self, state: LatentState) -> LatentState:
        grid = tuple(self.latent.shape[1:4])
        positions = video_positions(grid, self.fps / self.temporal, self.scale)
        if self.temporal > 1:
            lead = np.float32((self.temporal - 1) / self.fps)
            positions[:, 0] = np.maximum(positions[:, 0] - lead, 0)
        positions[:, 1:] *= self.downscale
        return append(state, pack_video(self.latent), positions, self.strength)


@dataclass(frozen=True)
class AudioReference:
    """Reference audio tokens (B, T, C) at given positions (1 or B, 1, T, 2), also negative."""

    tokens: Array
    positions: np.ndarray
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        return append(state, self.tokens, self.positions, self.strength)


@dataclass(frozen=True)
class KeyframeSlots:
    """Extra single frames that the model generates at pixel frames `frames` (2.5 and later).

    `frame_count` is the clip's length; `initial` (B, K, H, W, C) starts them from something.
    """

    frames: tuple[int, ...]
    frame_count: int
    fps: float
    scale: VideoScale
    initial: Array | None = None

    def apply(self, state: LatentState) -> LatentState:
        self._check(state)
        assert state.grid is not None
        count, (height, width) = len(self.frames), state.grid[1:]
        positions = video_positions((count, height, width), 1.0, self.scale)
        time = np.repeat(np.asarray(self.frames, np.float32), height * width)
        positions[:, 0] = np.stack([time, time + 1], -1) / np.float32(self.fps)
        shape = (state.latent.shape[0], count * height * width, state.latent.shape[2])
        start = state.latent.shape[1]
        latent = None if self.initial is None else pack_video(self.initial)
        blank = ops.zeros(shape, state.latent)
        state = append(state, blank, positions, strength=0.0, marked=True, latent=latent)
        return replace(state, slots=KeyframeSpan(start, count))

    def _check(self, state: LatentState) -> None:
        if state.slots is not None:
            raise UserError("keyframe slots may be given once per run; list all frames together")
        shown, ordered = list(self.frames), sorted(set(self.frames))
        if not ordered or shown != ordered or not 0 <= ordered[0] <= ordered[-1] < self.frame_count:
            raise UserError(
                f"keyframe slots {shown} must strictly increase within 0 to {self.frame_count - 1}"
            )
        if self.initial is not None:
            check_size(tuple(self.initial.shape[2:4]), state)


@dataclass(frozen=True)
class AttentionStrength:
    """How strongly the tokens that `item` appends and the target see each other.

    `strength` in [0, 1] for all of them or (B, M) per token. They do not see groups appended
    before or after.
    """

    item: Conditioning
    strength: float | np.ndarray

    def apply(self, state: LatentState) -> LatentState:
        low, high = float(np.min(self.strength)), float(np.max(self.strength))
        if not 0 <= low <= high <= 1:
            raise UserError(f"attention strength {low:g} to {high:g} must lie within 0 and 1")
        batch, tokens, _ = state.latent.shape
        before = state.attention_mask
        if before is None:
            before = np.ones((batch, tokens, tokens), np.float32)
        after = self.item.apply(replace(state, attention_mask=None))
        added = after.latent.shape[1] - tokens
        if added == 0:
            raise UserError("attention strength needs a conditioning item that appends tokens")
        strength = np.broadcast_to(np.asarray(self.strength, np.float32), (batch, added))
        return replace(after, attention_mask=_with_group(state, before, strength))
