"""Noise of cases whose draws follow from a small block by a formula, instead of being stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class DefinedNoise:
    """Draws from the periodic int8 `block` (3, f, h, w), in units of 1 / 32.

    Pictures (B, 3, F, H, W) repeat the block, each draw one frame later; other shapes take every
    seventh value of the flattened block, each draw 13 values later.
    """

    def __init__(self, block: np.ndarray) -> None:
        self._block = block.astype(np.float32) / 32
        self._drawn = 0

    def normal(self, shape: Sequence[int], dtype: str = "float32") -> np.ndarray:
        """The next draw of `shape`."""
        draw = self._picture(shape) if len(shape) == 5 else self._tokens(shape)
        self._drawn += 1
        return draw.astype(dtype)

    def _picture(self, shape: Sequence[int]) -> np.ndarray:
        batch, _, frames, height, width = shape
        _, depth, rows, columns = self._block.shape
        volume = self._block[:, (np.arange(frames) + self._drawn) % depth]
        volume = volume[:, :, np.arange(height) % rows][..., np.arange(width) % columns]
        return np.repeat(volume[None], batch, 0)

    def _tokens(self, shape: Sequence[int]) -> np.ndarray:
        values = self._block.reshape(-1)
        index = 7 * np.arange(np.prod(shape)) + 13 * self._drawn
        return values[index % len(values)].reshape(shape)
