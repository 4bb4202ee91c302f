"""Rounds of pipeline=dfr: a clip of twice the rate is refined in tiles between keyframes.

Every tile is a clip of its own, whose time begins at 0. Source: spec pipelines.md section 2.10.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltx2 import ops
from ltx2.diffusion.appended import KeyframeIndex, KeyframeSlots
from ltx2.diffusion.conditioning import LatentIndex
from ltx2.diffusion.noise import NoiseSource, TorchNoise
from ltx2.diffusion.samplers import EulerAncestral
from ltx2.diffusion.state import LatentState, initial_state
from ltx2.models.latents import Grid, pack_video, video_positions
from ltx2.ops import Array
from ltx2.pipelines.dense import Canvas, RoundTile, position_rate
from ltx2.pipelines.latents import Latents, StateBuilder
from ltx2.pipelines.plan import Plan, StagePlan

ANCHOR_STRENGTH = 0.95
ETA = 0.5
# Between the seeds of a round's tiles and those of the next round's.
SEED_STRIDE = 1000


def tile_tokens(plan: Plan, number: int, grid: Grid) -> list[int]:
    """Video tokens of a transformer call for each tile of round `number`, keyframes included."""
    canvas = _canvas(plan)
    step, area = 2 * canvas.segment, grid[1] * grid[2]
    counts = []
    for tile in canvas.tiles(number):
        length = tile.stop - tile.start
        anchors = len(_seams(tile, step))
        counts.append((length // plan.scale.time + 1 + anchors + length // step) * area)
    return counts


def _canvas(plan: Plan) -> Canvas:
    assert plan.canvas is not None, "a round belongs to a pipeline with a canvas"
    return plan.canvas


def _seams(tile: RoundTile, step: int) -> range:
    """Frames of the keyframes that hold the tile: at every seam but the clip's first frame."""
    return range(tile.start or step, tile.stop + 1, step)


@dataclass(frozen=True)
class Round:
    """One round: `start` holds the clip at twice the rate and the keyframes of the round before.

    `images` are the conditions of the clip as they are before the first round.
    """

    plan: Plan
    stage: StagePlan
    builder: StateBuilder
    start: Latents
    images: list[Any]

    @property
    def tiles(self) -> tuple[RoundTile, ...]:
        return _canvas(self.plan).tiles(self.number)

    @property
    def number(self) -> int:
        return self.stage.settings.round

    @property
    def _step(self) -> int:
        """Frames between the keyframes that the round starts with."""
        return 2 * _canvas(self.plan).segment

    @property
    def _fps(self) -> float:
        return position_rate(self.plan.fps, self.number)

    def sampler(self, index: int, noise: NoiseSource | None = None) -> EulerAncestral:
        """The sampler of tile `index`; `noise` replaces its own."""
        seed = self.plan.settings.seed + SEED_STRIDE * self.number + index
        return EulerAncestral(noise or TorchNoise(seed), ETA)

    def states(self, tile: RoundTile, _done: Latents) -> dict[str, LatentState | None]:
        """Noised states of a tile, which needs nothing of those before; sound is not sampled."""
        assert self.start.video is not None
        time = self.plan.scale.time
        latent = self.start.video[:, tile.start // time : tile.stop // time + 1]
        grid = tuple(latent.shape[1:4])
        positions = video_positions(grid, self._fps, self.plan.scale)
        state = initial_state(ops.f32(pack_video(latent)), positions, grid)
        for item in [*self._images(tile), *self._anchors(tile), self._slots(tile, latent)]:
            state = item.apply(state)
        return {"video": self.builder.with_noise(self.stage, "video", state), "audio": None}

    def _images(self, tile: RoundTile) -> list[Any]:
        """The images in the tile, at their frames counted from its start."""
        found: list[Any] = []
        for item in self.images:
            frame = 0 if isinstance(item, LatentIndex) else item.frame * 2**self.number
            if tile.start <= frame <= tile.stop:
                found.append(self._image(item.latent, frame - tile.start, item.strength))
        return found

    def _image(self, latent: Array, frame: int, strength: float) -> LatentIndex | KeyframeIndex:
        if frame == 0:
            return LatentIndex(latent, 0, strength)
        return KeyframeIndex(latent, frame, self._fps, self.plan.scale, strength)

    def _anchors(self, tile: RoundTile) -> list[KeyframeIndex]:
        slots, step = self.start.slots, self._step
        assert slots is not None
        return [
            KeyframeIndex(
                slots[:, seam // step - 1 : seam // step],
                seam - tile.start,
                self._fps,
                self.plan.scale,
                ANCHOR_STRENGTH,
            )
            for seam in _seams(tile, step)
        ]

    def _slots(self, tile: RoundTile, latent: Array) -> KeyframeSlots:
        """New keyframes in the middle of the segments, from the nearest frames of the latent."""
        length = tile.stop - tile.start
        frames = tuple(range(self._step // 2, length, self._step))
        nearest = [round(frame / self.plan.scale.time) for frame in frames]
        seeds = ops.concat([latent[:, index : index + 1] for index in nearest], axis=1)
        return KeyframeSlots(frames, length + 1, self._fps, self.plan.scale, seeds)

    def joined(self, tile: RoundTile, done: Latents, made: Latents) -> Latents:
        """`done` with what a tile made behind its first keyframe; the last tile ends the round."""
        video, slots = made.video, made.slots
        assert video is not None and slots is not None
        if not tile.is_first:
            lead = (tile.owned - tile.start) // self.plan.scale.time + 1
            video = ops.concat([done.video, video[:, lead:]], axis=1)
            # The keyframe of the segment before was made by the tile before.
            slots = ops.concat([done.slots, slots[:, 1:]], axis=1)
        if tile == self.tiles[-1]:
            slots = _interleaved(slots, self.start.slots)
        return Latents(video, None, slots)


def _interleaved(new: Array, seams: Array) -> Array:
    """(1, K, H, W, C) twice -> (1, 2K, H, W, C): each new keyframe before the seam behind it."""
    pairs = [x[:, i : i + 1] for i in range(new.shape[1]) for x in (new, seams)]
    return ops.concat(pairs, axis=1)
