"""Continuing a given clip after its end or before its beginning.

The generated clip overlaps the given one: its overlapping latents are those of the given clip,
held clean. What is written is the given clip untouched and the new part of the generated one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ltx2 import ops
from ltx2.diffusion.conditioning import AudioIndex, LatentIndex
from ltx2.errors import UserError
from ltx2.media.audio import read_audio, resample, to_stereo
from ltx2.models.latents import pack_audio
from ltx2.pipelines.clips import clip_sound_path, input_metadata, iterate_input, read_input
from ltx2.pipelines.latents import Latents
from ltx2.pipelines.plan import Plan

CROSSFADE_SECONDS = 0.02
SIDES = ("after", "before")


def check_extension(plan: Plan) -> None:
    """Raise UserError unless side and overlap fit the given clip and the generated one."""
    given, time = plan.settings.input, plan.scale.time
    if given.side not in SIDES:
        raise UserError(f"input.side={given.side} is unknown; use after or before")
    frames = input_metadata(plan.settings).frames
    most = min(frames, plan.frames - time)
    overlap = overlap_frames(plan)
    if overlap < 1 or (overlap - 1) % time or overlap > most:
        low = max(1, min(most, overlap) - (min(most, overlap) - 1) % time)
        raise UserError(
            f"input.overlap={overlap} is not {time}k + 1 up to {most} (the clip has {frames}"
            f" frames, the extension {plan.frames}); use {low}"
        )
    if given.side == "before" and overlap < 1 + time:
        raise UserError(f"input.overlap={overlap}: before a clip at least {1 + time} are needed")


def overlap_frames(plan: Plan) -> int:
    """Frames of the given clip that the generated one repeats; about a quarter unless given."""
    time = plan.scale.time
    given = plan.settings.input.overlap
    return given if given else 1 + max(1, (plan.frames - 1) // (4 * time)) * time


def source_window(plan: Plan) -> tuple[np.ndarray, float]:
    """The overlapping frames (F, H, W, 3) of the given clip and the second they begin at."""
    settings, overlap = plan.settings, overlap_frames(plan)
    if settings.input.side == "before":
        return read_input(settings, overlap), 0.0
    first = input_metadata(settings).frames - overlap
    frames = [f for i, f in enumerate(iterate_input(settings)) if i >= first]
    return np.stack(frames), first / plan.fps


def extension_items(plan: Plan, source: Latents) -> list[Any]:
    """Conditioning that holds the overlap in the generated clip."""
    assert source.video is not None
    if plan.settings.input.side == "after":
        items: list[Any] = [LatentIndex(source.video, 0)]
        index = 0
    else:
        # The first latent of the overlap codes one frame, inside a clip every latent codes more.
        video = source.video[:, 1:]
        total = (plan.frames - 1) // plan.scale.time + 1
        items = [LatentIndex(video, total - video.shape[1])]
        index = plan.audio_length - (0 if source.audio is None else source.audio.shape[1])
    if source.audio is not None:
        items.append(AudioIndex(ops.f32(pack_audio(source.audio)), index))
    return items


def output_frames(plan: Plan) -> int:
    """Frames of the joined clip."""
    return input_metadata(plan.settings).frames + plan.frames - overlap_frames(plan)


def joined_seams(plan: Plan, frames: list[int]) -> list[int]:
    """Frames of the joined clip that `frames` of the generated one become."""
    overlap = overlap_frames(plan)
    if plan.settings.input.side == "before":
        return [frame for frame in frames if frame < plan.frames - overlap]
    shift = output_frames(plan) - plan.frames
    return [frame + shift for frame in frames if frame > overlap]


def joined_frames(
    plan: Plan, given: Iterator[np.ndarray], made: Iterator[np.ndarray]
) -> Iterator[np.ndarray]:
    """Chunks of the given clip and of the new part, in the order they are shown."""
    overlap = overlap_frames(plan)
    if plan.settings.input.side == "after":
        yield from given
        yield from _cut(made, overlap, plan.frames)
    else:
        yield from _cut(made, 0, plan.frames - overlap)
        yield from given


def _cut(chunks: Iterator[np.ndarray], start: int, stop: int) -> Iterator[np.ndarray]:
    """Frames [start, stop) of chunks (f, H, W, 3)."""
    seen = 0
    for chunk in chunks:
        part = chunk[max(0, start - seen) : max(0, stop - seen)]
        seen += len(chunk)
        if len(part):
            yield part


def joined_sound(plan: Plan, made: np.ndarray, rate: int) -> np.ndarray:
    """The given clip's sound (2, N) and the new part of `made`, faded into each other."""
    clip, path = input_metadata(plan.settings), clip_sound_path(plan.settings)
    new_seconds = (plan.frames - overlap_frames(plan)) / plan.fps
    length = round(clip.frames / plan.fps * rate)
    sound = read_audio(path) if path else None
    own = np.zeros((2, length), np.float32)
    if sound is not None:
        resampled = resample(to_stereo(sound[0]), sound[1], rate)[:, :length]
        own[:, : resampled.shape[1]] = resampled
    added = round(new_seconds * rate)
    held = round(overlap_frames(plan) / plan.fps * rate)
    if plan.settings.input.side == "after":
        return _faded(own, _sized(made, held + added), held, rate)
    return _faded(_sized(made, added + held), own, held, rate)


def _sized(sound: np.ndarray, length: int) -> np.ndarray:
    missing = max(0, length - sound.shape[1])
    return np.pad(sound[:, :length], ((0, 0), (0, missing)))


def _faded(first: np.ndarray, second: np.ndarray, shared: int, rate: int) -> np.ndarray:
    """`first` then `second`, which overlap by `shared` samples; a short fade in their middle."""
    fade = max(1, min(shared, round(CROSSFADE_SECONDS * rate)))
    keep = shared - (shared - fade) // 2
    lead = (shared - fade) // 2
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    head, tail = first[:, : first.shape[1] - keep], second[:, lead + fade :]
    a = first[:, first.shape[1] - keep : first.shape[1] - keep + fade]
    b = second[:, lead : lead + fade]
    return np.concatenate([head, a * (1 - ramp) + b * ramp, tail], axis=1)
