"""Dense frame rate (`pipeline=dfr`, LTX-2.5): the clip's canvas, its keyframes, rounds and tiles.

A clip is padded to whole segments, and the model generates a keyframe at the end of each. A round
doubles the frame rate and refines the clip in tiles that begin and end at keyframes; it puts a new
keyframe in the middle of every segment, so that a segment has as many frames in every round. Plain
integers; source: spec sampling.md section 14 and pipelines.md section 2.10.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ltx2.errors import UserError, nearest
from ltx2.models.transformer_config import TransformerConfig
from ltx2.pipelines.settings import Settings

SEGMENTS = (24, 32)  # frames
MOST_ROUNDS = 2
# Frames per second of the positions: a finer clip has the positions of one of this rate.
FASTEST = 60.0
DETAILING = "detailing"  # of a stage's `loras`
# Reference factor of a detailing LoRA whose metadata does not tell it.
DETAIL_FACTOR = 2


@dataclass(frozen=True)
class RoundTile:
    """Frames `start` to `stop` of a round, both at keyframes; a later tile begins before `owned`.

    What it makes up to the frame `owned` was made by the tile before it.
    """

    start: int
    owned: int
    stop: int

    @property
    def is_first(self) -> bool:
        return self.owned == 0


@dataclass(frozen=True)
class Canvas:
    """`asked` frames in segments of `segment`, and the number of rounds that double the rate."""

    asked: int
    segment: int
    rounds: int

    @property
    def frames(self) -> int:
        """Frames that are generated before the first round."""
        return -(-(self.asked - 1) // self.segment) * self.segment + 1

    @property
    def final_frames(self) -> int:
        """Frames of the finished clip."""
        return dense_frames(self.asked, self.rounds)

    @property
    def keyframes(self) -> tuple[int, ...]:
        """Frames of the generated keyframes before the first round."""
        return tuple(range(self.segment, self.frames, self.segment))

    def tiles(self, number: int) -> tuple[RoundTile, ...]:
        """Tiles of round `number` from 1, in its frames: 2^number, or one per segment if fewer."""
        step = 2 * self.segment
        segments = (dense_frames(self.frames, number) - 1) // step
        count = min(2**number, segments)
        least, more = divmod(segments, count)
        tiles, done = [], 0
        for index in range(count):
            stop = done + least + (index < more)
            tiles.append(RoundTile(max(0, done - 1) * step, done * step, stop * step))
            done = stop
        return tuple(tiles)


def dense_frames(frames: int, rounds: int) -> int:
    """Frames of a clip of `frames` after `rounds` doublings of its rate."""
    return (frames - 1) * 2**rounds + 1


def position_rate(fps: float, number: int) -> float:
    """Frames per second of the positions in round `number` of a clip that began with `fps`."""
    return min(fps * 2**number, FASTEST)


def canvas_of(
    settings: Settings, config: TransformerConfig, frames: int, unit: int
) -> Canvas | None:
    """The canvas of a clip of `frames`, None for a pipeline without rounds.

    `unit` is the number of frames in a latent. Raises UserError for what such a pipeline cannot do.
    """
    name = settings.pipeline.name
    if not any(stage.dense for stage in settings.pipeline.stages):
        return None
    if not config.keyframes:
        raise UserError(
            f"pipeline={name}: model={settings.model.name} was not trained to generate keyframes;"
            " use an LTX-2.5 model"
        )
    if settings.generated_keyframes:
        raise UserError(
            f"generated_keyframes={settings.generated_keyframes} has no effect: pipeline={name}"
            " chooses its keyframes; drop it"
        )
    if frames < 1 + unit:
        raise UserError(f"frames={frames} is no clip; pipeline={name} needs {1 + unit} or more")
    # With equal padding the longer segments are taken.
    segment = min(SEGMENTS, key=lambda size: (-(frames - 1) % size, -size))
    assert segment % unit == 0, "keyframes stand where a latent frame ends"
    return Canvas(frames, segment, settings.dfr.rounds)


def with_rounds(settings: Settings) -> Settings:
    """Settings with the stages of the rounds that are run.

    What starts from a stage that is not run starts from what that one would have started from.
    """
    _check(settings)
    wanted, given = settings.dfr, settings.pipeline.stages
    passed = {stage.name: stage.start for stage in given if stage.round > wanted.rounds}

    def source(name: str | None) -> str | None:
        while name in passed:
            name = passed[name]
        return name

    stages = [
        replace(
            stage,
            start=source(stage.start),
            video_from=source(stage.video_from),
            audio_from=source(stage.audio_from),
            detail_from=stage.detail_from if wanted.detailing else None,
        )
        for stage in given
        if stage.name not in passed
    ]
    return replace(settings, pipeline=replace(settings.pipeline, stages=stages))


def _check(settings: Settings) -> None:
    wanted, stages = settings.dfr, settings.pipeline.stages
    if not 0 <= wanted.rounds <= MOST_ROUNDS:
        raise UserError(f"dfr.rounds={wanted.rounds} is not in 0 to {MOST_ROUNDS}")
    if not wanted.detailing:
        return
    if not any(DETAILING in stage.loras for stage in stages):
        raise UserError(
            f"dfr.detailing={wanted.detailing} has no effect on pipeline={settings.pipeline.name};"
            " drop it or use pipeline=dfr"
        )
    if wanted.detailing not in settings.lora:
        known = ", ".join(settings.lora) or "none"
        raise UserError(
            f"dfr.detailing={wanted.detailing} names no LoRA of the run"
            f"{nearest(wanted.detailing, settings.lora)}; there are: {known}"
        )


def lora_group(settings: Settings, name: str) -> str:
    """What a stage must list under `loras` to take the LoRA `name` of the user."""
    return DETAILING if name == settings.dfr.detailing else "user"
