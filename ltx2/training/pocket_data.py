"""Clips of the pocket world as training data: rendered when they are needed, stored nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter

from ltx2.pocket.world import BACKGROUNDS, Take, held_out_scene, training_scene

# A clip of the world has so many frames; shorter pieces are cut from it.
WORLD_FRAMES = 25


@dataclass(frozen=True)
class ClipShape:
    """Batches of one shape, drawn with probability proportional to `share`."""

    batch: int
    frames: int
    height: int
    width: int
    share: float = 1.0


@dataclass(frozen=True)
class RenderedClips:
    """Training clips of several shapes; pixels in and around things weigh `emphasis`
    times the background."""

    shapes: Sequence[ClipShape]
    emphasis: float = 6.0
    plain_until: int = 150

    def __call__(self, rng: np.random.Generator, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (B, F, H, W, 3) in [0, 1] and the weight of each (B, F, H, W)."""
        shares = np.array([shape.share for shape in self.shapes])
        shape = self.shapes[rng.choice(len(shares), p=shares / shares.sum())]
        clips, weights = [], []
        for _ in range(shape.batch):
            scene = training_scene(rng)
            first = int(rng.integers(0, WORLD_FRAMES - shape.frames + 1))
            piece = slice(first, first + shape.frames)
            take = Take.draw(scene, rng)
            clip = take.frames(WORLD_FRAMES, shape.height, shape.width, piece)
            away = (
                np.abs(clip - np.asarray(BACKGROUNDS[scene.background], np.float32)).max(-1) > 0.02
            )
            clips.append(clip)
            near = maximum_filter(away, (1, 5, 5))
            weights.append(1 + (self.emphasis - 1) * near * (step >= self.plain_until))
        return np.stack(clips), np.stack(weights).astype(np.float32)


def held_out_clips(count: int, frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """(count, F, H, W, 3) in [0, 1] of held-out scenes, every third with two things."""
    rng = np.random.default_rng(seed)
    clips = []
    for index in range(count):
        scene = held_out_scene(rng, things=2 if index % 3 == 2 else 1)
        clips.append(Take.draw(scene, rng).frames(frames, height, width))
    return np.stack(clips)
