"""Walks the stages of a plan: text, then encode / sample / upscale / decode.

A component is loaded when a stage needs it and freed before the next big one is: the text encoder
and the transformer are never in memory together.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ltx2 import ops
from ltx2.diffusion.noise import NoiseSource, TorchNoise
from ltx2.diffusion.state import LatentState
from ltx2.models.transformer import Transformer
from ltx2.ops import Array
from ltx2.pipelines.checks import Checks
from ltx2.pipelines.components.enhance import EnhanceOptions, enhance_prompts
from ltx2.pipelines.components.text import TextContext, encode_prompts
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.pipelines.components.upsampler import load_upsampler, upsample
from ltx2.pipelines.components.video import load_statistics
from ltx2.pipelines.conditions import condition_items, sound_reference, stage_conditions
from ltx2.pipelines.decode_stage import Sink, decode_stage
from ltx2.pipelines.denoiser import Contexts
from ltx2.pipelines.extension import extension_items
from ltx2.pipelines.latents import Latents, StateBuilder
from ltx2.pipelines.loras import LoraStack, StageContexts
from ltx2.pipelines.noise import CountedNoise, DeviceNoise
from ltx2.pipelines.observation import Observe, Observer
from ltx2.pipelines.phases import Phases
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.preview import Previewer
from ltx2.pipelines.progress import Progress, Quiet
from ltx2.pipelines.resident import Resident, transformer_key
from ltx2.pipelines.sample_stage import StepLog, run_steps
from ltx2.pipelines.sampling import stage_sampler
from ltx2.pipelines.saved import load_latents, read_saved, write_latents
from ltx2.pipelines.sources import encode_source
from ltx2.pipelines.watching import NoStop, StageWatch, StopRequest
from ltx2.pipelines.windows import joined, window_states, windows


@dataclass
class Outcome:
    """What a finished run knows about itself."""

    phases: Phases
    checks: Checks
    steps: list[dict[str, Any]] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)
    text: list[dict[str, int]] = field(default_factory=list)
    enhanced_prompt: str | None = None


class Runner:
    """One run of a plan on a backend.

    `dtypes` by component come from `dtype_policy`. `noise` replaces the run's own draws and
    `observe` sees every intermediate value (parity, debugging). `folder` receives previews and
    saved latents, which the settings may ask for; `resident` keeps the transformer for a next run.
    """

    def __init__(
        self,
        plan: Plan,
        backend: Any,
        dtypes: dict[str, str],
        noise: NoiseSource | None = None,
        observe: Observe | None = None,
        folder: Path | None = None,
        resident: Resident | None = None,
    ) -> None:
        settings = plan.settings
        self.plan, self.backend, self.dtypes = plan, backend, dtypes
        self.progress: Progress = Quiet()
        self.outcome = Outcome(Phases(backend), Checks(settings.checks))
        self.latents: dict[str, Latents] = {}
        self._injected = noise
        self._noise = CountedNoise(noise or _own_noise(plan, backend))
        self.observer = None if observe is None else Observer(observe, backend)
        self.stop: StopRequest = NoStop()
        self.watch: StageWatch | None = None
        self.folder = folder
        self.previewer: Previewer | None = None
        if settings.preview.every and folder is not None:
            self.previewer = Previewer(plan, backend, dtypes["video_vae"], folder)
            self.outcome.statistics["previews"] = self.previewer.record
        self._transformer: Transformer | None = None
        self._resident = resident
        self._loras = LoraStack(settings, plan.files, backend, dtypes["transformer"])
        self._prompts: list[TextContext] = []

    def run(self, sink: Sink) -> Outcome:
        """All stages in order. Raises CheckFailed when a phase produced what cannot be right."""
        actions = {
            "encode": self._encode,
            "load": self._load,
            "sample": self._sample,
            "upscale": self._upscale,
        }
        with self.backend.inference():
            if any(stage.sigmas is not None for stage in self.plan.stages):
                self._encode_text()
            for stage in self.plan.stages:
                if stage.settings.do == "decode":
                    self.free()
                    decode_stage(self, stage, sink)
                else:
                    actions[stage.settings.do](stage)
                    self._save(stage)
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
        prompts = [self._prompt()]
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

    def _prompt(self) -> str:
        """The prompt, rewritten by the language model if the settings ask for it."""
        settings = self.plan.settings
        given = settings.enhance
        if not given.enabled:
            return settings.prompt
        options = EnhanceOptions(
            seed=settings.seed if given.seed is None else given.seed,
            temperature=given.temperature,
            max_new_tokens=given.max_new_tokens,
            system_prompt=Path(given.system_prompt) if given.system_prompt else None,
            top_k=given.top_k,
            top_p=given.top_p,
        )
        with self.phase("enhance", given.max_new_tokens):
            enhanced = enhance_prompts(
                [settings.prompt],
                self.plan.files["text_encoder"],
                self.backend,
                self.dtypes["text_encoder"],
                options,
                lambda what, done, total: self.progress.advance(1, f"{what} {done}"),
            )[0]
        self.outcome.enhanced_prompt = enhanced
        return enhanced

    def _encode(self, stage: StagePlan) -> None:
        with self.phase(stage.name, len(stage.settings.streams)):
            latents = encode_source(self.plan, stage, self.backend, self.dtypes)
        for part in (latents.video, latents.audio):
            self.require_finite(stage.name, part, "a half-precision VAE; try dtype.video_vae=fp32")
        self.latents[stage.name] = latents

    def _load(self, stage: StagePlan) -> None:
        """Saved latents; the draws that went into them are skipped, the run's own come after."""
        saved = read_saved(self.plan.settings.input.latents)
        with self.phase(stage.name, 1):
            latents = load_latents(saved, self.backend)
            self._noise.skip(saved.draws)
        for part in (latents.video, latents.audio):
            self.require_finite(stage.name, part, f"a damaged file {saved.name}")
        self.latents[stage.name] = latents

    def _save(self, stage: StagePlan) -> None:
        wanted = self.plan.settings.save_latents and stage.settings.do != "load"
        if not wanted or self.folder is None:
            return
        latents, draws = self.latents[stage.name], self._noise.draws
        path = write_latents(self.folder, self.plan, stage, latents, draws, self.backend)
        self.outcome.statistics.setdefault("saved_latents", []).append(path.name)

    def _sample(self, stage: StagePlan) -> None:
        start = self.latents.get(stage.settings.start or "", Latents())
        items = self._conditions(stage, start)
        if stage.settings.extend:
            items, start = [*items, *extension_items(self.plan, start)], Latents()
        if stage.settings.audio_reference is not None:
            shown = self.latents[stage.settings.audio_reference].audio
            items = [*items, sound_reference(self.plan, shown)]
        transformer = self._ready_transformer(stage)
        contexts = StageContexts(
            self._loras,
            transformer,
            stage.settings,
            lambda: [self._projected(transformer, prompt) for prompt in self._prompts],
        )
        builder = StateBuilder(self.plan, self.backend, self._noise)
        latents = Latents()
        self.watch = StageWatch(self, stage, builder)
        with self.phase(stage.name, stage.transformer_calls):
            for window in windows(self.plan) if stage.settings.windows else [None]:
                if window is None:
                    states = builder.states(stage, start, items)
                else:
                    states = window_states(builder, stage, window, start, latents, items)
                    self.watch.enter(latents, partial(joined, latents, window))
                made = builder.latents(self._denoised(stage, states, transformer, contexts))
                latents = made if window is None else joined(latents, window, made)
        self.latents[stage.name] = latents
        self.watch = None
        if self.observer is not None:
            self.observer.latents(latents)

    def _denoised(
        self,
        stage: StagePlan,
        states: dict[str, LatentState | None],
        transformer: Transformer,
        contexts: StageContexts,
    ) -> dict[str, LatentState | None]:
        """Run the stage's steps over `states`."""
        if self.observer is not None:
            self.observer.states(stage, states)
        sampler = stage_sampler(self.plan.settings, stage.settings, self._injected)
        log = StepLog(stage, self.backend, self.outcome)
        assert self.watch is not None
        with self.stop.deferred():
            return run_steps(
                stage, states, transformer, contexts, sampler, log, self.progress, self.watch
            )

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
        if self.observer is not None:
            self.observer.upsampled(video)

    # --- the transformer

    def _ready_transformer(self, stage: StagePlan) -> Transformer:
        """The transformer with the LoRAs of `stage`; loaded once, LoRAs exchanged in place."""
        if self._transformer is None:
            self._transformer = self._kept() or self._loaded()
        assert stage.sigmas is not None
        self._loras.attach(self._transformer, stage.settings, stage.sigmas[0])
        return self._transformer

    def _loaded(self) -> Transformer:
        with self.phase("load transformer", 1):
            header, dtype = self.plan.headers["checkpoint"], self.dtypes["transformer"]
            streams = tuple(self.plan.streams)
            transformer = load_transformer(header, self.backend, dtype, streams)
            self.progress.advance()
        return transformer

    def _key(self) -> tuple[Any, ...]:
        header, dtype = self.plan.headers["checkpoint"], self.dtypes["transformer"]
        return transformer_key(header, self.backend, dtype, tuple(self.plan.streams))

    def _kept(self) -> Transformer | None:
        """The transformer of an earlier run of this process, if it is the one needed."""
        return None if self._resident is None else self._resident.find(self._key())

    def free(self) -> None:
        """Let go of what sampling needed, before the decoders come."""
        if self._resident is not None and self._transformer is not None:
            self._resident.keep(self._key(), self._transformer)
        self._transformer = None
        if self.previewer is not None:
            self.previewer.free()
        gc.collect()
        self.backend.free()


def _own_noise(plan: Plan, backend: Any) -> NoiseSource:
    if plan.settings.noise == "device":
        return DeviceNoise(backend, plan.settings.seed)
    return TorchNoise(plan.settings.seed)
