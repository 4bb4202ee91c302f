"""Pixel arithmetic between 8-bit pictures, the VAE's range and the encoder's planes.

Everything is float32 NumPy. Conversions to 8 bits truncate, as the reference does.
"""

from __future__ import annotations

import math

import numpy as np

from ltx2.errors import UserError

# BT.709, rows Y, Cb, Cr. Source: pipelines spec 3.2 (four decimals are what the reference has).
_BT709 = np.array(
    [[0.2126, 0.7152, 0.0722], [-0.1146, -0.3854, 0.5], [0.5, -0.4542, -0.0458]],
    np.float32,
)
_LIMITED_SCALE = np.array([219, 224, 224], np.float32)
# White must give 235: float32 sums fall short of an integer by up to 2e-5, truncation needs slack.
_ROUNDING_SLACK = np.float32(1e-3)


def cover_resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale frames (F, H, W, 3) to cover the target, crop the centre: float32, same value range.

    Bilinear without antialiasing or corner alignment, sizes rounded up, crop offsets down.
    Source: pipelines spec 1.8.
    """
    source_height, source_width = frames.shape[1:3]
    scale = max(height / source_height, width / source_width)
    rows = _taps(source_height, math.ceil(source_height * scale), height)
    columns = _taps(source_width, math.ceil(source_width * scale), width)
    return _bilinear(frames, rows, columns)


def fit_reflect(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Shrink frames (F, H, W, 3) only if they do not fit, then pad right and bottom: float32.

    Pads by reflection, by repeating the edge where a pad exceeds what can be reflected.
    Source: pipelines spec 3.1.
    """
    source_height, source_width = frames.shape[1:3]
    if source_height > height or source_width > width:
        scale = min(height / source_height, width / source_width)
        source_height = max(1, round(source_height * scale))
        source_width = max(1, round(source_width * scale))
    rows = _taps(frames.shape[1], source_height, source_height)
    columns = _taps(frames.shape[2], source_width, source_width)
    bottom, right = height - source_height, width - source_width
    reflects = bottom < source_height and right < source_width
    resized = _bilinear(frames, rows, columns)
    pads = (0, 0), (0, bottom), (0, right), (0, 0)
    return np.pad(resized, pads, mode="reflect" if reflects else "edge")


def to_unit_range(pixels: np.ndarray) -> np.ndarray:
    """0..255 -> float32 -1..1."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def rgb24(frames: np.ndarray) -> np.ndarray:
    """Frames in [0, 1] -> uint8 of the same shape, truncated; uint8 passes unchanged."""
    if frames.dtype == np.uint8:
        return frames
    scaled = frames.astype(np.float32) * np.float32(255)
    return np.clip(scaled, 0, 255).astype(np.uint8)


def yuv420p(frames: np.ndarray) -> np.ndarray:
    """RGB (F, H, W, 3), float in [0, 1] or uint8 -> planes (F, H * 3/2, W) uint8.

    BT.709, limited range, chroma the mean of 2x2 pixels. The rows of each picture are the luma
    plane, then Cb, then Cr. Source: pipelines spec 3.2.
    """
    count, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise UserError(
            f"frame size {height}x{width} is odd, 4:2:0 video needs even sizes; "
            f"use {height - height % 2}x{width - width % 2}"
        )
    weights = _BT709 * _LIMITED_SCALE[:, None]  # one row per plane
    planes = np.empty((count, height * 3 // 2, width), np.uint8)
    for picture, plane in zip(frames, planes, strict=True):
        rgb = picture.astype(np.float32)
        if frames.dtype == np.uint8:
            rgb /= np.float32(255)
        plane[:height] = _truncate(_weighted(rgb, weights[0]), 16)
        pairs = rgb[0::2] + rgb[1::2]
        quads = (pairs[:, 0::2] + pairs[:, 1::2]) * np.float32(0.25)
        chroma = plane[height:].reshape(2, height // 2, width // 2)
        chroma[0] = _truncate(_weighted(quads, weights[1]), 128)
        chroma[1] = _truncate(_weighted(quads, weights[2]), 128)
    return planes


def _weighted(rgb: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sum of the channels of (H, W, 3), always in the same order.

    A matrix product rounds by the alignment of its memory, and truncation makes a level of it.
    """
    red, green, blue = (rgb[..., i] * weights[i] for i in range(3))
    red += green
    red += blue
    return red


def _truncate(values: np.ndarray, offset: int) -> np.ndarray:
    values += np.float32(offset) + _ROUNDING_SLACK
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


_Taps = tuple[np.ndarray, np.ndarray, np.ndarray]


def _taps(source: int, resized: int, target: int) -> _Taps:
    """Lower index, upper index and upper weight of the `target` central samples of `resized`."""
    offset = (resized - target) // 2
    position = np.arange(offset, offset + target, dtype=np.float32) + np.float32(0.5)
    position = np.maximum(position * np.float32(source / resized) - np.float32(0.5), 0)
    lower = np.minimum(position.astype(np.int64), source - 1)
    return lower, np.minimum(lower + 1, source - 1), position - lower.astype(np.float32)


def _bilinear(frames: np.ndarray, rows: _Taps, columns: _Taps) -> np.ndarray:
    """Sample (F, H, W, 3) at the taps, frame by frame to keep temporaries small."""
    top, bottom, below = rows
    left, right, beside = columns
    below, beside = below[:, None, None], beside[:, None]
    out = np.empty((len(frames), len(top), len(left), frames.shape[3]), np.float32)
    for frame, result in zip(frames, out, strict=True):
        upper, lower = frame[top].astype(np.float32), frame[bottom].astype(np.float32)
        mixed = upper + below * (lower - upper)
        result[:] = mixed[:, left] + beside * (mixed[:, right] - mixed[:, left])
    return out
