"""What stages hand to each other, and a clean way to turn it into token states."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ltx2 import ops
from ltx2.diffusion.appended import AudioReference
from ltx2.diffusion.conditioning import AudioIndex, TimeRegion
from ltx2.diffusion.noise import NoiseSource
from ltx2.diffusion.state import (
    LatentState,
    cleared,
    freeze,
    generated_keyframes,
    initial_state,
    noised,
)
from ltx2.models.latents import (
    audio_positions,
    pack_audio,
    pack_video,
    unpack_audio,
    unpack_video,
    video_positions,
)
from ltx2.ops import Array
from ltx2.pipelines.plan import Plan, StagePlan

STREAMS = ("video", "audio")
# Conditioning items of the audio stream; all others belong to the video.
SOUND_ITEMS = (AudioIndex, AudioReference)


@dataclass(frozen=True)
class Latents:
    """video (1, F, H, W, C), audio (1, T, M, C), normalised; None where there is no stream.

    slots (1, K, H, W, C): keyframes generated beside the video.
    """

    video: Array | None = None
    audio: Array | None = None
    slots: Array | None = None


@dataclass(frozen=True)
class StateBuilder:
    """Builds the noised states of a sampling stage. The draws come from `noise`, video first."""

    plan: Plan
    backend: Any
    noise: NoiseSource

    def states(
        self, stage: StagePlan, start: Latents, items: list[Any]
    ) -> dict[str, LatentState | None]:
        """(video, audio) of `stage` by name; a stream that the stage does not sample is None."""
        states: dict[str, LatentState | None] = dict.fromkeys(STREAMS)
        for stream in STREAMS:
            if stream not in stage.settings.streams:
                continue
            state = self._clean(stage, stream, start)
            for item in items:
                if isinstance(item, SOUND_ITEMS) == (stream == "audio"):
                    state = item.apply(state)
            states[stream] = self.with_noise(stage, stream, state)
        return states

    def _clean(self, stage: StagePlan, stream: str, start: Latents) -> LatentState:
        plan = self.plan
        if stream == "video":
            shape = (1, stage.tokens, plan.transformer.video.in_channels)
            tokens = None if start.video is None else ops.f32(pack_video(start.video))
            positions, grid = video_positions(stage.grid, plan.fps, plan.scale), stage.grid
            return initial_state(self._or_zeros(tokens, shape), positions, grid)
        shape = (1, plan.audio_length, plan.audio.token_features)
        tokens = None if start.audio is None else ops.f32(pack_audio(start.audio))
        positions = audio_positions(plan.audio_length, plan.audio_timing)
        return initial_state(self._or_zeros(tokens, shape), positions)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Float32 zeros on the backend: what a stream that starts from nothing starts from."""
        return self.backend.array(np.zeros(shape, np.float32))

    def _or_zeros(self, tokens: Array | None, shape: tuple[int, ...]) -> Array:
        return self.zeros(shape) if tokens is None else tokens

    def with_noise(self, stage: StagePlan, stream: str, state: LatentState) -> LatentState:
        """`state` at the stage's first sigma, or frozen; the next draw of the run is its noise."""
        given = self.plan.settings.input
        frozen = stream in stage.settings.freeze
        if stage.settings.region:
            assert given.start is not None and given.end is not None
            if stream in given.regenerate:
                state = TimeRegion(given.start, given.end).apply(state)
            else:
                frozen = True
        assert stage.sigmas is not None
        # Frozen streams draw too: the order of draws does not depend on what is frozen.
        draw = self.noise.normal(tuple(state.latent.shape))
        if not frozen:
            return noised(state, draw, stage.sigmas[0])
        if not given.frozen_noise:
            return freeze(state)
        # What the reference does: noise labelled clean, pulled to the clean latent step by step.
        noisy = noised(state, draw, stage.sigmas[0])
        return replace(noisy, mask=np.zeros_like(state.mask), frozen=True)

    def latents(self, states: dict[str, LatentState | None]) -> Latents:
        """The target tokens of finished states as latents."""
        video, audio = states["video"], states["audio"]
        pictures = sound = slots = None
        if video is not None:
            assert video.grid is not None
            pictures = unpack_video(cleared(video), video.grid)
            slots = None if video.slots is None else generated_keyframes(video)
        if audio is not None:
            sound = unpack_audio(cleared(audio), self.plan.audio.latent_channels)
        return Latents(pictures, sound, slots)
