"""Which frames and which parts of them conditioning uses; host arrays only.

Source: sampling spec, sections 12 and 14.
"""

from __future__ import annotations

import numpy as np

from ltx2.errors import UserError


def spaced_keyframes(count: int, frames: int) -> list[int]:
    """`count` pixel frames that divide a clip of `frames` evenly, its ends left out."""
    return [round(float(f)) for f in np.linspace(0, frames - 1, count + 2)[1:-1]]


def subsampled(frames: np.ndarray, factor: int, axis: int) -> np.ndarray:
    """Frame 0, then frames 1, 1 + factor, ... along `axis`; factor 1 keeps all."""
    count = frames.shape[axis]
    return frames.take([0, *range(1, count, factor)], axis=axis)


def token_strengths(mask: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """A pixel mask (B, F, H, W) in [0, 1] -> (B, f*h*w): its mean over each latent token.

    The first latent frame covers the first pixel frame, each other one an equal share.
    """
    frames, height, width = grid
    area = _area(_area(np.asarray(mask, np.float64), height, 2), width, 3)
    first, rest = area[:, :1], area[:, 1:]
    if frames > 1:
        if rest.shape[1] % (frames - 1):
            raise UserError(
                f"{mask.shape[1]} mask frames do not fit {frames} latent ones; give 1 + 8k"
            )
        rest = rest.reshape(rest.shape[0], frames - 1, -1, height, width).mean(axis=2)
    tokens = np.concatenate([first, rest[:, : frames - 1]], 1)
    return tokens.reshape(tokens.shape[0], -1).astype(np.float32)


def _area(x: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Means over `size` equal, where needed overlapping, spans of `axis`."""
    length = x.shape[axis]
    spans = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
    means = [x.take(range(a, b), axis=axis).mean(axis=axis) for a, b in spans]
    return np.stack(means, axis)
