"""Measures of the pictures that need NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ltx2.experiment.metrics.base import (
    UNKNOWN,
    Clip,
    Curve,
    Measure,
    Results,
    Seams,
    check_number,
    mean,
)
from ltx2.experiment.metrics.picture import Picture

BLOCK = 8
# Rows at once, so that what is computed of them stays in the processor's cache.
BAND = 64
# Constants of SSIM for values in [0, 1]. Source: Wang et al. 2004, K1 = 0.01, K2 = 0.03.
C1, C2 = 0.01**2, 0.03**2


class FrameMean(Measure):
    """The mean over all frames of a value per frame."""

    def start(self, clip: Clip) -> None:
        self._fps = clip.fps
        self._values: list[float] = []

    def frame(self, picture: Picture) -> None:
        self._values.append(self.value(picture))

    def value(self, picture: Picture) -> float:
        """Of one frame."""
        raise NotImplementedError

    def result(self) -> Results:
        (name,) = self.names
        return {name: mean(self._values)}


class Brightness(FrameMean):
    """Mean luma in [0, 1], and its curve over time."""

    names: ClassVar = ("brightness",)

    def value(self, picture: Picture) -> float:
        return picture.brightness

    def result(self) -> Results:
        times = [index / self._fps for index in range(len(self._values))]
        return super().result() | {"brightness_track": Curve(times, self._values, "s", "luma")}


class Contrast(FrameMean):
    """Standard deviation of luma in a frame, in [0, 0.5]. Source: Peli 1990, RMS contrast."""

    names: ClassVar = ("contrast",)

    def value(self, picture: Picture) -> float:
        return float(picture.luma.std())


class Colourfulness(FrameMean):
    """0 grey to above 109 extremely colourful. Source: Hasler and Suesstrunk 2003, equation for M3.

    On every second row and column.
    """

    names: ClassVar = ("colourfulness",)

    def value(self, picture: Picture) -> float:
        red, green, blue = picture.thin
        opponents = red - green, 0.5 * (red + green) - blue
        spread = sum(float(values.var()) for values in opponents) ** 0.5
        offset = sum(float(values.mean()) ** 2 for values in opponents) ** 0.5
        return 255 * (spread + 0.3 * offset)


class Sharpness(FrameMean):
    """Variance of the Laplacian of luma in [0, 255]. Source: Pech-Pacheco et al. 2000."""

    names: ClassVar = ("sharpness",)

    def value(self, picture: Picture) -> float:
        if min(picture.luma.shape) < 3:
            return UNKNOWN
        total = squares = 0.0
        height, width = picture.luma.shape
        for row in range(0, height - 2, BAND):
            laplacian = _laplacian(picture.luma[row : row + BAND + 2]).reshape(-1)
            total += float(laplacian.sum())
            squares += float(np.dot(laplacian, laplacian))
        count = (height - 2) * (width - 2)
        return 255**2 * max(0.0, squares / count - (total / count) ** 2)


def _laplacian(luma: np.ndarray) -> np.ndarray:
    """(H, W) -> (H - 2, W - 2): the four neighbours less four times the pixel."""
    found = luma[1:-1, 1:-1] * np.float32(-4)
    for neighbour in (luma[1:-1, :-2], luma[1:-1, 2:], luma[:-2, 1:-1], luma[2:, 1:-1]):
        found += neighbour
    return found


@dataclass
class Clipped(FrameMean):
    """Share of pixels with a channel within `levels` of 0 or 255; on every second row and column.

    No standard; the zebra of cameras, for both ends.
    """

    levels: float = 1.0
    names: ClassVar = ("clipped",)

    def __post_init__(self) -> None:
        check_number("clipped.levels", self.levels)

    def value(self, picture: Picture) -> float:
        red, green, blue = picture.thin
        low, high = self.levels / 255, 1 - self.levels / 255
        most = np.maximum(np.maximum(red, green), blue)
        least = np.minimum(np.minimum(red, green), blue)
        return float(((most > high) | (least < low)).mean())


class Flicker(Measure):
    """How far the mean luma of a frame lies from the mean of its neighbours', on average.

    0 for steady light and for a linear fade. Needs three frames.
    """

    names: ClassVar = ("flicker",)

    def start(self, clip: Clip) -> None:
        self._levels: list[float] = []

    def frame(self, picture: Picture) -> None:
        self._levels.append(picture.brightness)

    def result(self) -> Results:
        if len(self._levels) < 3:
            return {"flicker": UNKNOWN}
        level = np.array(self._levels)
        return {"flicker": float(np.abs(level[1:-1] - (level[:-2] + level[2:]) / 2).mean())}


@dataclass
class StaticShare(Measure):
    """Share of frames that differ from the frame before by a mean luma of at most `threshold`.

    The default is that of FFmpeg's freezedetect filter, -60 dB.
    """

    threshold: float = 0.001
    names: ClassVar = ("static_share",)

    def __post_init__(self) -> None:
        check_number("static_share.threshold", self.threshold)

    def start(self, clip: Clip) -> None:
        self._static: list[float] = []

    def frame(self, picture: Picture) -> None:
        if picture.change is not None:
            self._static.append(picture.change <= self.threshold)

    def result(self) -> Results:
        return {"static_share": mean(self._static)}


class LoopSimilarity(Measure):
    """Mean SSIM of the first and the last frame over blocks of 8 x 8 pixels, in [-1, 1].

    Source: Wang et al. 2004, with blocks instead of a sliding window.
    """

    names: ClassVar = ("loop_similarity",)

    def start(self, clip: Clip) -> None:
        self._first: np.ndarray | None = None
        self._last: np.ndarray | None = None

    def frame(self, picture: Picture) -> None:
        if self._first is None:
            self._first = picture.luma
        else:
            self._last = picture.luma

    def result(self) -> Results:
        if self._first is None or self._last is None:
            return {"loop_similarity": UNKNOWN}
        return {"loop_similarity": block_ssim(self._first, self._last)}


def block_ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Mean SSIM of two (H, W) pictures in [0, 1] over blocks; what fills no block is left out."""
    if min(one.shape) < BLOCK:
        return UNKNOWN
    a, b = _blocks(one), _blocks(other)
    mean_a, mean_b = a.mean(axis=1, keepdims=True), b.mean(axis=1, keepdims=True)
    variances = a.var(axis=1) + b.var(axis=1)
    covariance = ((a - mean_a) * (b - mean_b)).mean(axis=1)
    means = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return float((means[:, 0] * (2 * covariance + C2) / (variances + C2)).mean())


def _blocks(picture: np.ndarray) -> np.ndarray:
    """(H, W) -> (blocks, 64) float64."""
    rows, columns = (size // BLOCK for size in picture.shape)
    whole = picture[: rows * BLOCK, : columns * BLOCK].astype(np.float64)
    tiles = whole.reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2)
    return tiles.reshape(rows * columns, BLOCK * BLOCK)


class SeamEnergy(Measure):
    """The largest ratio, over all seams of decode tiles, of the change across the seam to the
    median change beside it: 1 is invisible. NaN for a clip that was decoded whole.

    Change is the mean absolute difference of luma between neighbouring rows, columns or frames.
    """

    names: ClassVar = ("seam_energy",)
    reach: ClassVar = 6
    # Half a level of 255: what differs by less cannot be seen.
    floor: ClassVar = 0.5 / 255

    def start(self, clip: Clip) -> None:
        self._clip = clip
        self._seams: Seams | None = None
        self._changes: list[float] = []
        self._profiles: dict[tuple[int, int], np.ndarray] = {}

    def frame(self, picture: Picture) -> None:
        if self._seams is None:
            self._seams = self._clip.seams()
        self._changes.append(UNKNOWN if picture.change is None else picture.change)
        for axis, seams in enumerate(self._seams[1:]):
            for seam in seams:
                profile = self._profile(picture.luma, axis, seam)
                self._profiles[axis, seam] = self._profiles.get((axis, seam), 0.0) + profile

    def _profile(self, luma: np.ndarray, axis: int, seam: int) -> np.ndarray:
        """Changes into every row or column from `seam` - reach to `seam` + reach."""
        lines = luma if axis == 0 else luma.T
        near = lines[max(0, seam - self.reach - 1) : seam + self.reach + 1]
        return np.abs(np.diff(near, axis=0)).mean(axis=1)

    def result(self) -> Results:
        if self._seams is None:
            return {"seam_energy": UNKNOWN}
        count = len(self._changes)
        ratios = [
            self._ratio(profile / count, min(seam - 1, self.reach))
            for (_, seam), profile in self._profiles.items()
        ]
        for seam in self._seams[0]:
            first = max(1, seam - self.reach)
            near = np.array(self._changes[first : seam + self.reach + 1])
            ratios.append(self._ratio(near, seam - first))
        return {"seam_energy": max(ratios, default=UNKNOWN)}

    def _ratio(self, profile: np.ndarray, place: int) -> float:
        around = np.median(np.delete(profile, place))
        return float((profile[place] + self.floor) / (around + self.floor))
