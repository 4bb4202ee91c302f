"""Walks the stages of a plan: text, then encode / sample / upscale / decode.

A component is loaded when a stage needs it and freed before the next big one is: the text encoder
and the transformer are never in memory together.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ltx2 import ops
from ltx2.diffusion.noise import NoiseSource, TorchNoise
from ltx2.models.transformer import Transformer
from ltx2.ops import Array
from ltx2.pipelines.checks import Checks
from ltx2.pipelines.components.text import TextContext, encode_prompts
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.pipelines.components.upsampler import load_upsampler, upsample
from ltx2.pipelines.components.video import load_statistics
from ltx2.pipelines.conditions import condition_items, stage_conditions
from ltx2.pipelines.decode_stage import Sink, decode_stage
from ltx2.pipelines.denoiser import Contexts
from ltx2.pipelines.latents import Latents, StateBuilder
from ltx2.pipelines.loras import LoraStack
from ltx2.pipelines.noise import DeviceNoise
from ltx2.pipelines.observation import Observe, Observer
from ltx2.pipelines.phases import Phases
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.progress import Progress, Quiet
from ltx2.pipelines.sample_stage import StepLog, run_steps
from ltx2.pipelines.sampling import stage_sampler
from ltx2.pipelines.sources import encode_source


@dataclass
class Outcome:
    """What a finished run knows about itself."""

    phases: Phases
    checks: Checks
    steps: list[dict[str, Any]] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)
    text: list[dict[str, int]] = field(default_factory=list)


class Runner:
    """One run of a plan on a backend.

    `dtypes` by component come from `dtype_policy`. `noise` replaces the run's own draws and
    `observe` sees every intermediate value (parity, debugging).
    """

    def __init__(
        self,
        plan: Plan,
        backend: Any,
        dtypes: dict[str, str],
        noise: NoiseSource | None = None,
        observe: Observe | None = None,
    ) -> None:
        settings = plan.settings
        self.plan, self.backend, self.dtypes = plan, backend, dtypes
        self.progress: Progress = Quiet()
        self.outcome = Outcome(Phases(backend), Checks(settings.checks))
        self.latents: dict[str, Latents] = {}
        self._injected = noise
        self._noise = noise or _own_noise(plan, backend)
        self._observer = None if observe is None else Observer(observe, backend)
        self._transformer: Transformer | None = None
        self._loras = LoraStack(settings, plan.files, backend, dtypes["transformer"])
        self._prompts: list[TextContext] = []

    def run(self, sink: Sink) -> Outcome:
        """All stages in order. Raises CheckFailed when a phase produced what cannot be right."""
        actions = {"encode": self._encode, "sample": self._sample, "upscale": self._upscale}
        with self.backend.inference():
            self._encode_text()
            for stage in self.plan.stages:
                if stage.settings.do == "decode":
                    self._free_transformer()
                    decode_stage(self, stage, sink)
                else:
                    actions[stage.settings.do](stage)
        return self.outcome

    def phase(self, name: str, units: int) -> AbstractContextManager[None]:
        """A timed phase that reports to the progress display."""
        return self.outcome.phases.phase(name, units, self.progress)

    def require_finite(self, phase: str, value: Array | None, causes: str) -> None:
        """Fail `phase` if `value` holds NaN or Inf."""
        if value is not None:
            self.outcome.checks.finite(phase, self.backend.numpy(value), causes)

    @property
    def decode_noise(self) -> Callable[[tuple[int, ...]], np.ndarray]:
        """Normal draws for decoders that inject noise: they continue the run's own stream."""
        return self._noise.normal

    # --- stages

    def _encode_text(self) -> None:
        settings = self.plan.settings
        prompts = [settings.prompt]
        if self.plan.needs_negative:
            prompts.append(settings.negative_prompt or "")
        with self.phase("text", len(prompts)):
            self._prompts = encode_prompts(
                prompts,
                self.plan.files["text_encoder"],
                self.plan.headers["checkpoint"],
                self.backend,
                self.dtypes,
                lambda what, done, total: self.progress.advance(0, f"{what} {done}/{total}"),
            )
        for context in self._prompts:
            self.outcome.text.append({"tokens": context.tokens, "truncated": context.truncated})

    def _encode(self, stage: StagePlan) -> None:
        with self.phase(stage.name, len(stage.settings.streams)):
            latents = encode_source(self.plan, stage, self.backend, self.dtypes)
        for part in (latents.video, latents.audio):
            self.require_finite(stage.name, part, "a half-precision VAE; try dtype.video_vae=fp32")
        self.latents[stage.name] = latents

    def _sample(self, stage: StagePlan) -> None:
        start = self.latents.get(stage.settings.start or "", Latents())
        items = self._conditions(stage, start)
        transformer = self._ready_transformer(stage)
        builder = StateBuilder(self.plan, self.backend, self._noise)
        states = builder.states(stage, start, items)
        # A LoRA may change the caption projections, so contexts are projected per stage.
        contexts = [self._projected(transformer, prompt) for prompt in self._prompts]
        if self._observer is not None:
            self._observer.states(stage, states)
        sampler = stage_sampler(self.plan.settings, stage.settings, self._injected)
        log = StepLog(stage, self.backend, self.outcome)
        with self.phase(stage.name, stage.transformer_calls):
            final = run_steps(
                stage, states, transformer, contexts, sampler, log, self.progress, self._observer
            )
        latents = builder.latents(stage, final)
        self.latents[stage.name] = latents
        if self._observer is not None:
            self._observer.latents(latents)

    def _projected(self, transformer: Transformer, prompt: TextContext) -> Contexts:
        """Contexts of the streams that the transformer was built with."""
        given = {"video": prompt.video, "audio": prompt.audio}
        used = (given[s] if s in self.plan.streams else None for s in ("video", "audio"))
        return Contexts(*transformer.project_context(*used))

    def _conditions(self, stage: StagePlan, start: Latents) -> list[Any]:
        count = len(stage_conditions(self.plan, stage))
        if count == 0:
            return condition_items(self.plan, stage, start, self.backend, self.dtypes["video_vae"])
        with self.phase(f"{stage.name} conditions", count):
            return condition_items(self.plan, stage, start, self.backend, self.dtypes["video_vae"])

    def _upscale(self, stage: StagePlan) -> None:
        source = self.latents[stage.settings.start or ""]
        header, dtype = self.plan.headers[stage.settings.upscaler], self.dtypes["upsampler"]
        with self.phase(stage.name, 1):
            network = load_upsampler(header, self.backend, dtype)
            statistics = load_statistics(self.plan.headers["checkpoint"], self.backend, "fp32")
            video = ops.f32(upsample(network, statistics, source.video))
            self.require_finite(stage.name, video, "an upscaler of another generation")
            self.progress.advance()
        self.latents[stage.name] = replace(source, video=video)
        if self._observer is not None:
            self._observer.upsampled(video)

    # --- the transformer

    def _ready_transformer(self, stage: StagePlan) -> Transformer:
        """The transformer with the LoRAs of `stage`; loaded once, LoRAs exchanged in place."""
        if self._transformer is None:
            with self.phase("load transformer", 1):
                header, dtype = self.plan.headers["checkpoint"], self.dtypes["transformer"]
                streams = tuple(self.plan.streams)
                self._transformer = load_transformer(header, self.backend, dtype, streams)
                self.progress.advance()
        self._loras.attach(self._transformer, stage.settings)
        return self._transformer

    def _free_transformer(self) -> None:
        self._transformer = None
        gc.collect()
        self.backend.free()


def _own_noise(plan: Plan, backend: Any) -> NoiseSource:
    if plan.settings.noise == "device":
        return DeviceNoise(backend, plan.settings.seed)
    return TorchNoise(plan.settings.seed)
