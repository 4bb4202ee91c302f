"""Reference clips for IC-LoRAs that are made without any model: edges, luma, maps, motion tracks.

All functions take and return frames (F, H, W, 3) uint8 RGB and work picture by picture, so a long
clip may be sent through them in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from ltx2.errors import UserError, nearest
from ltx2.media.control_edges import edges
from ltx2.media.control_tracks import motion_tracks, read_tracks
from ltx2.media.images import read_image
from ltx2.media.video import iterate_frames

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}

_BT709_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
# Lossy video gives gray pixels a tint of a few levels; colour-mapped depth differs by far more.
_TINT_LEVELS, _TINTED_SHARE = 16, 1e-3


def canny(
    frames: np.ndarray, low: float = 0.1, high: float = 0.2, sigma: float = 1.0
) -> np.ndarray:
    """White edges, as thin as pixels allow, on black.

    `low` and `high` are gradients in [0, 4]: edges start at `high` and are followed down to `low`
    (`ltx2.media.control_edges` has the scale). `sigma` in px is the blur before.
    """
    if not 0 <= low <= high <= 4:
        raise UserError(
            f"canny low={low}, high={high}: use 0 <= low <= high <= 4, for example 0.1, 0.2"
        )
    if not 0 <= sigma <= 20:
        raise UserError(f"canny sigma={sigma} is not in [0, 20] px; use 1, or 0 for no blur")
    return _each(frames, lambda frame: edges(_luma(frame) / 255, low, high, sigma) * np.uint8(255))


def luma(frames: np.ndarray) -> np.ndarray:
    """BT.709 luma in all three channels; gray pixels stay as they are."""
    return _each(frames, lambda frame: np.rint(_luma(frame)).astype(np.uint8))


def depth(frames: np.ndarray) -> np.ndarray:
    """A gray depth map as it is, its three channels made equal where compression tinted them.

    Raises UserError for a coloured one: nothing says which colours are near.
    """
    _check_frames(frames)
    for frame in frames:
        tinted = float((np.ptp(frame, axis=-1) > _TINT_LEVELS).mean())
        if tinted > _TINTED_SHARE:
            raise UserError(
                f"the depth map is coloured in {tinted:.1%} of a frame; export it as gray, or use"
                " control=luma to take its brightness"
            )
    return luma(frames)


def pose(frames: np.ndarray) -> np.ndarray:
    """Drawn skeletons, unchanged."""
    _check_frames(frames)
    return frames


_FILTERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": pose, "canny": canny, "luma": luma, "depth": depth, "pose": pose,
}  # fmt: skip
CONTROLS = (*_FILTERS, "tracks")


def check_control(kind: str) -> None:
    """Raise UserError unless `kind` is one of CONTROLS."""
    if kind not in CONTROLS:
        raise UserError(
            f"control={kind} is unknown{nearest(kind, CONTROLS)}; use {', '.join(CONTROLS)}"
        )


def control_frames(
    kind: str, source: np.ndarray | str | Path, size: tuple[int, int, int] | None = None
) -> np.ndarray:
    """The control clip `kind` of frames, or for `tracks` of a CSV file at `size` (F, H, W)."""
    check_control(kind)
    if kind == "tracks":
        assert size is not None and not isinstance(source, np.ndarray), "tracks: a path and a size"
        return motion_tracks(source, *size)
    assert isinstance(source, np.ndarray), f"{kind} takes frames, not {source}"
    return _FILTERS[kind](source)


def reference_clip(
    path: str | Path,
    control: str,
    frames: int,
    height: int,
    width: int,
    clip_size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Up to `frames` pictures (F, H, W, 3) uint8 of the reference `path` as `control` shows it.

    A still picture is repeated `frames` times, a shorter video gives what it has. Edges and tracks
    have the size height x width, everything else the file's. `path` is a CSV for `tracks`, whose
    pixel coordinates refer to a picture of `clip_size`, by default height x width.
    """
    check_control(control)
    if control == "tracks":
        return motion_tracks(path, frames, height, width, clip_size=clip_size)
    if Path(path).suffix.lower() == ".csv":
        raise UserError(f"{path} is a table of points; use control=tracks, or name a video")
    is_still = Path(path).suffix.lower() in IMAGE_SUFFIXES
    shown: Iterator[np.ndarray] = iter([read_image(path)]) if is_still else iterate_frames(path)
    if control == "canny":
        # Lines of one pixel would not survive a resize, so it comes before.
        shown = (_covering(frame, height, width) for frame in shown)
    clip = [control_frames(control, frame[None])[0] for frame in islice(shown, frames)]
    if not clip:
        raise UserError(f"{path} shows no frame; it is empty or damaged")
    return np.stack(clip * frames if is_still else clip)


def check_reference(path: str | Path, control: str, frames: int, height: int, width: int) -> None:
    """Raise UserError for what is wrong with a reference, from its table or its first picture."""
    if control == "tracks":
        read_tracks(path, frames, height, width)
    else:
        reference_clip(path, control, 1, height, width)


def _each(frames: np.ndarray, gray_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`gray_of` gives (H, W) for each picture; it fills all three channels."""
    _check_frames(frames)
    out = np.empty_like(frames)
    for frame, result in zip(frames, out, strict=True):
        result[:] = gray_of(frame)[..., None]
    return out


def _check_frames(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise UserError(
            f"control frames are {frames.dtype} {frames.shape}; give uint8 (f, height, width, 3)"
        )


def _luma(frame: np.ndarray) -> np.ndarray:
    return frame.astype(np.float32) @ _BT709_LUMA


def _covering(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """`cover_resize`'s geometry on one uint8 picture, antialiased: aliases would become edges."""
    from PIL import Image

    if frame.shape[:2] == (height, width):
        return frame
    scale = max(height / frame.shape[0], width / frame.shape[1])
    tall, wide = math.ceil(frame.shape[0] * scale), math.ceil(frame.shape[1] * scale)
    resized = Image.fromarray(frame).resize((wide, tall), Image.Resampling.BILINEAR)
    top, left = (tall - height) // 2, (wide - width) // 2
    return np.asarray(resized)[top : top + height, left : left + width]
