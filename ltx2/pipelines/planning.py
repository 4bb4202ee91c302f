"""Everything about a run that can be known and refused before a weight is read.

`make_plan` fills the settings from the model's preset, finds the files, reads their headers and
derives shapes, sigmas and guidance of every stage. What it accepts, the runner can run.
"""

from __future__ import annotations

import dataclasses
import logging
from fractions import Fraction

from ltx2.errors import UserError, nearest
from ltx2.models.latents import (
    video_latent_shape,
)
from ltx2.pipelines.clips import check_input_clip, input_metadata
from ltx2.pipelines.components.audio import audio_geometry
from ltx2.pipelines.components.transformer import transformer_config
from ltx2.pipelines.components.upsampler import upsampled_grid, upsampler_kind
from ltx2.pipelines.components.video import decoder_config, video_scale
from ltx2.pipelines.decoding import check_decoder, decode_tiling
from ltx2.pipelines.denoise_tiles import stage_tiles, tile_notices
from ltx2.pipelines.dense import canvas_of, with_rounds
from ltx2.pipelines.durations import check_frames, most_frames, wants_duration
from ltx2.pipelines.extension import output_frames
from ltx2.pipelines.files import find_files, with_media_paths
from ltx2.pipelines.guidance import GuidancePair, check_model_takes_guidance, resolve_guidance
from ltx2.pipelines.inputs import check_inputs
from ltx2.pipelines.loras import check_lora_settings
from ltx2.pipelines.memory import check_memory
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.presets import warn_of_other_release, with_release
from ltx2.pipelines.quantisation import check_quantisation
from ltx2.pipelines.ranges import check_ranges
from ltx2.pipelines.requirements import check_files, read_headers
from ltx2.pipelines.rounds import tile_tokens
from ltx2.pipelines.sampling import check_unconditional, stage_sampler, with_sampler
from ltx2.pipelines.saved import check_saved, with_saved_size
from ltx2.pipelines.schedules import check_schedule_of_model, stage_sigmas
from ltx2.pipelines.settings import Settings, StageSettings
from ltx2.pipelines.sizes import check_capacity, check_sound_length, size_on_grid
from ltx2.pipelines.slots import keyframe_slots
from ltx2.pipelines.watching import check_watching
from ltx2.pipelines.windows import check_window, windows
from ltx2.weights.header import Header

log = logging.getLogger(__name__)

ACTIONS = ("encode", "load", "sample", "upscale", "decode")


def make_plan(settings: Settings) -> Plan:
    """Check `settings` and derive the plan. Raises UserError with one clear line."""
    _check_stages(settings)
    settings = with_media_paths(with_release(with_rounds(settings)))
    settings = fill_preset(with_input_size(with_saved_size(settings)))
    check_ranges(settings)
    check_frames(settings)
    check_lora_settings(settings)
    check_memory(settings)
    check_model_takes_guidance(settings)
    check_schedule_of_model(settings)
    files = find_files(settings)
    headers = read_headers(files)
    checkpoint = headers["checkpoint"]
    check_files(settings, files, headers)
    check_quantisation(settings, files, headers)
    warn_of_other_release(settings.model, checkpoint)
    scale = video_scale(headers.get("video_vae", checkpoint))
    audio = audio_geometry(headers.get("audio_vae", checkpoint))
    config = transformer_config(checkpoint)
    asked = wants_duration(settings)
    if asked:
        settings = dataclasses.replace(settings, frames=_most_frames(settings, scale.time))
    height, width, frames, notices = size_on_grid(settings, scale, _clip_frames(settings))
    settings = dataclasses.replace(settings, height=height, width=width, frames=frames)
    canvas = canvas_of(settings, config, frames, scale.time)
    frames = frames if canvas is None else canvas.frames
    plan = Plan(
        settings=settings,
        files=files,
        headers=headers,
        transformer=config,
        scale=scale,
        audio=audio,
        height=height,
        width=width,
        frames=frames,
        fps=float(_given(settings.fps)),
        stages=(),
        notices=tuple(notices),
        wants_duration=asked,
        keyframe_slots=(canvas.keyframes if canvas else keyframe_slots(settings, config, frames)),
        canvas=canvas,
    )
    if any("audio" in s.streams for s in settings.pipeline.stages if s.do in ("encode", "sample")):
        check_sound_length(frames, plan.fps, audio.latents_per_second)
    stages = tuple(_stage_plan(plan, stage) for stage in settings.pipeline.stages)
    tokens = max((s.tokens_per_call for s in stages if s.sigmas is not None), default=0)
    check_capacity(settings, config, round(tokens), plan.audio_length)
    _check_upscales(stages, headers)
    check_inputs(plan, stages)
    check_watching(plan, stages)
    added = check_saved(plan, stages) + tile_notices(settings.denoise_tiles, stages)
    plan = dataclasses.replace(plan, notices=plan.notices + added)
    decoder = decoder_config(plan.header_of("video_vae"))
    check_decoder(settings.decoder, decoder)
    tiling = decode_tiling(settings.tiling, height, width, plan.decoded_grid, decoder)
    plan = dataclasses.replace(plan, stages=stages, tiling=tiling)
    joined = output_frames(plan) if plan.extends else None
    return dataclasses.replace(plan, joined_frames=joined)


def _most_frames(settings: Settings, unit: int) -> int:
    """What frames=auto is planned with."""
    if _uses_clip(settings):
        raise UserError(
            f"frames=auto has no effect on pipeline={settings.pipeline.name}, which lasts as long"
            " as its clip; drop it"
        )
    return most_frames(settings, unit)


def with_input_size(settings: Settings) -> Settings:
    """Height, width, frames and fps that are not given come from the input clip, if any."""
    if not _uses_clip(settings):
        return settings
    path = settings.input.video
    if not path:
        name = settings.pipeline.name
        raise UserError(f"pipeline={name} starts from a clip; set input.video=FILE")
    check_input_clip(settings)
    clip = input_metadata(settings)
    # An extension's length is its own; everything else lasts as long as the clip.
    extends = any(stage.extend for stage in settings.pipeline.stages)
    return dataclasses.replace(
        settings,
        height=clip.height if settings.height is None else settings.height,
        width=clip.width if settings.width is None else settings.width,
        frames=clip.frames if settings.frames is None and not extends else settings.frames,
        fps=float(clip.fps) if settings.fps is None else settings.fps,
    )


def _uses_clip(settings: Settings) -> bool:
    return any(
        (stage.do == "encode" and "video" in stage.streams)
        or stage.video_from == "input"
        or (stage.do == "sample" and "source" in stage.conditions)
        for stage in settings.pipeline.stages
    )


def _clip_frames(settings: Settings) -> int | None:
    """Length of the clip that the run cannot outlast; None for an extension, or without a clip."""
    if not _uses_clip(settings) or any(stage.extend for stage in settings.pipeline.stages):
        return None
    return input_metadata(settings).frames


def fill_preset(settings: Settings) -> Settings:
    """Replace every None by the model preset's value; sizes are those of the first stage."""
    preset = settings.model.preset
    first = next((s for s in settings.pipeline.stages if s.do == "sample"), None)
    scale = 1.0 if first is None else first.scale
    scheduler = settings.scheduler
    if scheduler.kind != "list" and scheduler.sigmas is None and scheduler.steps is None:
        scheduler = dataclasses.replace(scheduler, steps=preset.steps)
    conditioning = {
        name: dataclasses.replace(c, crf=preset.image_crf if c.crf is None else c.crf)
        for name, c in settings.conditioning.items()
    }
    negative = settings.negative_prompt
    settings = with_sampler(settings)
    return dataclasses.replace(
        settings,
        negative_prompt=preset.negative_prompt if negative is None else negative,
        height=round(preset.height / scale) if settings.height is None else settings.height,
        width=round(preset.width / scale) if settings.width is None else settings.width,
        frames=preset.frames if settings.frames is None else settings.frames,
        fps=preset.fps if settings.fps is None else settings.fps,
        scheduler=scheduler,
        guidance=resolve_guidance(settings.guidance, preset.guidance),
        conditioning=conditioning,
    )


def _given(value: float | None) -> float:
    assert value is not None
    return value


def _check_stages(settings: Settings) -> None:
    """Stage names are unique and every reference goes to an earlier stage."""
    pipeline = settings.pipeline
    if not any(stage.do == "decode" for stage in pipeline.stages):
        raise UserError(f"pipeline={pipeline.name} has no decode stage, so it would write nothing")
    seen: list[str] = []
    for stage in pipeline.stages:
        if stage.do not in ACTIONS:
            hint = nearest(stage.do, ACTIONS)
            what = f"pipeline={pipeline.name}: stage '{stage.name}'"
            raise UserError(f"{what} does '{stage.do}'{hint}")
        for key in ("start", "video_from", "audio_from", "audio_reference", "detail_from"):
            value = getattr(stage, key)
            if (
                value is not None
                and value not in seen
                and (not key.endswith("_from") or value != "input")
            ):
                known = ", ".join(seen) or "none"
                raise UserError(
                    f"pipeline={pipeline.name}: stage '{stage.name}' has {key}={value}, which"
                    f" is not an earlier stage ({known})"
                )
        if not stage.name or stage.name in seen:
            what = f"pipeline={pipeline.name}: stage name '{stage.name}'"
            raise UserError(f"{what} is empty or used twice")
        seen.append(stage.name)


def _stage_plan(plan: Plan, stage: StageSettings) -> StagePlan:
    if stage.windows:
        check_window(plan)
    ratio = Fraction(stage.scale).limit_denominator(64)
    height, width = int(plan.height * ratio), int(plan.width * ratio)
    grid = video_latent_shape(plan.frames_of(stage.round), height, width, plan.scale)
    if stage.do != "sample":
        return StagePlan(stage, height, width, grid)
    tokens = grid[0] * grid[1] * grid[2]
    sigmas = stage_sigmas(plan.settings, stage, tokens)
    guidance = GuidancePair.of(plan.settings.guidance, stage, plan.transformer.layers)
    check_unconditional(plan.settings, stage, guidance, sigmas)
    calls = stage_sampler(plan.settings, stage).model_calls(sigmas)
    if stage.round:
        parts = tile_tokens(plan, stage.round, grid)
        mean = sum(parts) / len(parts)
        return StagePlan(
            stage, height, width, grid, sigmas, guidance, calls, len(parts), None, mean
        )
    spans = windows(plan) if stage.windows else []
    # All windows are equally long.
    sampled = (spans[0].stop - spans[0].start, *grid[1:]) if spans else grid
    tiles = stage_tiles(plan.settings.denoise_tiles, stage, sampled)
    repeats = max(1, len(spans))
    return StagePlan(stage, height, width, grid, sigmas, guidance, calls, repeats, tiles)


def _check_upscales(stages: tuple[StagePlan, ...], headers: dict[str, Header]) -> None:
    """The upscaler's factor must lead from one sampling grid to the next."""
    by_name = {stage.name: stage for stage in stages}
    for stage in stages:
        if stage.settings.do != "upscale":
            continue
        source = by_name[stage.settings.start or ""]
        header = headers[stage.settings.upscaler]
        made = upsampled_grid(header, source.grid)
        if made != stage.grid:
            raise UserError(
                f"stage '{stage.name}' needs an upscaler from latent grid {source.grid} to"
                f" {stage.grid}, but {header.path.name} is {upsampler_kind(header)} and gives"
                f" {made};"
                f" set model.files.{stage.settings.upscaler}.file to the right kind"
            )
