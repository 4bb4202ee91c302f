"""Which LoRAs a stage runs with, checked from headers and exchanged between stages and steps."""

from __future__ import annotations

import dataclasses
import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltx2.errors import UserError, nearest
from ltx2.models.transformer import Transformer
from ltx2.pipelines.components.transformer import transformer_config
from ltx2.pipelines.denoiser import Contexts
from ltx2.pipelines.dense import DETAIL_FACTOR, lora_group
from ltx2.pipelines.files import active_loras
from ltx2.pipelines.guidance import sigma_bound
from ltx2.pipelines.settings import LoraSettings, Settings, StageSettings
from ltx2.weights.header import Header
from ltx2.weights.lora import (
    apply_loras,
    check_generation,
    match_lora,
    read_lora,
    reference_factors,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageLora:
    """A LoRA file on a stage. `schedule`: factors on the strength by upper bound of sigma."""

    path: Path
    strength: float
    fused: bool = False
    allow_partial: bool = False
    schedule: tuple[tuple[float, float], ...] = ()

    def at(self, sigma: float) -> StageLora:
        """The LoRA as it is at `sigma`: the smallest bound >= sigma counts, above all the last."""
        if not self.schedule:
            return self
        reached = [pair for pair in self.schedule if pair[0] >= sigma]
        _, factor = min(reached) if reached else max(self.schedule)
        return dataclasses.replace(self, strength=self.strength * factor, schedule=())


def stage_loras(
    settings: Settings, files: dict[str, Path], stage: StageSettings
) -> tuple[StageLora, ...]:
    """The LoRAs of `stage` in the order they are applied: the user's, then the distilled one."""
    loras: list[StageLora] = []
    for name, lora in active_loras(settings.lora).items():
        strength = lora.stages.get(stage.name, lora.strength)
        if strength != 0 and lora_group(settings, name) in stage.loras:
            path, schedule = files[f"lora.{name}"], _schedule(name, lora)
            loras.append(StageLora(path, strength, lora.fused, lora.allow_partial, schedule))
    # A distilled model, or one trained for both schedules, needs no distilled LoRA.
    if "distilled" in stage.loras and settings.model.kind == "dev":
        loras.append(StageLora(files["distilled_lora"], stage.distilled_strength))
    return tuple(loras)


def _schedule(name: str, lora: LoraSettings) -> tuple[tuple[float, float], ...]:
    """Bounds descending; config files may write them as texts."""
    where = f"lora.{name}.schedule"
    return tuple(sorted(((sigma_bound(where, k), v) for k, v in lora.schedule.items()))[::-1])


def reference_scales(settings: Settings, files: dict[str, Path]) -> tuple[int, int]:
    """(spatial, temporal) factor of reference videos that the user's LoRAs were trained with."""
    names = [n for n in active_loras(settings.lora) if lora_group(settings, n) == "user"]
    return reference_factors([read_lora(files[f"lora.{name}"]) for name in names])


def detail_factor(settings: Settings, files: dict[str, Path]) -> int:
    """How much smaller the reference of the detailing LoRA is, per side (spec 2.10)."""
    file = read_lora(files[f"lora.{settings.dfr.detailing}"])
    return file.told_downscale_factor or DETAIL_FACTOR


def check_loras(settings: Settings, files: dict[str, Path], checkpoint: Header) -> None:
    """Refuse LoRAs that do not fit the transformer or each other, from headers alone."""
    wanted = {lora for s in settings.pipeline.stages for lora in stage_loras(settings, files, s)}
    if not wanted:
        return
    reference_scales(settings, files)
    tree = Transformer.declare(transformer_config(checkpoint))
    for lora in sorted(wanted, key=lambda item: str(item.path)):
        file = read_lora(lora.path)
        check_generation(file, checkpoint)
        match_lora(tree, file, lora.allow_partial)
    fused = [lora for lora in wanted if lora.fused]
    sets = {stage_loras(settings, files, s) for s in settings.pipeline.stages if s.do == "sample"}
    if fused and len(sets) > 1:
        raise UserError(
            f"lora '{fused[0].path.name}' is fused, but the stages run with different LoRA sets;"
            " set fused=false"
        )


def check_lora_settings(settings: Settings) -> None:
    """Refuse strengths, stages and schedules that cannot be followed, without opening a file."""
    for name, lora in settings.lora.items():
        _check_lora(name, lora, settings)


def _check_lora(name: str, lora: LoraSettings, settings: Settings) -> None:
    group = lora_group(settings, name)
    stages = [s.name for s in settings.pipeline.stages if s.do == "sample" and group in s.loras]
    strengths = {"strength": lora.strength}
    for stage, value in lora.stages.items():
        if stage not in stages:
            hint = nearest(stage, stages)
            raise UserError(
                f"lora.{name}.stages: '{stage}' is no stage of"
                f" pipeline={settings.pipeline.name} that takes LoRAs{hint};"
                f" use {', '.join(stages) or 'another pipeline'}"
            )
        strengths[f"stages.{stage}"] = value
    for key, value in lora.schedule.items():
        bound = sigma_bound(f"lora.{name}.schedule", key)
        strengths[f"schedule[{bound:g}]"] = value
    for key, value in strengths.items():
        if not -4 <= value <= 4:
            raise UserError(f"lora.{name}.{key}={value} is not in [-4, 4]; 1.0 is usual")
    fused = next((other for other, given in settings.lora.items() if given.fused), None)
    if lora.schedule and fused is not None:
        raise UserError(
            f"lora.{name}.schedule changes while the steps run, which lora.{fused}.fused=true"
            f" forbids; set lora.{fused}.fused=false"
        )


@dataclass
class LoraStack:
    """Keeps a transformer's LoRAs in step with the stage and the sigma that run.

    The base weights stay as they are unless LoRAs are fused, so one loaded transformer serves
    stages, and runs one after another, with any LoRAs.
    """

    settings: Settings
    files: dict[str, Path]
    backend: Any
    dtype: str
    _active: tuple[StageLora, ...] = field(default=())
    _holder: weakref.ref[Transformer] | None = field(default=None, repr=False)

    def for_run(self, settings: Settings, files: dict[str, Path]) -> LoraStack:
        """The stack of a next run that goes on with the transformer of this one."""
        return dataclasses.replace(self, settings=settings, files=files)

    def attach(self, transformer: Transformer, stage: StageSettings, sigma: float) -> bool:
        """Make exactly the LoRAs of `stage` at `sigma` active; tells whether that changed any."""
        all_loras = (lora.at(sigma) for lora in stage_loras(self.settings, self.files, stage))
        wanted = tuple(lora for lora in all_loras if lora.strength != 0)
        known = self._holder is not None and self._holder() is transformer
        if known and wanted == self._active:
            return False
        apply_loras(
            transformer,
            [(read_lora(lora.path), lora.strength) for lora in wanted],
            self.backend,
            self.dtype,
            fused=any(lora.fused for lora in wanted),
            allow_partial=any(lora.allow_partial for lora in wanted),
        )
        self._active, self._holder = wanted, weakref.ref(transformer)
        return True


@dataclass
class StageContexts:
    """Prompt contexts of a stage, projected anew when the LoRAs change: they may change that too.

    `project` projects the prompts with the transformer as it is.
    """

    stack: LoraStack
    transformer: Transformer
    stage: StageSettings
    project: Callable[[], list[Contexts]]
    _made: list[Contexts] = field(default_factory=list, repr=False)

    def __call__(self, sigma: float) -> list[Contexts]:
        """Contexts of the positive and, if any, the negative prompt, with the LoRAs of `sigma`."""
        if self.stack.attach(self.transformer, self.stage, sigma) or not self._made:
            self._made = self.project()
        return self._made
