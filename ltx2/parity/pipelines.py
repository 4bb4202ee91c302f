"""Whole pipelines against recorded runs: the product's own plan and runner, recorded noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ltx2.diffusion.noise import Replay
from ltx2.diffusion.sigmas import DISTILLED, STAGE_2
from ltx2.errors import UserError
from ltx2.parity.registry import Case, Outputs, component
from ltx2.pipelines.plan import make_plan
from ltx2.pipelines.runner import Runner
from ltx2.pipelines.settings import (
    ConditioningSettings,
    GuidanceSettings,
    LoraSettings,
    ModelFile,
    ModelSettings,
    PathSettings,
    PipelineSettings,
    SamplerSettings,
    SchedulerSettings,
    Settings,
    StageSettings,
    StreamGuidance,
    TilingSettings,
)
from ltx2.weights.checkpoint import identify, upsampling
from ltx2.weights.dtype_policy import COMPONENTS, dtype_policy
from ltx2.weights.header import read_header

ONE_STAGE = (
    StageSettings(name="base", loras=["user"]),
    StageSettings(name="decode", do="decode", video_from="base", audio_from="base"),
)


def refined(audio_from: str, loras: list[str]) -> tuple[StageSettings, ...]:
    """Half size, upscale, refine at full size, decode."""
    return (
        StageSettings(name="base", scale=0.5, loras=["user"]),
        StageSettings(name="upscale", do="upscale", start="base"),
        StageSettings(
            name="refine", schedule="stage2", guidance="none", start="upscale", loras=loras
        ),
        StageSettings(name="decode", do="decode", video_from="refine", audio_from=audio_from),
    )


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
        kind = identify(header).kind
        if kind == "model":
            roles["checkpoint"] = ModelFile(str(path))
        elif kind == "upsampler":
            role = "temporal" if "temporal" in str(upsampling(header)) else "spatial"
            roles[f"{role}_upscaler"] = ModelFile(str(path))
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


def _scheduler(case: Case) -> SchedulerSettings:
    if "num_inference_steps" in case.settings:
        return SchedulerSettings(steps=case.settings["num_inference_steps"])
    sigmas = case.settings.get("stage_1_sigmas", "distilled")
    values = DISTILLED if sigmas == "distilled" else sigmas
    return SchedulerSettings(kind="list", sigmas=[float(s) for s in values])


def case_settings(case: Case, name: str, stages: tuple[StageSettings, ...]) -> Settings:
    """The settings of a run that does what the recorded one did."""
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
    loras = {
        Path(lora["file"]).stem: LoraSettings(
            file=str(case.root / lora["file"]), strength=lora["strength"]
        )
        for lora in given.get("loras", [])
    }
    stage2 = given.get("stage_2_sigmas", STAGE_2)
    sampler = given.get("sampler", "euler")
    if sampler not in ("euler", "euler_ancestral"):
        raise UserError(f"{case.id}: sampler '{sampler}' is not known to the parity command")
    return Settings(
        prompt=given["prompt"],
        negative_prompt=given.get("negative_prompt", ""),
        seed=given["seed"],
        height=given["height"],
        width=given["width"],
        frames=given["num_frames"],
        fps=given["frame_rate"],
        # Random weights make pictures that no check should judge.
        checks="off",
        schedules={"distilled": list(DISTILLED), "stage2": [float(s) for s in stage2]},
        model=ModelSettings(
            name=case.id,
            kind="dev" if "distilled_lora" in given else "any",
            files=_files(case),
        ),
        pipeline=PipelineSettings(name, list(stages)),
        scheduler=_scheduler(case),
        sampler=SamplerSettings(kind=sampler),
        guidance=_guidance(case),
        tiling=TilingSettings(mode="off"),
        lora=loras,
        conditioning=images,
        paths=PathSettings(models=str(case.root)),
    )


def run_pipeline(case: Case, name: str, stages: tuple[StageSettings, ...]) -> Outputs:
    """Run the case and collect every observed value, thinned as the recording is."""
    plan = make_plan(case_settings(case, name, stages))
    dtypes = dtype_policy(case.backend, case.dtype)
    assert set(dtypes) == set(COMPONENTS)
    seen: Outputs = {}
    draws = [case.inputs[key] for key in sorted(case.inputs) if key.startswith("noise.")]
    sink = Memory()
    runner = Runner(plan, case.backend, dtypes, noise=Replay(draws), observe=seen.__setitem__)
    runner.run(sink)
    for key, value in list(seen.items()):
        if key.endswith("video.latent") or key == "upsampled":
            seen[key] = np.moveaxis(value, -1, 1)  # (B, F, H, W, C) -> (B, C, F, H, W)
        elif key.endswith("audio.latent"):
            seen[key] = np.moveaxis(value, -1, 1)  # (B, T, M, C) -> (B, C, T, M)
    step = case.settings.get("stored_frame_stride", 1)
    seen["frames"] = np.concatenate(sink.chunks)[:, ::step, ::step]
    seen["waveform"] = sink.waveform[:, :: case.settings.get("stored_waveform_stride", 1)]
    return seen


@component("pipeline.one_stage")
def one_stage(case: Case) -> Outputs:
    return run_pipeline(case, "one_stage", ONE_STAGE)


@component("pipeline.two_stage")
def two_stage(case: Case) -> Outputs:
    return run_pipeline(case, "two_stage", refined("base", ["user", "distilled"]))


@component("pipeline.distilled")
def distilled(case: Case) -> Outputs:
    return run_pipeline(case, "distilled", refined("refine", ["user"]))
