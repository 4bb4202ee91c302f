"""Media that a run starts from: clips and sound as pixels, waveforms and latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.media.audio import read_audio, to_stereo
from ltx2.media.pixels import cover_resize, to_unit_range
from ltx2.models.latents import Grid
from ltx2.models.tiling import Tiling, auto_tiling, tiled_encode
from ltx2.models.video_vae import VideoEncoder
from ltx2.ops import Array
from ltx2.pipelines.clips import iterate_input, read_input, sound_path
from ltx2.pipelines.components.audio import encode_audio, load_audio_encoder
from ltx2.pipelines.components.video import load_video_encoder
from ltx2.pipelines.extension import source_window
from ltx2.pipelines.hdr import is_hdr, prepared
from ltx2.pipelines.latents import Latents
from ltx2.pipelines.plan import Plan, StagePlan

CHUNK = 16


def encode_source(plan: Plan, stage: StagePlan, backend: Any, dtypes: dict[str, str]) -> Latents:
    """Latents of the input's streams at the stage's size; sound is cut or padded to the clip.

    For an extension only of the part of the input that the generated clip overlaps.
    """
    video = audio = None
    begin, seconds = plan.settings.input.audio_start, plan.frames / plan.fps
    if "video" in stage.settings.streams:
        encoder = load_video_encoder(plan.header_of("video_vae"), backend, dtypes["video_vae"])
        if stage.settings.extend:
            frames, begin = source_window(plan)
            seconds = len(frames) / plan.fps
        else:
            frames = read_input(plan.settings, plan.frames)
        pixels = _prepared(plan, frames, stage.height, stage.width)
        video = encode_clip(encoder, pixels, plan, backend, dtypes["video_vae"])
        del encoder
    sound = input_waveform(plan, begin, seconds) if "audio" in stage.settings.streams else None
    if sound is not None:
        audio_encoder = load_audio_encoder(
            plan.header_of("audio_vae"), backend, dtypes["audio_vae"]
        )
        latent = ops.f32(encode_audio(audio_encoder, *sound))
        audio = fitted(latent, round(seconds * plan.audio.latents_per_second))
    return Latents(video, audio)


def prepared_clip(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """(F, H, W, 3) uint8 -> (1, F, height, width, 3) float32 in [-1, 1], cover-resized."""
    if frames.shape[1:3] != (height, width):
        frames = cover_resize(frames, height, width)
    return to_unit_range(frames)[None]


def encode_clip(
    encoder: VideoEncoder, pixels: np.ndarray, plan: Plan, backend: Any, dtype: str
) -> Array:
    """Latent (1, F, H, W, C) float32 of pixels (1, F, H, W, 3), in tiles where it is large."""
    height, width = pixels.shape[2:4]
    tiling: Tiling = auto_tiling(height, width, plan.scale)
    grid: Grid = (
        (pixels.shape[1] - 1) // plan.scale.time + 1,
        height // plan.scale.space,
        width // plan.scale.space,
    )
    if any(len(axis) > 1 for axis in tiling.split(grid, plan.scale)):
        # The pixels stay on the host: only the tile that is encoded goes to the device.
        return ops.f32(tiled_encode(encoder, pixels, tiling))
    return ops.f32(encoder(backend.array(pixels, dtype)))


def fitted(latent: Array, length: int) -> Array:
    """Audio latent (1, T, M, C) cut, or padded with zeros, to `length` frames."""
    latent = latent[:, :length]
    missing = length - latent.shape[1]
    return ops.pad(latent, [(0, 0), (0, missing), (0, 0), (0, 0)]) if missing else latent


def input_waveform(
    plan: Plan, begin: float | None = None, seconds: float | None = None
) -> tuple[np.ndarray, int] | None:
    """Stereo sound (2, N) of the input and its rate over a window in seconds; None without sound.

    The window is by default that of the clip.
    """
    given = plan.settings.input
    path = sound_path(plan.settings)
    if not path:
        return None
    start = given.audio_start if begin is None else begin
    sound = read_audio(path, start, plan.frames / plan.fps if seconds is None else seconds)
    if sound is None:
        if given.audio:
            raise UserError(f"input.audio={given.audio} has no audio stream; it must have sound")
        return None
    return to_stereo(sound[0]), sound[1]


def input_frames(plan: Plan, most: int | None = None) -> Iterator[np.ndarray]:
    """The input clip's first `most` frames, (f, H, W, 3) float32 in [0, 1], at the run's size."""
    chunk: list[np.ndarray] = []
    for index, frame in enumerate(iterate_input(plan.settings)):
        if index == most:
            break
        chunk.append(frame)
        if len(chunk) == CHUNK:
            yield _shown(np.stack(chunk), plan)
            chunk = []
    if chunk:
        yield _shown(np.stack(chunk), plan)


def _prepared(plan: Plan, frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames (F, H, W, 3) of the input clip -> (1, F, height, width, 3) float32 in [-1, 1]."""
    if not is_hdr(plan.settings):
        return prepared_clip(frames, height, width)
    return prepared(frames, height, width)


def _shown(frames: np.ndarray, plan: Plan) -> np.ndarray:
    if frames.shape[1:3] != (plan.height, plan.width):
        frames = cover_resize(frames, plan.height, plan.width)
    most = np.float32(1 if is_hdr(plan.settings) else 255)
    return np.asarray(frames, np.float32) / most
