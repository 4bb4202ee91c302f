"""Looks of pocket clips that style LoRAs learn, and the control videos of an IC-LoRA."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ltx2.errors import UserError, nearest
from ltx2.media.control import canny

SEPIA = np.array([[0.39, 0.77, 0.19], [0.35, 0.69, 0.17], [0.27, 0.53, 0.13]], np.float32)


def pastel(clip: np.ndarray) -> np.ndarray:
    """Pale colours."""
    return 0.5 + 0.5 * clip


def sepia(clip: np.ndarray) -> np.ndarray:
    """Brown tones, as of old photographs."""
    return np.clip(clip @ SEPIA.T, 0, 1)


def negative(clip: np.ndarray) -> np.ndarray:
    """Every colour its complement."""
    return 1 - clip


STYLES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "pastel": pastel, "sepia": sepia, "negative": negative,
}  # fmt: skip


def styled(clip: np.ndarray, style: str) -> np.ndarray:
    """A clip (F, H, W, 3) float32 in [0, 1] in a style; "" leaves it as it is."""
    if style == "":
        return clip
    if style not in STYLES:
        raise UserError(
            f"style={style} is unknown{nearest(style, STYLES)}; use {', '.join(STYLES)}"
        )
    return STYLES[style](clip).astype(np.float32)


def control(clip: np.ndarray, kind: str) -> np.ndarray:
    """The control video of a clip: its edges, white on black."""
    if kind != "edges":
        raise UserError(f"reference={kind} is unknown; use edges")
    return (canny(np.rint(clip * 255).astype(np.uint8)) / 255).astype(np.float32)
