"""Options that would have no effect in the chosen combination: they are refused, not ignored."""

from __future__ import annotations

from collections.abc import Iterable

from ltx2.errors import UserError
from ltx2.pipelines.files import needed_roles
from ltx2.pipelines.settings import Settings, StageSettings

_SHIFT = ("tokens", "max_shift", "base_shift", "terminal")
_SCHEDULER_KEYS = {"ltx2": ("steps", *_SHIFT), "linear_quadratic": ("steps",), "beta": ("steps",)}
_SAMPLER_KEYS = {
    "euler_ancestral": ("eta", "s_noise"),
    "cfg_pp": ("eta", "s_noise"),
    "res_2s": ("eta",),
    "gradient_estimation": ("gamma",),
}
_OUTPUT_KEYS = {"mp4": ("crf", "preset"), "webm": ("crf",)}
_TILE_KEYS = ("frames", "height", "width")


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
    if not settings.model.kind:
        raise UserError("model.kind is empty; give model.kind=dev or model.kind=distilled")


def _reasons(settings: Settings) -> dict[str, str]:
    """Keys without effect, with the reason."""
    sampling = [stage for stage in settings.pipeline.stages if stage.do == "sample"]
    return (
        _sampler(settings, sampling)
        | _scheduler(settings)
        | _unused("output", ("crf", "preset"), settings.output.format, _OUTPUT_KEYS)
        | _tiling(settings)
        | _guidance(settings, sampling)
        | _schedules(settings, sampling)
        | _files(settings, sampling)
    )


def _unused(
    group: str, keys: tuple[str, ...], chosen: str, used: dict[str, tuple[str, ...]]
) -> dict[str, str]:
    rest = [key for key in keys if key not in used.get(chosen, ())]
    return {f"{group}.{key}": f"{group}={chosen} does not use it" for key in rest}


def _sampler(settings: Settings, sampling: list[StageSettings]) -> dict[str, str]:
    if all(stage.sampler != "main" for stage in sampling):
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


def _guidance(settings: Settings, sampling: list[StageSettings]) -> dict[str, str]:
    """Guidance values that no stage applies, and a negative prompt that no pass reads."""
    if all(stage.guidance == "none" for stage in sampling):
        keys = ["guidance"] + ["negative_prompt"] * bool(settings.negative_prompt)
        return dict.fromkeys(keys, "no stage uses guidance")
    given, preset = settings.guidance, settings.model.preset.guidance
    pairs = ((given.video.cfg, preset.video.cfg), (given.audio.cfg, preset.audio.cfg))
    off = all((default if own is None else own) in (None, 1.0) for own, default in pairs)
    # An empty negative prompt asks for nothing, so it is never refused.
    if settings.negative_prompt and off:
        return {"negative_prompt": "guidance without cfg reads no negative prompt"}
    return {}


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
    needed = needed_roles(settings)
    pipeline = settings.pipeline.name
    reasons = {
        f"model.files.{role}": f"pipeline={pipeline} model={settings.model.name} does not read it"
        for role in settings.model.files
        if role not in needed
    }
    if not any("user" in stage.loras for stage in sampling):
        reasons["lora"] = f"no stage of pipeline={pipeline} takes LoRAs"
    if not any(_reads_input(stage) for stage in settings.pipeline.stages):
        reasons["input"] = f"pipeline={pipeline} starts from nothing but the prompt"
    return reasons


def _reads_input(stage: StageSettings) -> bool:
    return stage.do == "encode" or stage.region or "input" in (stage.video_from, stage.audio_from)
