"""How much moves: dense optical flow (DIS) on shrunk luma."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ltx2.experiment.metrics.base import Clip, Curve, Measure, Results, check_count, mean, needed
from ltx2.experiment.metrics.picture import Picture

# In a flat area any flow explains the pictures; levels of 255 to the next pixel.
LEAST_TEXTURE = 4


@dataclass
class Motion(Measure):
    """Length of the flow vectors in pixels of the full size per frame, where there is something to
    see: the mean over frames of the mean weighted by local contrast (`motion`) and of the 95th
    percentile (`motion_peak`), and the former's curve.

    The flow is computed on pictures of at most `long_side` pixels. Source: Kroeger et al. 2016,
    as in OpenCV (preset fast).
    """

    long_side: int = 384
    names: ClassVar = ("motion", "motion_peak")

    def __post_init__(self) -> None:
        check_count("motion.long_side", self.long_side)

    def start(self, clip: Clip) -> None:
        self._cv: Any = needed("cv2", "opencv-python-headless", "motion")
        self._flow = self._cv.DISOpticalFlow_create(self._cv.DISOPTICAL_FLOW_PRESET_FAST)
        self._fps = clip.fps
        self._before: np.ndarray | None = None
        self._means: list[float] = []
        self._peaks: list[float] = []

    def frame(self, picture: Picture) -> None:
        height, width = picture.luma.shape
        scale = max(1.0, max(height, width) / self.long_side)
        size = max(2, round(width / scale)), max(2, round(height / scale))
        small = self._cv.resize(picture.luma, size, interpolation=self._cv.INTER_AREA)
        now = np.clip(small * 255 + 0.5, 0, 255).astype(np.uint8)
        if self._before is not None:
            flow = self._flow.calc(self._before, now, None)
            flow *= np.array([width / size[0], height / size[1]], np.float32)
            self._add(np.hypot(flow[..., 0], flow[..., 1]), _texture(self._before))
        self._before = now

    def _add(self, lengths: np.ndarray, texture: np.ndarray) -> None:
        """Flow lengths of a frame and how much there is to see, both (h, w)."""
        total = float(texture.sum(dtype=np.float64))
        seen = lengths[texture > 0]
        self._means.append(float((lengths * texture).sum() / total) if total else 0.0)
        self._peaks.append(float(np.percentile(seen, 95)) if total else 0.0)

    def result(self) -> Results:
        times = [index / self._fps for index in range(1, len(self._means) + 1)]
        return {
            "motion": mean(self._means),
            "motion_peak": mean(self._peaks),
            "motion_track": Curve(times, self._means, "s", "px/frame"),
        }


def _texture(picture: np.ndarray) -> np.ndarray:
    """(h, w) uint8 -> float32: levels to the pixels on the right and below, 0 where flat."""
    values = picture.astype(np.float32)
    texture = np.abs(np.diff(values, axis=1, append=values[:, -1:]))
    texture += np.abs(np.diff(values, axis=0, append=values[-1:]))
    texture[texture < LEAST_TEXTURE] = 0
    return texture
