"""Checks of conditions and input media against the plan, before any weight is read."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from ltx2.errors import UserError, nearest
from ltx2.media.control import IMAGE_SUFFIXES, check_reference
from ltx2.media.images import read_image
from ltx2.media.video import read_metadata
from ltx2.pipelines.clips import check_input_clip, input_metadata, sound_path
from ltx2.pipelines.extension import check_extension
from ltx2.pipelines.files import active_loras
from ltx2.pipelines.hdr import check_hdr, clip_length, is_exr
from ltx2.pipelines.loras import reference_scales
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.settings import ConditioningSettings

log = logging.getLogger(__name__)

KINDS = ("image", "video", "reference")


def check_inputs(plan: Plan, stages: tuple[StagePlan, ...]) -> None:
    """Raise UserError for a condition or input that cannot be fully used."""
    check_hdr(plan.settings)
    check_input_clip(plan.settings)
    for name, item in plan.settings.conditioning.items():
        _check_condition(f"conditioning.{name}", item, plan, stages)
    _check_overwritten(plan)
    _check_references(plan, stages)
    _check_region(plan, stages)
    if any(stage.settings.extend for stage in stages):
        check_extension(plan)
    _check_starts(stages)
    _check_input_files(plan, stages)


def _check_condition(
    key: str, item: ConditioningSettings, plan: Plan, stages: tuple[StagePlan, ...]
) -> None:
    if item.kind not in KINDS:
        hint = nearest(item.kind, KINDS)
        raise UserError(f"{key}.kind={item.kind} is unknown{hint}; use {', '.join(KINDS)}")
    takers = {k for s in stages if s.settings.do == "sample" for k in s.settings.conditions}
    if item.kind not in takers:
        known = ", ".join(sorted(takers)) or "no condition"
        raise UserError(
            f"{key}: pipeline={plan.settings.pipeline.name} takes {known}, not kind={item.kind}"
        )
    if not 0 <= item.strength <= 1:
        raise UserError(f"{key}.strength={item.strength} is not in [0, 1]; 1 keeps the {item.kind}")
    if not 0 <= item.attention <= 1:
        raise UserError(f"{key}.attention={item.attention} is not in [0, 1]; 1 is full attention")
    if item.kind != "reference" and (item.attention != 1 or item.mask):
        raise UserError(f"{key}: attention and mask have no effect on kind={item.kind}")
    if item.crf is not None and not 0 <= item.crf <= 51:
        raise UserError(f"{key}.crf={item.crf} is not in [0, 51]; 0 switches it off")
    frames = plan.asked_frames
    if not -frames <= item.frame < frames:
        raise UserError(f"{key}.frame={item.frame} is outside the clip of {frames} frames")
    if item.path == "":
        raise UserError(f"{key}.path is empty; give the file")
    if item.kind != "reference" and item.control != "none":
        raise UserError(f"{key}.control={item.control} has no effect on kind={item.kind}")
    if item.kind == "image":
        if not is_exr(item.path):
            read_image(item.path)
    elif item.kind == "reference":
        _check_reference(key, item, plan)
    else:
        frames = clip_length(item.path) or read_metadata(item.path).frames
        _check_length(
            f"{key}.path={item.path}", frames, plan.frames - item.frame % plan.frames, plan
        )


def _check_reference(key: str, item: ConditioningSettings, plan: Plan) -> None:
    if item.frame != 0:
        raise UserError(f"{key}.frame={item.frame} has no effect on kind=reference; drop it")
    check_reference(item.path, item.control, plan.frames, plan.height, plan.width)
    frames = plan.frames
    if item.control != "tracks" and not is_still(item.path):
        frames = min(frames, read_metadata(item.path).frames)
        _check_length(f"{key}.path={item.path}", frames, plan.frames, plan)
    if item.mask:
        size = None if item.control == "tracks" else picture_size(item.path)
        _check_mask(f"{key}.mask", item.mask, frames, size)


def _check_length(what: str, frames: int, room: int, plan: Plan) -> None:
    """A clip that is shorter than its place would lose the frames that fill no latent."""
    spare = (frames - 1) % plan.scale.time
    if frames < room and spare:
        raise UserError(
            f"{what} has {frames} frames, which is not {plan.scale.time}k + 1; cut it to"
            f" {frames - spare}"
        )


def _check_overwritten(plan: Plan) -> None:
    """Two pictures for one place: the second would replace the first."""
    taken: dict[int, str] = {}
    for name, item in plan.settings.conditioning.items():
        if item.kind == "reference" or item.strength == 0:
            continue
        frame = item.frame % plan.asked_frames
        if frame in taken:
            raise UserError(
                f"conditioning.{name}.frame={item.frame} is already the frame of"
                f" conditioning.{taken[frame]}; choose another frame"
            )
        taken[frame] = name


def _check_references(plan: Plan, stages: tuple[StagePlan, ...]) -> None:
    if not any(c.kind == "reference" for c in plan.settings.conditioning.values()):
        return
    downscale, _ = reference_scales(plan.settings, plan.files)
    for stage in stages:
        if stage.settings.do == "sample" and "reference" in stage.settings.conditions:
            for key, size in (("height", stage.height), ("width", stage.width)):
                unit = downscale * plan.scale.space
                if size % unit:
                    raise UserError(
                        f"{key}: stage '{stage.name}' has {size} px, but the LoRA's references are"
                        f" {downscale} times smaller and need a multiple of {unit}"
                    )


def _check_region(plan: Plan, stages: tuple[StagePlan, ...]) -> None:
    given = plan.settings.input
    if not any(stage.settings.region for stage in stages):
        for key in ("start", "end"):
            if getattr(given, key) is not None:
                raise UserError(
                    f"input.{key} has no effect on pipeline={plan.settings.pipeline.name};"
                    " use pipeline=retake"
                )
        return
    seconds = plan.frames / plan.fps
    if given.start is None or given.end is None:
        raise UserError("a retake needs input.start and input.end in seconds")
    if not 0 <= given.start < given.end:
        raise UserError(f"input.start={given.start} must be at least 0 and before end={given.end}")
    for key in ("start", "end"):
        value = getattr(given, key)
        # A time read off a player may be one frame late.
        if value >= seconds + (0 if key == "start" else 1 / plan.fps):
            raise UserError(f"input.{key}={value} is behind the clip's end ({seconds:.3f} s)")
    unknown = [s for s in given.regenerate if s not in ("video", "audio")]
    if unknown or not given.regenerate:
        raise UserError(f"input.regenerate={given.regenerate}: use video, audio or both")


def _check_starts(stages: tuple[StagePlan, ...]) -> None:
    """A clip that a stage starts from must not be drowned in noise."""
    encoded = {s.name: set(s.settings.streams) for s in stages if s.settings.do == "encode"}
    for stage in stages:
        own = stage.settings
        held = own.region or own.extend or "mask" in own.conditions
        free = encoded.get(own.start or "", set()) - set(own.freeze)
        if stage.sigmas is None or held or not free or stage.sigmas[0] < 1:
            continue
        raise UserError(
            f"stage '{stage.name}' starts from the input's {' and '.join(sorted(free))}, but its"
            " first sigma is 1: nothing of it would be left; give"
            " scheduler.sigmas=[0.9,0.7,0.4,0.0]"
        )


def _check_input_files(plan: Plan, stages: tuple[StagePlan, ...]) -> None:
    """Sound that a stage cannot do without is there; every given file is used."""
    given, name = plan.settings.input, plan.settings.pipeline.name
    encoding = [stage.settings for stage in stages if stage.settings.do == "encode"]
    encoded = {stream for stage in encoding for stream in stage.streams}
    frozen = {s for stage in stages for s in stage.settings.freeze}
    shown = any("source" in s.settings.conditions for s in stages)
    referenced = any(stage.settings.audio_reference for stage in stages)
    loras = active_loras(plan.settings.lora)
    if referenced and len(loras) > 1:
        raise UserError(f"pipeline={name} takes one LoRA, not {len(loras)}: {', '.join(loras)}")
    if referenced and not loras:
        log.warning("pipeline=%s without its LoRA: the model was not trained for it", name)
    heard = any(stage.settings.audio_from == "input" for stage in stages)
    if given.video and not shown and "video" not in encoded and not _shows_input(stages):
        raise UserError(f"input.video has no effect on pipeline={name}; drop it")
    if given.audio and "audio" not in encoded and not heard:
        raise UserError(f"input.audio has no effect on pipeline={name}; drop it")
    if given.mask and not any("mask" in s.settings.conditions for s in stages):
        raise UserError(f"input.mask has no effect on pipeline={name}; use pipeline=inpaint")
    if any("mask" in s.settings.conditions for s in stages):
        if not given.mask:
            raise UserError(
                "an inpainting needs input.mask=FILE: a picture or video, white = generate"
            )
        clip = input_metadata(plan.settings)
        _check_mask("input.mask", given.mask, plan.frames, (clip.height, clip.width))
    if given.video:
        _check_rate(plan, given.video)
    if not 0 <= given.audio_start < math.inf:
        raise UserError(f"input.audio_start={given.audio_start} is not a time; use 0 or seconds")
    needs_sound = heard or referenced or ("audio" in frozen and "audio" in encoded)
    source = sound_path(plan.settings)
    if needs_sound and not source:
        raise UserError(f"pipeline={name} starts from sound; set input.audio=FILE")
    if needs_sound:
        from ltx2.media.audio import read_audio

        if read_audio(source, given.audio_start, 0.1) is None:
            raise UserError(f"{source} has no audio stream; pipeline={name} needs sound")


def _check_mask(key: str, path: str, frames: int, size: tuple[int, int] | None) -> None:
    """The mask lasts `frames` and has the shape of the pictures (height, width) it belongs to."""
    if not is_still(path) and (held := read_metadata(path).frames) < frames:
        raise UserError(f"{key}={path} has {held} frames, the clip {frames}; make it longer")
    height, width = picture_size(path)
    if size is not None and height * size[1] != width * size[0]:
        raise UserError(
            f"{key}={path} is {width}x{height} px, the pictures it masks {size[1]}x{size[0]};"
            " give both one shape"
        )


def _check_rate(plan: Plan, path: str) -> None:
    """Pictures at another rate would be out of step with seconds, positions and sound."""
    own, fps = float(input_metadata(plan.settings).fps), plan.fps
    if abs(fps - own) > 1e-3 * own:
        raise UserError(f"fps={fps:g} is not the rate of {path}, {own:g}; drop fps or convert it")


def is_still(path: str) -> bool:
    """Whether the file's name is that of a picture."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def picture_size(path: str) -> tuple[int, int]:
    """(height, width) of a picture or video as displayed."""
    if is_still(path):
        height, width = read_image(path).shape[:2]
        return height, width
    clip = read_metadata(path)
    return clip.height, clip.width


def _shows_input(stages: tuple[StagePlan, ...]) -> bool:
    return any(stage.settings.video_from == "input" for stage in stages)
