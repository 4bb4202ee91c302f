"""Which LoRAs a stage runs with, checked from headers and exchanged between stages."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ltx2.errors import UserError
from ltx2.models.transformer import Transformer
from ltx2.pipelines.components.transformer import transformer_config
from ltx2.pipelines.files import active_loras
from ltx2.pipelines.settings import Settings, StageSettings
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
    """A LoRA file on a stage."""

    path: Path
    strength: float
    fused: bool = False
    allow_partial: bool = False


def stage_loras(
    settings: Settings, files: dict[str, Path], stage: StageSettings
) -> tuple[StageLora, ...]:
    """The LoRAs of `stage` in the order they are applied: the user's, then the distilled one."""
    loras: list[StageLora] = []
    if "user" in stage.loras:
        for name, lora in active_loras(settings.lora).items():
            path = files[f"lora.{name}"]
            loras.append(StageLora(path, lora.strength, lora.fused, lora.allow_partial))
    # A distilled model, or one trained for both schedules, needs no distilled LoRA.
    if "distilled" in stage.loras and settings.model.kind == "dev":
        loras.append(StageLora(files["distilled_lora"], stage.distilled_strength))
    return tuple(loras)


def reference_scales(settings: Settings, files: dict[str, Path]) -> tuple[int, int]:
    """(spatial, temporal) factor of reference videos that the user's LoRAs were trained with."""
    names = active_loras(settings.lora)
    return reference_factors([read_lora(files[f"lora.{name}"]) for name in names])


def check_loras(settings: Settings, files: dict[str, Path], checkpoint: Header) -> None:
    """Refuse LoRAs that do not fit the transformer, from headers alone."""
    wanted = {lora for s in settings.pipeline.stages for lora in stage_loras(settings, files, s)}
    if not wanted:
        return
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


@dataclass
class LoraStack:
    """Keeps the transformer's LoRAs in step with the stage that runs."""

    settings: Settings
    files: dict[str, Path]
    backend: Any
    dtype: str
    _active: tuple[StageLora, ...] = field(default=())

    def attach(self, transformer: Transformer, stage: StageSettings) -> None:
        """Make exactly the LoRAs of `stage` active on `transformer`."""
        wanted = stage_loras(self.settings, self.files, stage)
        if wanted == self._active:
            return
        apply_loras(
            transformer,
            [(read_lora(lora.path), lora.strength) for lora in wanted],
            self.backend,
            self.dtype,
            fused=any(lora.fused for lora in wanted),
            allow_partial=any(lora.allow_partial for lora in wanted),
        )
        self._active = wanted
