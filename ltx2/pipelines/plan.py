"""What a run is going to do: plain values, made and checked by `ltx2.pipelines.planning`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ltx2.models.latents import (
    AudioTiming,
    Grid,
    VideoScale,
    audio_latent_length,
    video_latent_shape,
)
from ltx2.models.tiling import Tiling
from ltx2.models.transformer_config import TransformerConfig
from ltx2.pipelines.components.audio import AudioGeometry
from ltx2.pipelines.dense import Canvas, dense_frames
from ltx2.pipelines.guidance import GuidancePair
from ltx2.pipelines.settings import Settings, StageSettings
from ltx2.weights.checkpoint import Part, split_parts
from ltx2.weights.header import Header

if TYPE_CHECKING:
    from ltx2.pipelines.denoise_tiles import TileGrid


@dataclass(frozen=True)
class StagePlan:
    """One stage: its size in pixels, latent grid, sigmas and guidance (sampling stages only)."""

    settings: StageSettings
    height: int
    width: int
    grid: Grid
    sigmas: tuple[float, ...] | None = None
    guidance: GuidancePair | None = None
    model_calls: int = 0  # denoiser calls of the sampler
    repeats: int = 1  # windows of a long clip, tiles of a round
    tiles: TileGrid | None = None  # of the video in every denoiser call; None: whole
    part_tokens: float | None = None  # video tokens of a round's tile, on average

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def tokens(self) -> int:
        """Video tokens of the stage."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def tokens_per_call(self) -> float:
        """Video tokens of one transformer call."""
        whole = self.tokens if self.part_tokens is None else self.part_tokens
        return whole if self.tiles is None else self.tiles.tokens

    @property
    def transformer_calls(self) -> int:
        """Forward passes of the transformer, counting every guidance pass."""
        if self.sigmas is None or self.guidance is None:
            return 0
        steps = len(self.sigmas) - 1
        passes = sum(self.guidance.passes_at(i, self.sigmas[i]) for i in range(steps))
        tiles = 1 if self.tiles is None else self.tiles.count
        return round(passes * self.model_calls / steps) * self.repeats * tiles


@dataclass(frozen=True)
class Plan:
    """A run that has been checked against its files."""

    settings: Settings  # every None of the preset filled in
    files: dict[str, Path]
    headers: dict[str, Header]
    transformer: TransformerConfig
    scale: VideoScale
    audio: AudioGeometry
    height: int
    width: int
    frames: int
    fps: float
    stages: tuple[StagePlan, ...]
    tiling: Tiling | None = None  # None decodes the clip whole
    notices: tuple[str, ...] = ()
    joined_frames: int | None = None  # frames of a given clip and its continuation
    wants_duration: bool = False  # `frames` is the most there may be: the prompt decides
    keyframe_slots: tuple[int, ...] = ()  # frames generated beside the clip
    canvas: Canvas | None = None  # pipeline=dfr: `frames` are padded, and the rate is doubled

    def header_of(self, role: str) -> Header:
        """The file that holds a part of the model: its own, or the whole model's."""
        return self.headers.get(role, self.headers["checkpoint"])

    @cached_property
    def model_parts(self) -> dict[str, Part]:
        """The model's components by name; those of a file of their own replace the model file's."""
        headers = (self.header_of(role) for role in ("checkpoint", "video_vae", "audio_vae"))
        return {part.name: part for header in headers for part in split_parts(header)}

    @property
    def audio_length(self) -> int:
        """Audio latent frames of the clip."""
        return audio_latent_length(self.frames, self.fps, self.audio.latents_per_second)

    @property
    def audio_timing(self) -> AudioTiming:
        """What one audio latent frame covers."""
        return AudioTiming(self.audio.sample_rate, self.audio.hop, self.audio.scale)

    @property
    def streams(self) -> list[str]:
        """Streams that any stage samples: what the transformer is built with."""
        sampled = {name for s in self.stages if s.sigmas is not None for name in s.settings.streams}
        return [name for name in ("video", "audio") if name in sampled]

    @property
    def has_video(self) -> bool:
        """Whether the run writes pictures; a run without writes sound alone."""
        return any(s.settings.do == "decode" and s.settings.video_from for s in self.stages)

    @property
    def has_audio(self) -> bool:
        """Whether the run writes sound."""
        return any(s.settings.do == "decode" and s.settings.audio_from for s in self.stages)

    @property
    def extends(self) -> bool:
        """Whether the run continues a given clip."""
        return any(s.settings.extend for s in self.stages)

    @property
    def asked_frames(self) -> int:
        """Frames that were asked for, among which conditions are placed."""
        return self.frames if self.canvas is None else self.canvas.asked

    @property
    def made_frames(self) -> int:
        """Frames of the clip that is made, padding left out."""
        return self.frames if self.canvas is None else self.canvas.final_frames

    @property
    def output_frames(self) -> int:
        """Frames of the clip that is written: more than are made when a clip is continued."""
        return self.made_frames if self.joined_frames is None else self.joined_frames

    @property
    def output_fps(self) -> float:
        """Rate of the clip that is written."""
        return self.fps if self.canvas is None else self.fps * 2**self.canvas.rounds

    @property
    def seconds(self) -> float:
        """Duration of the clip that is made."""
        return self.made_frames / self.output_fps

    @property
    def decoded_grid(self) -> Grid:
        """Latent grid of the clip as it is decoded."""
        frames = self.frames_of(0 if self.canvas is None else self.canvas.rounds)
        return video_latent_shape(frames, self.height, self.width, self.scale)

    def frames_of(self, rounds: int) -> int:
        """Frames, padding included, after `rounds` doublings of the rate."""
        return dense_frames(self.frames, rounds)

    @property
    def needs_negative(self) -> bool:
        """Whether any stage runs an unconditional pass."""
        return any(s.guidance is not None and s.guidance.needs_negative for s in self.stages)

    @property
    def prompts(self) -> int:
        """How many prompts are encoded."""
        return 2 if self.needs_negative else 1

    def stage(self, name: str) -> StagePlan:
        return next(stage for stage in self.stages if stage.name == name)
