"""A decoded frame and what several metrics derive from it, computed once."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ltx2.media.pixels import rgb24

# BT.709. Source: ITU-R BT.709-6, section 3.
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


class Picture:
    """Frame `rgb` (H, W, 3) float32 in [0, 1] and the luma of the frame before, if any."""

    def __init__(self, rgb: np.ndarray, previous: np.ndarray | None = None) -> None:
        self.rgb = rgb
        self.previous = previous

    @cached_property
    def luma(self) -> np.ndarray:
        """(H, W) float32, of the gamma-encoded values."""
        return np.asarray(self.rgb, np.float32) @ LUMA

    @cached_property
    def brightness(self) -> float:
        """Mean luma."""
        return float(self.luma.mean())

    @cached_property
    def change(self) -> float | None:
        """Mean absolute difference of luma to the frame before; None for the first frame."""
        if self.previous is None:
            return None
        difference = self.luma - self.previous
        return float(np.abs(difference, out=difference).mean())

    @cached_property
    def thin(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Red, green and blue of every second row and column: enough for a mean over pixels."""
        red, green, blue = (self.rgb[::2, ::2, channel] for channel in range(3))
        return red, green, blue

    @cached_property
    def rgb8(self) -> np.ndarray:
        """(H, W, 3) uint8, truncated as in the file."""
        return rgb24(self.rgb)
