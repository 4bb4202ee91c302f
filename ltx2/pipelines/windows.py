"""Long clips in overlapping windows: each window continues what the one before it made.

A window's first latent frames, and the sound that goes with them, are those of the window before,
held clean; so pictures and sound run on without a cut. Positions count from the window's start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ltx2 import ops
from ltx2.diffusion.appended import KeyframeIndex
from ltx2.diffusion.conditioning import AudioIndex, LatentIndex
from ltx2.diffusion.state import LatentState, initial_state
from ltx2.errors import UserError
from ltx2.models.latents import (
    VideoScale,
    audio_positions,
    pack_audio,
    pack_video,
    video_positions,
)
from ltx2.ops import Array
from ltx2.pipelines.latents import Latents, StateBuilder
from ltx2.pipelines.plan import Plan, StagePlan


@dataclass(frozen=True)
class Window:
    """Latent frames [start, stop) and sound [audio_start, audio_stop); `held` come from before."""

    start: int
    stop: int
    held: int
    audio_start: int
    audio_stop: int
    audio_held: int


def latent_frames(frames: int, scale: VideoScale) -> int:
    """Latent frames that `frames` video frames become."""
    return (frames - 1) // scale.time + 1


def check_window(plan: Plan) -> None:
    """Raise UserError unless window and overlap are on the latent grid and make progress."""
    frames, overlap = _sizes(plan)
    time = plan.scale.time
    if frames < 1 + time or (frames - 1) % time:
        low = max(1 + time, frames - (frames - 1) % time)
        raise UserError(f"window.frames={frames} is not {time}k + 1; use {low} or {low + time}")
    if overlap < 1 or (overlap - 1) % time or overlap >= frames:
        low = max(1, min(overlap - (overlap - 1) % time, frames - time))
        raise UserError(
            f"window.overlap={overlap} is not {time}k + 1 below window.frames={frames}; use {low}"
        )


def _sizes(plan: Plan) -> tuple[int, int]:
    """Window and overlap in frames: the preset's clip length, and a quarter of it."""
    given, time = plan.settings.window, plan.scale.time
    frames = plan.settings.model.preset.frames if given.frames is None else given.frames
    if given.overlap is not None:
        return frames, given.overlap
    return frames, 1 + max(1, (frames - 1) // (4 * time)) * time


def windows(plan: Plan) -> list[Window]:
    """The windows of the clip, the last one moved back so that all are equally long."""
    frames, overlap = _sizes(plan)
    total = latent_frames(plan.frames, plan.scale)
    size, held = latent_frames(frames, plan.scale), latent_frames(overlap, plan.scale)
    if size >= total:
        return [Window(0, total, 0, 0, plan.audio_length, 0)]
    starts = [*range(0, total - size, size - held), total - size]
    spans = [(start, start + size) for start in starts]
    result: list[Window] = []
    stop_before = audio_before = 0
    for start, stop in spans:
        first = _audio_frame(plan, start)
        last = plan.audio_length if stop == total else _audio_frame(plan, stop)
        result.append(Window(start, stop, stop_before - start, first, last, audio_before - first))
        stop_before, audio_before = stop, last
    first_window = replace(result[0], held=0, audio_held=0)
    return [first_window, *result[1:]]


def _audio_frame(plan: Plan, latent: int) -> int:
    """The audio latent frame at the time a video latent frame begins."""
    frame = max(0, latent * plan.scale.time - plan.scale.time + 1)
    return round(frame / plan.fps * plan.audio.latents_per_second)


def local_items(plan: Plan, items: list[Any], window: Window) -> list[Any]:
    """The image conditions that fall into the window, with their frames counted from its start."""
    time = plan.scale.time
    first = max(0, window.start * time - time + 1)
    last = (window.stop - 1) * time
    local: list[Any] = []
    for item in items:
        if isinstance(item, KeyframeIndex):
            if first < item.frame <= last:
                local.append(replace(item, frame=item.frame - first))
        elif window.start == 0:
            local.append(item)
    return local


def window_states(
    builder: StateBuilder,
    stage: StagePlan,
    window: Window,
    start: Latents,
    items: list[Any],
    done: Latents,
) -> dict[str, LatentState | None]:
    """Noised states of one window; `done` holds the latents of the windows before it."""
    plan = builder.plan
    grid = (window.stop - window.start, *stage.grid[1:])
    video = initial_state(
        _video_tokens(builder, start.video, window, stage), _video_times(plan, stage, window), grid
    )
    audio = initial_state(_audio_tokens(builder, start.audio, window), _audio_times(plan, window))
    if window.start > 0:
        # Only the clip's own first frame is a first frame.
        assert video.keyframes_mask is not None
        video = replace(video, keyframes_mask=np.zeros_like(video.keyframes_mask))
        assert done.video is not None and done.audio is not None
        video = LatentIndex(done.video[:, window.start : window.start + window.held]).apply(video)
        held = done.audio[:, window.audio_start : window.audio_start + window.audio_held]
        audio = AudioIndex(pack_audio(held)).apply(audio)
    for item in local_items(plan, items, window):
        video = item.apply(video)
    return {
        "video": builder.with_noise(stage, "video", video),
        "audio": builder.with_noise(stage, "audio", audio),
    }


def _video_tokens(
    builder: StateBuilder, video: Array | None, window: Window, stage: StagePlan
) -> Array:
    if video is not None:
        return ops.f32(pack_video(video[:, window.start : window.stop]))
    tokens = (window.stop - window.start) * stage.grid[1] * stage.grid[2]
    return builder.zeros((1, tokens, builder.plan.transformer.video.in_channels))


def _audio_tokens(builder: StateBuilder, audio: Array | None, window: Window) -> Array:
    if audio is not None:
        return ops.f32(pack_audio(audio[:, window.audio_start : window.audio_stop]))
    length = window.audio_stop - window.audio_start
    return builder.zeros((1, length, builder.plan.audio.token_features))


def _video_times(plan: Plan, stage: StagePlan, window: Window) -> np.ndarray:
    area = stage.grid[1] * stage.grid[2]
    positions = video_positions(stage.grid, plan.fps, plan.scale)
    part = positions[:, :, window.start * area : window.stop * area].copy()
    part[:, 0] -= part[:, 0].min()
    return part


def _audio_times(plan: Plan, window: Window) -> np.ndarray:
    positions = audio_positions(plan.audio_length, plan.audio_timing)
    part = positions[:, :, window.audio_start : window.audio_stop].copy()
    return part - part.min()


def joined(window: Window, done: Latents, made: Latents) -> Latents:
    """`done` with what a window added behind its held part."""
    if done.video is None:
        return made
    assert done.audio is not None and made.video is not None and made.audio is not None
    video = ops.concat([done.video, made.video[:, window.held :]], axis=1)
    audio = ops.concat([done.audio, made.audio[:, window.audio_held :]], axis=1)
    return Latents(video, audio)
