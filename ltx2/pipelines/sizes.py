"""Which height, width and frames a run can have: the checkpoint's grid and the machine's memory."""

from __future__ import annotations

import logging
import math
import os
from fractions import Fraction
from math import lcm

from ltx2.errors import UserError
from ltx2.models.latents import VideoScale, audio_latent_length
from ltx2.models.transformer_config import TransformerConfig
from ltx2.pipelines.settings import Settings

log = logging.getLogger(__name__)

# A block holds at least its input, queries, keys and values, in two bytes each.
BYTES_PER_CHANNEL = 8
# A device may have more memory than the host; beyond this no machine does.
MOST_OF_HOST = 2.0


def size_on_grid(
    settings: Settings, scale: VideoScale, most_frames: int | None = None
) -> tuple[int, int, int, list[str]]:
    """Height, width, frames and notices; values off the grid raise, or are snapped with a notice.

    `most_frames` is the length of the clip that the run starts from, which cannot be exceeded.
    """
    stages = [stage for stage in settings.pipeline.stages if stage.do != "decode"]
    scales = [Fraction(stage.scale).limit_denominator(64) for stage in stages]
    unit = 1
    for ratio in scales or [Fraction(1)]:
        unit = lcm(unit, (Fraction(scale.space) / ratio).numerator)
    notices: list[str] = []
    height = _on_grid("height", settings.height, unit, 0, settings.snap, notices)
    width = _on_grid("width", settings.width, unit, 0, settings.snap, notices)
    if most_frames is not None and (settings.frames or 0) > most_frames:
        low = most_frames - (most_frames - 1) % scale.time
        raise UserError(
            f"frames={settings.frames} is more than the {most_frames} frames of"
            f" {settings.input.video}; use at most {low}"
        )
    frames = _on_grid("frames", settings.frames, scale.time, 1, settings.snap, notices, most_frames)
    for notice in notices:
        log.warning("%s", notice)
    return height, width, frames, notices


def _on_grid(
    key: str,
    value: int | None,
    unit: int,
    offset: int,
    snap: bool,
    notices: list[str],
    most: int | None = None,
) -> int:
    """`value` if it is offset + k * unit (k >= 0, positive), else snapped or refused."""
    assert value is not None
    value = int(value)
    least = offset if offset > 0 else unit
    if value >= least and (value - offset) % unit == 0:
        return value
    low = max(least, value - (value - offset) % unit) if value > least else least
    high = low + unit
    rule = f"{unit}k + {offset}" if offset else f"a multiple of {unit}"
    nearest = f"{low} or {high}" if most is None or high <= most else str(low)
    if value < 1:
        raise UserError(f"{key}={value} is not positive; use {nearest}")
    if not snap:
        raise UserError(f"{key}={value} is not {rule}; use {nearest}, or snap=true to round")
    fits = most is None or high <= most
    chosen = high if fits and high - value < value - low else low
    notices.append(f"{key}={value} is not {rule}: snapped to {chosen}")
    return chosen


def check_capacity(
    settings: Settings, config: TransformerConfig, tokens: int, audio_tokens: int
) -> None:
    """Refuse a clip whose tokens could not even be held: better a line than a killed process."""
    video, audio = (s.heads * s.head_dim for s in (config.video, config.audio))
    needed = BYTES_PER_CHANNEL * (tokens * video + audio_tokens * audio)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > MOST_OF_HOST * memory:
        raise UserError(
            f"height={settings.height} width={settings.width} frames={settings.frames}"
            f" fps={settings.fps:g} is {tokens + audio_tokens} tokens, which need at least"
            f" {needed / 1e9:.0f} GB; this machine has {memory / 1e9:.0f} GB: use a smaller clip"
        )


def check_sound_length(frames: int, fps: float, per_second: float) -> None:
    """The clip must last at least half an audio latent: shorter sound has no latent at all."""
    if audio_latent_length(frames, fps, per_second) < 1:
        most = math.ceil(2 * per_second * frames) - 1
        raise UserError(
            f"frames={frames} at fps={fps:g} last {frames / fps:.4f} s, too short for any sound;"
            f" use fps={most} or less, or more frames"
        )
