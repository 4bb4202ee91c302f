"""Whole pipelines against recorded runs: the product's own plan and runner, recorded noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ltx2.diffusion.noise import Replay
from ltx2.parity.defined import DefinedNoise
from ltx2.parity.registry import Case, Outputs, component
from ltx2.pipelines.catalogue import load_pipeline, load_schedules
from ltx2.pipelines.components.gemma import is_packed
from ltx2.pipelines.planning import make_plan
from ltx2.pipelines.requirements import WANTED_PARTS
from ltx2.pipelines.runner import NOTHING_KEPT, Runner
from ltx2.pipelines.settings import (
    ConditioningSettings,
    DecoderSettings,
    DurationSettings,
    GuidanceSettings,
    InputSettings,
    LoraSettings,
    ModelFile,
    ModelSettings,
    PathSettings,
    SamplerSettings,
    SchedulerSettings,
    Settings,
    StreamGuidance,
    TilingSettings,
)
from ltx2.pipelines.timed import timed_plan
from ltx2.weights.checkpoint import identify, upsampling
from ltx2.weights.dtype_policy import dtype_policy
from ltx2.weights.header import read_header

DEFINED = "noise_block"


class Memory:
    """A sink that keeps frames and sound for comparison."""

    def __init__(self) -> None:
        self.chunks: list[np.ndarray] = []
        self.waveform = np.zeros((2, 0), np.float32)
        self.rate = 0

    def audio(self, waveform: np.ndarray, rate: int) -> None:
        self.waveform, self.rate = waveform, rate

    def frames(self, chunk: np.ndarray) -> None:
        self.chunks.append(chunk)


def _files(case: Case) -> dict[str, ModelFile]:
    """The case's checkpoints by role, told apart by what they are."""
    roles: dict[str, ModelFile] = {}
    for path in case.checkpoints:
        if path.is_dir():
            roles["text_encoder"] = ModelFile(str(path))
            continue
        header = read_header(path)
        kind, parts = identify(header).kind, identify(header).names
        if is_packed(header):
            roles["text_encoder"] = ModelFile(str(path))
        elif kind == "model":
            roles["checkpoint"] = ModelFile(str(path))
        elif kind == "upsampler":
            role = "temporal" if "temporal" in str(upsampling(header)) else "spatial"
            roles[f"{role}_upscaler"] = ModelFile(str(path))
        else:
            held = {role for role, part in WANTED_PARTS.items() if part in parts}
            roles |= dict.fromkeys(held, ModelFile(str(path)))
    distilled = case.settings.get("distilled_lora")
    if distilled:
        roles["distilled_lora"] = ModelFile(str(case.root / distilled["file"]))
    return roles


def _guidance(case: Case) -> GuidanceSettings:
    def stream(name: str) -> StreamGuidance:
        given: dict[str, Any] = case.settings.get(f"{name}_guider", {})
        return StreamGuidance(
            cfg=given.get("cfg_scale", 1.0),
            stg=given.get("stg_scale", 0.0),
            stg_blocks=given.get("stg_blocks", []),
            rescale=given.get("rescale_scale", 0.0),
            modality=given.get("modality_scale", 1.0),
            skip_step=given.get("skip_step", 0),
        )

    return GuidanceSettings(video=stream("video"), audio=stream("audio"))


def _scheduler(case: Case, name: str) -> SchedulerSettings:
    given = case.settings
    if "num_inference_steps" in given:
        tokens = "auto" if name == "two_stage_hq" else 4096
        return SchedulerSettings(steps=given["num_inference_steps"], tokens=tokens)
    sigmas = given.get("stage_1_sigmas", "distilled")
    values = load_schedules()["distilled"] if sigmas == "distilled" else sigmas
    return SchedulerSettings(kind="list", sigmas=[float(s) for s in values])


def _conditions(case: Case) -> dict[str, ConditioningSettings]:
    given = case.settings
    images = {
        f"image{index}": ConditioningSettings(
            path=str(case.root / image["file"]),
            frame=image["frame_idx"],
            strength=image["strength"],
            crf=image["crf"],
        )
        for index, image in enumerate(given.get("images", []))
    }
    references = {
        f"reference{index}": ConditioningSettings(
            kind="reference",
            path=str(case.root / clip["file"]),
            strength=clip["strength"],
            attention=given.get("conditioning_attention_strength", 1.0),
        )
        for index, clip in enumerate(given.get("video_conditioning", []))
    }
    return images | references


def _input(case: Case) -> InputSettings:
    """Input media; the reference starts frozen streams from noise in a retake."""
    given = case.settings
    audio = given.get("audio", {})
    streams = [s for s in ("video", "audio") if given.get(f"regenerate_{s}", True)]
    return InputSettings(
        video=str(case.root / given["video"]) if "video" in given else "",
        audio=str(case.root / audio["file"]) if audio else "",
        audio_start=audio.get("start", 0.0),
        start=given.get("start_time"),
        end=given.get("end_time"),
        regenerate=streams,
        frozen_noise="video" in given,
    )


def _model(case: Case) -> ModelSettings:
    kind = "dev" if "distilled_lora" in case.settings else "any"
    # What differs by generation comes from the checkpoint's version, as in model=path.
    return ModelSettings(name=case.id, kind=kind, release="auto", files=_files(case))


def _decoder(case: Case) -> DecoderSettings:
    """Diffusion decoders, whose noise is defined, were recorded with the reference's border."""
    return DecoderSettings(border="replicate" if DEFINED in case.inputs else None)


def case_settings(case: Case, name: str) -> Settings:
    """The settings of a run that does what the recorded one did."""
    given = case.settings
    loras = {
        Path(lora["file"]).stem: LoraSettings(
            file=str(case.root / lora["file"]), strength=lora["strength"]
        )
        for lora in given.get("loras", [])
    }
    low, high = 1.0, 20.0
    frames = given.get("num_frames")
    if isinstance(frames, dict):
        (low, high), frames = frames["auto"], "auto"
    schedules = load_schedules()
    if "stage_2_sigmas" in given:
        schedules["stage2"] = [float(s) for s in given["stage_2_sigmas"]]
    return Settings(
        prompt=given["prompt"],
        negative_prompt=given.get("negative_prompt", ""),
        seed=given["seed"],
        height=given.get("height"),
        width=given.get("width"),
        frames=frames,
        duration=DurationSettings(low, high),
        generated_keyframes=given.get("generated_keyframes") or 0,
        fps=given.get("frame_rate"),
        # Random weights make pictures that no check should judge.
        checks="off",
        schedules=schedules,
        model=_model(case),
        pipeline=load_pipeline(name),
        scheduler=_scheduler(case, name),
        sampler=SamplerSettings(kind="res_2s" if name == "two_stage_hq" else "auto"),
        guidance=_guidance(case),
        tiling=TilingSettings(mode="off"),
        decoder=_decoder(case),
        lora=loras,
        conditioning=_conditions(case),
        input=_input(case),
        paths=PathSettings(models=str(case.root)),
    )


def run_pipeline(case: Case, name: str) -> Outputs:
    """Run the case and collect every observed value, thinned as the recording is."""
    plan = make_plan(case_settings(case, name))
    dtypes = dtype_policy(case.backend, case.dtype)
    plan, keeping = timed_plan(plan, case.backend, dtypes, NOTHING_KEPT)
    seen: Outputs = {}
    draws = [case.inputs[key] for key in sorted(case.inputs) if key.startswith("noise.")]
    defined = case.inputs.get(DEFINED)
    noise = Replay(draws) if defined is None else DefinedNoise(defined)
    sink = Memory()
    runner = Runner(
        plan, case.backend, dtypes, noise=noise, observe=seen.__setitem__, keeping=keeping
    )
    runner.run(sink)
    for key, value in list(seen.items()):
        if key.endswith((".latent", ".generated_keyframes")) or key == "upsampled":
            # (B, F, H, W, C) -> (B, C, F, H, W) and (B, T, M, C) -> (B, C, T, M)
            seen[key] = np.moveaxis(value, -1, 1)
    step = case.settings.get("stored_frame_stride", 1)
    if sink.chunks:
        seen["frames"] = np.concatenate(sink.chunks)[:, ::step, ::step]
    seen["waveform"] = sink.waveform[:, :: case.settings.get("stored_waveform_stride", 1)]
    return seen


def _register(recorded: str, name: str) -> None:
    @component(f"pipeline.{recorded}")
    def run(case: Case) -> Outputs:
        return run_pipeline(case, name)


for _name in (
    "one_stage",
    "two_stage",
    "two_stage_hq",
    "distilled",
    "keyframe_interpolation",
    "text_to_audio",
    "retake",
):
    _register(_name, _name)
_register("a2vid", "audio_to_video")


@component("pipeline.ic_lora")
def ic_lora(case: Case) -> Outputs:
    """The draft pipeline decodes what the full one's first stage makes, at half the size."""
    if not case.settings.get("skip_stage_2", False):
        return run_pipeline(case, "ic_lora")
    halved = {key: case.settings[key] // 2 for key in ("height", "width")}
    case.record["settings"] |= halved
    return run_pipeline(case, "ic_lora_draft")
