"""Latent grids, token order and token positions (spec transformer.md section 6).

Everything here is layout: shapes and positions are Python integers and NumPy float32, packing
works on arrays of any backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange

from ltx2.ops import Array

Grid = tuple[int, int, int]  # latent frames, height, width


@dataclass(frozen=True)
class VideoScale:
    """Video frames and pixels per latent frame and latent pixel; given by the VAE's block list."""

    time: int = 8
    space: int = 32


@dataclass(frozen=True)
class AudioTiming:
    """What one audio latent frame covers: `downsample` spectrogram frames of `hop` samples."""

    sample_rate: int = 16000
    hop: int = 160
    downsample: int = 4

    @property
    def per_second(self) -> float:
        """Latent frames per second."""
        return self.sample_rate / self.hop / self.downsample


def video_latent_shape(frames: int, height: int, width: int, scale: VideoScale) -> Grid:
    """(F, H, W) of a clip in frames and pixels; the first latent frame covers one frame."""
    return (frames - 1) // scale.time + 1, height // scale.space, width // scale.space


def audio_latent_length(frames: int, fps: float, per_second: float = 25.0) -> int:
    """Audio latent frames for `frames` video frames; ties round to even."""
    return round(frames / fps * per_second)


def video_positions(grid: Grid, fps: float, scale: VideoScale, causal: bool = True) -> np.ndarray:
    """(1, 3, F*H*W, 2) float32: [start, end) in seconds, pixels, pixels per token.

    With `causal` the first latent frame covers one video frame, the others `scale.time` each.
    """
    steps = (scale.time, scale.space, scale.space)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid), indexing="ij")).reshape(3, -1)
    bounds = np.stack([index, index + 1], -1) * np.reshape(steps, (3, 1, 1))  # (3, T, 2)
    if causal:
        bounds[0] = np.maximum(bounds[0] + 1 - scale.time, 0)
    positions = bounds.astype(np.float32)
    # Integers first, one float32 division: angles reach 10^4 rad and magnify any other rounding.
    positions[0] = positions[0] / np.float32(fps)
    return positions[None]


def audio_positions(
    count: int, timing: AudioTiming = AudioTiming(), causal: bool = True
) -> np.ndarray:
    """(1, 1, count, 2) float32: [start, end) in seconds of each audio latent frame."""
    start = np.arange(count + 1) * timing.downsample
    if causal:
        start = np.maximum(start + 1 - timing.downsample, 0)
    seconds = start.astype(np.float32) * np.float32(timing.hop) / np.float32(timing.sample_rate)
    return np.stack([seconds[:-1], seconds[1:]], -1)[None, None]


def first_frame_mask(grid: Grid) -> np.ndarray:
    """(1, F*H*W) float32, 1 on the tokens of the first latent frame: the keyframe marker."""
    mask = np.zeros((1, int(np.prod(grid))), np.float32)
    mask[:, : grid[1] * grid[2]] = 1
    return mask


def pack_video(latent: Array, patch: int = 1) -> Array:
    """(B, F, H, W, C) -> (B, F*H*W, C): time slowest, width fastest.

    Patches of `patch` x `patch` latent pixels make one token, channels slowest in it.
    """
    if patch == 1:
        return latent.reshape(latent.shape[0], -1, latent.shape[-1])
    pattern = "b f (h p) (w q) c -> b (f h w) (c p q)"
    return rearrange(latent, pattern, p=patch, q=patch)


def unpack_video(tokens: Array, grid: Sequence[int], patch: int = 1) -> Array:
    """(B, F*H*W, C) -> (B, F, H, W, C) for `grid` (F, H, W) in latent pixels."""
    frames, height, width = grid
    if patch == 1:
        return tokens.reshape(tokens.shape[0], frames, height, width, tokens.shape[-1])
    sizes = {"f": frames, "h": height // patch, "w": width // patch, "p": patch, "q": patch}
    return rearrange(tokens, "b (f h w) (c p q) -> b f (h p) (w q) c", **sizes)


def pack_audio(latent: Array) -> Array:
    """(B, T, M, C) -> (B, T, C*M): channel slowest, mel bin fastest."""
    return latent.swapaxes(2, 3).reshape(*latent.shape[:2], -1)


def unpack_audio(tokens: Array, channels: int) -> Array:
    """(B, T, C*M) -> (B, T, M, C)."""
    return tokens.reshape(*tokens.shape[:2], channels, -1).swapaxes(2, 3)


def patchify_pixels(pixels: Array, patch: int = 4) -> Array:
    """(B, F, H, W, C) -> (B, F, H/p, W/p, C*p*p): channel, then column, then row of the patch."""
    pattern = "b f (h r) (w q) c -> b f h w (c q r)"
    return rearrange(pixels, pattern, r=patch, q=patch)


def unpatchify_pixels(patches: Array, patch: int = 4) -> Array:
    """(B, F, H, W, C*p*p) -> (B, F, H*p, W*p, C); the inverse of `patchify_pixels`."""
    pattern = "b f h w (c q r) -> b f (h r) (w q) c"
    return rearrange(patches, pattern, r=patch, q=patch)
