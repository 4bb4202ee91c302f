"""Contact sheets: evenly spaced frames of a clip side by side in one picture."""

from __future__ import annotations

import math

import numpy as np

from ltx2.errors import UserError
from ltx2.media.pixels import rgb24


def contact_sheet(
    frames: np.ndarray,
    *,
    count: int = 8,
    columns: int = 4,
    tile_width: int | None = None,
    border_px: int = 2,
) -> np.ndarray:
    """Up to `count` frames of (F, H, W, 3), uint8 or float in [0, 1] -> one uint8 picture.

    First and last frame included; tiles row by row, black thin borders around and between them.
    `tile_width` shrinks or enlarges tiles to that width, keeping their shape.
    """
    if len(frames) == 0:
        raise UserError("a contact sheet needs at least one frame, got 0")
    count, columns = min(count, len(frames)), min(columns, count, len(frames))
    if count < 1 or columns < 1 or border_px < 0:
        raise UserError(
            f"contact sheet of {count} frames in {columns} columns with border {border_px} px is "
            "impossible; use at least 1 frame, 1 column and 0 px"
        )
    picks = np.linspace(0, len(frames) - 1, count).round().astype(int)
    tiles = [_resized(rgb24(frames[pick]), tile_width) for pick in picks]
    height, width, _ = tiles[0].shape
    rows = math.ceil(count / columns)
    step_y, step_x = height + border_px, width + border_px
    sheet = np.zeros((border_px + rows * step_y, border_px + columns * step_x, 3), np.uint8)
    for index, tile in enumerate(tiles):
        y = border_px + index // columns * step_y
        x = border_px + index % columns * step_x
        sheet[y : y + height, x : x + width] = tile
    return sheet


def _resized(tile: np.ndarray, width: int | None) -> np.ndarray:
    from PIL import Image

    if width is None or width == tile.shape[1]:
        return tile
    height = max(1, round(tile.shape[0] * width / tile.shape[1]))
    resized = Image.fromarray(tile).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized)
