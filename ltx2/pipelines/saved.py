"""Latents of a stage in a file, which later runs start from or decode.

A file holds `video` (1, F, H, W, C) and `audio` (1, T, M, C), normalised float32, and in its
metadata the clip's geometry and how far the run had got in its stream of noise: the size of every
draw. A run that starts from the file makes the same draws and drops them, so that with the same
seed its own noise is what the unbroken run would have drawn.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ltx2
from ltx2.errors import UserError
from ltx2.media.atomic import check_writable, replacing
from ltx2.pipelines.components.video import latent_channels
from ltx2.pipelines.settings import Settings, StageSettings
from ltx2.weights.header import Header, TensorInfo, header_hash, read_header

if TYPE_CHECKING:
    from ltx2.pipelines.latents import Latents
    from ltx2.pipelines.plan import Plan, StagePlan

log = logging.getLogger(__name__)

FOLDER, FORMAT = "latents", "ltx2 latents 1"
DTYPES = ("F32", "BF16", "F16")
RANKS = {"video": 5, "audio": 4}
MOST_DRAWS, MOST_VALUES = 10_000, 2**31


@dataclass(frozen=True)
class SavedLatents:
    """The header of a saved file: size in pixels, frames, and the stream of noise behind it."""

    header: Header
    stage: str
    height: int
    width: int
    frames: int
    fps: float
    seed: int
    noise: str
    draws: tuple[int, ...]
    vae: str

    @property
    def name(self) -> str:
        return self.header.path.name

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """By stream."""
        return self.header.tensors


def write_latents(
    folder: Path, plan: Plan, stage: StagePlan, latents: Latents, draws: Sequence[int], backend: Any
) -> Path:
    """Save the latents of a finished stage as `folder`/latents/<stage>.safetensors."""
    from safetensors.numpy import save

    tensors = {
        name: backend.numpy(value)
        for name, value in (("video", latents.video), ("audio", latents.audio))
        if value is not None
    }
    frames = plan.frames
    if latents.video is not None:
        frames = (latents.video.shape[1] - 1) * plan.scale.time + 1
    metadata = {
        "format": FORMAT,
        "ltx2_version": ltx2.__version__,
        "model": plan.settings.model.name,
        "pipeline": plan.settings.pipeline.name,
        "stage": stage.name,
        "height": str(stage.height),
        "width": str(stage.width),
        "frames": str(frames),
        "fps": repr(plan.fps),
        "seed": str(plan.settings.seed),
        "noise": plan.settings.noise,
        "draws": json.dumps(list(draws)),
        "vae_header_sha256": header_hash(plan.header_of("video_vae")),
    }
    path = check_writable(folder / FOLDER) / f"{stage.name}.safetensors"
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))
    log.info("saved %s", path.name)
    return path


def read_saved(path: str) -> SavedLatents:
    """The header of a file that save_latents=true wrote; UserError for any other file."""
    header = read_header(path)
    given = header.metadata
    if given.get("format") != FORMAT:
        raise UserError(
            f"input.latents={path} holds no saved latents; use a file of the folder latents/ that"
            " a run with save_latents=true left"
        )
    try:
        saved = SavedLatents(
            header,
            given["stage"],
            int(given["height"]),
            int(given["width"]),
            int(given["frames"]),
            float(given["fps"]),
            int(given["seed"]),
            given["noise"],
            _draws(given["draws"]),
            given["vae_header_sha256"],
        )
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"input.latents={path} has damaged metadata ({type(error).__name__}: {error})"
        ) from None
    sizes = (saved.height, saved.width, saved.frames)
    if min(sizes) < 1 or not (math.isfinite(saved.fps) and saved.fps > 0):
        raise UserError(f"input.latents={path} has damaged metadata (size {sizes}, {saved.fps})")
    _check_tensors(saved)
    return saved


def _draws(text: str) -> tuple[int, ...]:
    draws = json.loads(text)
    if not isinstance(draws, list) or len(draws) > MOST_DRAWS:
        raise ValueError("draws")
    if not all(type(count) is int and 0 < count < MOST_VALUES for count in draws):
        raise ValueError("draws")
    return tuple(draws)


def _check_tensors(saved: SavedLatents) -> None:
    if not saved.tensors or saved.tensors.keys() - RANKS.keys():
        names = ", ".join(sorted(saved.tensors)) or "nothing"
        raise UserError(f"input.latents: {saved.name} holds {names}; video and audio are expected")
    for stream, info in saved.tensors.items():
        if len(info.shape) != RANKS[stream] or info.shape[0] != 1 or info.dtype not in DTYPES:
            raise UserError(
                f"input.latents: {stream} of {saved.name} is {info.dtype} {list(info.shape)}, not"
                f" a float array of one clip with {RANKS[stream]} axes"
            )


def with_saved_size(settings: Settings) -> Settings:
    """What is not given of height, width, frames and fps comes from the saved latents, if any.

    Streams that the file does not hold are taken out of the stages that decode it directly.
    """
    pipeline, path = settings.pipeline, settings.input.latents
    loading = [stage for stage in pipeline.stages if stage.do == "load"]
    if not loading:
        if path:
            raise UserError(
                f"input.latents has no effect on pipeline={pipeline.name}; use"
                " pipeline=refine_latents or decode_latents"
            )
        return settings
    if not path:
        raise UserError(
            f"pipeline={pipeline.name} starts from saved latents; set input.latents=FILE"
        )
    saved = read_saved(path)
    scale = Fraction(loading[0].scale).limit_denominator(64)
    names = {stage.name for stage in loading}
    stages = [_held_by(saved, stage, names) for stage in pipeline.stages]
    return dataclasses.replace(
        settings,
        pipeline=dataclasses.replace(pipeline, stages=stages),
        height=int(saved.height / scale) if settings.height is None else settings.height,
        width=int(saved.width / scale) if settings.width is None else settings.width,
        frames=saved.frames if settings.frames is None else settings.frames,
        fps=saved.fps if settings.fps is None else settings.fps,
    )


def _held_by(saved: SavedLatents, stage: StageSettings, loading: set[str]) -> StageSettings:
    if stage.do != "decode":
        return stage
    without: dict[str, Any] = {
        f"{stream}_from": None
        for stream in RANKS
        if stream not in saved.tensors and getattr(stage, f"{stream}_from") in loading
    }
    return dataclasses.replace(stage, **without)


def check_saved(plan: Plan, stages: tuple[StagePlan, ...]) -> tuple[str, ...]:
    """Raise UserError unless the saved latents fit the stages that use them; returns notices."""
    loading = [stage for stage in stages if stage.settings.do == "load"]
    if not loading:
        return ()
    saved = read_saved(plan.settings.input.latents)
    for stage in loading:
        _check_needed(saved, stage.name, stages)
        _check_video(saved, plan, stage)
    _check_audio(saved, plan)
    checkpoint = plan.header_of("video_vae")
    notices = []
    if saved.vae != header_hash(checkpoint):
        notices.append(
            f"{saved.name} was made with another model file than {checkpoint.path.name};"
            " latents of another VAE decode to noise"
        )
    own = (plan.settings.seed, plan.settings.noise)
    if own != (saved.seed, saved.noise) and any(stage.sigmas is not None for stage in stages):
        notices.append(
            f"{saved.name} was made with seed={saved.seed} noise={saved.noise}, this run has"
            f" seed={own[0]} noise={own[1]}; it does not repeat the unbroken run"
        )
    for notice in notices:
        log.warning("%s", notice)
    return tuple(notices)


def _check_needed(saved: SavedLatents, source: str, stages: tuple[StagePlan, ...]) -> None:
    """Every stream that a stage goes on with is in the file."""
    carried = {source}
    for stage in stages:
        settings = stage.settings
        needed = {s for s in RANKS if getattr(settings, f"{s}_from") in carried}
        if settings.start in carried:
            needed |= {"video"} if settings.do == "upscale" else set(settings.streams)
            if settings.do == "upscale":
                carried.add(stage.name)
        if absent := needed - saved.tensors.keys():
            raise UserError(
                f"input.latents: {saved.name} holds no {min(absent)}, which stage"
                f" '{stage.name}' needs; it holds {', '.join(sorted(saved.tensors))}"
            )


def _check_video(saved: SavedLatents, plan: Plan, stage: StagePlan) -> None:
    info = saved.tensors.get("video")
    if info is None:
        return
    checkpoint = plan.header_of("video_vae")
    channels = latent_channels(checkpoint)
    if info.shape[-1] != channels:
        raise UserError(
            f"input.latents: {saved.name} has {info.shape[-1]} video channels, the VAE of"
            f" {checkpoint.path.name} {channels}; use the model that made the file"
        )
    if info.shape[1:4] != stage.grid:
        grids = [" x ".join(map(str, grid)) for grid in (info.shape[1:4], stage.grid)]
        raise UserError(
            f"input.latents: {saved.name} holds {saved.width}x{saved.height} px and {saved.frames}"
            f" frames (latent grid {grids[0]}), stage '{stage.name}' is {stage.width}x"
            f"{stage.height} px and {plan.frames} frames ({grids[1]}); drop height, width and"
            " frames to take the file's"
        )


def _check_audio(saved: SavedLatents, plan: Plan) -> None:
    info = saved.tensors.get("audio")
    if info is None:
        return
    bins, channels = plan.audio.latent_bins, plan.audio.latent_channels
    if info.shape[2:] != (bins, channels):
        made = " x ".join(map(str, info.shape[2:]))
        raise UserError(
            f"input.latents: {saved.name} has {made} audio bins and channels, the model"
            f" {bins} x {channels}; use the model that made the file"
        )
    if info.shape[1] != plan.audio_length:
        raise UserError(
            f"input.latents: {saved.name} holds {info.shape[1]} audio latents ({saved.frames}"
            f" frames at {saved.fps:g} fps), the run needs {plan.audio_length} ({plan.frames}"
            f" frames at {plan.fps:g} fps); drop frames and fps to take the file's"
        )


def load_latents(saved: SavedLatents, backend: Any) -> Latents:
    """The saved streams as float32 arrays on the device."""
    from ltx2.pipelines.latents import Latents

    file = backend.open(str(saved.header.path))
    return Latents(**{name: backend.place(file.get(name), "fp32") for name in saved.tensors})
