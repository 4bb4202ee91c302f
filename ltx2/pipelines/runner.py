"""Walks the stages of a plan: text, then sample / upscale / decode, one component at a time.

A component is loaded when a stage needs it and freed before the next big one is: the text encoder
and the transformer are never in memory together.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ltx2 import ops
from ltx2.diffusion.loop import Step, denoise
from ltx2.diffusion.noise import NoiseSource, TorchNoise
from ltx2.diffusion.state import LatentState, cleared, initial_state, noised
from ltx2.models.latents import (
    audio_positions,
    pack_audio,
    pack_video,
    unpack_audio,
    unpack_video,
    video_positions,
)
from ltx2.models.tiling import decode_frames
from ltx2.models.transformer import Transformer
from ltx2.ops import Array
from ltx2.pipelines.checks import Checks, FrameStatistics, check_audio, check_video
from ltx2.pipelines.components.audio import decode_audio, load_audio_decoder, load_vocoder
from ltx2.pipelines.components.text import TextContext, encode_prompts
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.pipelines.components.upsampler import load_upsampler, upsample
from ltx2.pipelines.components.video import load_statistics, load_video_decoder
from ltx2.pipelines.conditions import condition_items
from ltx2.pipelines.denoiser import Contexts, Denoiser
from ltx2.pipelines.loras import LoraStack
from ltx2.pipelines.phases import Phases
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.progress import Progress, Quiet
from ltx2.pipelines.sampling import stage_sampler

# One line per step: its own logger, so that a terminal with a progress bar can do without.
log = logging.getLogger("ltx2.steps")

Observe = Callable[[str, Any], None]  # name such as `stage0.video.positions`, value


class Sink(Protocol):
    """Receives the decoded clip while it is produced."""

    def audio(self, waveform: np.ndarray, rate: int) -> None: ...
    def frames(self, chunk: np.ndarray) -> None: ...


@dataclass
class Latents:
    """Result of a sampling or upscaling stage: video (1, F, H, W, C), audio (1, T, M, C)."""

    video: Array
    audio: Array


@dataclass
class Outcome:
    """What a finished run knows about itself."""

    phases: Phases
    checks: Checks
    steps: list[dict[str, Any]] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)
    text: list[dict[str, int]] = field(default_factory=list)


@dataclass
class Runner:
    """One run of a plan on a backend. `observe` sees every intermediate value (parity, debug)."""

    plan: Plan
    backend: Any
    dtypes: dict[str, str]  # by component, from `dtype_policy`
    progress: Progress = field(default_factory=Quiet)
    noise: NoiseSource | None = None
    observe: Observe | None = None

    def __post_init__(self) -> None:
        settings = self.plan.settings
        self.outcome = Outcome(Phases(self.backend), Checks(settings.checks))
        self.source = self.noise or self._noise_source()
        self.latents: dict[str, Latents] = {}
        self._transformer: Transformer | None = None
        self._loras = LoraStack(
            settings, self.plan.files, self.backend, self.dtypes["transformer"]
        )
        self._sampled = 0

    def run(self, sink: Sink) -> Outcome:
        """All stages in order. Raises CheckFailed when a phase produced what cannot be right."""
        self._prompts = self._encode_text()
        for stage in self.plan.stages:
            if stage.settings.do == "sample":
                self._sample(stage)
            elif stage.settings.do == "upscale":
                self._upscale(stage)
            else:
                self._free_transformer()
                self._decode(stage, sink)
        return self.outcome

    def _noise_source(self) -> NoiseSource:
        if self.plan.settings.noise == "device":
            return DeviceNoise(self.backend, self.plan.settings.seed)
        return TorchNoise(self.plan.settings.seed)

    def _phase(self, name: str, units: int) -> AbstractContextManager[None]:
        return self.outcome.phases.phase(name, units, self.progress)

    # --- text

    def _encode_text(self) -> list[TextContext]:
        settings = self.plan.settings
        prompts = [settings.prompt]
        if self.plan.needs_negative:
            prompts.append(settings.negative_prompt or "")
        with self._phase("text", len(prompts)):
            contexts = encode_prompts(
                prompts,
                self.plan.files["text_encoder"],
                self.plan.headers["checkpoint"],
                self.backend,
                self.dtypes,
                lambda what, done, total: self.progress.advance(0, f"{what} {done}/{total}"),
            )
        for context in contexts:
            self.outcome.text.append({"tokens": context.tokens, "truncated": context.truncated})
            for part in (context.video, context.audio):
                self._finite("text", part, "a half-precision text encoder; try dtype.text_encoder=fp32")
        return contexts

    # --- sample

    def _sample(self, stage: StagePlan) -> None:
        assert stage.sigmas is not None and stage.guidance is not None
        items = self._conditions(stage)
        transformer = self._ready_transformer(stage)
        states = self._initial_states(stage, items)
        contexts = [
            Contexts(*transformer.project_context(c.video, c.audio)) for c in self._prompts
        ]
        denoiser = Denoiser(
            transformer,
            positive=contexts[0],
            negative=contexts[1] if len(contexts) > 1 else None,
            guidance=stage.guidance,
            on_call=lambda passes: self.progress.advance(passes),
        )
        sampler = stage_sampler(self.plan.settings)
        watched = self._watched(denoiser)
        with self._phase(stage.name, stage.transformer_calls):
            final = None
            start = time.monotonic()
            for step in denoise(sampler, states, stage.sigmas, watched):
                self._log_step(stage, step, time.monotonic() - start)
                final, start = step, time.monotonic()
        assert final is not None and final.video is not None and final.audio is not None
        latents = self._unpacked(stage, final.video, final.audio)
        self.latents[stage.name] = latents
        self._see("video.latent", latents.video)
        self._see("audio.latent", latents.audio)
        self._sampled += 1

    def _conditions(self, stage: StagePlan) -> list[Any]:
        if not self.plan.settings.conditioning:
            return []
        count = len(self.plan.settings.conditioning)
        with self._phase(f"{stage.name} conditions", count):
            return condition_items(self.plan, stage, self.backend, self.dtypes["video_vae"])

    def _initial_states(
        self, stage: StagePlan, items: list[Any]
    ) -> tuple[LatentState, LatentState]:
        assert stage.sigmas is not None
        plan = self.plan
        start = self.latents.get(stage.settings.start or "")
        length, audio = plan.audio_length, plan.audio
        if start is None:
            video_tokens = self.backend.array(
                np.zeros((1, stage.tokens, plan.transformer.video.in_channels), np.float32)
            )
            audio_tokens = self.backend.array(
                np.zeros((1, length, audio.token_features), np.float32)
            )
        else:
            video_tokens = ops.f32(pack_video(start.video))
            audio_tokens = ops.f32(pack_audio(start.audio))
        positions = video_positions(stage.grid, plan.fps, plan.scale)
        video = initial_state(video_tokens, positions, stage.grid)
        sound = initial_state(audio_tokens, audio_positions(length, plan.audio_timing))
        for item in items:
            video = item.apply(video)
        # A fresh stage starts from pure noise at any first sigma; a renoised one from its level.
        scale = 1.0 if start is None else stage.sigmas[0]
        video = noised(video, self.source.normal(tuple(video.latent.shape)), scale)
        sound = noised(sound, self.source.normal(tuple(sound.latent.shape)), scale)
        self._see_states(stage, video, sound)
        return video, sound

    def _unpacked(self, stage: StagePlan, video: LatentState, audio: LatentState) -> Latents:
        return Latents(
            unpack_video(cleared(video), stage.grid),
            unpack_audio(cleared(audio), self.plan.audio.latent_channels),
        )

    def _log_step(self, stage: StagePlan, step: Step, seconds: float) -> None:
        """One structured line per step; reading the statistics waits for the device."""
        assert step.video is not None and step.audio is not None
        values = {"video": self.backend.numpy(step.video.latent), "audio": self.backend.numpy(step.audio.latent)}
        record: dict[str, Any] = {
            "stage": stage.name,
            "step": step.index,
            "sigma": round(step.sigma, 6),
            "sigma_next": round(step.sigma_next, 6),
            "seconds": round(seconds, 4),
            "memory_bytes": self.backend.peak_bytes(),
        }
        for key, value in values.items():
            self.outcome.checks.finite(
                f"{stage.name} step {step.index} ({key})",
                value,
                "a half-precision overflow; try dtype.transformer=fp32, or a file that does not fit",
            )
            record[f"{key}_mean"] = round(float(value.mean()), 5)
            record[f"{key}_std"] = round(float(value.std()), 5)
        self.outcome.steps.append(record)
        log.info("step %s", " ".join(f"{k}={v}" for k, v in record.items() if v is not None))

    def _watched(self, denoiser: Denoiser) -> Any:
        """The denoiser with its inputs and results shown to `observe`."""
        if self.observe is None:
            return denoiser
        prefix = f"stage{self._sampled}"
        calls = iter(range(10**6))

        def call(video: LatentState, audio: LatentState, sigma: float, step: int) -> Any:
            index = next(calls)
            label = f"eval{index:02d}"
            if index == 0:
                denoiser.observe = lambda stream, name, value: self._show(
                    f"{prefix}.{stream}.{label}.{name}", value
                )
            result = denoiser(video, audio, sigma, step)
            denoiser.observe = None
            for stream, state in (("video", video), ("audio", audio)):
                self._show(f"{prefix}.{stream}.{label}.x", state.latent)
                self._show(f"{prefix}.{stream}.{label}.denoised", getattr(result, stream))
            return result

        return call

    # --- upscale and decode

    def _upscale(self, stage: StagePlan) -> None:
        source = self.latents[stage.settings.start or ""]
        dtype = self.dtypes["upsampler"]
        with self._phase(stage.name, 1):
            network = load_upsampler(self.plan.headers[stage.settings.upscaler], self.backend, dtype)
            statistics = load_statistics(self.plan.headers["checkpoint"], self.backend, "fp32")
            video = ops.f32(upsample(network, statistics, source.video))
            self._finite(stage.name, video, "an upscaler of another generation")
            self.progress.advance()
        self.latents[stage.name] = replace(source, video=video)
        if self.observe is not None:
            self._show("upsampled", video)

    def _decode(self, stage: StagePlan, sink: Sink) -> None:
        """Sound first: a container fixes its streams before the first frame."""
        plan, checks = self.plan, self.outcome.checks
        checkpoint = plan.headers["checkpoint"]
        video = self.latents[stage.settings.video_from or ""].video
        audio = self.latents[stage.settings.audio_from or ""].audio
        self.latents.clear()
        with self._phase("audio decode", 1):
            decoder = load_audio_decoder(checkpoint, self.backend, self.dtypes["audio_vae"])
            vocoder = load_vocoder(checkpoint, self.backend)
            waveform, rate = decode_audio(decoder, vocoder, audio)
            del decoder, vocoder
            self.progress.advance()
        seconds = plan.frames / plan.fps
        check_audio(checks, waveform, rate, seconds)
        self.outcome.statistics["audio"] = _audio_record(waveform, rate)
        sink.audio(waveform, rate)
        statistics = FrameStatistics()
        with self._phase("video decode", plan.frames):
            module = load_video_decoder(checkpoint, self.backend, self.dtypes["video_vae"])
            for chunk in decode_frames(module, video, plan.tiling, self.source.normal):
                statistics.add(chunk)
                sink.frames(chunk)
                self.progress.advance(len(chunk))
        check_video(checks, statistics, plan.frames)
        self.outcome.statistics["video"] = statistics.record()

    # --- the transformer

    def _ready_transformer(self, stage: StagePlan) -> Transformer:
        """The transformer with the LoRAs of `stage`; loaded once, LoRAs exchanged in place."""
        if self._transformer is None:
            with self._phase("load transformer", 1):
                header = self.plan.headers["checkpoint"]
                self._transformer = load_transformer(header, self.backend, self.dtypes["transformer"])
                self.progress.advance()
        self._loras.attach(self._transformer, stage.settings)
        return self._transformer

    def _free_transformer(self) -> None:
        self._transformer = None
        gc.collect()
        self.backend.free()

    # --- observation

    def _finite(self, phase: str, value: Array, causes: str) -> None:
        self.outcome.checks.finite(phase, self.backend.numpy(value), causes)

    def _show(self, name: str, value: Any) -> None:
        if self.observe is not None:
            self.observe(name, value if isinstance(value, np.ndarray) else self.backend.numpy(value))

    def _see(self, name: str, value: Any) -> None:
        self._show(f"stage{self._sampled}.{name}", value)

    def _see_states(self, stage: StagePlan, video: LatentState, audio: LatentState) -> None:
        if self.observe is None:
            return
        self._see("sigmas", np.asarray(stage.sigmas, np.float32))
        for name, state in (("video", video), ("audio", audio)):
            self._see(f"{name}.denoise_mask", state.mask)
            self._see(f"{name}.clean", state.clean)
            self._see(f"{name}.positions", state.positions)
            for key in ("keyframes_mask", "attention_mask"):
                if getattr(state, key) is not None:
                    self._see(f"{name}.{key}", getattr(state, key))


@dataclass
class DeviceNoise:
    """Normal draws of the device's own generator: matches clips made on that device."""

    backend: Any
    seed: int
    drawn: int = 0

    def normal(self, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
        self.drawn += 1
        # One generator state per draw: draws of one run must differ.
        seed = (self.seed + (self.drawn - 1) * 0x9E3779B1) % 2**63
        return self.backend.numpy(self.backend.normal(tuple(shape), seed)).astype(dtype)


def _audio_record(waveform: np.ndarray, rate: int) -> dict[str, Any]:
    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
    peak = float(np.abs(waveform).max())
    return {"rate": rate, "samples": waveform.shape[-1], "rms": round(rms, 5), "peak": round(peak, 5)}
