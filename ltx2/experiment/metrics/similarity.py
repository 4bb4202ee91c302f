"""Likeness of two clips frame by frame: PSNR, SSIM and multi-scale SSIM, on 8-bit pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ltx2.errors import UserError
from ltx2.experiment.metrics.base import UNKNOWN, Clip, Measure, Results, mean, needed
from ltx2.experiment.metrics.picture import LUMA, Picture
from ltx2.experiment.metrics.reference import find_reference

# What identical clips get, since infinity cannot be plotted.
BEST_PSNR = 100.0
# Source: Wang et al. 2004: 11 x 11 Gaussian of 1.5 pixels, K1 = 0.01, K2 = 0.03.
WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
# Source: Wang, Simoncelli and Bovik 2003, table 1.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST_MS_SSIM = WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)


@dataclass(frozen=True)
class Pair:
    """The same frame of this run and of the reference, (H, W, 3) uint8."""

    ours: np.ndarray
    theirs: np.ndarray

    @cached_property
    def lumas(self) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) float32 in [0, 255]."""
        return self.ours @ LUMA, self.theirs @ LUMA


@dataclass
class Compared(Measure):
    """A measure of pairs of frames; `reference` is a run folder or a media file."""

    reference: str | None = None

    @property
    def option(self) -> str:
        """Its name in conf/metrics."""
        return self.names[0]

    def start(self, clip: Clip) -> None:
        found = find_reference(self.reference, f"metrics.{self.option}.reference")
        self._pictures: Iterator[np.ndarray] = found.pictures(clip)
        self.prepare(clip)

    def prepare(self, clip: Clip) -> None:
        """Before the first pair. Raises UserError for what is missing."""

    def frame(self, picture: Picture) -> None:
        self.compare(pair_of(picture, self._pictures))

    def compare(self, pair: Pair) -> None:
        """The next pair."""
        raise NotImplementedError


def pair_of(picture: Picture, theirs: Iterator[np.ndarray]) -> Pair:
    """`picture` beside the next frame of the reference."""
    other = next(theirs, None)
    if other is None:
        raise UserError("the reference ends before the clip does")
    return Pair(picture.rgb8, other)


@dataclass
class Psnr(Compared):
    """Peak signal to noise ratio in dB of the mean squared error over all frames and channels."""

    names: ClassVar = ("psnr",)

    def prepare(self, clip: Clip) -> None:
        self._errors: list[float] = []

    def compare(self, pair: Pair) -> None:
        difference = pair.ours.astype(np.float32) - pair.theirs
        self._errors.append(float(np.square(difference).mean(dtype=np.float64)))

    def result(self) -> Results:
        error = mean(self._errors)
        decibels = 10 * float(np.log10(255**2 / error)) if error > 0 else BEST_PSNR
        return {"psnr": min(BEST_PSNR, decibels) if self._errors else UNKNOWN}


@dataclass
class Ssim(Compared):
    """Structural similarity of luma, mean over pixels and frames. Source: Wang et al. 2004."""

    names: ClassVar = ("ssim",)

    def prepare(self, clip: Clip) -> None:
        self._cv = needed("cv2", "opencv-python-headless", self.option)
        if min(clip.height, clip.width) < self._smallest:
            raise UserError(
                f"metrics={self.option} needs frames of at least {self._smallest} pixels a side,"
                f" this run makes {clip.width}x{clip.height}; leave it out"
            )
        self._values: list[float] = []

    _smallest: ClassVar = WINDOW

    def compare(self, pair: Pair) -> None:
        self._values.append(structure(self._cv, *pair.lumas)[0])

    def result(self) -> Results:
        return {self.option: mean(self._values)}


@dataclass
class MsSsim(Ssim):
    """SSIM over five scales. Source: Wang, Simoncelli and Bovik 2003."""

    names: ClassVar = ("ms_ssim",)
    _smallest: ClassVar = SMALLEST_MS_SSIM

    def compare(self, pair: Pair) -> None:
        ours, theirs = pair.lumas
        value = 1.0
        for scale, weight in enumerate(SCALE_WEIGHTS):
            if scale:
                ours, theirs = _halved(ours), _halved(theirs)
            whole, contrast = structure(self._cv, ours, theirs)
            last = scale == len(SCALE_WEIGHTS) - 1
            value *= max(0.0, whole if last else contrast) ** weight
        self._values.append(value)


def structure(cv: Any, ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Mean SSIM of two (H, W) pictures in [0, 255], and its part without the means.

    Windows that reach beyond the picture are left out.
    """
    edge = WINDOW // 2

    def local(values: np.ndarray) -> np.ndarray:
        return cv.GaussianBlur(values, (WINDOW, WINDOW), SIGMA)[edge:-edge, edge:-edge]

    mean_ours, mean_theirs = local(ours), local(theirs)
    both, squares = mean_ours * mean_theirs, mean_ours**2 + mean_theirs**2
    variances = local(ours**2 + theirs**2) - squares
    covariance = local(ours * theirs) - both
    contrast = (2 * covariance + C2) / (variances + C2)
    whole = (2 * both + C1) / (squares + C1) * contrast
    return float(whole.mean(dtype=np.float64)), float(contrast.mean(dtype=np.float64))


def _halved(picture: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels."""
    height, width = (size - size % 2 for size in picture.shape)
    whole = picture[:height, :width]
    return (whole[::2, ::2] + whole[1::2, ::2] + whole[::2, 1::2] + whole[1::2, 1::2]) / 4
