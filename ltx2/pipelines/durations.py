"""`frames=auto`: the length that the duration head reads from the prompt (LTX-2.5).

A run with it is planned twice: for the most frames allowed, so that everything is checked before a
weight is read, and again once the prompt is encoded. Source: spec sampling.md section 14.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

from ltx2 import ops
from ltx2.errors import UserError
from ltx2.models.duration import DurationConfig, DurationHead
from ltx2.pipelines.checks import CheckFailed
from ltx2.pipelines.settings import DurationSettings, ModelFile, Settings
from ltx2.weights.build import Backend, Prefixes, load
from ltx2.weights.header import Header

log = logging.getLogger(__name__)

AUTO = "auto"
ROLE = "duration_head"
PREFIXES = Prefixes(("duration_head.",))


def snapped(frames: int, unit: int = 8) -> int:
    """The largest unit * k + 1 that is at most `frames`, at least 1."""
    return max(0, (frames - 1) // unit) * unit + 1


def clip_frames(seconds: float, fps: float, limits: DurationSettings, unit: int = 8) -> int:
    """Frames of a clip of `seconds`, within the limits where the grid of unit * k + 1 allows."""
    least, most = round(limits.min_seconds * fps), round(limits.max_seconds * fps)
    frames = snapped(min(max(round(seconds * fps), least), most), unit)
    return min(frames + unit, snapped(most, unit)) if frames < least else frames


def wants_duration(settings: Settings) -> bool:
    """Whether the length is left to the duration head."""
    return settings.frames == AUTO


def check_frames(settings: Settings) -> None:
    """Raise UserError for a `frames` that is no number, or a duration that cannot be asked for."""
    frames, limits = settings.frames, settings.duration
    if isinstance(frames, bool) or not (frames is None or frames == AUTO or type(frames) is int):
        raise UserError(f"frames={frames} is not a whole number or auto; use for example 121")
    if not wants_duration(settings):
        return
    low, high = limits.min_seconds, limits.max_seconds
    if not (0 < low <= high and math.isfinite(high)):
        raise UserError(
            f"duration.min_seconds={low:g} and duration.max_seconds={high:g} are no limits of a"
            " clip; give 0 < min_seconds <= max_seconds"
        )
    if not settings.model.files.get(ROLE, ModelFile()).file:
        raise UserError(
            f"frames=auto needs a duration head, which model={settings.model.name} has not; give"
            f" frames=N, or an LTX-2.5 model with model.files.{ROLE}.file"
        )


def most_frames(settings: Settings, unit: int) -> int:
    """The longest clip that the duration head may choose."""
    assert settings.fps is not None
    limits = settings.duration
    return clip_frames(limits.max_seconds, settings.fps, limits, unit)


def duration_config(header: Header) -> DurationConfig:
    """Raises UserError for a file without a duration head."""
    return DurationConfig.from_metadata(header.config)


def load_duration_head(header: Header, backend: Backend, dtype: str) -> DurationHead:
    """The head, from its own file or a model's."""
    module = DurationHead.declare(duration_config(header))
    return load(module, header, PREFIXES, backend, dtype, "the duration head")


def predicted_seconds(head: DurationHead, video: Any, audio: Any) -> float:
    """Seconds for one prompt's contexts (1, T, D) and (1, T, D'). Raises CheckFailed for NaN."""
    like = head.video_input_proj.weight
    seconds = float(ops.to_numpy(head(ops.like(video, like), ops.like(audio, like)))[0])
    if not math.isfinite(seconds):
        raise CheckFailed(
            f"frames=auto: the duration head gives {seconds} s; likely causes: a damaged file or a"
            " half-precision overflow; give frames=N or dtype.connectors=fp32"
        )
    return seconds


def with_frames(settings: Settings, seconds: float, unit: int) -> Settings:
    """Settings with the length that `seconds` stand for."""
    assert settings.fps is not None
    frames = clip_frames(seconds, settings.fps, settings.duration, unit)
    log.info("the prompt asks for %.2f s: %d frames at %g fps", seconds, frames, settings.fps)
    return replace(settings, frames=frames)
