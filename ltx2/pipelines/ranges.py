"""Single values that no run can use, refused from the settings alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ltx2.diffusion.samplers import SAMPLERS
from ltx2.errors import UserError, nearest
from ltx2.media.encoders import PRESETS
from ltx2.pipelines.checks import MODES
from ltx2.pipelines.settings import Settings

MODEL_KINDS = ("dev", "distilled", "any")
NOISE = ("host", "device")
# Largest CRF by format; 0 where the format has none.
FORMATS = {"mp4": 51, "webm": 63, "gif": 0, "png": 0, "exr": 0, "hevc_hlg": 51}
FPS = (1.0, 1000.0)
# The generator behind the noise is seeded with 32 bits; more would be dropped without a word.
SEEDS = 2**32
SAMPLER_OPTIONS = {"eta": (0.0, 1.0), "s_noise": (0.0, 10.0), "gamma": (0.0, 10.0)}
SHIFTS = ("max_shift", "base_shift")
SHIFT_LIMIT = 20.0


def check_ranges(settings: Settings) -> None:
    """Raise UserError for the first value out of range or unknown; sizes are checked later."""
    fps = settings.fps
    assert fps is not None
    if not FPS[0] <= fps <= FPS[1]:
        usual = settings.model.preset.fps
        raise UserError(
            f"fps={fps:g} is not in [{FPS[0]:g}, {FPS[1]:g}]; use for example {usual:g}"
        )
    if not 0 <= settings.seed < SEEDS:
        raise UserError(
            f"seed={settings.seed} is not in 0 to {SEEDS - 1}; seed={settings.seed % SEEDS} has the"
            " same noise"
        )
    _check_name("model.kind", settings.model.kind, MODEL_KINDS)
    _check_name("noise", settings.noise, NOISE)
    _check_name("checks", settings.checks, MODES)
    _check_output(settings)
    _check_sampler(settings)
    _check_shifts(settings)


def _check_name(key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        listing = f"{', '.join(known[:-1])} or {known[-1]}"
        raise UserError(f"{key}={value} is unknown{nearest(value, known)}; use {listing}")


def _check_output(settings: Settings) -> None:
    output = settings.output
    _check_name("output.format", output.format, tuple(FORMATS))
    most = FORMATS[output.format]
    if most and not 0 <= output.crf <= most:
        raise UserError(
            f"output.crf={output.crf} is not in 0 to {most} for {output.format}; smaller is better"
        )
    if output.format in ("mp4", "hevc_hlg"):
        _check_name("output.preset", output.preset, PRESETS)


def _check_sampler(settings: Settings) -> None:
    _check_name("sampler.kind", settings.sampler.kind, tuple(SAMPLERS))
    for key, (low, high) in SAMPLER_OPTIONS.items():
        value = getattr(settings.sampler, key)
        if value is not None and not low <= value <= high:
            raise UserError(f"sampler.{key}={value:g} is not in [{low:g}, {high:g}]")


def _check_shifts(settings: Settings) -> None:
    """The numbers behind scheduler=ltx2; its steps and tokens are checked where they are used."""
    scheduler = settings.scheduler
    for key in SHIFTS:
        value = getattr(scheduler, key)
        if not math.fabs(value) <= SHIFT_LIMIT:
            raise UserError(
                f"scheduler.{key}={value:g} is not in [-{SHIFT_LIMIT:g}, {SHIFT_LIMIT:g}]"
            )
    if not 0 < scheduler.terminal < 1:
        raise UserError(
            f"scheduler.terminal={scheduler.terminal:g} is not between 0 and 1; 0.1 is usual"
        )
