"""Walks the stages of a plan: text, then encode / sample / upscale / decode.

A component is loaded when a stage needs it and freed before the next big one is: the text encoder
and the transformer are never in memory together.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ltx2 import ops
from ltx2.diffusion.loop import Sampler
from ltx2.diffusion.noise import NoiseSource, TorchNoise
from ltx2.diffusion.state import LatentState
from ltx2.models.transformer import Transformer
from ltx2.models.transformer_block import Block
from ltx2.ops import Array
from ltx2.pipelines.checks import Checks
from ltx2.pipelines.components.text import TextContext
from ltx2.pipelines.components.transformer import load_transformer
from ltx2.pipelines.components.upsampler import load_upsampler, upsample
from ltx2.pipelines.components.video import load_statistics
from ltx2.pipelines.conditions import (
    Encoding,
    condition_items,
    detail_reference,
    sound_reference,
    stage_conditions,
)
from ltx2.pipelines.decode_stage import Sink, decode_stage
from ltx2.pipelines.denoiser import Contexts
from ltx2.pipelines.extension import extension_items
from ltx2.pipelines.keeper import Keeper, Keeping
from ltx2.pipelines.latents import Latents, StateBuilder
from ltx2.pipelines.loras import LoraStack, StageContexts
from ltx2.pipelines.memory import check_compiled, choose, transformer_need
from ltx2.pipelines.noise import CountedNoise, DeviceNoise
from ltx2.pipelines.observation import Observe, Observer
from ltx2.pipelines.passes import stage_passes
from ltx2.pipelines.phases import Phases
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.preview import Previewer
from ltx2.pipelines.progress import Progress, Quiet
from ltx2.pipelines.quantisation import block_quantisation, check_device
from ltx2.pipelines.replay import Replayed, ending
from ltx2.pipelines.resident import TRANSFORMER, Resident, part_key
from ltx2.pipelines.sample_stage import StepLog, run_steps
from ltx2.pipelines.saved import load_latents, read_saved, write_latents
from ltx2.pipelines.sources import encode_source
from ltx2.pipelines.store import Entry
from ltx2.pipelines.text_stage import encode_text
from ltx2.pipelines.watching import NoStop, StageWatch, StopRequest
from ltx2.weights.header import Header

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What a finished run knows about itself."""

    phases: Phases
    checks: Checks
    steps: list[dict[str, Any]] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)
    text: list[dict[str, int]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    enhanced_prompt: str | None = None
    # Frames, rows and columns at which a decode tile begins, the first one left out.
    seams: tuple[list[int], list[int], list[int]] = field(default_factory=lambda: ([], [], []))


NOTHING_KEPT = Keeping()


class Runner:
    """One run of a plan on a backend.

    `dtypes` by component come from `dtype_policy`. `noise` replaces the run's own draws and
    `observe` sees every intermediate value (parity, debugging). `folder` receives previews and
    saved latents, which the settings may ask for; `resident` keeps models for a next run, and
    `keeping` results of stages.
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
        keeping: Keeping = NOTHING_KEPT,
    ) -> None:
        settings = plan.settings
        check_device(settings, backend)
        check_compiled(settings.memory, backend)
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
        self.resident = resident
        self._loras = LoraStack(settings, plan.files, backend, dtypes["transformer"])
        self._prompts: list[TextContext] = []
        self._keeping = keeping
        self.keeper: Keeper | None = None
        self.on_step: Callable[[dict[str, Any], dict[str, np.ndarray]], None] | None = None

    def run(self, sink: Sink) -> Outcome:
        """All stages in order. Raises CheckFailed when a phase produced what cannot be right."""
        with self.backend.inference():
            checks = self.outcome.checks
            keeper = Keeper(self.plan, self.backend, self.dtypes, self._keeping, checks)
            self.keeper = keeper
            reuse = keeper.reuse
            if any(s.sigmas is not None and s.name in reuse.computed for s in self.plan.stages):
                self._prompts = encode_text(self)
            for stage in self.plan.stages:
                if stage.settings.do == "decode":
                    self.free()
                    decode_stage(self, stage, sink)
                elif stage.name in reuse.found:
                    self._reused(stage, reuse.found[stage.name])
                elif stage.name in reuse.computed:
                    self._computed(stage)
                else:
                    self._unneeded(stage)
        return self.outcome

    def note(self, name: str, action: str, seconds: float = 0.0) -> None:
        """Record what was done about a stage: computed, reused or not needed."""
        key = None if self.keeper is None or name == "text" else self.keeper.key(name)
        told = {"name": name, "action": action, "key": key, "seconds": round(seconds, 3)}
        self.outcome.stages.append(told)

    def _computed(self, stage: StagePlan) -> None:
        """Run a stage, unless another worker has just done so."""
        actions = {
            "encode": self._encode,
            "load": self._load,
            "sample": self._sample,
            "upscale": self._upscale,
        }
        assert self.keeper is not None
        with self.keeper.claim(stage.name) as entry:
            if entry is not None:
                self._reused(stage, entry)
                return
            done, steps = len(self.outcome.phases.records), len(self.outcome.steps)
            actions[stage.settings.do](stage)
            latents = self.latents[stage.name]
            made = self.outcome.steps[steps:]
            self.keeper.put_latents(stage, latents, self._noise.draws, made)
        seconds = sum(phase.seconds for phase in self.outcome.phases.records[done:])
        self.note(stage.name, "computed", seconds)
        self._save(stage)

    def _reused(self, stage: StagePlan, entry: Entry) -> None:
        """Take the latents of a stage, and what it drew and told, from the store."""
        assert self.keeper is not None
        self.latents[stage.name] = self.keeper.latents(entry)
        self._noise.skip(entry.about["draws"][len(self._noise.draws) :])
        self._retold(entry)
        log.info("%s: reused", stage.name)
        self.note(stage.name, "reused")
        self._save(stage)

    def _unneeded(self, stage: StagePlan) -> None:
        """Its result is not read, but what it told while it ran belongs to the record."""
        assert self.keeper is not None
        entry = self.keeper.find(stage.name)
        if entry is not None:
            self._retold(entry)
        self.note(stage.name, "not needed" if entry is None else "reused")

    def _retold(self, entry: Entry) -> None:
        for step in entry.about["steps"]:
            self.outcome.steps.append(step)
            if self.on_step is not None:
                self.on_step(step, {})

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
        if stage.settings.detail_from is not None:
            shown = self.latents[stage.settings.detail_from].video
            items = [*items, detail_reference(self.plan, shown)]
        transformer = self._ready_transformer(stage)
        contexts = StageContexts(
            self._loras,
            transformer,
            stage.settings,
            lambda: [self._projected(transformer, prompt) for prompt in self._prompts],
        )
        builder = StateBuilder(self.plan, self.backend, self._noise)
        latents = Latents()
        assert self.keeper is not None
        journal = self.keeper.journal(stage)
        replayed = None if journal is None else Replayed(journal, self.backend)
        self.watch = StageWatch(self, stage, builder, replayed)
        with self.phase(stage.name, stage.transformer_calls), ending(replayed):
            for part in stage_passes(builder, stage, start, items, self._injected):
                states = part.states(latents)
                self.watch.enter(latents, partial(part.joined, latents))
                final = self._denoised(stage, states, transformer, contexts, part.sampler)
                latents = part.joined(latents, builder.latents(final))
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
        sampler: Sampler,
    ) -> dict[str, LatentState | None]:
        """Run the stage's steps over `states`."""
        if self.observer is not None:
            self.observer.states(stage, states)
        log = StepLog(stage, self.backend, self.outcome, self.on_step)
        assert self.watch is not None
        with self.stop.deferred():
            final = run_steps(
                stage, states, transformer, contexts, sampler, log, self.progress, self.watch
            )
        if self.observer is not None:
            self.observer.keyframes(final)
        return final

    def _projected(self, transformer: Transformer, prompt: TextContext) -> Contexts:
        """Contexts of the streams that the transformer was built with."""
        given = {"video": prompt.video, "audio": prompt.audio}
        used = (given[s] if s in self.plan.streams else None for s in ("video", "audio"))
        return Contexts(*transformer.project_context(*used))

    def _conditions(self, stage: StagePlan, start: Latents) -> list[Any]:
        count = len(stage_conditions(self.plan, stage))
        with self.phase(f"{stage.name} conditions", count) if count else nullcontext():
            return condition_items(self.plan, stage, start, self._encoding())

    def _encoding(self) -> Encoding:
        assert self.keeper is not None
        return Encoding(self.plan, self.backend, self.dtypes["video_vae"], self.keeper, self.part)

    def _upscale(self, stage: StagePlan) -> None:
        source = self.latents[stage.settings.start or ""]
        header, dtype = self.plan.headers[stage.settings.upscaler], self.dtypes["upsampler"]
        with self.phase(stage.name, 1):
            load = partial(load_upsampler, header, self.backend, dtype)
            network = self.part(stage.settings.upscaler, header, dtype, load)
            statistics = load_statistics(self.plan.header_of("video_vae"), self.backend, "fp32")
            video = ops.f32(upsample(network, statistics, source.video))
            self.require_finite(stage.name, video, "an upscaler of another generation")
            slots = source.slots
            if stage.settings.keyframe_slots and slots is not None:
                slots = ops.f32(upsample(network, statistics, slots))
            self.progress.advance()
        self.latents[stage.name] = replace(source, video=video, slots=slots)
        if self.observer is not None:
            self.observer.upsampled(video)

    # --- the transformer

    def _ready_transformer(self, stage: StagePlan) -> Transformer:
        """The transformer with the LoRAs of `stage`; loaded once, LoRAs exchanged in place."""
        if self._transformer is None:
            key = self._key()
            kept = None if self.resident is None else self.resident.find(TRANSFORMER, key)
            self._transformer = kept or self._loaded()
            self._transformer.run_block = self.backend.compiled(Block.__call__)
        assert stage.sigmas is not None
        self._loras.attach(self._transformer, stage.settings, stage.sigmas[0])
        return self._transformer

    def _loaded(self) -> Transformer:
        with self.phase("load transformer", 1):
            header, dtype = self.plan.headers["checkpoint"], self.dtypes["transformer"]
            if self.resident is not None:
                self.resident.make_room(header.file_size, self.backend)
            streams = tuple(self.plan.streams)
            need, free = transformer_need(self.plan, dtype), self.backend.free_bytes()
            streaming = choose(self.plan, "transformer", need, free, self.outcome.statistics)
            check_compiled(self.plan.settings.memory, self.backend, streaming)
            how = block_quantisation(self.plan.settings)
            transformer = load_transformer(header, self.backend, dtype, streams, streaming, how)
            self.progress.advance()
        return transformer

    def _key(self) -> tuple[Any, ...]:
        header, dtype = self.plan.headers["checkpoint"], self.dtypes["transformer"]
        given = self.plan.settings.memory
        how = block_quantisation(self.plan.settings)
        wish = (given.transformer, given.source, given.ahead, how)
        return part_key(header, self.backend, dtype, *self.plan.streams, *wish)

    def part(self, role: str, header: Header, dtype: str, load: Callable[[], Any]) -> Any:
        """A model other than the transformer: the one kept from an earlier run, or loaded."""
        if self.resident is None:
            return load()
        key = part_key(header, self.backend, dtype)
        found = self.resident.find(role, key)
        if found is None:
            found = load()
            self.resident.keep(role, key, found, self.backend)
        return found

    def free(self) -> None:
        """Let go of what sampling needed, before the decoders come."""
        sampled = self._transformer is not None
        kept = False
        if self.resident is not None and self._transformer is not None:
            kept = self.resident.keep(TRANSFORMER, self._key(), self._transformer, self.backend)
        self._transformer = None
        if self.previewer is not None:
            self.previewer.free()
        if sampled and not kept:
            # A walk over all objects of the process, worth it only for what a model leaves.
            gc.collect()
        if sampled:
            self.backend.free()


def _own_noise(plan: Plan, backend: Any) -> NoiseSource:
    if plan.settings.noise == "device":
        return DeviceNoise(backend, plan.settings.seed)
    return TorchNoise(plan.settings.seed)
