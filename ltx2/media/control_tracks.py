"""Motion tracks: a table of points over time, drawn as dots with fading trails on black."""

from __future__ import annotations

import colorsys
import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ltx2.errors import MissingFile, UserError, nearest

_PIXELS = ("track", "frame", "x", "y")
_FRACTIONS = ("track", "frame", "x_norm", "y_norm")
_HEADERS = f"{','.join(_PIXELS)} (pixels) or {','.join(_FRACTIONS)} (0 to 1)"
# Neighbouring tracks get hues far apart, however many there are.
_GOLDEN_RATIO = 0.618034


@dataclass(frozen=True)
class Track:
    """A point's positions (N, 2) as x, y in pixel indices of the picture, from frame `first` on."""

    first: int
    positions: np.ndarray

    def at(self, frame: int) -> np.ndarray | None:
        """(2,) position, or None outside the given frames."""
        index = frame - self.first
        return self.positions[index] if 0 <= index < len(self.positions) else None


def motion_tracks(
    csv_path: str | Path,
    frames: int,
    height: int,
    width: int,
    *,
    radius: float | None = None,
    trail: int = 12,
    clip_size: tuple[int, int] | None = None,
) -> np.ndarray:
    """(frames, height, width, 3) uint8: one dot per track, its last `trail` frames as a trail.

    `radius` in px, by default 1/64 of the shorter side; trails are half as wide and fade to black.
    The table is read as in `read_tracks`.
    """
    if radius is None:
        radius = max(1.5, min(height, width) / 64)
    if not 0.5 <= radius <= 1000:
        raise UserError(f"radius={radius} of the motion tracks is not in [0.5, 1000] px; use 4")
    if trail < 0:
        raise UserError(f"trail={trail} of the motion tracks is negative; 0 draws only dots")
    tracks = read_tracks(csv_path, frames, height, width, clip_size)
    drawn = (_draw(tracks, frame, (height, width), radius, trail) for frame in range(frames))
    return np.stack(list(drawn))


def read_tracks(
    csv_path: str | Path,
    frames: int,
    height: int,
    width: int,
    clip_size: tuple[int, int] | None = None,
) -> list[Track]:
    """The tracks of a CSV for a clip of `frames` pictures height x width, in the table's order.

    Columns `track`, `frame` (from 0) and either `x`, `y` (indices of pixels in a picture of
    `clip_size`, height and width, by default that of the clip) or `x_norm`, `y_norm` (0 the left or
    upper border, 1 the other one). Between given frames points move in straight lines.
    """
    path = Path(csv_path)
    rows = _rows(path)
    place, header = next(rows, (f"{path}", []))
    names = _columns(header, place)
    pixels = "x" in names
    size = np.array((clip_size or (height, width))[::-1])
    points: dict[str, dict[int, np.ndarray]] = {}
    for place, fields in rows:
        row = _row(names, fields, place)
        frame = _frame(row["frame"], frames, place)
        given = points.setdefault(_track(row["track"], place), {})
        if frame in given:
            raise UserError(f"{place}: track {row['track']} has a second point at frame {frame}")
        given[frame] = _position(row, size if pixels else None, place)
    if not points:
        raise UserError(f"{path} holds no point; give at least one row under the header")
    if pixels:
        _check_unit(path, points, size)
    tracks = [_track_of(given, np.array((width, height))) for given in points.values()]
    _check_visible(path, tracks, height, width)
    return tracks


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Where a row stands, for messages, and its fields; empty lines are skipped."""
    if not path.exists():
        raise MissingFile(f"{path} does not exist; check the path")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name one CSV file of points")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for fields in reader:
                if any(field.strip() for field in fields):
                    yield f"{path} line {reader.line_num}", [field.strip() for field in fields]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read as a table ({error}); save the points as CSV in UTF-8"
        ) from error


def _columns(header: list[str], place: str) -> list[str]:
    names = [name.lower() for name in header]
    for wanted in (_PIXELS, _FRACTIONS):
        if sorted(names) == sorted(wanted):
            return names
    wanted = _FRACTIONS if {"x_norm", "y_norm"} & set(names) else _PIXELS
    missing = [name for name in wanted if name not in names]
    surplus = [name for name in names if name not in wanted]
    if missing:
        what = f"column '{missing[0]}' is missing"
    elif surplus:
        what = f"column '{surplus[0]}' is unknown{nearest(surplus[0], wanted)}"
    else:
        what = "a column appears twice"
    raise UserError(f"{place}: {what}; the header is {_HEADERS}")


def _row(names: list[str], fields: list[str], place: str) -> dict[str, str]:
    if len(fields) != len(names):
        raise UserError(
            f"{place}: {len(fields)} values for {len(names)} columns; give {','.join(names)}"
        )
    return dict(zip(names, fields, strict=True))


def _track(text: str, place: str) -> str:
    if not text:
        raise UserError(f"{place}: the track has no name; give it a number or a word")
    return text


def _frame(text: str, frames: int, place: str) -> int:
    number = _number("frame", text, place)
    if number != int(number):
        raise UserError(f"{place}: frame={text} is not whole; use {math.floor(number)}")
    if not 0 <= number < frames:
        raise UserError(
            f"{place}: frame={text} is outside the clip of {frames} frames; use 0 to {frames - 1}"
        )
    return int(number)


def _position(row: dict[str, str], size: np.ndarray | None, place: str) -> np.ndarray:
    """(2,) fractions x, y of the picture; `size` (width, height) if the row counts pixels."""
    names = _FRACTIONS[2:] if size is None else _PIXELS[2:]
    given = np.array([_number(name, row[name], place) for name in names])
    fractions = given if size is None else (given + 0.5) / size
    for name, fraction, side in zip(
        names, fractions, (1, 1) if size is None else size, strict=True
    ):
        # A point may leave the picture; more than its size away it is a wrong number or unit.
        if not -1 <= fraction <= 2:
            hint = "; for pixels name the columns x and y" if size is None else ""
            raise UserError(
                f"{place}: {name}={row[name]} is far outside the picture, 0 to {side}{hint}"
            )
    return fractions


def _number(name: str, text: str, place: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{place}: {name}='{text}' is not a number")
    return number


def _check_unit(path: Path, points: dict[str, dict[int, np.ndarray]], size: np.ndarray) -> None:
    """Fractions under a header that says pixels would all fall into one corner."""
    given = np.array([point for track in points.values() for point in track.values()]) * size - 0.5
    whole = np.isclose(given, np.rint(given), atol=1e-6).all()
    if given.min() > -1e-6 and given.max() < 1 + 1e-6 and not whole:
        raise UserError(
            f"{path}: all x and y lie between 0 and 1, which is one pixel; if they are fractions of"
            " the picture name the columns x_norm and y_norm"
        )


def _track_of(given: dict[int, np.ndarray], size: np.ndarray) -> Track:
    """Fractions at some frames -> pixel indices of a picture of `size` at all between them."""
    known = sorted(given)
    corners = np.array([given[frame] for frame in known]) * size - 0.5
    between = np.arange(known[0], known[-1] + 1)
    return Track(
        known[0], np.stack([np.interp(between, known, axis) for axis in corners.T], axis=1)
    )


def _check_visible(path: Path, tracks: list[Track], height: int, width: int) -> None:
    positions = np.concatenate([track.positions for track in tracks]) + 0.5
    if not ((positions >= 0) & (positions <= (width, height))).all(axis=1).any():
        raise UserError(f"{path}: no point is ever inside the picture; check the unit of x and y")


def _draw(
    tracks: list[Track], frame: int, size: tuple[int, int], radius: float, trail: int
) -> np.ndarray:
    """(H, W, 3) uint8: older pieces first, so that what is newer lies above."""
    canvas = np.zeros((*size, 3), np.float32)
    for age in range(trail, -1, -1):
        brightness, thickness = 1 - age / (trail + 1), radius / 2 if age else radius
        for index, track in enumerate(tracks):
            start, end = track.at(frame - age), track.at(frame - age + (age > 0))
            if start is not None and end is not None:
                _paint(canvas, start, end, thickness, brightness * track_colour(index))
    return (canvas + np.float32(0.5)).astype(np.uint8)


def track_colour(index: int) -> np.ndarray:
    """(3,) float32 RGB in 0..255 of the track that appears as number `index` in the table."""
    rgb = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, 1, 1)
    return np.array(rgb, np.float32) * np.float32(255)


def _paint(
    canvas: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float, colour: np.ndarray
) -> None:
    """Cover all points of `canvas` within `radius` of the line start to end, soft at the rim."""
    low, high = np.minimum(start, end) - radius - 1, np.maximum(start, end) + radius + 2
    left, top = np.maximum(low, 0).astype(int)
    right, bottom = np.maximum(high, 0).astype(int)
    area = canvas[top:bottom, left:right]
    x = np.arange(left, left + area.shape[1], dtype=np.float32) - np.float32(start[0])
    y = np.arange(top, top + area.shape[0], dtype=np.float32)[:, None] - np.float32(start[1])
    step_x, step_y = (end - start).astype(np.float32)
    squared = step_x * step_x + step_y * step_y
    along = np.clip((x * step_x + y * step_y) / squared, 0, 1) if squared > 0 else np.float32(0)
    distance = np.hypot(x - along * step_x, y - along * step_y)
    coverage = np.clip(np.float32(radius + 0.5) - distance, 0, 1)[..., None]
    area += coverage * (colour - area)
