"""Options that would have no effect in the chosen combination: they are refused, not ignored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace

from ltx2.errors import UserError
from ltx2.pipelines.files import needed_roles
from ltx2.pipelines.guidance import KINDS, OFF, STREAMS
from ltx2.pipelines.settings import EnhanceSettings, ModelFile, Settings, StageSettings

_SHIFT = ("tokens", "max_shift", "base_shift", "terminal")
_SCHEDULER_KEYS = {"ltx2": ("steps", *_SHIFT), "linear_quadratic": ("steps",), "beta": ("steps",),
                   "list": ()}  # fmt: skip
_SAMPLER_KEYS = {
    "auto": (),
    "euler": (),
    "euler_ancestral": ("eta", "s_noise"),
    "cfg_pp": ("eta", "s_noise"),
    "res_2s": ("eta",),
    "gradient_estimation": ("gamma",),
}
_OUTPUT_KEYS = {"mp4": ("crf", "preset"), "webm": ("crf",), "gif": (), "png": (),
                "exr": ("colour_space",), "hevc_hlg": ("crf", "preset")}  # fmt: skip
_TILE_KEYS = ("frames", "height", "width")
_PICTURE_KEYS = ("height", "width", "tiling", "decoder", "output", "dtype.video_vae")


def check_effects(settings: Settings, given: Iterable[str]) -> None:
    """Raise UserError if a key of `given` (dotted, from the command line) changes nothing."""
    reasons = _reasons(settings)
    for key in given:
        for prefix, reason in reasons.items():
            if key == prefix or key.startswith(prefix + "."):
                raise UserError(f"{key} has no effect: {reason}; drop it")


def check_required(settings: Settings) -> None:
    """Options that only make sense with a value of the user's own, such as lora=user."""
    for name, lora in settings.lora.items():
        if not lora.file:
            raise UserError(f"lora.{name}.file is empty; give the file, as lora.{name}.file=PATH")
    for name, condition in settings.conditioning.items():
        if not condition.path:
            raise UserError(
                f"conditioning.{name}.path is empty; give it, as conditioning.{name}.path=cat.png"
            )
    if settings.scheduler.kind == "list" and settings.scheduler.sigmas is None:
        raise UserError("scheduler.sigmas is empty; give it, as scheduler.sigmas=[1.0,0.7,0.4,0.0]")
    if not settings.model.files.get("checkpoint", ModelFile()).file:
        key = "model.files.checkpoint.file"
        raise UserError(f"{key} is empty; give the file, as {key}=PATH")


def _reasons(settings: Settings) -> dict[str, str]:
    """Keys without effect, with the reason."""
    sampling = [stage for stage in settings.pipeline.stages if stage.do == "sample"]
    return (
        _sampler(settings, sampling)
        | _scheduler(settings)
        | _unused("output", ("crf", "preset", "colour_space"), settings.output.format, _OUTPUT_KEYS)
        | _tiling(settings)
        | _denoise_tiles(settings, sampling)
        | _guidance(settings, sampling)
        | _schedules(settings, sampling)
        | _files(settings, sampling)
        | _watching(settings, sampling)
        | ({} if settings.frames == "auto" else {"duration": "frames is not auto"})
        | _pictures(settings)
        | _conditioning(settings)
        | _input_keys(settings)
        | _whole_groups(settings, sampling)
        | _task(settings)
    )


def _task(settings: Settings) -> dict[str, str]:
    """Of `task`, which only the application's settings have."""
    task = getattr(settings, "task", "generate")
    if task == "evaluate":
        keys = ("prompt", "metrics", "logger", "preview")
        return dict.fromkeys(keys, "task=evaluate draws its own prompts and judges the clips")
    return {"evaluate": f"task={task} does not use it"}


def _unused(
    group: str, keys: tuple[str, ...], chosen: str, used: dict[str, tuple[str, ...]]
) -> dict[str, str]:
    if chosen not in used:
        return {}  # unknown, which is said later
    rest = [key for key in keys if key not in used[chosen]]
    return {f"{group}.{key}": f"{group}={chosen} does not use it" for key in rest}


def _sampler(settings: Settings, sampling: list[StageSettings]) -> dict[str, str]:
    if all(stage.sampler not in ("main", "release") for stage in sampling):
        return {"sampler": f"every stage of pipeline={settings.pipeline.name} has its own"}
    return _unused("sampler", ("eta", "s_noise", "gamma"), settings.sampler.kind, _SAMPLER_KEYS)


def _scheduler(settings: Settings) -> dict[str, str]:
    scheduler = settings.scheduler
    if scheduler.sigmas is not None:
        reason = f"the {len(scheduler.sigmas)} given sigmas are the whole schedule"
        return {f"scheduler.{key}": reason for key in ("steps", *_SHIFT)}
    return _unused("scheduler", ("steps", *_SHIFT), scheduler.kind, _SCHEDULER_KEYS)


def _tiling(settings: Settings) -> dict[str, str]:
    tiling = settings.tiling
    keys = [*_TILE_KEYS, *(f"{axis}_overlap" for axis in _TILE_KEYS)]
    if tiling.mode != "size":
        return {f"tiling.{key}": f"tiling.mode is {tiling.mode}, not size" for key in keys}
    whole = [axis for axis in _TILE_KEYS if getattr(tiling, axis) == 0]
    return {f"tiling.{axis}_overlap": f"tiling.{axis}=0 leaves the axis whole" for axis in whole}


def _denoise_tiles(settings: Settings, sampling: list[StageSettings]) -> dict[str, str]:
    if not any("video" in stage.streams for stage in sampling):
        return {"denoise_tiles": f"pipeline={settings.pipeline.name} samples no pictures"}
    tiles = settings.denoise_tiles
    whole = [axis for axis in _TILE_KEYS if getattr(tiles, axis) == 1]
    reasons = {
        f"denoise_tiles.{axis}_overlap": f"denoise_tiles.{axis}=1 leaves the axis whole"
        for axis in whole
    }
    if len(whole) == len(_TILE_KEYS):
        reasons["denoise_tiles.above_tokens"] = "no axis is tiled"
    return reasons


def _guidance(settings: Settings, sampling: list[StageSettings]) -> dict[str, str]:
    """Guidance values that no stage applies, and a negative prompt that no pass reads."""
    if all(stage.guidance == "none" for stage in sampling):
        keys = ["guidance"] + ["negative_prompt"] * bool(settings.negative_prompt)
        return dict.fromkeys(keys, "no stage uses guidance")
    reasons = _unused_scales(settings, sampling)
    given, preset = settings.guidance, settings.model.preset.guidance
    pairs = ((given.video.cfg, preset.video.cfg), (given.audio.cfg, preset.audio.cfg))
    # A preset that comes from the checkpoint is not known yet.
    known = not settings.model.release
    off = known and all((default if own is None else own) in (None, 1.0) for own, default in pairs)
    off = off and not (given.video.by_sigma or given.audio.by_sigma)
    off = off or "cfg" not in KINDS.get(given.kind, ("cfg",))
    # An empty negative prompt asks for nothing, so it is never refused.
    if settings.negative_prompt and off:
        reasons["negative_prompt"] = "guidance without cfg reads no negative prompt"
    return reasons


def _unused_scales(settings: Settings, sampling: list[StageSettings]) -> dict[str, str]:
    """Keys of streams that the kind of guidance or every guided stage leaves out."""
    kind = settings.guidance.kind
    used = KINDS.get(kind, tuple(OFF))
    reasons = {"guidance.max_batch": "guidance=none makes one pass"} if kind == "none" else {}
    guided = [stage.streams for stage in sampling if stage.guidance == "main"]
    for stream in STREAMS:
        unused = [key for key in (*OFF, *(["by_sigma"] * (not used))) if key not in used]
        reasons |= {f"guidance.{stream}.{k}": f"guidance={kind} does not use it" for k in unused}
        if all(len(streams) == 1 for streams in guided):
            reasons[f"guidance.{stream}.modality"] = "the stream is alone"
        if all(stream not in streams for streams in guided):
            reasons[f"guidance.{stream}"] = f"no guided stage samples {stream}"
    return reasons


def _schedules(settings: Settings, sampling: list[StageSettings]) -> dict[str, str]:
    used = {stage.schedule for stage in sampling}
    main = settings.scheduler.sigmas
    reasons = {
        f"schedules.{name}": f"no stage of pipeline={settings.pipeline.name} follows it"
        for name, sigmas in settings.schedules.items()
        if name not in used and not ("main" in used and sigmas == main)
    }
    if "main" not in used:
        reasons["scheduler"] = f"no stage of pipeline={settings.pipeline.name} uses it"
    return reasons


def _files(settings: Settings, sampling: list[StageSettings]) -> dict[str, str]:
    model = settings.model
    # A kind that the checkpoint will tell may be dev, which can need one file more.
    needed = needed_roles(replace(settings, model=replace(model, kind=model.kind or "dev")))
    pipeline = settings.pipeline.name
    reasons = {
        f"model.files.{role}": f"pipeline={pipeline} model={settings.model.name} does not read it"
        for role in settings.model.files
        if role not in needed
    }
    if not any("user" in stage.loras for stage in sampling):
        reasons["lora"] = f"no stage of pipeline={pipeline} takes LoRAs"
    takers = {stage.name for stage in sampling if "user" in stage.loras}
    for name, lora in settings.lora.items():
        if takers and takers <= lora.stages.keys():
            reasons[f"lora.{name}.strength"] = f"lora.{name}.stages names every stage that takes it"
    if model.release:
        reasons["model.preset"] = f"model.release={model.release} brings the preset"
    if not any(_reads_input(stage) for stage in settings.pipeline.stages):
        reasons["input"] = f"pipeline={pipeline} starts from nothing but the prompt"
    return reasons


def _input_keys(settings: Settings) -> dict[str, str]:
    """Keys of `input` that the pipeline's stages do not read; several exclude one another."""
    stages, name = settings.pipeline.stages, settings.pipeline.name
    extends = any(stage.extend for stage in stages)
    region = any(stage.region for stage in stages)
    encodes = any(stage.do == "encode" and "audio" in stage.streams for stage in stages)
    sound = encodes or any(stage.audio_from == "input" for stage in stages)
    used = {
        "side": extends,
        "overlap": extends,
        "regenerate": region,
        "frozen_noise": (region and set(settings.input.regenerate) != {"video", "audio"})
        or any(stage.freeze for stage in stages),
        "audio": sound and not extends,
        "audio_start": sound and not extends,
    }
    idle = [key for key, is_used in used.items() if not is_used]
    return {f"input.{key}": f"pipeline={name} does not read it here" for key in idle}


def _whole_groups(settings: Settings, sampling: list[StageSettings]) -> dict[str, str]:
    """Windows without a stage that walks them, and options of a rewriting that is off."""
    reasons = {}
    if not any(stage.windows for stage in sampling):
        reasons["window"] = f"pipeline={settings.pipeline.name} has no windows"
    if not any(stage.dense for stage in sampling):
        reasons["dfr"] = f"pipeline={settings.pipeline.name} has no rounds"
    if not settings.enhance.enabled:
        options = (item.name for item in fields(EnhanceSettings) if item.name != "enabled")
        reasons |= {f"enhance.{name}": "enhance.enabled is false" for name in options}
    return reasons


def _watching(settings: Settings, sampling: list[StageSettings]) -> dict[str, str]:
    """What needs a stage that samples, or one whose latents are worth keeping."""
    pipeline = settings.pipeline.name
    reasons = {}
    if not any("video" in stage.streams for stage in sampling):
        reasons["preview"] = f"pipeline={pipeline} samples no pictures"
    if not sampling:
        keys = ("prompt", "negative_prompt", "on_interrupt")
        reasons |= dict.fromkeys(keys, f"pipeline={pipeline} samples nothing")
    if all(stage.do in ("load", "decode") for stage in settings.pipeline.stages):
        reasons["save_latents"] = f"pipeline={pipeline} makes no latents"
    return reasons


def _pictures(settings: Settings) -> dict[str, str]:
    """What only matters where pictures are made, and to upscaled ones."""
    stages = settings.pipeline.stages
    reason = f"pipeline={settings.pipeline.name} makes no pictures"
    if not any("video" in s.streams for s in stages if s.do != "decode") and not any(
        s.video_from for s in stages
    ):
        return dict.fromkeys(_PICTURE_KEYS, reason)
    if any(stage.do == "upscale" for stage in stages):
        return {}
    return {"dtype.upsampler": f"pipeline={settings.pipeline.name} upscales nothing"}


def _conditioning(settings: Settings) -> dict[str, str]:
    reasons = {}
    for name, item in settings.conditioning.items():
        if item.kind != "image":
            reasons[f"conditioning.{name}.crf"] = f"kind={item.kind} is not re-compressed"
        if item.kind == "reference":
            reasons[f"conditioning.{name}.frame"] = "a reference spans the clip"
    return reasons


def _reads_input(stage: StageSettings) -> bool:
    used = {stage.video_from, stage.audio_from, *stage.conditions}
    return stage.do in ("encode", "load") or stage.region or bool(used & {"input", "source"})
